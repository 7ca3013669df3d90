"""Variants of one network, whose tensors have more or fewer zeros, against the original on the same rows.

Every batch is read once and goes through the original once, and then through all variants. A byte for each weight says
from which share of zeros on it is one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from squeezer.data.dataset import Split
from squeezer.training.comparison import Deviations, Spread
from squeezer.training.evaluation import batches, largest_batch
from squeezer.training.metrics import MEASURES
from squeezer.training.parametrisation import Constant, Parametrisation
from squeezer.training.predictions import OF_CLASSES, Classes, classes, divergence
from squeezer.training.runner import Runner, Teacher
from squeezer.training.tensors import to_torch
from squeezer.training.validation import chosen_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from squeezer.data import DataSpec
    from squeezer.training.workbench import State, Workbench

#: Which tensors are taken how far: to the first of the sparsities (1), the second (2), ...; 0 and the others: not.
Variant = dict[str, int]


@dataclass(frozen=True)
class Effect:
    """What became of the outputs. None: no numbers came out, or there are no classes, or no labels."""

    divergence: float | None  # mean KL(original || variant) in nats
    agreement: float | None  # the share of predictions that are the original's
    metric: float | None

    @property
    def distance(self) -> float:
        """The divergence; infinite where there are no numbers."""
        return inf if self.divergence is None else self.divergence


class _Zeroed(Parametrisation):
    """A tensor as it stands in one variant."""

    def __init__(self, whole: Constant, where: torch.Tensor) -> None:
        super().__init__(whole.dtype)
        self._value = _zeroed(whole.value, where)

    def weights(self) -> torch.Tensor:
        return self._value


class Trial:
    """A network that can be run with some of its tensors zeroed in part."""

    def __init__(
        self,
        sparsities: Sequence[float],
        state: State,
        names: Sequence[str],
        bench: Workbench,
        rows: int,
        batch_size: int | None = None,
    ) -> None:
        assert bench.data is not None  # noqa: S101 # the step needs data; this tells mypy
        self._data, self._spec, self._device = bench.data, bench.spec, bench.device
        self._rows = chosen_rows(bench.data, bench.seed, rows)
        self._teacher = Teacher(bench.original, bench.spec.loss, bench.device)
        self._runner = Runner(state.graph, bench.spec.loss, bench.device)
        self._size = batch_size or largest_batch(self._data, Split.VALIDATION, self._teacher, self._device)
        used = set(state.graph.tensors.values())
        self._held = {n: Constant(state.tensors[n], self._device) for n in sorted(used)}
        self._levels = {
            n: to_torch(zero_levels(state.tensors[n].decode(), sparsities), self._device) for n in names if n in used
        }

    @property
    def rows(self) -> int:
        """How many rows are looked at."""
        return len(self._rows)

    @property
    def metric(self) -> str | None:
        """The metric's name, where there are labels."""
        return self._spec.measure if self._data.labelled else None

    @torch.no_grad()
    def measure(self, variants: Sequence[Variant], tell: Callable[[float, str], None]) -> list[Effect]:
        """What each variant's outputs are, beside the original's."""
        kind: type[_Kept] = _OfClasses if self._spec.loss in OF_CLASSES else _OfValues
        spread = Spread()
        gathered = [kind(self._spec) for _ in variants]
        done, total = 0, len(self._rows) * len(variants)
        networks = (self._teacher, self._runner)
        for inputs, targets, rows in batches(
            self._data, Split.VALIDATION, self._rows, self._size, networks, self._device
        ):
            wanted = self._teacher(inputs)[:rows]
            reference = gathered[0].read(wanted, targets, spread)
            for variant, kept in zip(variants, gathered, strict=True):
                outputs = self._runner({**self._held, **self._zeroed(variant)}, inputs)[:rows]
                kept.add(reference, outputs, targets)
                done += rows
                tell(done / total, ", ".join(variant))
        return [kept.effect(spread.value) for kept in gathered]

    def _zeroed(self, variant: Variant) -> dict[str, Parametrisation]:
        """The tensors of a variant that differ. Those that the network does not use make no difference."""
        return {
            name: _Zeroed(self._held[name], self._levels[name] <= level)
            for name, level in variant.items()
            if level and name in self._levels
        }


def _zeroed(weights: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """torch cannot fill float8, whose zero has no bit set."""
    if weights.dtype.itemsize > 1:
        return weights.masked_fill(where, 0)
    return weights.view(torch.uint8).masked_fill(where, 0).view(weights.dtype)


def zero_levels(weights: NDArray[Any], sparsities: Sequence[float]) -> NDArray[np.uint8]:
    """For each weight the first of the sparsities, counted from 1, at which it is zero; one more for those that stay.

    Of n weights the round(sparsity * n) of least magnitude are zero, of equal ones the first, as in `magnitude_prune`.

    Args:
        weights: of any shape.
        sparsities: rising; 254 at most.
    """
    ranked = np.argsort(np.abs(weights.astype(np.float32)).reshape(-1), kind="stable")
    levels = np.full(ranked.size, len(sparsities) + 1, np.uint8)
    for level in range(len(sparsities), 0, -1):
        levels[ranked[: round(sparsities[level - 1] * ranked.size)]] = level
    return levels.reshape(weights.shape)


class _Kept:
    """What is kept of a variant. `reference` is what `read` makes of the original's outputs, once for all variants."""

    def __init__(self, spec: DataSpec) -> None:
        self._spec = spec
        self._measure = MEASURES[spec.measure]
        self._sums: NDArray[np.float64] | None = None

    def read(self, outputs: torch.Tensor, targets: torch.Tensor | None, spread: Spread) -> Any:
        raise NotImplementedError

    def add(self, reference: Any, outputs: torch.Tensor, targets: torch.Tensor | None) -> None:
        raise NotImplementedError

    def effect(self, spread: float) -> Effect:
        raise NotImplementedError

    def _count(self, rows: NDArray[np.float64]) -> None:
        self._sums = rows.sum(0) if self._sums is None else self._sums + rows.sum(0)

    @property
    def _metric(self) -> float | None:
        value = None if self._sums is None else float(self._measure.value(self._sums))
        return value if value is not None and np.isfinite(value) else None


class _OfClasses(_Kept):
    """Of a variant that predicts classes."""

    _nats, _known, _equal, _positions = 0.0, 0, 0, 0

    def read(self, outputs: torch.Tensor, targets: torch.Tensor | None, spread: Spread) -> Classes:
        del spread
        return classes(outputs, targets, self._spec.loss)

    def add(self, reference: Classes, outputs: torch.Tensor, targets: torch.Tensor | None) -> None:
        found = classes(outputs, targets, self._spec.loss)
        known = reference.finite & found.finite & reference.counted
        self._nats += float(divergence(reference, found)[known].double().sum())
        self._known += int(known.sum())
        self._equal += int(((reference.predicted == found.predicted) & known).sum())
        self._positions += int(reference.counted.sum())
        if targets is not None:
            self._count(self._measure.rows_of_classes(found))

    def effect(self, spread: float) -> Effect:
        del spread
        whole = self._known == self._positions > 0
        agreement = self._equal / self._positions if self._positions else None
        return Effect(self._nats / self._known if whole else None, agreement, self._metric)


class _OfValues(_Kept):
    """Of a variant that gives values."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._deviations = Deviations()
        self._whole = True

    def read(self, outputs: torch.Tensor, targets: torch.Tensor | None, spread: Spread) -> torch.Tensor:
        del targets
        values = outputs.reshape(len(outputs), -1).double()
        spread.add(values)
        return values

    def add(self, reference: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor | None) -> None:
        difference = outputs.reshape(reference.shape).double() - reference
        self._whole &= bool(difference.isfinite().all())
        self._deviations.add(difference)
        if targets is not None:
            self._count(self._measure.rows(outputs, targets, self._spec))

    def effect(self, spread: float) -> Effect:
        return Effect(self._deviations.divergence(spread) if self._whole else None, None, self._metric)
