"""How far two networks' outputs on the same rows are from each other: classes, or values."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from squeezer.statistics import CalibrationBins, all_alike, bootstrap, mcnemar
from squeezer.training.metrics import ratio, right
from squeezer.training.predictions import Classes, classes, divergence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.data.spec import Loss
    from squeezer.statistics import Rows, Value

#: Of everything that is drawn, so that the same outputs always have the same intervals.
SEED = 0
#: A class with fewer examples than this is not looked at: one flip would be more than 5 points.
ENOUGH = 20
#: What only one of the two kinds of networks has.
_NOTHING = dict.fromkeys(("flips", "worst_class", "calibration_error", "agreement", "divergence", "deviation"))


def figure(rows: Rows, value: Value, *, shares: bool = False) -> dict[str, float | None]:
    """A value and its 95 % bootstrap interval; all None where it is not finite.

    Args:
        rows: (examples, numbers).
        value: from sums of rows.
        shares: whether the value is a share of true ones, so that "all" and "none" have an interval too.
    """
    measured = float(value(rows.sum(0)))
    interval = bootstrap(rows, value, seed=SEED)
    if interval is None:
        return {"value": None, "low": None, "high": None}
    low, high = interval
    if shares and measured in (0.0, 1.0):
        least = all_alike(len(rows))
        low, high = (least, 1.0) if measured else (0.0, 1 - least)
    return {"value": measured + 0.0, "low": low + 0.0, "high": high + 0.0}  # no -0.0


class ComparedClasses:
    """Two networks that predict classes; positions that do not count are left out everywhere."""

    def __init__(self, loss: Loss) -> None:
        self._loss = loss
        self._equal: list[Rows] = []  # of each example: equal predictions, positions
        self._nats = np.zeros(2)  # sum of divergences, positions with numbers from both
        self._broken = np.zeros(2, np.int64)  # examples with outputs that are not finite
        self._flips: Counter[str] = Counter()
        self._bins = CalibrationBins(), CalibrationBins()
        self._by_class: NDArray[np.int64] | None = None  # (5, classes): see _count_classes
        self._single = True  # whether each example is one decision
        self._positions = 0

    def add(self, first: torch.Tensor, second: torch.Tensor, targets: torch.Tensor | None) -> tuple[Classes, Classes]:
        """Count a batch, and give back what was read from it.

        Args:
            first: outputs of the original, scores before softmax or sigmoid.
            second: outputs of the result.
            targets: where there are any.
        """
        one, other = (classes(outputs, targets, self._loss) for outputs in (first, second))
        counted = one.counted
        self._single &= counted.shape[1] == 1
        self._positions += int(counted.sum())
        equal = (one.predicted == other.predicted) & one.finite & counted
        self._equal.append(torch.stack([equal.sum(1), counted.sum(1)], 1).cpu().numpy().astype(np.float64))
        known = one.finite & other.finite & counted
        self._nats += np.array([float(divergence(one, other)[known].double().sum()), int(known.sum())])
        self._broken += [int((~side.finite & counted).any(1).sum()) for side in (one, other)]
        if one.labels is not None:
            self._count_labels(one, other, one.labels)
        return one, other

    def _count_labels(self, one: Classes, other: Classes, labels: torch.Tensor) -> None:
        counted = one.counted
        was, now = right(one, labels), right(other, labels)
        moved = (one.predicted != other.predicted) & counted
        self._flips["right_to_wrong"] += int((was & ~now).sum())
        self._flips["wrong_to_right"] += int((~was & now).sum())
        self._flips["wrong_to_other_wrong"] += int((moved & ~was & ~now).sum())
        for bins, side, true in zip(self._bins, (one, other), (was, now), strict=True):
            known = counted & side.finite
            confidence = side.log_p.max(-1).values.exp()[known]
            bins.add(confidence.double().cpu().numpy(), true[known].cpu().numpy())
        number = one.log_p.shape[-1]
        chosen = (counted, was, now, was & ~now, now & ~was)
        added = torch.stack([torch.bincount(labels[where], minlength=number) for where in chosen]).cpu().numpy()
        self._by_class = added if self._by_class is None else self._by_class + added

    def document(self) -> dict[str, Any]:
        """Agreement, divergence, and with labels flips, the worst class and calibration."""
        agreement = np.concatenate(self._equal)
        result = _NOTHING | {
            "agreement": figure(agreement, ratio, shares=True),
            "divergence": float(self._nats[0] / self._nats[1]) if self._nats[1] else None,
            "non_finite": _broken(self._broken),
        }
        if self._by_class is None:
            return result
        count = sum(self._flips.values())
        return result | {
            "flips": {"count": count, "of": self._positions, "share": count / max(1, self._positions), **self._flips},
            "worst_class": worst_class(self._by_class, independent=self._single),
            "calibration_error": {"original": self._bins[0].error(), "result": self._bins[1].error()},
        }


def worst_class(counts: NDArray[np.int64], *, independent: bool) -> dict[str, Any] | None:
    """The class whose accuracy fell most, among those with 20 examples or more; None where none fell.

    Args:
        counts: (5, classes): examples, those that the original has right, the result, the original alone, the result
            alone.
        independent: whether each count is of an example of its own, so that the drop can be tested. As the worst of
            several is tested, p is multiplied by their number (Bonferroni).
    """
    looked_at = np.flatnonzero(counts[0] >= ENOUGH)
    if looked_at.size == 0:
        return None
    number, was, now, lost, won = counts[:, looked_at]
    drops = (was - now) / number
    worst = int(np.argmax(drops))
    if drops[worst] <= 0:
        return None
    p = min(1.0, mcnemar(int(lost[worst]), int(won[worst])) * looked_at.size)
    return {
        "class": int(looked_at[worst]),
        "examples": int(number[worst]),
        "original": float(was[worst] / number[worst]),
        "result": float(now[worst] / number[worst]),
        "drop": float(drops[worst]),
        "p": p if independent else None,
        "looked_at": int(looked_at.size),
    }


class Spread:
    """How much the outputs of a network vary over the rows; memory for three times one example's outputs."""

    def __init__(self) -> None:
        self._origin: torch.Tensor | None = None  # of the sums, so that large means do not eat the digits
        self._sums: torch.Tensor
        self._squares: torch.Tensor
        self._rows = 0

    def add(self, outputs: torch.Tensor) -> None:
        """Count outputs, (b, numbers), in float64."""
        if len(outputs) == 0:
            return
        if self._origin is None:
            self._origin = outputs[0].clone()
            self._sums, self._squares = torch.zeros_like(self._origin), torch.zeros_like(self._origin)
        centred = outputs - self._origin
        self._sums += centred.sum(0)
        self._squares += centred.square().sum(0)
        self._rows += len(outputs)

    @property
    def value(self) -> float:
        """Root of the mean variance of the outputs, each about its own mean over the rows."""
        if self._rows == 0:
            return 0.0
        variances = self._squares / self._rows - (self._sums / self._rows).square()
        return float(variances.clamp(min=0).mean().sqrt())


class Deviations:
    """How far the outputs of one network are from those of another."""

    def __init__(self) -> None:
        self._sum = self._squares = self._largest = 0.0
        self._numbers = 0

    def add(self, difference: torch.Tensor) -> None:
        """Count differences, of any shape, in float64."""
        if difference.numel():
            self._sum += float(difference.abs().sum())
            self._squares += float(difference.square().sum())
            self._largest = max(self._largest, float(difference.abs().max()))
            self._numbers += difference.numel()

    def over(self, spread: float) -> tuple[float | None, float | None]:
        """The mean and the largest one over the spread; None where there is none."""
        if not spread or not self._numbers:
            return None, None
        return self._sum / self._numbers / spread, self._largest / spread

    def divergence(self, spread: float) -> float | None:
        """Mean squared deviation over twice the squared spread; None where there is no spread.

        It is the mean KL divergence, in nats, of normal distributions about the two outputs with this spread.
        """
        return self._squares / self._numbers / (2 * spread**2) if spread and self._numbers else None


class ComparedValues:
    """Two networks that give values: how far the result's are from the original's, over the spread of these."""

    def __init__(self) -> None:
        self._spread, self._deviations = Spread(), Deviations()
        self._broken = np.zeros(2, np.int64)

    def add(self, first: torch.Tensor, second: torch.Tensor) -> None:
        """Count a batch. Rows in which either is not finite are counted apart."""
        one, other = (outputs.reshape(len(outputs), -1).double() for outputs in (first, second))
        fine = [side.isfinite().all(1) for side in (one, other)]
        self._broken += [int((~known).sum()) for known in fine]
        both = fine[0] & fine[1]
        self._spread.add(one[both])
        self._deviations.add(other[both] - one[both])

    def document(self) -> dict[str, Any]:
        """Mean and largest deviation over the spread."""
        spread = self._spread.value
        mean, largest = self._deviations.over(spread)
        return _NOTHING | {
            "deviation": {"mean": mean, "largest": largest, "spread": spread},
            "divergence": self._deviations.divergence(spread),
            "non_finite": _broken(self._broken),
        }


def _broken(counts: NDArray[np.int64]) -> dict[str, int]:
    return {"original": int(counts[0]), "result": int(counts[1])}
