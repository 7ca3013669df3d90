"""The supervisor: claims a job and sees one attempt at it through. It never touches the model itself.

    claim -> scratch folder -> child "compress" -> child "verify" -> storage -> succeeded (or failed as not accepted)

Every attempt ends in a verdict, and every verdict is one write to the jobs table, fenced by the claim's token.
What the supervisor cannot write any more, because it was killed or the database is long gone, the sweeper will.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError

import squeezer
from app.jobs import repository
from app.jobs.repository import Beat
from app.jobs.states import FINISHED, State
from squeezer.errors import Code, SqueezerError
from workers import checkpoints, process, products, scratch
from workers.lease import Lease
from workers.limits import Limits
from workers.process import Ending, Outcome, Progress
from workers.verdict import Canceled, Failed, GivenBack, Lost, Result, Succeeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from app.jobs.repository import Claim
    from app.settings import Settings
    from app.storage import Storage
    from workers.verdict import Verdict

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Starts the child. `-P` keeps its working directory, which an attacker might write to, out of its imports.
CHILD = (sys.executable, "-P", "-m", "squeezer.child")
#: The only variables of ours that a child may see: no addresses, no passwords.
ENVIRONMENT = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "LD_LIBRARY_PATH",
    "XDG_CACHE_HOME",
    "NUMBA_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "CUDA_VISIBLE_DEVICES",
    "SQUEEZER_SANDBOX",
)
#: What a child sees where we have none. Threads that wait for each other sleep: on a machine where other jobs run, they
#: would otherwise spin away the time of the one that they wait for (small networks trained ten times slower).
DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
#: The children of an attempt, and which part of the whole progress each is.
CHILDREN = {"compress": (0.0, 0.9), "verify": (0.9, 1.0)}
#: How long the end of an attempt is held for a database that is away, in seconds.
PATIENCE_SECONDS = 600.0


class Supervisor:
    """Runs attempts, one at a time. Use it from a main thread: children die with the thread that starts them."""

    def __init__(
        self,
        settings: Settings,
        sessions: sessionmaker[Session],
        storage: Storage,
        *,
        draining: Callable[[], bool] = lambda: False,
        child: Sequence[str] = CHILD,
    ) -> None:
        """`draining` says whether this worker is to shut down; `child` is the command that starts a child."""
        self._settings = settings
        self._sessions = sessions
        self._storage = storage
        self._draining = draining
        self._child = child
        self._scratch = settings.data_dir / "scratch"
        self._checkpoints = self._scratch / scratch.CHECKPOINTS
        self._owner = f"{socket.gethostname()}:{os.getpid()}"

    def work(self, queue: str) -> int:
        """Run the jobs of a queue until none is queued; how many there were."""
        attempts = 0
        while not self._draining():
            with self._sessions.begin() as session:
                claim = repository.claim(session, queue, self._owner, self._settings.lease_seconds)
            if claim is None:
                break
            self.attempt(claim)
            attempts += 1
        return attempts

    def attempt(self, claim: Claim) -> Verdict:
        """See one attempt through, from the claim to the verdict in the jobs table."""
        logger.info("job %s: attempt %d begins", claim.job_id, claim.token)
        self._sweep()
        with Lease(self._sessions, claim, self._settings) as lease:
            verdict = self._judge(claim, lease)
            state = self._conclude(claim, verdict, lease)
        if state in FINISHED:
            checkpoints.remove(self._checkpoints, claim.job_id)
        logger.info("job %s: attempt %d: %s", claim.job_id, claim.token, type(verdict).__name__)
        return verdict

    def _sweep(self) -> None:
        """Remove what dead attempts left on this machine, which may have no sweeper of its own."""
        scratch.sweep(self._scratch)
        try:
            checkpoints.sweep(self._checkpoints, self._sessions)
        except SQLAlchemyError as error:
            logger.warning("cannot sweep checkpoints: the database does not answer: %s", error)

    def _judge(self, claim: Claim, lease: Lease) -> Verdict:
        try:
            with scratch.scratch_folder(self._scratch, f"{claim.job_id}-{claim.token}") as folder:
                self._prepare(claim, folder)
                verdict = self._run_children(claim, lease, folder)
                if verdict is None:
                    return Succeeded(products.store(folder, claim.recipe["outputs"], self._storage))
                if isinstance(verdict, Failed) and verdict.code is Code.NOT_ACCEPTED:
                    return replace(verdict, result=products.store(folder, claim.recipe["outputs"], self._storage))
                return verdict
        except SqueezerError as error:
            return Failed(error.code, error.detail)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                return Failed(
                    Code.DISK_FULL,
                    "the worker's disk or the storage is full; free some space, then try again",
                )
            logger.exception("job %s: the supervisor failed", claim.job_id)
            return GivenBack("crashed", f"the worker could not read or write a file: {error.strerror}")
        except Exception as error:  # whatever it is, the job must not hang until its lease runs out
            logger.exception("job %s: the supervisor failed", claim.job_id)
            return GivenBack("crashed", f"an error of the worker itself: {type(error).__name__}")

    def _prepare(self, claim: Claim, folder: Path) -> None:
        self._fetch(claim.model_key, folder / "input" / "model")
        if claim.dataset_key is not None:
            self._fetch(claim.dataset_key, folder / "input" / "dataset")
        if claim.student_key is not None:
            self._fetch(claim.student_key, folder / "input" / "student")
        (folder / "input" / "recipe.json").write_text(json.dumps(claim.recipe))
        taken = checkpoints.take(self._checkpoints, claim.job_id, claim.token)
        (folder / "checkpoints").symlink_to(taken, target_is_directory=True)

    def _fetch(self, key: str, target: Path) -> None:
        """Have an uploaded file in the scratch folder."""
        try:
            local = self._storage.path(key)
            if local is not None:
                scratch.link_input(local, target)
            else:
                with self._storage.open(key) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 4 << 20)
        except FileNotFoundError:
            raise SqueezerError(
                Code.FILE_NOT_FOUND, f"the uploaded {target.name} is no longer in the storage; send it again"
            ) from None

    def _run_children(self, claim: Claim, lease: Lease, folder: Path) -> Verdict | None:
        """Run the children in turn; None when all are done, else the verdict."""
        deadline = time.monotonic() + claim.max_seconds

        def stop() -> bool:
            return lease.beat is not Beat.OK or time.monotonic() >= deadline or self._draining()

        for mode, (start, end) in CHILDREN.items():

            def on_progress(event: Progress, start: float = start, end: float = end) -> None:
                lease.report(replace(event, progress=start + event.progress * (end - start)))

            outcome = process.run(
                [*self._child, mode, str(folder)],
                env=child_environment(folder / "tmp"),
                cwd=folder,
                stop=stop,
                on_progress=on_progress,
                limits=self._limits(claim),
            )
            if outcome.ending is not Ending.DONE:
                return self._verdict(outcome, claim, lease, late=time.monotonic() >= deadline)
        return None

    def _limits(self, claim: Claim) -> Limits:
        threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))
        return Limits(
            memory=self._settings.job_memory_bytes,
            scratch=self._settings.job_scratch_bytes,
            cpu=claim.max_seconds * threads,
        )

    def _verdict(self, outcome: Outcome, claim: Claim, lease: Lease, *, late: bool) -> Verdict:
        if outcome.ending is Ending.ERROR:
            return Failed(outcome.code, outcome.detail)
        if outcome.ending is Ending.DIED:
            return GivenBack("crashed", outcome.detail)
        if lease.beat is Beat.LOST:
            return Lost()
        if lease.beat is Beat.CANCEL:
            return Canceled()
        if late:
            detail = f"the work took longer than max_seconds ({claim.max_seconds}); raise it, or ask for less"
            return Failed(Code.DEADLINE_EXCEEDED, detail)
        return GivenBack("returned", "the worker was shut down")

    def _conclude(self, claim: Claim, verdict: Verdict, lease: Lease) -> State | None:
        """Write the verdict down; the state that the job has now, or None where that is not known."""
        job, token = claim.job_id, claim.token
        match verdict:
            case Succeeded() | Failed(result=Result()):
                return self._deliver(claim, verdict, lease)
            case Failed(code, detail):
                return self._write(lambda session: repository.fail(session, job, token, code, detail), lease)[0]
            case GivenBack(reason, detail):
                return self._write(lambda session: repository.give_back(session, job, token, reason, detail), lease)[0]
            case Canceled():
                done, _ = self._write(lambda session: repository.cancel_done(session, job, token), lease)
                return State.CANCELED if done else None
            case Lost():
                return None

    def _deliver(self, claim: Claim, verdict: Succeeded | Failed, lease: Lease) -> State | None:
        """Write down a verdict that comes with a result; the stored files stay where the job names them now."""
        result = verdict.result
        assert result is not None  # noqa: S101 - tells mypy what `_conclude` has seen
        ending = State.SUCCEEDED if isinstance(verdict, Succeeded) else State.FAILED

        def write(session: Session) -> State | None:
            job, token, report, artifacts = claim.job_id, claim.token, result.report, result.artifacts
            if isinstance(verdict, Succeeded):
                return State.SUCCEEDED if repository.succeed(session, job, token, report, artifacts) else None
            return repository.fail(session, job, token, verdict.code, verdict.detail, report, artifacts)

        try:
            state, certain = self._write(write, lease)
        except Exception:
            logger.exception("job %s: the report cannot be stored", claim.job_id)
            products.delete(result.artifacts, self._storage)
            return self._conclude(claim, Failed(Code.INTERNAL, "the report of the work cannot be stored"), lease)
        # Where a commit was cut off, "no" may mean "already done": then the sweeper sees what is to be deleted.
        if state is not ending and certain:
            products.delete(result.artifacts, self._storage)
        return state

    def _write(self, write: Callable[[Session], T], lease: Lease) -> tuple[T | None, bool]:
        """Commit a write, waiting for a database that is away: its answer, and whether none was cut off."""
        certain, pause = True, 0.1
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self._sessions.begin() as session:
                    answer = write(session)
                return answer, certain
            except (OperationalError, InterfaceError, InternalError) as error:
                logger.warning("the database does not answer: %s", error)
                certain = False
            if lease.beat is Beat.LOST or self._draining() or time.monotonic() > deadline:
                return None, False
            time.sleep(pause)
            pause = min(2 * pause, 5.0)


def child_environment(temporary: Path) -> dict[str, str]:
    """The whole environment of a child: what is harmless of ours, where `squeezer` is, and its own TMPDIR."""
    environment = DEFAULTS | {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return environment | {"PYTHONPATH": str(Path(squeezer.__file__).parent.parent), "TMPDIR": str(temporary)}
