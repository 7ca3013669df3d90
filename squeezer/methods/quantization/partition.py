"""Optimal k-means in one dimension, exactly. Importing this module loads numba.

The optimal clusters are intervals of the sorted points, so that k-means is the search for the best k - 1 cuts
(Fisher 1958; Wang & Song 2011, ckmeans.1d.dp). The cost of an interval is a Monge function of its two ends.
Hence the least cost is convex in the number of clusters, and the cuts for k clusters are those that a
constant price per cluster would choose, for some price (Aggarwal, Schieber & Tokuyama 1994; Grønlund et al.
2017). For one price a dynamic programme finds the best cuts in O(n log n), whatever k; a few prices are
tried. Where no price gives exactly k (ties), a solution with fewer and one with more clusters are spliced
into one with k, which is optimal too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TRIALS = 100
_TOLERANCE = 1e-12


def optimal_cuts(centres: NDArray[np.float64], counts: NDArray[np.float64], clusters: int) -> NDArray[np.int64]:
    """The best division of n rising points into `clusters` <= n intervals.

    Returns:
        Shape (clusters + 1,): cluster i holds the points from `cuts[i]` up to and without `cuts[i + 1]`.
    """
    points = centres.size
    weight = np.concatenate([[0.0], np.cumsum(counts)])
    centred = centres - (centres @ counts) / weight[-1]
    centred = centred / max(np.abs(centred).max(), np.finfo(np.float64).tiny)
    total = np.concatenate([[0.0], np.cumsum(centred * counts)])
    few, many = np.array([0, points]), np.arange(points + 1)
    variance = float(counts @ centred**2)
    low, high = 0.0, 2 * variance  # prices that surely give `many` and `few`
    price = 5 * variance / clusters**3  # what a normal distribution would need (Panter & Dite 1951)
    for trial in range(_TRIALS):
        if few.size - 1 == clusters:
            return few
        if many.size - 1 == clusters:
            return many
        if high - low <= _TOLERANCE * high:
            break
        cuts = _cuts_for_price(weight, total, price)
        if cuts.size - 1 >= clusters:
            low, many = price, cuts
        else:
            high, few = price, cuts
        # the price falls with about the cube of the number; bisection makes sure that it ends
        price *= ((cuts.size - 1) / clusters) ** 3
        if trial % 3 == 2 or not low < price < high:
            price = np.sqrt(low * high) if low > 0 else high / 1024
    return _splice(few, many, clusters)


def _splice(few: NDArray[np.int64], many: NDArray[np.int64], clusters: int) -> NDArray[np.int64]:
    """The head of one solution and the tail of another, joined so that there are `clusters` intervals.

    The join is where an interval of `few` encloses one of `many`: by the Monge property the exchange of their
    ends costs nothing.
    """
    shift = many.size - 1 - clusters
    inside = many[shift + 1 : shift + few.size] <= few[1:]
    at = int(np.argmax(inside))
    return np.concatenate([few[: at + 1], many[at + shift + 1 :]])


@kernel()
def _cost(weight: NDArray[np.float64], total: NDArray[np.float64], start: int, stop: int) -> float:
    # the sum of squares about the mean, less the sum of squares, which no cut changes
    moment: float = total[stop] - total[start]
    width: float = weight[stop] - weight[start]
    return -moment * moment / width


@kernel()
def _takeover(
    weight: NDArray[np.float64], total: NDArray[np.float64], lead: float, old: int, new: int, low: int
) -> int:
    """The first end >= `low` for which an interval should begin at `new` and not at `old`; else points + 1.

    `lead` is by how much the best division before `old` is cheaper than that before `new`.
    """
    high = weight.size
    while low < high:
        middle = (low + high) >> 1
        if lead + _cost(weight, total, new, middle) < _cost(weight, total, old, middle):
            high = middle
        else:
            low = middle + 1
    return low


@kernel()
def _cuts_for_price(weight: NDArray[np.float64], total: NDArray[np.float64], price: float) -> NDArray[np.int64]:
    """The cuts of least cost, where each interval costs `price` beside its own cost.

    best[j] = min over i < j of best[i] + cost(i, j) + price. By the Monge property each i is best for one run
    of ends j; the queue holds these runs (Galil & Park 1992).
    """
    points = weight.size - 1
    best = np.zeros(points + 1)
    origin = np.zeros(points + 1, np.int64)
    queue = np.zeros(points + 1, np.int64)
    run_start = np.ones(points + 1, np.int64)
    head, tail = 0, 0
    for j in range(1, points + 1):
        while head < tail and run_start[head + 1] <= j:
            head += 1
        origin[j] = queue[head]
        best[j] = best[origin[j]] + _cost(weight, total, origin[j], j) + price
        start = j + 1
        while tail >= head:
            run = max(run_start[tail], j + 1)
            start = _takeover(weight, total, best[j] - best[queue[tail]], queue[tail], j, run)
            if start > run or run > points:
                break
            tail -= 1  # j is better from the beginning of that run on
        if start <= points:
            tail += 1
            queue[tail] = j
            run_start[tail] = start
    cuts: NDArray[np.int64] = _trace(origin)
    return cuts


@kernel()
def _trace(origin: NDArray[np.int64]) -> NDArray[np.int64]:
    """The cuts in rising order, from the start of the last interval of every prefix."""
    cuts = np.empty(origin.size, np.int64)
    number = 0
    at = origin.size - 1
    while at > 0:
        cuts[number] = at
        number += 1
        at = origin[at]
    cuts[number] = 0
    return cuts[: number + 1][::-1].copy()
