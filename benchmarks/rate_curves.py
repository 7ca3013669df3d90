"""Size against faithfulness: points are averaged over offsets of a step, made monotone, and interpolated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Measure = Literal["disagreement", "divergence"]
#: In place of none at all, of which there is no logarithm: far below what 10,000 images can tell.
_LEAST = 1e-9


@dataclass(frozen=True)
class Point:
    """A file's bytes (fractional, where averaged), and how its network differs from the original.

    `disagreement` is the share of images, in per cent, for which the two predict different classes; `divergence` the
    mean Kullback-Leibler divergence from the original's class probabilities to the file's, in nats; `lost` the points
    of accuracy, in per cent, which may be negative.
    """

    nbytes: float
    disagreement: float
    divergence: float
    lost: float

    def measured(self, measure: Measure) -> float:
        """One of the two measures of how far the network is from the original."""
        value: float = getattr(self, measure)
        return value


def average(points: Sequence[Point]) -> Point:
    """One point for several: means, of bytes the geometric one."""
    nbytes = float(np.exp(np.mean([np.log(point.nbytes) for point in points])))
    others = [(point.disagreement, point.divergence, point.lost) for point in points]
    return Point(nbytes, *np.mean(others, axis=0).tolist())


def size_at(rungs: Sequence[Point], measure: Measure, value: float) -> float | None:
    """The bytes at which a curve is that far from the original; None beyond its ends.

    Interpolation is linear in the logarithms of both. Rungs that are out of order are averaged.

    Args:
        rungs: from the finest step to the coarsest.
        measure: what is to be equal to `value`.
        value: in the measure's unit.
    """
    knots = merged(rungs, lambda point: point.measured(measure))
    at = np.log([max(knot.measured(measure), _LEAST) for knot in knots])
    sought = np.log(max(value, _LEAST))
    if not at[0] <= sought <= at[-1]:
        return None
    return float(np.exp(np.interp(sought, at, np.log([knot.nbytes for knot in knots]))))


def value_at_loss(rungs: Iterable[Point], measure: Measure, lost: float) -> float | None:
    """How far from the original a network is that has lost so many points; None where no rung lost as many.

    Accuracy is the noisiest of the figures, so the rungs of all curves serve as one: they are put in order of the
    measure, and where the loss does not grow with it, neighbours are averaged. No distance is no loss.
    """
    ordered = sorted(rungs, key=lambda point: point.measured(measure))
    knots = [knot for knot in merged(ordered, lambda point: point.lost) if knot.lost > 0]
    losses = [0.0, *(knot.lost for knot in knots)]
    if not 0 <= lost <= losses[-1]:
        return None
    return float(np.interp(lost, losses, [0.0, *(knot.measured(measure) for knot in knots)]))


def merged(points: Sequence[Point], key: Callable[[Point], float]) -> list[Point]:
    """The points with neighbours averaged until the key increases from each to the next.

    That is isotonic regression by pooling adjacent violators (Ayer et al., Annals of Mathematical Statistics 1955).
    """
    blocks: list[list[Point]] = []
    for point in points:
        block = [point]
        while blocks and key(average(blocks[-1])) >= key(average(block)):
            block = blocks.pop() + block
        blocks.append(block)
    return [average(block) for block in blocks]
