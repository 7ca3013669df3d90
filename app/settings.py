"""All settings of the service, from `SQUEEZER_*` environment variables."""

from __future__ import annotations

import contextlib
import os
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "squeezer"


def machine_memory() -> int:
    """Bytes of memory that this machine has, or that this container may use."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # another version of cgroups, or "max"
            memory = min(memory, int(Path(path).read_text()))
    return memory


def _default_job_memory() -> int:
    """Four fifths of the memory: the rest is for what else runs on a machine."""
    return max(1 << 30, machine_memory() * 4 // 5)


def _embedded_database(data: dict[str, Any]) -> str:
    embedded = data.get("mode") == "embedded" and "data_dir" in data
    return str(URL.create("sqlite", database=str(data["data_dir"] / "squeezer.db"))) if embedded else ""


def _embedded_redis(data: dict[str, Any]) -> str:
    embedded = data.get("mode") == "embedded" and "data_dir" in data
    return f"redis+socket://{quote(str(data['data_dir'] / 'redis.sock'))}" if embedded else ""


class Settings(BaseSettings):
    """One class for API, workers and sweeper; a field `x` is set by the variable `SQUEEZER_X`.

    Raises:
        pydantic.ValidationError: where a value is wrong, or distributed mode lacks an address.
    """

    model_config = SettingsConfigDict(env_prefix="SQUEEZER_", frozen=True)

    mode: Literal["embedded", "distributed"] = Field("embedded", description="one machine, or many")
    data_dir: Path = Field(default_factory=_default_data_dir, description="folder of the embedded service")
    # Addresses may hold passwords, so they stay out of the repr and with it out of logs.
    database_url: str = Field(
        default_factory=_embedded_database,
        validate_default=True,
        repr=False,
        description="SQLAlchemy URL, such as postgresql+psycopg://user:password@host/database",
    )
    redis_url: str = Field(
        default_factory=_embedded_redis,
        validate_default=True,
        repr=False,
        description="broker, such as redis://host:6379/0",
    )
    storage: Path = Field(
        default_factory=lambda data: data.get("data_dir", _default_data_dir()) / "storage",
        description="folder of uploads and artifacts, shared by all machines",
    )
    host: str = Field("127.0.0.1", description="address that the API binds to")
    port: int = Field(8000, ge=0, le=65535)
    allow_unauthenticated: bool = Field(
        False, description="serve on addresses other than loopback although anyone may then use the service"
    )
    gpu_workers: bool = Field(False, description='whether workers listen to the queue "gpu"')
    max_upload_bytes: int = Field(16 * 1000**3, ge=1, description="how large a model, or a student, may be")
    max_dataset_bytes: int = Field(16 * 1000**3, ge=1, description="how large a data set may be")
    sandbox: Literal["required", "best_effort", "off"] = Field(
        "required", description="whether a worker starts where a layer of the sandbox is missing"
    )
    job_memory_bytes: int = Field(
        default_factory=_default_job_memory, ge=1 << 30, description="how much memory a job's process may use"
    )
    job_scratch_bytes: int = Field(64 * 1000**3, ge=1, description="how much a job may write to the disk")
    lease_seconds: float = Field(30, gt=0, description="how long a silent worker keeps its job")
    heartbeat_seconds: float = Field(
        2, gt=0, description="how often a worker renews its lease, and hears of a cancellation"
    )
    max_crashed_attempts: int = Field(2, ge=1, description="attempts whose child process may die")
    max_lost_attempts: int = Field(5, ge=1, description="attempts that may be lost with their supervisor")
    sweep_seconds: float = Field(5, gt=0, description="how often the sweeper looks for lost and waiting jobs")
    orphan_seconds: float = Field(24 * 3600, gt=0, description="age at which files that no job names are removed")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @field_validator("data_dir", "storage")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().absolute()

    @field_validator("database_url", "redis_url")
    @classmethod
    def _given(cls, url: str) -> str:
        if not url:
            raise ValueError("distributed mode has no default for this; set it")
        return url

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError("SQUEEZER_HEARTBEAT_SECONDS must be at most half of SQUEEZER_LEASE_SECONDS")
        if not (self.allow_unauthenticated or is_loopback(self.host)):
            raise ValueError(
                f"refusing to bind to {self.host}: this service has no keys yet and serves on loopback only. "
                "Where something else keeps strangers out (a container whose port is published on 127.0.0.1, "
                "a proxy with a password), set SQUEEZER_ALLOW_UNAUTHENTICATED=true"
            )
        return self
