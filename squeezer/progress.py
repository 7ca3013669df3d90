"""How far long work is, and how long it will still take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Progress:
    """How far a piece of work is. `progress` goes from 0 to 1; `layer` is the tensor just done."""

    stage: str
    progress: float
    eta_seconds: float | None
    layer: str


def silent(_: Progress) -> None:
    """Tell nobody."""


@dataclass
class Meter:
    """Counts bytes of tensors that have passed, of `total` in all, and estimates the time that is left."""

    total: int
    tell: Callable[[Progress], None]
    started: float = field(default_factory=time.monotonic)
    done: int = 0

    def advance(self, stage: str, layer: str, nbytes: int) -> None:
        """Count a tensor, and tell how far the work is now."""
        self.done += nbytes
        share = self.done / self.total if self.total else 1.0
        elapsed = time.monotonic() - self.started
        self.tell(Progress(stage, share, elapsed / share - elapsed if share else None, layer))
