"""The Celery worker: `celery -A workers.celery_app worker -Q cpu --pool prefork --concurrency N`.

SIGTERM hands running jobs back at once and ends the worker. Pool processes are killed by the kernel when the main
process dies, and so are their children.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from celery.signals import setup_logging, worker_init, worker_shutting_down

from app import logging as app_logging
from app.queue import make_celery
from app.settings import Settings
from workers import drain, process
from workers.supervisor import CHILD, child_environment

logger = logging.getLogger(__name__)

settings = Settings()
celery = make_celery(settings)
celery.conf.update(
    imports=("workers.tasks",),
    # A broker that is away is waited for, at the start and later; jobs go on meanwhile.
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_transport_options={"socket_keepalive": True, "health_check_interval": 10},
)


@setup_logging.connect  # type: ignore[untyped-decorator] # Celery has no annotations
def log(**_: Any) -> None:
    """Log as the API does; that somebody listens to this signal keeps Celery from setting up its own."""
    app_logging.configure(settings.log_level)


@worker_init.connect  # type: ignore[untyped-decorator] # Celery has no annotations
def check_sandbox(**_: Any) -> None:
    """Refuse to start where a child could do harm with what a stranger sent; a fresh one tries it.

    Raises:
        SystemExit: with the reason.
    """
    if settings.sandbox == "off":
        logger.warning("uploads are opened without a sandbox (SQUEEZER_SANDBOX=off)")
        return
    with tempfile.TemporaryDirectory(prefix="squeezer-sandbox-") as folder:
        outcome = process.run([*CHILD, "sandbox", folder], env=child_environment(Path(folder)), cwd=Path(folder))
    if outcome.ending is process.Ending.DONE:
        return
    if settings.sandbox == "required":
        raise SystemExit(f"refusing to start: {outcome.detail}")
    logger.warning("%s", outcome.detail)


@worker_init.connect  # type: ignore[untyped-decorator] # Celery has no annotations
def warm_up(**_: Any) -> None:
    """Have the compiled code cached before work arrives; the first job would wait for it otherwise."""
    temporary = Path(tempfile.gettempdir())
    outcome = process.run([*CHILD, "warm"], env=child_environment(temporary), cwd=temporary)
    if outcome.ending is not process.Ending.DONE:
        logger.warning("could not warm up (the first job will take longer): %s", outcome.detail)


@worker_shutting_down.connect  # type: ignore[untyped-decorator] # Celery has no annotations
def hand_back(**_: Any) -> None:
    """Tell the pool processes to hand back what they are at."""
    drain.start()
