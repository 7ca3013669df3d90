"""How far long work is, and how long it will still take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import accumulate
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


class Stretches:
    """One progress out of several pieces of work that follow each other, each a share of the whole by its effort."""

    def __init__(self, efforts: list[float], tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._started = time.monotonic()
        total = sum(efforts)
        self._ends = [end / total for end in accumulate(efforts)]

    def tell(self, place: int, stage: str, share: float, layer: str) -> None:
        """Say how much of the piece of that place is done."""
        start = self._ends[place - 1] if place else 0.0
        whole = start + share * (self._ends[place] - start)
        elapsed = time.monotonic() - self._started
        self._tell(Progress(stage, whole, elapsed / whole - elapsed if whole else None, layer))

    def last(self) -> Callable[[Progress], None]:
        """What tells of the last piece, for work that counts from 0 to 1 itself."""
        if len(self._ends) == 1:
            return self._tell
        return lambda progress: self.tell(len(self._ends) - 1, progress.stage, progress.progress, progress.layer)
