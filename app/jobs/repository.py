"""All SQL about jobs. Functions take a session and do not commit.

What a worker writes is fenced: it changes a row only while the worker's token is the row's newest and a lease
is held. Functions that find themselves fenced off say so, and the worker stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, cast

from sqlalchemy import and_, delete, or_, select, update
from sqlalchemy.orm import defer

from app.db import utc_now
from app.jobs.models import Artifact, Job, JobStep
from app.jobs.states import ACTIVE, State, allowed, sources

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy import CursorResult
    from sqlalchemy.orm import Session

#: The newest recipe that this code understands; newer ones wait for a newer worker.
RECIPE_VERSION = 1
#: Longer messages are cut: they come from whatever broke.
_MAX_DETAIL = 4000
#: Parts of a report that have a column or a table of their own, or stand in the artifact itself.
_NOT_METRICS = frozenset({"steps", "layers", "ledger", "digests"})


@dataclass(frozen=True)
class Claim:
    """A job that a worker now holds."""

    job_id: UUID
    token: int
    recipe: dict[str, Any]
    model_key: str
    dataset_key: str | None
    student_key: str | None
    max_seconds: int


#: Why an attempt came to nothing: its child died, its supervisor fell silent, or its worker was shut down in order.
GiveBack = Literal["crashed", "lost", "returned"]


class Beat(StrEnum):
    """The answer to a heartbeat."""

    OK = "ok"
    CANCEL = "cancel"
    LOST = "lost"


@dataclass(frozen=True)
class ArtifactRecord:
    """A file that a worker has put into storage; `sha256` is hexadecimal."""

    format: str
    key: str
    bytes: int
    sha256: str


# For requests -----------------------------------------------------------------


def add(session: Session, job: Job) -> None:
    """Insert a job."""
    session.add(job)
    session.flush()


def get(session: Session, tenant_id: UUID, job_id: UUID, *, lock: bool = False) -> Job | None:
    """The tenant's job of that id; with `lock`, nobody else changes it before the transaction ends."""
    query = select(Job).where(Job.id == job_id, Job.tenant_id == tenant_id)
    if lock:
        query = query.with_for_update(of=Job)
    return session.scalars(query.execution_options(populate_existing=True)).first()


def page(
    session: Session,
    tenant_id: UUID,
    *,
    limit: int,
    state: State | None = None,
    before: tuple[datetime, UUID] | None = None,
) -> Sequence[Job]:
    """Up to `limit` of the tenant's jobs without their layers, newest first, older than `before` (creation, id)."""
    query = (
        select(Job).where(Job.tenant_id == tenant_id).options(defer(Job.layers), defer(Job.ledger), defer(Job.recipe))
    )
    if state is not None:
        query = query.where(Job.state == state)
    if before is not None:
        created_at, job_id = before
        older = and_(Job.created_at == created_at, Job.id < job_id)
        query = query.where(or_(Job.created_at < created_at, older))
    return session.scalars(query.order_by(Job.created_at.desc(), Job.id.desc()).limit(limit)).all()


def cancel(session: Session, job: Job) -> bool:
    """Cancel a locked job, or ask its worker to. False when it has finished otherwise."""
    state = State(job.state)
    if state in {State.CANCELING, State.CANCELED}:
        return True
    if allowed(state, State.CANCELED):
        job.state, job.finished_at = State.CANCELED, utc_now()
    elif allowed(state, State.CANCELING):
        job.state = State.CANCELING
    else:
        return False
    session.flush()
    return True


def remove(session: Session, job: Job) -> list[str]:
    """Delete a locked job that nobody works on; the storage keys that must go once this is committed."""
    keys = [job.model_key, job.dataset_key, job.student_key, *(artifact.key for artifact in job.artifacts)]
    session.execute(delete(Job).where(Job.id == job.id))
    return [key for key in keys if key is not None]


# For workers ------------------------------------------------------------------


def claim(session: Session, queue: str, owner: str, lease_seconds: float) -> Claim | None:
    """Take the oldest queued job of a queue, or None. Two workers never get the same one."""
    job = session.scalars(
        select(Job)
        .where(Job.queue == queue, Job.state.in_(sources(State.RUNNING)), Job.recipe_version <= RECIPE_VERSION)
        .order_by(Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=Job)
        .execution_options(populate_existing=True)
    ).first()
    if job is None:
        return None
    now = utc_now()
    job.state = State.RUNNING
    job.fencing_token += 1
    job.lease_owner = owner
    job.lease_expires_at = now + timedelta(seconds=lease_seconds)
    job.started_at = job.started_at or now
    _reset_progress(job)
    session.flush()
    max_seconds = int(job.recipe["max_seconds"])
    files = job.model_key, job.dataset_key, job.student_key
    return Claim(job.id, job.fencing_token, job.recipe, *files, max_seconds)


def heartbeat(session: Session, job_id: UUID, token: int, lease_seconds: float) -> Beat:
    """Renew the lease, and hear whether to go on."""
    expires = utc_now() + timedelta(seconds=lease_seconds)
    if not _write(session, job_id, token, ACTIVE, lease_expires_at=expires):
        return Beat.LOST
    state = session.scalar(select(Job.state).where(Job.id == job_id))
    return Beat.CANCEL if state == State.CANCELING else Beat.OK


def progress(
    session: Session,
    job_id: UUID,
    token: int,
    stage: str,
    progress: float,
    eta_seconds: float | None,
    layer: str | None,
) -> bool:
    """Note how far the work is (0 to 1); False when the job is lost."""
    done = min(max(progress, 0.0), 1.0)
    return _write(
        session,
        job_id,
        token,
        ACTIVE,
        stage=_text(stage),
        progress=done,
        eta_seconds=eta_seconds,
        layer=None if layer is None else _text(layer),
    )


def succeed(
    session: Session, job_id: UUID, token: int, report: dict[str, Any], artifacts: list[ArtifactRecord]
) -> bool:
    """Finish a job with its report and its files; False when it is lost: the caller then deletes them."""
    done = _finish(session, job_id, token, State.SUCCEEDED, progress=1.0, **_columns(report))
    if done:
        _add_products(session, job_id, report, artifacts)
    return done


def fail(
    session: Session,
    job_id: UUID,
    token: int,
    code: str,
    detail: str,
    report: dict[str, Any] | None = None,
    artifacts: Sequence[ArtifactRecord] = (),
) -> State | None:
    """Finish a job with an error that another attempt would meet again; its state now, or None when it is lost.

    A job that is being canceled becomes canceled: its user no longer waits for the error. A result that is not what
    was asked for may come with the error: its report and its files. They are kept where the job becomes failed;
    otherwise the caller deletes the files.
    """
    values = {"error_code": code, "error_detail": _text(detail)} | ({} if report is None else _columns(report))
    if _finish(session, job_id, token, State.FAILED, **values):
        if report is not None:
            _add_products(session, job_id, report, artifacts)
        return State.FAILED
    return State.CANCELED if cancel_done(session, job_id, token) else None


def cancel_done(session: Session, job_id: UUID, token: int) -> bool:
    """Finish a job whose work was stopped on request; False when it is lost or nobody asked."""
    held = sources(State.CANCELED) & ACTIVE
    return _write(session, job_id, token, held, **_finished(State.CANCELED))


def give_back(session: Session, job_id: UUID, token: int, reason: GiveBack, detail: str) -> State | None:
    """End an attempt that came to nothing; the state that the job has now, or None when it is lost.

    The job is queued again, or failed where its attempts are used up, or canceled where that was asked for.
    """
    job = session.scalars(
        select(Job)
        .where(Job.id == job_id, Job.fencing_token == token, Job.state.in_(ACTIVE))
        .with_for_update(of=Job)
        .execution_options(populate_existing=True)
    ).first()
    return None if job is None else _give_back(session, job, reason, detail)


# For the sweeper --------------------------------------------------------------


def sweep(session: Session, now: datetime) -> list[UUID]:
    """Give back every job whose lease has run out; their ids."""
    jobs = session.scalars(
        select(Job)
        .where(Job.state.in_(ACTIVE), Job.lease_expires_at < now)
        .with_for_update(skip_locked=True, of=Job)
        .execution_options(populate_existing=True)
    ).all()
    for job in jobs:
        _give_back(session, job, "lost", f"the worker {job.lease_owner} fell silent")
    return [job.id for job in jobs]


def waiting_queues(session: Session) -> set[str]:
    """The queues in which jobs wait."""
    return set(session.scalars(select(Job.queue).where(Job.state == State.QUEUED).distinct()))


def keys_in_use(session: Session) -> set[str]:
    """The storage keys of all files that a job names."""
    columns = (Job.model_key, Job.dataset_key, Job.student_key, Artifact.key)
    found = (key for column in columns for key in session.scalars(select(column).where(column.is_not(None))))
    return {key for key in found if key is not None}


def states(session: Session, job_ids: Collection[UUID]) -> dict[UUID, State]:
    """The states of those of the jobs that there are."""
    found = session.execute(select(Job.id, Job.state).where(Job.id.in_(job_ids)))
    return {job_id: State(state) for job_id, state in found}


# Shared -----------------------------------------------------------------------


def _write(session: Session, job_id: UUID, token: int, states: frozenset[State], **values: Any) -> bool:
    """The fenced write: whether the row was still the token's."""
    result = session.execute(
        update(Job).where(Job.id == job_id, Job.fencing_token == token, Job.state.in_(states)).values(**values)
    )
    return cast("CursorResult[Any]", result).rowcount == 1


def _finish(session: Session, job_id: UUID, token: int, state: State, **values: Any) -> bool:
    return _write(session, job_id, token, sources(state) & ACTIVE, **_finished(state), **values)


def _columns(report: dict[str, Any]) -> dict[str, Any]:
    """What a job's row keeps of a report."""
    metrics = {key: value for key, value in report.items() if key not in _NOT_METRICS}
    return {"metrics": metrics, "layers": report["layers"], "ledger": report["ledger"]}


def _add_products(session: Session, job_id: UUID, report: dict[str, Any], artifacts: Sequence[ArtifactRecord]) -> None:
    for position, step in enumerate(report["steps"]):
        details = {key: value for key, value in step.items() if key != "method"}
        session.add(JobStep(job_id=job_id, position=position, method=step["method"], metrics=details))
    for made in artifacts:
        session.add(Artifact(job_id=job_id, format=made.format, key=made.key, bytes=made.bytes, sha256=made.sha256))
    session.flush()


def _finished(state: State) -> dict[str, Any]:
    return {
        "state": state,
        "finished_at": utc_now(),
        "lease_owner": None,
        "lease_expires_at": None,
        "eta_seconds": None,
        "layer": None,
    }


def _give_back(session: Session, job: Job, reason: GiveBack, detail: str) -> State:
    if reason == "crashed":
        job.crashed_attempts += 1
        used_up = job.crashed_attempts >= job.max_crashed_attempts
    elif reason == "lost":
        job.lost_attempts += 1
        used_up = job.lost_attempts >= job.max_lost_attempts
    else:  # nobody's fault: restarts of the service must not use a long job's attempts up
        used_up = False
    if reason != "returned":
        job.error_code, job.error_detail = reason, _text(detail)
    retried_or_failed = State.FAILED if used_up else State.QUEUED
    job.state = state = State.CANCELED if job.state == State.CANCELING else retried_or_failed
    job.lease_owner = job.lease_expires_at = None
    if state == State.QUEUED:
        _reset_progress(job)
    else:
        job.finished_at, job.eta_seconds, job.layer = utc_now(), None, None
    session.flush()
    return state


def _reset_progress(job: Job) -> None:
    job.stage, job.progress, job.eta_seconds, job.layer = None, 0.0, None, None


def _text(text: str) -> str:
    """What every database can store: PostgreSQL knows no NUL, and UTF-8 no lone surrogates."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()[:_MAX_DETAIL]
