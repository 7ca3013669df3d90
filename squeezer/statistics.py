"""How far a measured figure can be trusted: intervals and tests for what was measured on some examples. numpy only.

A figure here is a function of sums over examples: every example gives a row of numbers, and `value` makes the figure
from the sum of the rows. An accuracy has rows (right, counted) and the value right / counted; a coefficient of
determination or a mean intersection over union has longer rows. So one bootstrap and one test do for all of them, and
examples, not the pixels or tokens within one, are what is drawn.
"""

from __future__ import annotations

from math import comb, isfinite
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Rows = NDArray[np.float64]
    Value = Callable[[NDArray[np.float64]], NDArray[np.float64]]

#: The share of intervals that shall hold the true figure.
LEVEL = 0.95
RESAMPLES = 2000
#: One less than a round number, since the observed arrangement counts as one of them.
ROUNDS = 1999
#: Numbers held at once by a chunk of resamples.
_CHUNK = 1 << 22
_NORMAL = NormalDist()


class Interval(NamedTuple):
    """From `low` to `high`, both included."""

    low: float
    high: float


def bootstrap(
    rows: Rows, value: Value, *, seed: int, level: float = LEVEL, resamples: int = RESAMPLES
) -> Interval | None:
    """The BCa interval of a figure (Efron, *Better Bootstrap Confidence Intervals*, JASA 1987).

    Examples are drawn with replacement. The end points are the quantiles G⁻¹(Φ(z₀ + (z₀ + z) / (1 − a (z₀ + z)))) of
    the drawn figures, z the normal quantiles of the level, z₀ the normal quantile of the share of drawn figures below
    the observed one (equal ones count half), and a the skewness of the figures that leave one example out, over 6
    (Efron & Tibshirani, *An Introduction to the Bootstrap*, 1993, equations 14.10, 14.14 and 14.15).

    Args:
        rows: (examples, numbers).
        value: the figure from sums of rows: (..., numbers) to (...).
        seed: of the drawing.
        level: the share of such intervals that shall hold the true figure.
        resamples: how many times all examples are drawn.

    Returns:
        None where the figure is not finite. An interval of no width where no resample differs.
    """
    distinct, counts = _distinct(rows)
    observed = float(value(counts @ distinct))
    if not isfinite(observed):
        return None
    drawn = np.concatenate([value(sums) for sums in _resampled(distinct, counts, resamples, seed)])
    drawn = drawn[np.isfinite(drawn)]
    if drawn.size == 0 or np.ptp(drawn) == 0:
        return Interval(observed, observed)
    acceleration = _acceleration(distinct, counts, value)
    below = (np.count_nonzero(drawn < observed) + np.count_nonzero(drawn <= observed)) / (2 * drawn.size)
    # A figure at the edge of all drawn ones would send z0 to infinity.
    z0 = _NORMAL.inv_cdf(min(max(below, 1 / (2 * drawn.size)), 1 - 1 / (2 * drawn.size)))
    shares = [_corrected(z0, acceleration, tail) for tail in ((1 - level) / 2, (1 + level) / 2)]
    low, high = np.quantile(drawn, shares)
    return Interval(float(low), float(high))


def _corrected(z0: float, acceleration: float, tail: float) -> float:
    z = z0 + _NORMAL.inv_cdf(tail)
    # Few and very skewed examples could turn the sign of the denominator, and with it the order of the end points.
    return float(_NORMAL.cdf(z0 + z / max(1 - acceleration * z, 1e-6)))


def _distinct(rows: Rows) -> tuple[Rows, NDArray[np.int64]]:
    """The distinct rows and how often each is there: an accuracy has two of them, however many examples there are."""
    if rows.ndim != 2 or len(rows) == 0:
        raise ValueError(f"rows of at least one example are needed, as a matrix; this has shape {rows.shape}")
    if rows.shape[1] > 16:  # long rows hardly repeat, and sorting them takes long
        return rows, np.ones(len(rows), np.int64)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    return distinct, counts.astype(np.int64)


def _resampled(distinct: Rows, counts: NDArray[np.int64], resamples: int, seed: int) -> Iterator[Rows]:
    """Sums of rows of the resamples, in chunks."""
    rng = np.random.default_rng(seed)
    examples = int(counts.sum())
    few = 16 * len(distinct) <= examples
    rows = distinct if few else np.repeat(distinct, counts, axis=0)
    step = max(1, _CHUNK // len(rows))
    for start in range(0, resamples, step):
        number = min(step, resamples - start)
        if few:
            times = rng.multinomial(examples, counts / examples, size=number)
        else:
            drawn = rng.integers(0, examples, size=(number, examples))
            drawn += examples * np.arange(number)[:, None]
            times = np.bincount(drawn.reshape(-1), minlength=number * examples).reshape(number, examples)
        yield times.astype(np.float64) @ rows


def _acceleration(distinct: Rows, counts: NDArray[np.int64], value: Value) -> float:
    """sum d³ / (6 (sum d²)^1.5), d the mean of the figures without one example less each of them."""
    without = value(counts @ distinct - distinct)
    known = np.isfinite(without)
    without, weights = without[known], counts[known]
    if without.size == 0:
        return 0.0
    deviation = np.average(without, weights=weights) - without
    squares = float(weights @ deviation**2)
    return float(weights @ deviation**3) / (6 * squares**1.5) if squares > 0 else 0.0


def all_alike(examples: int, level: float = LEVEL) -> float:
    """The least probability that lets so many examples all be alike: (α / 2)^(1/n).

    Clopper & Pearson, *The Use of Confidence or Fiducial Limits*, Biometrika 1934, where all trials succeed. A
    bootstrap sees no spread in them and would claim certainty.
    """
    return float(((1 - level) / 2) ** (1 / examples))


def mcnemar(first_alone: int, second_alone: int) -> float:
    """The exact two-sided p of McNemar's test (*Note on the Sampling Error...*, Psychometrika 1947).

    Args:
        first_alone: examples that only the first classifier has right.
        second_alone: those that only the second has right.

    Returns:
        The probability of a split at least as uneven where either is as likely: 2 P(X ≤ min) for X ~ B(n, 1/2), at
        most 1.
    """
    n, least = first_alone + second_alone, min(first_alone, second_alone)
    if n == 0 or 2 * least == n:
        return 1.0
    if n <= 1000:
        return min(1.0, float(sum(comb(n, i) for i in range(least + 1)) / 2 ** (n - 1)))
    # Beyond that, sums of logarithms: log C(n, i) by a running sum of log((n - i + 1) / i).
    i = np.arange(1, least + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n - i + 1) / i))])
    top = float(logs.max())
    return min(1.0, float(np.exp(top - (n - 1) * np.log(2)) * np.exp(logs - top).sum()))


def swap_test(first: Rows, second: Rows, value: Value, *, seed: int, rounds: int = ROUNDS) -> float | None:
    """The two-sided p of a paired permutation test: were it all the same, each example's two rows could be swapped.

    Fisher, *The Design of Experiments*, 1935, section 21; p = (1 + differences at least as large) / (1 + rounds), as
    Phipson & Smyth, *Permutation P-values Should Never Be Zero*, 2010.

    Args:
        first: (examples, numbers), of the first network.
        second: the same examples, of the second.
        value: the figure from sums of rows.
        seed: of the swaps.
        rounds: how often swaps are drawn.

    Returns:
        None where one of the figures is not finite.
    """
    sums = first.sum(0), second.sum(0)
    observed = abs(float(value(sums[1]) - value(sums[0])))
    if not isfinite(observed):
        return None
    change, counts = _distinct(second - first)
    as_large = 0
    for moved in _swapped(change, counts, rounds, seed):
        difference = np.abs(value(sums[1] - moved) - value(sums[0] + moved))
        # Sums in another order differ in their last bits.
        as_large += int(np.count_nonzero(difference >= observed * (1 - 1e-9)))
    return (1 + as_large) / (1 + rounds)


def _swapped(change: Rows, counts: NDArray[np.int64], rounds: int, seed: int) -> Iterator[Rows]:
    """What swaps move from the second sum to the first, in chunks of rounds."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK // len(change))
    for start in range(0, rounds, step):
        size = (min(step, rounds - start), len(change))
        swaps = rng.integers(0, 2, size=size) if counts.max() == 1 else rng.binomial(counts, 0.5, size=size)
        yield swaps.astype(np.float64) @ change


class CalibrationBins:
    """Expected calibration error: Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017, equation 3.

    Predictions are put into bins of equal width by their confidence; ECE = Σ |B| / n · |accuracy(B) − confidence(B)|.
    """

    def __init__(self, bins: int = 15) -> None:
        self._sums = np.zeros((bins, 3))  # predictions, right ones, summed confidence

    def add(self, confidence: NDArray[Any], right: NDArray[np.bool_]) -> None:
        """Count predictions: the probability of each predicted class (0 to 1), and whether it is the true one."""
        bins = len(self._sums)
        # Bin m holds ((m - 1) / M, m / M].
        place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        for column, weights in enumerate((None, right, confidence)):
            self._sums[:, column] += np.bincount(place, weights, bins)

    def error(self) -> float | None:
        """The expected calibration error of all that was counted; None where nothing was."""
        n = self._sums[:, 0].sum()
        return float(np.abs(self._sums[:, 1] - self._sums[:, 2]).sum() / n) if n else None
