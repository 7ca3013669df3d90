"""Integers and how often each occurs: what every entropy coder asks first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from squeezer.codecs.base import Histogram
from squeezer.codecs.huffman import MAX_ALPHABET

if TYPE_CHECKING:
    from numpy.typing import NDArray


def histogram(integers: NDArray[Any]) -> Histogram | None:
    """Count integers (at least one); None where their range is wider than the largest alphabet."""
    low, high = int(integers.min()), int(integers.max())
    if high - low >= MAX_ALPHABET:
        return None
    counts = np.zeros(high - low + 1, np.int64)
    _count(integers, low, counts)
    return Histogram(low, counts)


@njit(cache=True, nogil=True)
def _count(integers, low, counts):  # type: ignore[no-untyped-def] # compiled by numba
    # Two sets of counters: equal neighbours, which are common, would otherwise wait for each other's store.
    other = np.zeros(counts.size, np.int64)
    even = integers.size // 2 * 2
    for i in range(0, even, 2):
        counts[integers[i] - low] += 1
        other[integers[i + 1] - low] += 1
    if even < integers.size:
        counts[integers[even] - low] += 1
    for i in range(counts.size):
        counts[i] += other[i]
