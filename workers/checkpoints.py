"""Checkpoints of jobs on this machine: they outlive an attempt that comes to nothing, and go when the job has ended.

They lie in `ROOT/<job id>/<token>`, where the token is that of the attempt that works with them. A new attempt takes
over what the newest one before it left, by renaming the folder. An attempt that lost its lease and does not know yet
then writes to a path that is no more, so two attempts never share a folder. Whoever takes or removes holds a lock on
`ROOT`. A sweep asks for the states of jobs while it holds the lock, and an attempt takes when its job is running
already, so what an attempt has taken is not swept.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from typing import TYPE_CHECKING
from uuid import UUID

from app.jobs import repository
from app.jobs.states import ACTIVE, FINISHED, State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.orm import Session, sessionmaker

logger = logging.getLogger(__name__)

#: What an attempt left is kept for so long, in seconds, while its job waits for the next one.
KEEP_SECONDS = 24 * 3600.0


def take(root: Path, job_id: UUID, token: int) -> Path:
    """The folder of an attempt: what the newest attempt before it left, or an empty one."""
    with _locked(root):
        job = root / str(job_id)
        job.mkdir(exist_ok=True)
        mine = job / str(token)
        left = sorted(other for other in _tokens(job) if other < token)
        if left:
            (job / str(left.pop())).rename(mine)
            logger.info("job %s: attempt %d goes on from the checkpoints of an earlier one", job_id, token)
        else:
            mine.mkdir()
        for other in left:
            shutil.rmtree(job / str(other), ignore_errors=True)
    return mine


def remove(root: Path, job_id: UUID) -> None:
    """Remove all checkpoints of a job that has ended."""
    with _locked(root):
        shutil.rmtree(root / str(job_id), ignore_errors=True)


def sweep(root: Path, sessions: sessionmaker[Session]) -> list[UUID]:
    """Remove the checkpoints of jobs that have ended or are no more, and old ones of jobs that wait; their ids."""
    if not _jobs(root):
        return []
    with _locked(root):
        there = _jobs(root)
        with sessions() as session:
            known = repository.states(session, there)
        done = [job_id for job_id in there if _is_done(root / str(job_id), known.get(job_id))]
        for job_id in done:
            shutil.rmtree(root / str(job_id), ignore_errors=True)
    return done


def _is_done(folder: Path, state: State | None) -> bool:
    if state is None or state in FINISHED:
        return True
    return state not in ACTIVE and time.time() - _newest(folder) > KEEP_SECONDS


def _newest(folder: Path) -> float:
    """When something in the folder was last written."""
    times = [0.0]
    for place, _, files in os.walk(folder):
        for path in (place, *(os.path.join(place, name) for name in files)):  # noqa: PTH118 - os.walk gives strings
            with contextlib.suppress(FileNotFoundError):
                times.append(os.lstat(path).st_mtime)
    return max(times)


def _jobs(root: Path) -> list[UUID]:
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        with contextlib.suppress(ValueError):
            found.append(UUID(path.name))
    return found


def _tokens(job: Path) -> list[int]:
    """The attempts that have a folder. A child must not make us take a link for one."""
    return [
        int(path.name) for path in job.iterdir() if path.name.isdecimal() and path.is_dir() and not path.is_symlink()
    ]


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
