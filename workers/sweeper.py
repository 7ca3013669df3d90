"""The sweeper: `python -m workers.sweeper`. Looks after what nobody else can any more.

Every `sweep_seconds` it gives back jobs whose lease ran out, rings again for queues in which jobs wait, and
removes scratch folders of dead supervisors and checkpoints of jobs that have ended; every few minutes, files in the
storage that no job names. Any number of sweepers may run, and each of their duties may be done twice.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from app import logging as app_logging
from app import queue
from app.db import make_engine, make_sessions, utc_now
from app.jobs import repository
from app.settings import Settings
from app.storage import LocalStorage
from workers import checkpoints, scratch

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery
    from sqlalchemy.orm import Session, sessionmaker

    from app.storage import Storage

logger = logging.getLogger(__name__)

#: How often the storage is searched for files that no job names, in seconds.
ORPHAN_EVERY_SECONDS = 300.0


class Sweeper:
    """The duties, one method each; a failing one is logged and tried again at the next turn."""

    def __init__(self, settings: Settings, sessions: sessionmaker[Session], storage: Storage, celery: Celery) -> None:
        self._settings = settings
        self._sessions = sessions
        self._storage = storage
        self._celery = celery
        self._next_orphans = 0.0

    def run(self, stop: threading.Event) -> None:
        """Sweep until `stop` is set."""
        while not stop.is_set():
            self.turn()
            stop.wait(self._settings.sweep_seconds)

    def turn(self) -> None:
        """Do every duty that is due."""
        duties: list[Callable[[], object]] = [self.give_back_lost, self.ring_waiting, self.sweep_scratch]
        if time.monotonic() >= self._next_orphans:
            duties.append(self.delete_orphans)
            self._next_orphans = time.monotonic() + ORPHAN_EVERY_SECONDS
        for duty in duties:
            try:
                duty()
            except (SQLAlchemyError, RedisError, OSError) as error:
                logger.warning("%s failed and is tried again: %s", duty.__name__, error)

    def give_back_lost(self) -> None:
        """Give back jobs whose worker fell silent."""
        with self._sessions.begin() as session:
            lost = repository.sweep(session, utc_now())
        for job_id in lost:
            logger.warning("job %s: its worker fell silent", job_id)

    def ring_waiting(self) -> None:
        """Ring for queues in which jobs wait, unless a ring waits too: then all workers are busy, or away."""
        with self._sessions() as session:
            waiting = repository.waiting_queues(session)
        for name in sorted(waiting):
            if self._rings_waiting(name) == 0:
                queue.ring(name, self._celery)

    def sweep_scratch(self) -> None:
        """Remove the scratch folders of supervisors that were killed, and checkpoints that nobody will go on from."""
        root = self._settings.data_dir / "scratch"
        for folder in scratch.sweep(root):
            logger.info("removed %s of a dead attempt", folder)
        for job_id in checkpoints.sweep(root / scratch.CHECKPOINTS, self._sessions):
            logger.info("removed the checkpoints of job %s", job_id)

    def delete_orphans(self) -> None:
        """Delete files that no job names and that are too old to be on their way to one."""
        oldest = utc_now() - timedelta(seconds=self._settings.orphan_seconds)
        old = [stored.key for stored in self._storage.list() if stored.modified_at < oldest]
        if old:
            with self._sessions() as session:
                in_use = repository.keys_in_use(session)
            for key in set(old) - in_use:
                logger.info("deleting %s, which no job names", key)
                self._storage.delete(key)
        self._storage.sweep_temporary(oldest)

    def _rings_waiting(self, name: str) -> int:
        url = self._settings.redis_url.replace("redis+socket://", "unix://", 1)
        with Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            return int(client.llen(name))


def main() -> None:
    """Sweep until SIGTERM or SIGINT."""
    settings = Settings()
    app_logging.configure(settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    sessions = make_sessions(make_engine(settings))
    Sweeper(settings, sessions, LocalStorage(settings.storage), queue.make_celery(settings)).run(stop)


if __name__ == "__main__":
    main()
