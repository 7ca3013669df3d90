"""How good the network is by now: loss and metric on rows of the validation split, by which every choice is made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from squeezer.data.batches import order
from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError
from squeezer.training.evaluation import batches
from squeezer.training.losses import distillation_loss, task_loss
from squeezer.training.metrics import MEASURES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from squeezer.data.dataset import Dataset
    from squeezer.training.parametrisation import Parametrisation
    from squeezer.training.runner import Runner, Teacher
    from squeezer.training.workbench import Workbench

#: What stands for the metric where there are no targets.
DIVERGENCE = "divergence"
#: An epoch that no training reaches, whose order of rows says which are looked at.
_CHOICE = 2**32


@dataclass(frozen=True)
class Score:
    """What a validation found.

    `loss` is the task's where there are targets; else, like `value`, the divergence from the original's outputs.
    """

    loss: float
    value: float
    metric: str
    lower_is_better: bool

    @property
    def finite(self) -> bool:
        """Whether the loss is a number; a metric may be none (`r2` of constant targets)."""
        return math.isfinite(self.loss)

    def beats(self, other: Score | None) -> bool:
        """Whether it is at least as good: by the metric, and among equals by the loss."""
        return other is None or self._rank() >= other._rank()

    def surpasses(self, other: Score | None) -> bool:
        """Whether it is better, not just as good."""
        return other is None or self._rank() > other._rank()

    def _rank(self) -> tuple[float, float]:
        value = -self.value if self.lower_is_better else self.value
        return (value if math.isfinite(value) else -math.inf, -self.loss)


def chosen_rows(data: Dataset, seed: int, most: int) -> NDArray[np.int64]:
    """Which rows of the validation split are looked at, in rising order: all, or so many of them drawn by the seed.

    Raises:
        DataError: TOO_FEW_ROWS, where there is none.
    """
    size = data.size(Split.VALIDATION)
    if size == 0:
        raise DataError(Code.TOO_FEW_ROWS, "There are no validation rows; send more data.")
    return np.sort(order(size, seed, _CHOICE)[:most])


class Validator:
    """Scores networks on the same rows every time: all of the validation split, or `rows` of them drawn by the seed.

    Without targets, outputs are compared with those of `teacher`.
    """

    def __init__(self, bench: Workbench, runner: Runner, teacher: Teacher | None, rows: int, batch_size: int) -> None:
        assert bench.data is not None  # noqa: S101 # steps that train need data; this tells mypy
        self._data, self._spec, self._device = bench.data, bench.spec, bench.device
        self._rows = chosen_rows(bench.data, bench.seed, rows)
        self._runner, self._teacher, self._size = runner, teacher, batch_size
        self._measure = MEASURES[bench.spec.measure]
        #: The loss of outputs that are all zero, which a network that knows nothing could give; after the first call.
        self.blank = 0.0

    @torch.no_grad()
    def __call__(self, parametrisations: Mapping[str, Parametrisation]) -> Score:
        """Loss and metric of a network in evaluation mode."""
        losses, sums = np.zeros(2), np.zeros(0)
        networks = (self._runner, self._teacher or self._runner)
        for inputs, targets, rows in batches(
            self._data, Split.VALIDATION, self._rows, self._size, networks, self._device
        ):
            outputs = self._runner(parametrisations, inputs)[:rows]
            wanted = self._wanted(inputs)[:rows] if targets is None else targets
            losses += rows * np.array([self._loss(x, wanted) for x in (outputs, torch.zeros_like(outputs))])
            if targets is not None:
                found = self._measure.rows(outputs, targets, self._spec).sum(0)
                sums = found if sums.size == 0 else sums + found
        loss, self.blank = (losses / len(self._rows)).tolist()
        if sums.size == 0:
            return Score(loss, loss, DIVERGENCE, lower_is_better=True)
        return Score(loss, float(self._measure.value(sums)), self._measure.name, self._measure.lower_is_better)

    def _wanted(self, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        assert self._teacher is not None  # noqa: S101 # there is one where there are no targets
        return self._teacher(inputs)

    def _loss(self, outputs: torch.Tensor, wanted: torch.Tensor) -> float:
        if self._data.labelled:
            return float(task_loss(self._spec.loss, outputs, wanted))
        return float(distillation_loss(self._spec.loss, outputs, wanted, 1.0))
