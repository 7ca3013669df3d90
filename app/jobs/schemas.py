"""What the API says about jobs."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, Field

from app.jobs.models import Job
from app.jobs.states import FINISHED, State


class JobError(BaseModel):
    """Why an attempt failed."""

    code: str = Field(description="stable, for programs")
    detail: str = Field(description="what to do")


class ArtifactOut(BaseModel):
    """A file that can be downloaded."""

    format: str
    bytes: int
    sha256: str = Field(description="hexadecimal")
    href: str


class FileOut(BaseModel):
    """A file that came with the model."""

    file_name: str
    bytes: int
    sha256: str = Field(description="hexadecimal")


class JobSummary(BaseModel):
    """A job in a list."""

    id: UUID
    state: State
    stage: str | None = Field(description="the method that is being applied")
    layer: str | None = Field(description="the tensor that is being worked on")
    progress: float = Field(ge=0, le=1)
    eta_seconds: float | None
    error: JobError | None = Field(description="why the job failed")
    last_error: JobError | None = Field(description="what ended the last attempt, also if the job goes on")
    attempts: int = Field(description="how many attempts were begun")
    file_name: str
    input_bytes: int = Field(description="size of the model")
    metrics: dict[str, Any] | None = Field(
        description="the report's figures, once there is a result, also where it was not accepted"
    )
    artifacts: list[ArtifactOut]
    links: dict[str, str] = Field(description="what can be called now")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """The JSON of a row."""
        return cls(**_summary(job))


class JobDetail(JobSummary):
    """A job with all there is to know about it."""

    input_sha256: str
    dataset: FileOut | None = Field(description="the data set that came with the model")
    student: FileOut | None = Field(description="the network that is trained in the model's place")
    recipe: dict[str, Any] = Field(description="the recipe with its preset expanded")
    layers: list[dict[str, Any]] | None = Field(description="one row for each tensor")
    ledger: dict[str, int] | None = Field(description="bytes of the artifact by purpose")

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """The JSON of a row."""
        return cls(
            **_summary(job),
            input_sha256=job.model_sha256,
            dataset=_file(job.dataset_file_name, job.dataset_bytes, job.dataset_sha256),
            student=_file(job.student_file_name, job.student_bytes, job.student_sha256),
            recipe=job.recipe,
            layers=job.layers,
            ledger=job.ledger,
        )


class JobPage(BaseModel):
    """Jobs, newest first."""

    jobs: list[JobSummary]
    next_cursor: str | None = Field(description="for the next page; null on the last one")


def job_path(job_id: UUID) -> str:
    """Where a job is found."""
    return f"/jobs/{job_id}"


def _summary(job: Job) -> dict[str, Any]:
    last_error = JobError(code=job.error_code, detail=job.error_detail or "") if job.error_code else None
    steps = [{"method": step.method, **step.metrics} for step in job.steps]
    return {
        "id": job.id,
        "state": State(job.state),
        "stage": job.stage,
        "layer": job.layer,
        "progress": job.progress,
        "eta_seconds": job.eta_seconds,
        "error": last_error if job.state == State.FAILED else None,
        "last_error": last_error,
        "attempts": job.fencing_token,
        "file_name": job.file_name,
        "input_bytes": job.model_bytes,
        "metrics": None if job.metrics is None else job.metrics | {"steps": steps},
        "artifacts": [
            ArtifactOut(
                format=artifact.format,
                bytes=artifact.bytes,
                sha256=artifact.sha256,
                href=f"{job_path(job.id)}/artifact?format={artifact.format}",
            )
            for artifact in job.artifacts
        ],
        "links": _links(job),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
    }


def _file(file_name: str | None, size: int | None, sha256: str | None) -> FileOut | None:
    if file_name is None or size is None or sha256 is None:
        return None
    return FileOut(file_name=file_name, bytes=size, sha256=sha256)


def _links(job: Job) -> dict[str, str]:
    path = job_path(job.id)
    links = {"self": path}
    if job.state not in FINISHED:
        links["cancel"] = f"{path}/cancel"
    if job.artifacts:
        links["artifact"] = f"{path}/artifact"
    return links
