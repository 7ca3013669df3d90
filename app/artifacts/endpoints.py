"""`/jobs/{id}/artifact`: the files that a job made."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from app import errors
from app.artifacts import service
from app.artifacts.ranges import ByteRange, UnsatisfiableError, parse_range
from app.deps import CallerDep, ContextDep
from app.errors import Problem, responses
from app.jobs.endpoints import JobId
from squeezer.recipe import Output

router = APIRouter(prefix="/jobs", tags=["artifacts"])

_MEDIA_TYPE = "application/octet-stream"
_CHUNK_BYTES = 256 * 1024
_BINARY = {"content": {_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", **_BINARY},
    206: {"description": "the part of it that `Range` asks for", **_BINARY},
    304: {"description": "the client has it: its digest is in `If-None-Match`"},
    **responses(
        errors.JOB_NOT_FOUND,
        errors.FORMAT_NOT_MADE,
        errors.NOT_READY_YET,
        errors.NO_ARTIFACT,
        errors.RANGE_NOT_SATISFIABLE,
        errors.INVALID_REQUEST,
    ),
}
Format = Annotated[Output, Query(alias="format", description="which of the recipe's outputs")]


@router.head("/{job_id}/artifact", responses=_RESPONSES, response_class=Response)
def artifact_headers(
    job_id: JobId, request: Request, context: ContextDep, caller: CallerDep, wanted: Format = "sqz"
) -> Response:
    """Read the size, the digest and the name of the file."""
    download = service.find_artifact(context, caller, job_id, wanted)
    if _client_has_it(request, download):
        return _not_modified(download)
    headers = {**download.headers, "Content-Length": str(download.bytes)}
    return Response(headers=headers, media_type=_MEDIA_TYPE)


@router.get("/{job_id}/artifact", responses=_RESPONSES, response_class=Response)
def download_artifact(
    job_id: JobId, request: Request, context: ContextDep, caller: CallerDep, wanted: Format = "sqz"
) -> Response:
    """Download the file. `Range` resumes a download, `If-None-Match` saves one."""
    download = service.find_artifact(context, caller, job_id, wanted)
    if _client_has_it(request, download):
        return _not_modified(download)
    part = _wanted_part(request, download)
    try:
        file = context.storage.open(download.key)
    except FileNotFoundError:
        raise Problem(errors.JOB_NOT_FOUND, "the job was deleted a moment ago") from None
    start, stop = part or ByteRange(0, download.bytes)
    headers = {**download.headers, "Content-Length": str(stop - start)}
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{download.bytes}"
    return StreamingResponse(
        _read(file, start, stop), status_code=206 if part else 200, headers=headers, media_type=_MEDIA_TYPE
    )


def _client_has_it(request: Request, download: service.Download) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return download.headers["ETag"] in tags or "*" in tags


def _not_modified(download: service.Download) -> Response:
    kept = {name: download.headers[name] for name in ("ETag", "Cache-Control")}
    return Response(status_code=304, headers=kept)


def _wanted_part(request: Request, download: service.Download) -> ByteRange | None:
    # If-Range names the file that the client has a part of; parts of two files make no file.
    if request.headers.get("if-range", download.headers["ETag"]) != download.headers["ETag"]:
        return None
    try:
        return parse_range(request.headers.get("range"), download.bytes)
    except UnsatisfiableError:
        raise Problem(
            errors.RANGE_NOT_SATISFIABLE,
            f"the file has {download.bytes} bytes; ask for a range within it",
            headers={"Content-Range": f"bytes */{download.bytes}"},
        ) from None


async def _read(file: BinaryIO, start: int, stop: int) -> AsyncIterator[bytes]:
    try:
        await run_in_threadpool(file.seek, start)
        while start < stop:
            chunk = await run_in_threadpool(file.read, min(_CHUNK_BYTES, stop - start))
            if not chunk:
                raise OSError("the stored file is shorter than its record says")
            start += len(chunk)
            yield chunk
    finally:
        file.close()
