"""Integers and how often each occurs: what every entropy coder asks first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.codecs.base import Histogram
from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Wider ranges are not counted.
WIDEST = 1 << 15
#: Neighbours are counted apart: equal ones, which are common, would wait for each other's store.
APART = 8
_1, _7, _8 = np.uint64(1), np.uint64(7), np.uint64(8)


def histogram(integers: NDArray[Any]) -> Histogram | None:
    """Count integers (at least one); None where their range is wider than `WIDEST`."""
    low, high = int(integers.min()), int(integers.max())
    if high - low >= WIDEST:
        return None
    counts = np.zeros((APART, high - low + 1), np.int64)
    count(integers, low, counts)
    return Histogram(low, counts.sum(axis=0))


@kernel()
def count(integers, low, counts):  # type: ignore[no-untyped-def] # compiled by numba
    """Count the integers, less `low`: each of the APART rows of `counts` receives every eighth of them."""
    low, size = np.uint64(low), np.uint64(integers.size)
    at = np.uint64(0)
    while at < size & ~_7:
        for row in range(_8):
            counts[row, np.uint64(integers[at + row]) - low] += 1
        at += _8
    while at < size:
        counts[0, np.uint64(integers[at]) - low] += 1
        at += _1
