"""Finding the interval of a number among sorted edges, for millions of numbers. Loads numba.

A uniform grid of cells over the bulk of the numbers tells for each cell how many edges lie before it. Most
cells hold no edge or one, which a single comparison settles; within a crowded cell the edges are searched by
halves, so that no distribution of the numbers makes it slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_CELLS = 1 << 12
_CELLS_PER_EDGE = 16
#: Indices are unsigned: numba would otherwise check each for being negative, which costs a third of the time.
_ONE = np.uint64(1)


@dataclass(frozen=True)
class Lookup:
    """Sorted float32 `edges` and the grid over them: x lies in interval number (edges smaller than x)."""

    edges: NDArray[np.float32]  # shape (edges + 1,): an infinite one at the end spares a check of bounds
    before: NDArray[np.uint16]  # shape (cells + 1,): edges in earlier cells
    origin: float
    scale: float

    @classmethod
    def over(cls, edges: NDArray[np.float32], low: float, high: float) -> Lookup:
        """A grid between `low` and `high`, where most of the numbers lie; others go to the outer cells."""
        cells = max(_LEAST_CELLS, _CELLS_PER_EDGE * edges.size)
        scale = cells / (high - low) if high > low else 0.0
        cell = np.clip((edges.astype(np.float64) - low) * scale, 0, cells - 1).astype(np.int64)
        before = np.zeros(cells + 1, np.uint16)
        before[1:] = np.cumsum(np.bincount(cell, minlength=cells))
        return cls(np.append(edges, np.float32(np.inf)), before, low, scale)

    def assign(self, values: NDArray[np.float32], first: int) -> tuple[NDArray[np.unsignedinteger], NDArray[np.bool_]]:
        """Each value's interval plus `first`, as uint8 or uint16; and which intervals occur."""
        used = np.zeros(self.edges.size, np.bool_)
        kind = np.uint8 if self.edges.size + first <= 256 else np.uint16
        codes: NDArray[np.unsignedinteger] = np.empty(values.size, kind)
        _assign(values, self.edges, self.before, self.origin, self.scale, np.uint64(first), codes, used)
        return codes, used

    def totals(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """How many values lie in each interval, and their sums."""
        totals: NDArray[np.float64] = _totals(values, self.edges, self.before, self.origin, self.scale)
        return totals[:, 0], totals[:, 1]


@kernel()
def _locate(
    value: np.float32, edges: NDArray[np.float32], before: NDArray[np.uint16], origin: float, scale: float
) -> np.uint64:
    position: float = (np.float64(value) - origin) * scale
    position = max(position, 0.0)
    position = min(position, before.size - 2.0)
    cell = np.uint64(np.int64(position))
    low = np.uint64(before[cell])
    high = np.uint64(before[cell + _ONE])
    while high - low > _ONE:
        middle = (low + high) >> _ONE
        if value > edges[middle]:
            low = middle + _ONE
        else:
            high = middle
    # none or one edge is left; where there is none, edges[low] lies in a later cell and is not smaller
    return low + np.uint64(value > edges[low])


@kernel()
def _assign(
    values: NDArray[np.float32],
    edges: NDArray[np.float32],
    before: NDArray[np.uint16],
    origin: float,
    scale: float,
    first: np.uint64,
    codes: NDArray[np.unsignedinteger],
    used: NDArray[np.bool_],
) -> None:
    for i in range(values.size):
        code = _locate(values[i], edges, before, origin, scale)
        used[code] = True
        codes[i] = code + first


@kernel()
def _totals(
    values: NDArray[np.float32],
    edges: NDArray[np.float32],
    before: NDArray[np.uint16],
    origin: float,
    scale: float,
) -> NDArray[np.float64]:
    totals = np.zeros((edges.size, 2))  # side by side, so that both are in one cache line
    for i in range(values.size):
        at = _locate(values[i], edges, before, origin, scale)
        totals[at, 0] += 1.0
        totals[at, 1] += values[i]
    return totals
