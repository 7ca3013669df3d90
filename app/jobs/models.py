"""The tables of jobs, of their steps and of their artifacts."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import JSON, BigInteger, Float, ForeignKey, Index, Integer, String, Text, Uuid
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.db import Base, UtcDateTime, utc_now
from app.jobs.states import State
from app.tenants.models import LOCAL


class Job(Base):
    """What was uploaded, its recipe, and how far the work on it is."""

    __tablename__ = "jobs"
    __table_args__ = (Index(None, "queue", "state", "created_at"), Index(None, "tenant_id", "created_at", "id"))

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, default=uuid4)
    tenant_id: Mapped[UUID] = mapped_column(Uuid, default=LOCAL, server_default=LOCAL.hex)
    state: Mapped[str] = mapped_column(String(16), default=State.QUEUED.value)
    queue: Mapped[str] = mapped_column(String(32))
    # What was asked for. The file's name is the user's and is never used as a path.
    recipe: Mapped[dict[str, Any]] = mapped_column(JSON)
    recipe_version: Mapped[int] = mapped_column(Integer)
    file_name: Mapped[str] = mapped_column(Text)
    model_key: Mapped[str] = mapped_column(String(64))
    model_bytes: Mapped[int] = mapped_column(BigInteger)
    model_sha256: Mapped[str] = mapped_column(String(64))
    # What it is retrained and measured with; all null where none was sent.
    dataset_file_name: Mapped[str | None] = mapped_column(Text)
    dataset_key: Mapped[str | None] = mapped_column(String(64))
    dataset_bytes: Mapped[int | None] = mapped_column(BigInteger)
    dataset_sha256: Mapped[str | None] = mapped_column(String(64))
    # What is trained in its place, likewise.
    student_file_name: Mapped[str | None] = mapped_column(Text)
    student_key: Mapped[str | None] = mapped_column(String(64))
    student_bytes: Mapped[int | None] = mapped_column(BigInteger)
    student_sha256: Mapped[str | None] = mapped_column(String(64))
    # Who works on it. The token grows with every claim, and a write with an older one changes nothing.
    fencing_token: Mapped[int] = mapped_column(Integer, default=0)
    lease_owner: Mapped[str | None] = mapped_column(Text)
    lease_expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    crashed_attempts: Mapped[int] = mapped_column(Integer, default=0)
    lost_attempts: Mapped[int] = mapped_column(Integer, default=0)
    max_crashed_attempts: Mapped[int] = mapped_column(Integer)
    max_lost_attempts: Mapped[int] = mapped_column(Integer)
    # How far it is.
    stage: Mapped[str | None] = mapped_column(Text)
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    eta_seconds: Mapped[float | None] = mapped_column(Float)
    layer: Mapped[str | None] = mapped_column(Text)
    # What came of it. The error is the last attempt's, also where the job was queued again.
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_detail: Mapped[str | None] = mapped_column(Text)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    layers: Mapped[list[dict[str, Any]] | None] = mapped_column(JSON(none_as_null=True))
    ledger: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    steps: Mapped[list[JobStep]] = relationship(
        order_by="JobStep.position", cascade="all, delete-orphan", passive_deletes=True, lazy="selectin"
    )
    artifacts: Mapped[list[Artifact]] = relationship(
        order_by="Artifact.format", cascade="all, delete-orphan", passive_deletes=True, lazy="selectin"
    )


class JobStep(Base):
    """What one step of a finished job did."""

    __tablename__ = "job_steps"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    method: Mapped[str] = mapped_column(String(64))
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)


class Artifact(Base):
    """A file that a job made; `key` says where storage has it."""

    __tablename__ = "artifacts"

    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    format: Mapped[str] = mapped_column(String(32), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
