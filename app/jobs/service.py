"""What can be done with jobs. Each is one transaction; files go after the commit that forgets them."""

from __future__ import annotations

import base64
import binascii
import json
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from app import errors
from app.errors import Problem
from app.jobs import repository
from app.jobs.models import Job
from app.jobs.schemas import JobDetail, JobPage, JobSummary
from app.jobs.states import ACTIVE, State

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.deps import Caller, Context
    from app.settings import Settings
    from app.uploads.service import Upload
    from squeezer.recipe import Recipe


def queue_for(recipe: Recipe, settings: Settings) -> str:
    """The queue whose workers can run a recipe.

    Raises:
        Problem: there are none.
    """
    if recipe.device != "cuda":
        return "cpu"
    if not settings.gpu_workers:
        raise Problem(errors.QUEUE_UNAVAILABLE, 'this service has no GPU; set "device" to "auto" or "cpu"')
    return "gpu"


def create(context: Context, caller: Caller, upload: Upload) -> tuple[JobDetail, str]:
    """Queue a job for an upload; the job and its queue. Where that fails, the upload's files are removed."""
    settings = context.settings
    try:
        job = Job(
            tenant_id=caller.tenant_id,
            queue=queue_for(upload.recipe, settings),
            recipe=upload.recipe.model_dump(mode="json"),
            recipe_version=upload.recipe.version,
            **_columns(upload),
            max_crashed_attempts=settings.max_crashed_attempts,
            max_lost_attempts=settings.max_lost_attempts,
        )
        with context.sessions.begin() as session:
            repository.add(session, job)
            return JobDetail.from_job(job), job.queue
    except BaseException:
        for file in upload.files:
            context.storage.delete(file.key)
        raise


def _columns(upload: Upload) -> dict[str, Any]:
    """What the table says about the files of an upload."""
    model = upload.model
    columns: dict[str, Any] = {
        "file_name": model.file_name,
        "model_key": model.key,
        "model_bytes": model.bytes,
        "model_sha256": model.sha256,
    }
    for name, file in (("dataset", upload.dataset), ("student", upload.student)):
        if file is not None:
            columns |= {
                f"{name}_file_name": file.file_name,
                f"{name}_key": file.key,
                f"{name}_bytes": file.bytes,
                f"{name}_sha256": file.sha256,
            }
    return columns


def read(context: Context, caller: Caller, job_id: str) -> JobDetail:
    """One job."""
    with context.sessions.begin() as session:
        return JobDetail.from_job(find(session, caller, job_id))


def read_page(context: Context, caller: Caller, limit: int, state: State | None, cursor: str | None) -> JobPage:
    """One page of jobs, newest first."""
    before = None if cursor is None else _decode(cursor)
    with context.sessions.begin() as session:
        jobs = repository.page(session, caller.tenant_id, limit=limit + 1, state=state, before=before)
        shown = jobs[:limit]
        more = _encode(shown[-1]) if len(jobs) > limit else None
        return JobPage(jobs=[JobSummary.from_job(job) for job in shown], next_cursor=more)


def cancel(context: Context, caller: Caller, job_id: str) -> JobDetail:
    """Cancel a job; one that runs is stopped by its worker soon after."""
    with context.sessions.begin() as session:
        job = find(session, caller, job_id, lock=True)
        if not repository.cancel(session, job):
            raise Problem(errors.ALREADY_FINISHED, f"the job has {job.state} and cannot be canceled; delete it instead")
        return JobDetail.from_job(job)


def remove(context: Context, caller: Caller, job_id: str) -> None:
    """Delete a job and its files."""
    with context.sessions.begin() as session:
        job = find(session, caller, job_id, lock=True)
        if job.state in ACTIVE:
            raise Problem(errors.STILL_RUNNING, "cancel the job first, and delete it when its state is canceled")
        keys = repository.remove(session, job)
    for key in keys:
        context.storage.delete(key)


def find(session: Session, caller: Caller, job_id: str, *, lock: bool = False) -> Job:
    """The caller's job of an id as it stands in a URL.

    Raises:
        Problem: there is none, or it is somebody else's, or it is no id at all.
    """
    job = None
    with suppress(ValueError):
        job = repository.get(session, caller.tenant_id, UUID(job_id), lock=lock)
    if job is None:
        raise Problem(errors.JOB_NOT_FOUND, "no job has this id; GET /jobs lists those that there are")
    return job


def _encode(job: Job) -> str:
    position = json.dumps([job.created_at.isoformat(), str(job.id)])
    return base64.urlsafe_b64encode(position.encode()).decode()


def _decode(cursor: str) -> tuple[datetime, UUID]:
    try:
        created_at, job_id = json.loads(base64.b64decode(cursor, altchars=b"-_", validate=True))
        moment = datetime.fromisoformat(created_at)
        if moment.tzinfo is None:
            raise ValueError("no time zone")
        return moment, UUID(job_id)
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        raise Problem(
            errors.INVALID_CURSOR, "take the cursor from next_cursor of the page before, or leave it out"
        ) from None
