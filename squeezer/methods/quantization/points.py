"""A tensor's weights as a few thousand points: where they lie, and how many each stands for. Loads numba.

Where a tensor has few distinct values the points are these values. Else they are the means of the cells of a
hybrid histogram. Its edges are dense where an optimal quantiser has its levels: for a density p that is in
proportion to p**(1/3) (Panter & Dite 1951). A quarter of them are quantiles, so that no outlier, however far,
takes all edges away from the bulk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from squeezer.compiled import kernel
from squeezer.methods.quantization.lookup import Lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SAMPLE = 1 << 16
_THIN = 8
_TAIL = 64


@dataclass(frozen=True)
class Points:
    """`centres` (float64, rising) and `counts` (float64, whole numbers > 0), both of shape (points,).

    `bulk` is the range in which all but a thousandth of the weights lie, about.
    """

    centres: NDArray[np.float64]
    counts: NDArray[np.float64]
    bulk: tuple[float, float]


def summarise(weights: NDArray[np.float32], low: float, high: float, limit: int) -> Points:
    """At most `limit` points for weights of shape (n,), n > 0, which lie between `low` and `high`."""
    values, counts = _distinct(weights.view(np.int32), limit, 4 * limit)
    if values.size:
        centres = values.view(np.float32).astype(np.float64)
        order = np.argsort(centres)
        return Points(centres[order], counts[order].astype(np.float64), (low, high))
    sample = np.sort(weights[:: max(weights.size // _SAMPLE, 1)])
    bulk = float(sample[sample.size // 2000]), float(sample[-1 - sample.size // 2000])
    quantiles = sample[np.linspace(0, sample.size - 1, limit // 4 + 1).astype(np.int64)[:-1]]
    edges = np.unique(np.concatenate([quantiles, _cube_root_edges(sample, low, high, 3 * limit // 4)]))
    numbers, sums = Lookup.over(edges, *bulk).totals(weights)
    occupied = numbers > 0
    return Points(sums[occupied] / numbers[occupied], numbers[occupied], bulk)


def _cube_root_edges(sample: NDArray[np.float32], low: float, high: float, number: int) -> NDArray[np.float32]:
    """Edges whose density goes with the cube root of the sample's.

    Between knots that are `_THIN` sample values apart the density is as 1 / gap, so that its cube root adds
    up to gap**(2/3). In the tails every value is a knot.
    """
    values = np.unique(np.concatenate([[np.float32(low)], sample, [np.float32(high)]]))
    is_knot = np.zeros(values.size, np.bool_)
    is_knot[::_THIN] = True
    is_knot[:_TAIL] = is_knot[-_TAIL:] = True
    knots = values[is_knot].astype(np.float64)
    risen = np.concatenate([[0.0], np.cumsum(np.diff(knots) ** (2 / 3))])
    return np.interp(np.linspace(0, risen[-1], number), risen, knots)[1:-1].astype(np.float32)


@kernel()
def _distinct(bits: NDArray[np.int32], limit: int, least: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The distinct values (as patterns, -0 taken for 0) and their counts.

    Both are empty where there are more than `limit`. `least` is the least size of the
    hash table, which is made a power of two.
    """
    size = 1
    while size < least:
        size *= 2
    keys = np.zeros(size, np.int32)
    counts = np.zeros(size, np.int64)
    found = 0
    for i in range(bits.size):
        key = bits[i]
        if key == -0x80000000:
            key = np.int32(0)
        # Fibonacci hashing: the upper bits of the product depend on all bits of the key
        at = ((np.int64(key) * 2654435769) >> 12) & (size - 1)
        while counts[at] > 0 and keys[at] != key:
            at = (at + 1) & (size - 1)
        if counts[at] == 0:
            if found == limit:
                return keys[:0], counts[:0]
            keys[at] = key
            found += 1
        counts[at] += 1
    present = np.flatnonzero(counts)
    return keys[present], counts[present]
