"""What was done to a model, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Layer:
    """One tensor's row in the report."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: str  # its representation: dense, masked, shared, uniform, trellis
    coder: str
    tensor_bytes: int
    stored_bytes: int
    sparsity: float  # share of the decoded weights that are zero
    bits_per_weight: float
    relative_error: float | None  # ||decoded - original|| / ||original||; None where a step has made it anew


@dataclass(frozen=True)
class StepSummary:
    """What one step did."""

    method: str
    tensors: int
    seconds: float


@dataclass(frozen=True)
class Report:
    """The result of one run. `ratio` = `tensor_bytes` / `output_bytes`."""

    headline: str  # what a user must know first
    format: str
    preset: str | None
    input_bytes: int  # size of the upload
    tensor_bytes: int  # bytes of the tensors that come back, as they were uploaded
    output_bytes: int  # size of the whole .sqz file
    seconds: float
    steps: list[StepSummary]
    left_out: list[dict[str, str]]  # steps of the preset that could not run: method and reason
    dropped: list[dict[str, str]]  # what the upload held beside the model
    files: dict[str, int]  # files that came with the model
    layers: list[Layer]
    ledger: dict[str, int]
    digests: dict[str, str]  # SHA-256 of each tensor's records
    warnings: list[str] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None  # original and decoded artifact on the test rows: docs/evaluation.md
    events: list[dict[str, Any]] = field(default_factory=list)  # what went another way than planned
    findings: dict[str, Any] = field(default_factory=dict)  # what steps found out: `sensitivity` and the like

    @property
    def ratio(self) -> float:
        """How many times smaller the file is than the tensors that come back."""
        return self.tensor_bytes / self.output_bytes

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return asdict(self) | {"ratio": self.ratio}
