"""Rounding that knows what a level costs to store. Importing this module loads numba.

A weight takes the level that minimises (x - level)**2 + rate_weight * bits(level), where x is the weight over the step
and bits(level) the length of the level's code; candidates are the two levels around x and zero (Sullivan & Wiegand,
"Rate-distortion optimization for video compression", IEEE Signal Processing Magazine 1998; for network weights
Wiedemann et al., "DeepCABAC", IEEE JSTSP 2020, section III). Lengths are -log2 of the levels' shares, which the choice
changes in turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from squeezer.methods.quantization.shaping import Shaping

#: Of so many weights the lengths are estimated; a sample of rows, where there are more.
_SAMPLE = 1 << 20
_PASSES = 4
#: Beyond so many levels each way, neighbouring levels cost the same but for noise, and rate does not decide.
MOST_PRICED = 1 << 12


class Rounding:
    """Settings and tables of one tensor's rounding.

    Args:
        step: the step.
        most: the largest code allowed, 0 or more.
        rate_weight: the price of a bit, in squared steps; 0 or more.
        shaping: the error feedback; None for none.
    """

    def __init__(self, step: np.float32, most: int, rate_weight: float, shaping: Shaping | None) -> None:
        self._step, self._most = float(step), most
        self._weight = rate_weight if most <= MOST_PRICED else 0.0
        self._priced = np.zeros(2 * most + 1 if self._weight else 1)
        self._shaping = shaping

    def __call__(self, weights: NDArray[np.float32], mask: NDArray[np.uint8], codes: NDArray[np.signedinteger]) -> None:
        """Fill `codes` (rows, row), all of its weights in one row after another, by `weights` of the same shape.

        `mask` has the same shape too, or is empty; where it is 0 the code is 0 and the error none.
        """
        if self._weight:
            self._priced = self._prices(*sample(weights, mask))
        self._round(weights, mask, codes)

    def _prices(self, weights: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The price of every level from -most to most."""
        codes = np.empty(weights.shape, np.int32)

        def attempt(prices: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
            self._priced = prices
            error = self._round(weights, mask, codes)
            lengths = _code_lengths(codes, self._most)
            return lengths, error + self._weight * float(lengths[codes + self._most].sum())

        return settled(attempt, np.zeros(2 * self._most + 1), self._weight)

    def _round(self, weights: NDArray[np.float32], mask: NDArray[np.uint8], codes: NDArray[np.signedinteger]) -> float:
        if self._shaping is None:
            return float(_plain(weights, mask, self._step, self._most, self._priced, codes))
        own, rest, gain, _ = self._shaping
        return float(_shaped(weights, mask, self._step, self._most, self._priced, own, rest, gain, codes))


def settled(
    attempt: Callable[[NDArray[np.float64]], tuple[NDArray[np.float64], float]],
    free: NDArray[np.float64],
    weight: float,
) -> NDArray[np.float64]:
    """weight * length of every code, estimated in a few passes.

    The lengths of a pass are the mean of the last ones and those that its codes call for, so that they cannot swing;
    and the prices of the pass with the least sum of error and rate are taken, so that they cannot run away.

    Args:
        attempt: codes the weights at these prices; returns the lengths that the codes call for, and the sum of squared
            error and, at these lengths, rate.
        free: prices of nothing.
        weight: of a bit.
    """
    lengths, _ = attempt(free)
    best, least = free, np.inf
    for _ in range(_PASSES):
        prices = weight * lengths
        fresh, total = attempt(prices)
        if total >= least:
            break
        best, least = prices, total
        lengths = (lengths + fresh) / 2
    return best


def sample(weights: NDArray[np.float32], mask: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Rows at equal distances, about `_SAMPLE` weights in all where there are more, and their part of the mask."""
    every = max(1, min(weights.size // _SAMPLE, weights.shape[0]))
    return np.ascontiguousarray(weights[::every]), np.ascontiguousarray(mask[::every])


def _code_lengths(codes: NDArray[np.int32], most: int) -> NDArray[np.float64]:
    """-log2 of the share of every level from -most to most; of a level and its negative, the share is the same.

    Half a count is added to each, so that a level that no weight has is dear, not impossible.
    """
    counts = np.bincount(codes.reshape(-1) + most, minlength=2 * most + 1) + 0.5
    counts = (counts + counts[::-1]) / 2
    lengths: NDArray[np.float64] = -np.log2(counts / counts.sum())
    return lengths


@kernel(error_model="numpy")
def _best_level(x: float, most: int, priced: NDArray[np.float64]) -> np.int64:
    """The cheapest of the two levels around x and zero, within ±most; the nearest of equally cheap ones."""
    nearest = min(max(np.rint(x), -np.float64(most)), np.float64(most))
    level = np.int64(nearest)
    if priced.size == 1:
        return level
    best, cost = level, (x - nearest) ** 2 + priced[level + most]
    other = level + 1 if x > nearest else level - 1
    if -most <= other <= most:
        candidate = (x - other) ** 2 + priced[other + most]
        if candidate < cost:
            best, cost = other, candidate
    if x * x + priced[most] < cost:
        best = np.int64(0)
    return best


@kernel(error_model="numpy")
def _plain(
    weights: NDArray[np.float32],
    mask: NDArray[np.uint8],
    step: float,
    most: int,
    priced: NDArray[np.float64],
    codes: NDArray[np.signedinteger],
) -> float:
    error = 0.0
    for o in range(weights.shape[0]):
        for j in range(weights.shape[1]):
            level = np.int64(0)
            if mask.size == 0 or mask[o, j]:
                x = np.float64(weights[o, j]) / step
                level = _best_level(x, most, priced)
                error += (x - level) ** 2
            codes[o, j] = level
    return error


@kernel(error_model="numpy")
def _shaped(
    weights: NDArray[np.float32],
    mask: NDArray[np.uint8],
    step: float,
    most: int,
    priced: NDArray[np.float64],
    own: NDArray[np.float64],
    rest: NDArray[np.float64],
    gain: NDArray[np.float64],
    codes: NDArray[np.signedinteger],
) -> float:
    inputs, taps = gain.shape
    errors = np.zeros(taps)
    total = 0.0
    for o in range(weights.shape[0]):
        row = 0.0  # the sum of the row's errors
        for i in range(inputs):
            for t in range(taps):
                at = i * taps + t
                errors[t] = 0
                codes[o, at] = 0
                if mask.size == 0 or mask[o, at]:
                    mean, left = 0.0, row
                    for u in range(t):
                        mean += own[t, u] * errors[u]
                        left += rest[t, u] * errors[u]
                    x = np.float64(weights[o, at]) / step
                    target = x - mean + gain[i, t] * left
                    level = _best_level(target, most, priced)
                    codes[o, at] = level
                    errors[t] = x - level
                    total += (target - level) ** 2
                row += errors[t]
    return total
