"""Exact selection of the smallest magnitudes by radix. Importing this module loads numba.

Magnitudes are compared as the lower 31 bits of their float32 pattern, which order as the magnitudes do
(IEEE 754). The upper 16 of them choose one of 65,536 bins, the lower 15 the place within a bin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from squeezer.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

_LOW_BITS = 15
_LOW = 1 << _LOW_BITS
_HIGH = 1 << 16
_MAGNITUDE = 0x7FFFFFFF
_FIRST_NON_FINITE = 0x7F800000 >> _LOW_BITS


class Cut(NamedTuple):
    """Which weights go: those with a pattern below `threshold`, and the first `ties` equal to it."""

    threshold: int
    ties: int


#: The cut that takes nothing.
NOTHING = Cut(0, 0)


class Found(NamedTuple):
    """What one bin of one tensor holds: patterns in rising order and how often each occurs."""

    patterns: NDArray[np.int64]
    counts: NDArray[np.int64]


def high_counts(weights: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many weights fall into each bin: shape (65536,)."""
    counts: NDArray[np.int64] = _high_histogram(weights.view(np.int32))
    return counts


def non_finite_count(counts: NDArray[np.int64]) -> int:
    """How many of the weights counted by `high_counts` are NaN or infinite."""
    return int(counts[_FIRST_NON_FINITE:].sum())


@dataclass
class Selection:
    """Finds the cut that takes exactly `remove` weights of several tensors, ties in the tensors' order.

    First `count` every tensor, then `look` into every tensor, then ask for the `cuts`.
    """

    total: int = 0
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_HIGH, np.int64))
    _found: dict[str, Found] = field(default_factory=dict)

    def count(self, counts: NDArray[np.int64]) -> None:
        """Add the `high_counts` of one tensor."""
        self.total += int(counts.sum())
        self._counts += counts

    def bin(self, remove: int) -> int:
        """The bin that holds the last weight to go; 0 < remove <= total."""
        return int(np.searchsorted(np.cumsum(self._counts), remove))

    def look(self, name: str, weights: NDArray[np.float32], remove: int) -> None:
        """Note what one tensor holds in the bin where the cut lies."""
        where = self.bin(remove)
        counts = _low_histogram(weights.view(np.int32), where)
        present = np.flatnonzero(counts)
        self._found[name] = Found(present + (where << _LOW_BITS), counts[present])

    def cuts(self, remove: int) -> dict[str, Cut]:
        """The cut of every tensor that was looked into."""
        left = remove - int(self._counts[: self.bin(remove)].sum())
        threshold, ties = _resolve(self._found.values(), left)
        cuts = {}
        for name, found in self._found.items():
            own = min(ties, int(found.counts[found.patterns == threshold].sum()))
            cuts[name] = Cut(threshold, own)
            ties -= own
        return cuts


def _resolve(found: Iterable[Found], left: int) -> tuple[int, int]:
    """The pattern of the `left`-th smallest in a bin, and how many that equal it belong to those `left`."""
    patterns = np.concatenate([one.patterns for one in found])
    counts = np.concatenate([one.counts for one in found])
    order = np.argsort(patterns, kind="stable")
    ends = np.cumsum(counts[order])
    threshold = int(patterns[order][np.searchsorted(ends, left)])
    return threshold, left - int(counts[patterns < threshold].sum())


def keep_mask(weights: NDArray[np.float32], cut: Cut) -> NDArray[np.bool_]:
    """True for every weight that a cut leaves; shape (n,)."""
    mask: NDArray[np.uint8] = _keep(weights.view(np.int32), cut.threshold, cut.ties)
    return mask.view(np.bool_)


@kernel()
def _high_histogram(bits: NDArray[np.int32]) -> NDArray[np.int64]:
    counts = np.zeros(_HIGH, np.int64)
    for i in range(bits.size):
        counts[(bits[i] & _MAGNITUDE) >> _LOW_BITS] += 1
    return counts


@kernel()
def _low_histogram(bits: NDArray[np.int32], where: int) -> NDArray[np.int64]:
    counts = np.zeros(_LOW, np.int64)
    for i in range(bits.size):
        magnitude = bits[i] & _MAGNITUDE
        if magnitude >> _LOW_BITS == where:
            counts[magnitude & (_LOW - 1)] += 1
    return counts


@kernel()
def _keep(bits: NDArray[np.int32], threshold: int, ties: int) -> NDArray[np.uint8]:
    keep = np.empty(bits.size, np.uint8)
    for i in range(bits.size):
        magnitude = bits[i] & _MAGNITUDE
        keep[i] = magnitude > threshold
        if magnitude == threshold:
            keep[i] = ties <= 0
            ties -= 1
    return keep
