"""The supervisor: claims a job and sees one attempt at it through. It never touches the model itself.

    claim -> scratch folder -> child "compress" -> child "verify" -> storage -> succeeded

Every attempt ends in a verdict, and every verdict is one write to the jobs table, fenced by the claim's token.
What the supervisor cannot write any more, because it was killed or the database is long gone, the sweeper will.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError

import squeezer
from app.jobs import repository
from app.jobs.repository import ArtifactRecord, Beat
from app.storage import new_key
from squeezer.errors import Code, SqueezerError
from workers import process, scratch
from workers.lease import Lease
from workers.process import Ending, Outcome, Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.orm import Session, sessionmaker

    from app.jobs.repository import Claim, GiveBack
    from app.settings import Settings
    from app.storage import Storage

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
    "CUDA_VISIBLE_DEVICES",
)
#: The children of an attempt, and which part of the whole progress each is.
CHILDREN = {"compress": (0.0, 0.9), "verify": (0.9, 1.0)}
#: The files that a child may leave, by the output of the recipe that asks for them.
PRODUCTS = {"sqz": "artifact.sqz", "safetensors": "model.safetensors"}
#: Larger reports are no reports.
MAX_REPORT_BYTES = 64 << 20
#: How long the end of an attempt is held for a database that is away, in seconds.
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Succeeded:
    """The artifact is verified and stored."""

    report: dict[str, Any]
    artifacts: list[ArtifactRecord]


@dataclass(frozen=True)
class Failed:
    """An error that another attempt would meet again."""

    code: Code
    detail: str


@dataclass(frozen=True)
class GivenBack:
    """The attempt came to nothing; another one may do better."""

    reason: GiveBack
    detail: str


@dataclass(frozen=True)
class Canceled:
    """The user asked for it."""


@dataclass(frozen=True)
class Lost:
    """The job is somebody else's by now, or deleted: nothing is written."""


Verdict = Succeeded | Failed | GivenBack | Canceled | Lost


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
        scratch.sweep(self._scratch)
        with Lease(self._sessions, claim, self._settings) as lease:
            verdict = self._judge(claim, lease)
            self._conclude(claim, verdict, lease)
        logger.info("job %s: attempt %d: %s", claim.job_id, claim.token, type(verdict).__name__)
        return verdict

    def _judge(self, claim: Claim, lease: Lease) -> Verdict:
        try:
            with scratch.scratch_folder(self._scratch, f"{claim.job_id}-{claim.token}") as folder:
                self._prepare(claim, folder)
                return self._run_children(claim, lease, folder) or self._store(claim, folder)
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
        target = folder / "input" / "model"
        try:
            local = self._storage.path(claim.model_key)
            if local is not None:
                scratch.link_input(local, target)
            else:
                with self._storage.open(claim.model_key) as source, target.open("wb") as copy:
                    shutil.copyfileobj(source, copy, 4 << 20)
        except FileNotFoundError:
            raise SqueezerError(
                Code.FILE_NOT_FOUND, "the uploaded model is no longer in the storage; send it again"
            ) from None
        (folder / "input" / "recipe.json").write_text(json.dumps(claim.recipe))

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
            )
            if outcome.ending is not Ending.DONE:
                return self._verdict(outcome, claim, lease, late=time.monotonic() >= deadline)
        return None

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

    def _store(self, claim: Claim, folder: Path) -> Succeeded:
        report = read_report(scratch.product(folder, "report.json"))
        artifacts: list[ArtifactRecord] = []
        try:
            for output in dict.fromkeys(["sqz", *claim.recipe["outputs"]]):
                path = scratch.product(folder, PRODUCTS[output])
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                record = ArtifactRecord(output, new_key(), path.stat().st_size, digest)
                artifacts.append(record)
                self._storage.put_file(record.key, path)
        except BaseException:
            self._delete(artifacts)
            raise
        return Succeeded(report, artifacts)

    def _conclude(self, claim: Claim, verdict: Verdict, lease: Lease) -> None:
        job, token = claim.job_id, claim.token
        match verdict:
            case Succeeded(report, artifacts):
                self._succeed(claim, report, artifacts, lease)
            case Failed(code, detail):
                self._write(lambda session: repository.fail(session, job, token, code, detail), lease)
            case GivenBack(reason, detail):
                self._write(lambda session: repository.give_back(session, job, token, reason, detail), lease)
            case Canceled():
                self._write(lambda session: repository.cancel_done(session, job, token), lease)
            case Lost():
                pass

    def _succeed(self, claim: Claim, report: dict[str, Any], artifacts: list[ArtifactRecord], lease: Lease) -> None:
        try:
            done, certain = self._write(
                lambda session: repository.succeed(session, claim.job_id, claim.token, report, artifacts),
                lease,
            )
        except Exception:
            logger.exception("job %s: the report cannot be stored", claim.job_id)
            self._delete(artifacts)
            self._conclude(claim, Failed(Code.INTERNAL, "the report of the work cannot be stored"), lease)
            return
        # Where a commit was cut off, "no" may mean "already done": then the sweeper sees what is to be deleted.
        if not done and certain:
            self._delete(artifacts)

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

    def _delete(self, artifacts: list[ArtifactRecord]) -> None:
        for record in artifacts:
            try:
                self._storage.delete(record.key)
            except OSError as error:  # the sweeper finds it later
                logger.warning("cannot delete %s from the storage: %s", record.key, error)


def child_environment(temporary: Path) -> dict[str, str]:
    """The whole environment of a child: what is harmless of ours, where `squeezer` is, and its own TMPDIR."""
    environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    return environment | {"PYTHONPATH": str(Path(squeezer.__file__).parent.parent), "TMPDIR": str(temporary)}


def read_report(path: Path) -> dict[str, Any]:
    """The child's report.

    Raises:
        SqueezerError: it is no JSON object of a sensible size.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ValueError("too large")
        report = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        if not isinstance(report, dict):
            raise TypeError("not an object")
    except (ValueError, TypeError, RecursionError) as error:
        raise SqueezerError(Code.INTERNAL, f"the report of the work cannot be read: {error}") from None
    return report


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
