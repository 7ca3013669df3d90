"""How far a training is: all that a checkpoint holds beside tensors."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from squeezer.training.validation import Score


@dataclass
class Position:
    """Numbers of updates count from the beginning of the step."""

    step: int = 0  # updates that are done
    halvings: int = 0  # of the learning rate
    limit: float = math.inf  # validation losses above it have blown up, if they still rise
    before: float = math.inf  # validation loss the last time
    best: Score | None = None
    improved: int = 0  # the step at which the best last became better
    ended: bool = False
    losses: float = 0.0  # of training, summed since the last validation
    updates: int = 0  # how many they are
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, score: Score, epoch: float) -> None:
        """Remember what a validation found."""
        loss = self.losses / self.updates if self.updates else None
        found = {"step": self.step, "epoch": epoch, "loss": loss, "validation_loss": score.loss}
        self.history.append(found | {score.metric: score.value if math.isfinite(score.value) else None})
        self.before, self.losses, self.updates = score.loss, 0.0, 0

    def rewind(self, step: int) -> None:
        """Go back to an earlier validation."""
        self.step, self.losses, self.updates = step, 0.0, 0
        self.history = [found for found in self.history if found["step"] <= step]
        self.before = self.history[-1]["validation_loss"]

    def words(self, epoch: float, epochs: float) -> str:
        """One line for people."""
        last = self.history[-1]
        loss = self.losses / self.updates if self.updates else last["loss"]
        parts = [f"epoch {epoch:.3g} of {epochs:.3g}"]
        parts += [] if loss is None else [f"loss {loss:.4g}"]
        metric = list(last)[-1]
        return ", ".join([*parts, f"{metric} {last[metric]:.4g}" if last[metric] is not None else ""]).rstrip(", ")

    def document(self) -> dict[str, Any]:
        """As dicts, lists, numbers and strings."""
        return asdict(self)

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """Undo `document`."""
        best = document["best"]
        return cls(**(document | {"best": None if best is None else Score(**best)}))
