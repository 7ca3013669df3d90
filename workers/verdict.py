"""What an attempt comes to. Every one of these is one write to the jobs table, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.jobs.repository import ArtifactRecord, GiveBack
    from squeezer.errors import Code


@dataclass(frozen=True)
class Result:
    """What an attempt made: its report, and the files that are in the storage by now."""

    report: dict[str, Any]
    artifacts: list[ArtifactRecord]


@dataclass(frozen=True)
class Succeeded:
    """The artifact is verified and stored."""

    result: Result


@dataclass(frozen=True)
class Failed:
    """An error that another attempt would meet again, with the result where it was verified and is not accepted."""

    code: Code
    detail: str
    result: Result | None = None


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
