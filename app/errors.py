"""Errors as RFC 9457 problem details: one list of kinds, one exception, and handlers for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from squeezer.errors import Code

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastapi import FastAPI, Request
    from starlette.responses import Response

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Kind:
    """A kind of problem: `code` is stable, and `/problems/{code}` is its type."""

    code: str
    status: int
    title: str


INVALID_RECIPE = Kind(Code.INVALID_RECIPE, 422, "The recipe is not valid")
INVALID_REQUEST = Kind("invalid_request", 422, "The request is not valid")
INVALID_CURSOR = Kind("invalid_cursor", 422, "The cursor is not valid")
SPEC_MISSING = Kind("spec_missing", 422, "The part `spec` is missing")
SPEC_NOT_JSON = Kind("spec_not_json", 422, "The part `spec` is not JSON")
SPEC_TOO_LARGE = Kind("spec_too_large", 413, "The part `spec` is too large")
MODEL_MISSING = Kind("model_missing", 422, "The part `model` is missing")
DATASET_MISSING = Kind("dataset_missing", 422, "The part `dataset` is missing")
STUDENT_MISSING = Kind("student_missing", 422, "The part `student` is missing")
EMPTY_FILE = Kind(Code.EMPTY_FILE, 422, "A file is empty")
UNEXPECTED_PART = Kind("unexpected_part", 422, "A part was not expected")
NOT_MULTIPART = Kind("not_multipart", 415, "The body is not multipart/form-data")
BROKEN_MULTIPART = Kind("broken_multipart", 400, "The multipart body is broken")
UPLOAD_TOO_LARGE = Kind("upload_too_large", 413, "The upload is too large")
STORAGE_FULL = Kind("storage_full", 507, "The storage is full")
QUEUE_UNAVAILABLE = Kind("queue_unavailable", 422, "No worker can run this job")
NOT_FOUND = Kind("not_found", 404, "There is no such thing")
JOB_NOT_FOUND = Kind("job_not_found", 404, "There is no such job")
ALREADY_FINISHED = Kind("already_finished", 409, "The job has finished")
STILL_RUNNING = Kind("still_running", 409, "The job is running")
NOT_READY_YET = Kind("artifact_not_ready", 409, "The artifact is not there yet")
NO_ARTIFACT = Kind("no_artifact", 409, "The job made no artifact")
FORMAT_NOT_MADE = Kind("format_not_made", 404, "The job did not make this format")
RANGE_NOT_SATISFIABLE = Kind("range_not_satisfiable", 416, "The range lies outside the file")
LOOPBACK_ONLY = Kind("loopback_only", 403, "This service answers this machine alone")
DATABASE_UNAVAILABLE = Kind("database_unavailable", 503, "The database does not answer")
NOT_READY = Kind("not_ready", 503, "The service is not ready")
INTERNAL = Kind(Code.INTERNAL, 500, "Something broke on our side")

_UNKNOWN_PATH = "there is nothing at this path; /docs lists what there is"


class Problem(Exception):  # noqa: N818 - the RFC's word for it
    """An error that becomes the response; `detail` is a sentence that tells what to do."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.extra = extra or {}

    def response(self) -> JSONResponse:
        """The problem document."""
        document = {
            "type": f"/problems/{self.kind.code}",
            "title": self.kind.title,
            "status": self.kind.status,
            "detail": self.detail,
            "code": self.kind.code,
        }
        return JSONResponse(
            document | dict(self.extra),
            status_code=self.kind.status,
            media_type="application/problem+json",
            headers=self.headers,
        )


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(description="a stable URI reference for this kind of problem")
    title: str = Field(description="the kind of problem, in a few words")
    status: int = Field(description="the HTTP status again")
    detail: str = Field(description="what went wrong this time, and what to do")
    code: str = Field(description="a stable name for programs to branch on")


def responses(*kinds: Kind) -> dict[int | str, dict[str, Any]]:
    """These kinds for an endpoint's `responses=`, so that OpenAPI lists them."""
    by_status: dict[int | str, list[Kind]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    return {
        status: {
            "description": "; ".join(f"`{kind.code}`: {kind.title}" for kind in same),
            "content": {"application/problem+json": schema},
        }
        for status, same in by_status.items()
    }


def install(app: FastAPI) -> None:
    """Make every error that an endpoint raises a problem document; `RequestLog` does so for the unexpected."""
    handlers: list[tuple[type[Exception], Any]] = [
        (Problem, _problem),
        (HTTPException, _http),
        (RequestValidationError, _validation),
        (OperationalError, _database),
        (PoolTimeoutError, _database),
        (ClientDisconnect, _disconnect),
    ]
    for kind, handler in handlers:
        app.add_exception_handler(kind, handler)


def _problem(_request: Request, error: Problem) -> Response:
    return error.response()


def _http(request: Request, error: HTTPException) -> Response:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return Problem(NOT_FOUND, _UNKNOWN_PATH).response()
    status = HTTPStatus(error.status_code)
    detail = str(error.detail)
    headers = error.headers
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(_methods_at(request)))
        detail = f"{request.method} is not possible here; use {allowed}"
        headers = {"Allow": allowed}
    kind = Kind(status.name.lower(), status.value, status.phrase)
    return Problem(kind, detail, headers=headers).response()


def _methods_at(request: Request) -> set[str]:
    """All methods of a path; Starlette's own `Allow` names those of the first route alone."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": "", "headers": []}
    methods = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}
    routes = request.app.router.routes
    return {m for m in methods if any(route.matches(scope | {"method": m})[0] is Match.FULL for route in routes)}


def _validation(_request: Request, error: RequestValidationError) -> Response:
    def sentence(item: Any) -> str:
        return f"{' '.join(str(part) for part in item['loc'])}: {item['msg']}"

    return Problem(INVALID_REQUEST, "; ".join(sentence(item) for item in error.errors())).response()


def _database(_request: Request, error: Exception) -> Response:
    _log.error("database_unavailable", error=str(error))
    return Problem(
        DATABASE_UNAVAILABLE, "the database does not answer; try again later", headers={"Retry-After": "5"}
    ).response()


def _disconnect(_request: Request, _error: ClientDisconnect) -> Response:
    # Nobody is there to read this; it ends the request without a stack trace in the log.
    return Problem(BROKEN_MULTIPART, "the connection ended before the body did; send it again").response()
