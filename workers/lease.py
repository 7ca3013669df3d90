"""The thread that keeps a claimed job: it renews the lease, hears of cancellation, and writes progress."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Self

from sqlalchemy.exc import SQLAlchemyError

from app.jobs import repository
from app.jobs.repository import Beat

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.orm import Session, sessionmaker

    from app.jobs.repository import Claim
    from app.settings import Settings
    from workers.process import Progress

logger = logging.getLogger(__name__)

#: Progress is written this often, in seconds, however much of it there is.
PROGRESS_SECONDS = 0.5


class Lease:
    """Holds a claim for as long as the `with` block lasts; `beat` is the newest answer to the heartbeat.

    A database that does not answer changes nothing: nobody else can claim the job meanwhile without it, and
    whether the lease survived is found out at the next beat.
    """

    def __init__(self, sessions: sessionmaker[Session], claim: Claim, settings: Settings) -> None:
        self.beat = Beat.OK
        self._sessions = sessions
        self._claim = claim
        self._lease_seconds = settings.lease_seconds
        self._every = settings.heartbeat_seconds
        self._latest: deque[Progress] = deque(maxlen=1)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease of {claim.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def report(self, progress: Progress) -> None:
        """Have this written soon; where several come in quick succession, only the last of them is."""
        self._latest.append(progress)

    def _run(self) -> None:
        next_beat = time.monotonic() + self._every
        while self.beat is not Beat.LOST and not self._ended.wait(min(PROGRESS_SECONDS, self._every)):
            try:
                self._write_progress()
                if time.monotonic() >= next_beat:
                    next_beat = time.monotonic() + self._every
                    self._renew()
            except SQLAlchemyError as error:
                logger.warning("job %s: the database does not answer: %s", self._claim.job_id, error)

    def _write_progress(self) -> None:
        if not self._latest:
            return
        latest = self._latest.pop()
        with self._sessions.begin() as session:
            repository.progress(
                session,
                self._claim.job_id,
                self._claim.token,
                latest.stage,
                latest.progress,
                latest.eta_seconds,
                latest.layer,
            )

    def _renew(self) -> None:
        with self._sessions.begin() as session:
            self.beat = repository.heartbeat(session, self._claim.job_id, self._claim.token, self._lease_seconds)
