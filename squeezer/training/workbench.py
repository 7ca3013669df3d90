"""What a step that works on the whole network is given, and what it gives back. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from squeezer.data import DataSpec
    from squeezer.data.dataset import Dataset
    from squeezer.graph import Graph
    from squeezer.representations import Representation


@dataclass(frozen=True)
class State:
    """A network in the middle of its compression: its graph, and what is stored for each of its tensors."""

    graph: Graph
    tensors: dict[str, Representation]  # in the order of the model; biases and statistics are `Dense`


class Tell(Protocol):
    """Whom a step tells how far it is."""

    def __call__(self, share: float, note: str = "") -> None:
        """Take note of the share of the step that is done, 0 to 1, and of a word on what is being done."""
        ...


@dataclass(frozen=True)
class Workbench:
    """What the job has beside the network: data, the original, where to work, and whom to tell."""

    original: State  # as uploaded: the teacher, and what agreement is measured against
    data: Dataset | None
    spec: DataSpec
    device: str  # "cpu" or "cuda"
    seed: int  # of this step: differs from step to step
    tell: Tell
    coder: str = "auto"  # the recipe's `encoding`: how the result will be coded
    level: str = "balanced"
    student: State | None = None  # the network that came as a file of its own, where a step asks for it
    checkpoints: Path | None = None  # a folder for this step alone; it may hold what an earlier attempt left
    events: list[dict[str, Any]] = field(default_factory=list)  # for the report, such as a loss that blew up
    findings: dict[str, Any] = field(default_factory=dict)  # what steps found out, for the report (a table, a curve)
