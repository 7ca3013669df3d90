"""`/jobs`: send a model, watch it, stop it, forget it."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from app import errors
from app.deps import CallerDep, ContextDep
from app.errors import responses
from app.jobs import service
from app.jobs.schemas import JobDetail, JobPage, job_path
from app.jobs.states import State
from app.queue import ring
from app.uploads.service import receive

router = APIRouter(prefix="/jobs", tags=["jobs"], responses=responses(errors.INVALID_REQUEST))

JobId = Annotated[str, Path(description="the job's UUID", json_schema_extra={"format": "uuid"})]

_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["spec", "model"],
                "additionalProperties": False,
                "properties": {
                    "spec": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "description": 'the recipe as JSON, such as {"preset": "safe"}; '
                        "sent before the files, a mistake in it is found at once",
                    },
                    "model": {
                        "type": "string",
                        "format": "binary",
                        "description": "safetensors, a PyTorch checkpoint, a zipped folder of them, or a `.pt2`",
                    },
                    "dataset": {
                        "type": "string",
                        "format": "binary",
                        "description": "what the model is retrained and measured with: `.npz`, safetensors, "
                        "or a zip of class folders with images",
                    },
                    "student": {
                        "type": "string",
                        "format": "binary",
                        "description": 'the network, a `.pt2`, that `{"method": "distill", "student": "uploaded"}` '
                        "trains in the model's place",
                    },
                },
            },
            "encoding": {"spec": {"contentType": "application/json, text/plain"}},
        }
    },
}
_LOCATION = {"Location": {"description": "where the job is found", "schema": {"type": "string"}}}


@router.post(
    "",
    status_code=202,
    openapi_extra={"requestBody": _FORM},
    responses={
        202: {"headers": _LOCATION},
        **responses(
            errors.BROKEN_MULTIPART,
            errors.UPLOAD_TOO_LARGE,
            errors.SPEC_TOO_LARGE,
            errors.NOT_MULTIPART,
            errors.SPEC_MISSING,
            errors.SPEC_NOT_JSON,
            errors.INVALID_RECIPE,
            errors.MODEL_MISSING,
            errors.DATASET_MISSING,
            errors.STUDENT_MISSING,
            errors.EMPTY_FILE,
            errors.UNEXPECTED_PART,
            errors.QUEUE_UNAVAILABLE,
            errors.STORAGE_FULL,
        ),
    },
)
async def create_job(
    request: Request, response: Response, background: BackgroundTasks, context: ContextDep, caller: CallerDep
) -> JobDetail:
    """Queue a job. The form's parts may come in any order."""
    length = request.headers.get("content-length", "")
    upload = await receive(
        request.stream(),
        content_type=request.headers.get("content-type", ""),
        content_length=int(length) if length.isdecimal() else None,
        storage=context.storage,
        max_bytes={
            "model": context.settings.max_upload_bytes,
            "dataset": context.settings.max_dataset_bytes,
            "student": context.settings.max_upload_bytes,
        },
        check=partial(service.queue_for, settings=context.settings),
    )
    job, queue = await run_in_threadpool(service.create, context, caller, upload)
    response.headers["Location"] = job_path(job.id)
    # After the commit, and after the answer: a broker that is down must not hold it up.
    background.add_task(ring, queue, context.celery)
    return job


@router.get("", responses=responses(errors.INVALID_CURSOR, errors.INVALID_REQUEST))
def list_jobs(
    context: ContextDep,
    caller: CallerDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    state: Annotated[State | None, Query(description="only jobs in this state")] = None,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> JobPage:
    """List jobs, newest first."""
    return service.read_page(context, caller, limit, state, cursor)


@router.get("/{job_id}", responses=responses(errors.JOB_NOT_FOUND))
def read_job(job_id: JobId, context: ContextDep, caller: CallerDep) -> JobDetail:
    """Read a job: its state, how far it is, and what came of it."""
    return service.read(context, caller, job_id)


@router.post("/{job_id}/cancel", responses=responses(errors.JOB_NOT_FOUND, errors.ALREADY_FINISHED))
def cancel_job(job_id: JobId, context: ContextDep, caller: CallerDep) -> JobDetail:
    """Cancel a job: at once where it waits; one that runs is `canceling` until its worker stops."""
    return service.cancel(context, caller, job_id)


@router.delete("/{job_id}", status_code=204, responses=responses(errors.JOB_NOT_FOUND, errors.STILL_RUNNING))
def delete_job(job_id: JobId, context: ContextDep, caller: CallerDep) -> None:
    """Delete a job, its uploads and its artifacts."""
    service.remove(context, caller, job_id)
