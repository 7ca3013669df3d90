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
    # Four sets of counters: equal neighbours, which are common, would otherwise wait for each other's store.
    others = np.zeros((3, counts.size), np.int64)
    whole = integers.size // 4 * 4
    for i in range(0, whole, 4):
        counts[integers[i] - low] += 1
        others[0, integers[i + 1] - low] += 1
        others[1, integers[i + 2] - low] += 1
        others[2, integers[i + 3] - low] += 1
    for i in range(whole, integers.size):
        counts[integers[i] - low] += 1
    for i in range(counts.size):
        counts[i] += others[0, i] + others[1, i] + others[2, i]
