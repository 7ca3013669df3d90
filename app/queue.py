"""The doorbell: a Celery message says "ring queue X", and whoever hears it looks into the jobs table.

A lost or doubled message does no harm, so publishing never waits long and never fails a request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from celery import Celery, current_app
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

if TYPE_CHECKING:
    from app.settings import Settings

#: The name of the one task.
RING = "squeezer.ring"
#: A Redis that is up answers within milliseconds.
_TIMEOUT_SECONDS = 0.3
_PUBLISHING = {"socket_connect_timeout": _TIMEOUT_SECONDS, "socket_timeout": _TIMEOUT_SECONDS}
#: A worker that comes later looks into the table anyway.
_FORGET_SECONDS = 60

_log = structlog.get_logger(__name__)


def make_celery(settings: Settings) -> Celery:
    """The Celery app for publishing and for workers; `ring` uses the one that a process made last."""
    celery = Celery("squeezer", broker=settings.redis_url)
    celery.conf.update(
        # The message is acknowledged before the work: the jobs table, not the broker, remembers what is left.
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue="cpu",
    )
    celery.set_default()
    return celery


def ring(queue: str = "cpu", celery: Celery = current_app) -> bool:
    """Tell the workers of a queue that a job waits; False, with a line in the log, if the broker is down."""
    try:
        ping(celery.conf.broker_url)
        # A connection of its own: a pooled one that Redis closed meanwhile would fail once before it works.
        with celery.connection(transport_options=_PUBLISHING) as connection:
            celery.send_task(RING, queue=queue, connection=connection, retry=False, expires=_FORGET_SECONDS)
    except (OperationalError, RedisError, OSError) as error:
        _log.warning("doorbell_failed", queue=queue, error=str(error))
        return False
    return True


def ping(redis_url: str) -> None:
    """Raise RedisError or OSError, within a second, where the broker does not answer.

    Celery's own client would try ten times, so the broker is asked first whether it is there.
    """
    url = redis_url.replace("redis+socket://", "unix://", 1)
    with Redis.from_url(
        url,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        socket_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    ) as client:
        client.ping()
