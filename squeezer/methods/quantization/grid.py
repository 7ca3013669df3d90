"""Steps of a uniform grid, and rounding to it. Importing this module loads numba."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LANES = 8
_INTEGERS = (np.int8, np.int16, np.int32)
_MOST = float(np.iinfo(np.int32).max)


def square_sum(weights: NDArray[np.float32]) -> float:
    """The sum of squares, added in float64 in a fixed order."""
    return float(_square_sum(weights))


def step_for_bits(largest: float, bits: int) -> np.float32:
    """The step that gives magnitudes up to `largest` > 0 the codes up to 2**(bits - 1) - 1.

    It is rounded towards zero, so that no product exceeds `largest`; up, where it is so small (subnormal)
    that a code would otherwise become too large.
    """
    most = (1 << (bits - 1)) - 1
    exact = largest / most
    step = np.float32(exact)
    if float(step) > exact:
        step = np.nextafter(step, np.float32(0))
    if step == 0 or round(largest / float(step)) > most:
        step = np.nextafter(step, np.float32(np.inf))
    return step


def most_code(largest: float, step: np.float32, dtype: np.dtype[np.generic]) -> int | None:
    """The largest code that magnitudes up to `largest` get, such that code * step is finite in `dtype`.

    None where int32 cannot hold it.
    """
    if step == 0:
        return None
    most = round(largest / float(step))  # half to even, like the codes
    if most > _MOST:
        return None
    while most and not _is_finite(most, step, dtype):
        most -= 1
    return most


def _is_finite(code: int, step: np.float32, dtype: np.dtype[np.generic]) -> bool:
    """Whether code * step is a finite number of that type."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite((np.float32(code) * step).astype(dtype)))


def round_to(
    weights: NDArray[np.float32], low: float, high: float, step: np.float32, most: int
) -> NDArray[np.signedinteger]:
    """weights / step, rounded half to even, within ±`most`; the narrowest of int8, int16 and int32.

    All weights lie between `low` and `high`.
    """
    ends = max(round(low / float(step)), -most), min(round(high / float(step)), most)
    codes: NDArray[np.signedinteger] = np.empty(weights.size, narrowest(*ends))
    _round(weights, float(step), float(most), codes)
    return codes


def narrowest(low: int, high: int) -> type[np.signedinteger]:
    """The narrowest of int8, int16 and int32 that holds all integers from `low` to `high`."""
    return next(kind for kind in _INTEGERS if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


@kernel()
def _square_sum(weights: NDArray[np.float32]) -> np.float64:
    # lanes of our own: the same sum on every processor, and no chain of additions
    sums = np.zeros(_LANES)
    whole = weights.size - weights.size % _LANES
    for i in range(0, whole, _LANES):
        for lane in range(_LANES):
            value = np.float64(weights[i + lane])
            sums[lane] += value * value
    total: np.float64 = sums.sum()
    for i in range(whole, weights.size):
        total += np.float64(weights[i]) ** 2
    return total


@kernel(error_model="numpy")
def _round(weights: NDArray[np.float32], step: float, most: float, codes: NDArray[np.signedinteger]) -> None:
    for i in range(weights.size):
        codes[i] = np.int32(min(max(np.rint(np.float64(weights[i]) / step), -most), most))
