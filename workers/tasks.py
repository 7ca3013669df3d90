"""The one Celery task. It is thin: the jobs table says what is to be done, and the supervisor does it."""

from __future__ import annotations

import functools
import logging
from typing import Any

from celery import shared_task
from sqlalchemy.exc import SQLAlchemyError

from app.db import make_engine, make_sessions
from app.queue import RING
from app.settings import Settings
from app.storage import LocalStorage
from workers.drain import draining
from workers.supervisor import Supervisor

logger = logging.getLogger(__name__)


@functools.cache
def supervisor() -> Supervisor:
    """This pool process's supervisor, made at its first job: connections must not be shared across a fork."""
    settings = Settings()
    return Supervisor(settings, make_sessions(make_engine(settings)), LocalStorage(settings.storage), draining=draining)


@shared_task(name=RING, bind=True)  # type: ignore[untyped-decorator] # Celery has no annotations
def ring(self: Any) -> None:
    """Answer the doorbell: run jobs of the queue that it came by until none is left."""
    queue = self.request.delivery_info["routing_key"]
    try:
        supervisor().work(queue)
    except SQLAlchemyError as error:  # the sweeper rings again
        logger.warning("queue %s: the database does not answer: %s", queue, error)
