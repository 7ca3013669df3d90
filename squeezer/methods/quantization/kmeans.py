"""From weights to codebook and codes. Importing this module loads numba."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from squeezer.methods.quantization.lloyd import density_start, linear_start, lloyd, random_start
from squeezer.methods.quantization.lookup import Lookup
from squeezer.methods.quantization.partition import optimal_cuts
from squeezer.methods.quantization.points import Points, summarise

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEAST_POINTS = 4096
_POINTS_PER_CLUSTER = 8

Init = Literal["optimal", "linear", "density", "random"]


def point_limit(clusters: int) -> int:
    """How many points the weights are summarised by, at most."""
    return max(_LEAST_POINTS, _POINTS_PER_CLUSTER * clusters)


def centroids_of(
    weights: NDArray[np.float32], points: Points, clusters: int, init: Init, name: str, seed: int
) -> NDArray[np.float64]:
    """At most `clusters` centroids, rising; the distinct values themselves where there are no more."""
    if points.centres.size <= clusters:
        return points.centres
    if init == "optimal":
        return _means(points, optimal_cuts(points.centres, points.counts, clusters))
    if init == "linear":
        start = linear_start(points, clusters)
    elif init == "density":
        start = density_start(points, clusters)
    else:
        start = random_start(weights, clusters, name, seed)
    return lloyd(points, start)


def _means(points: Points, cuts: NDArray[np.int64]) -> NDArray[np.float64]:
    sums = np.add.reduceat(points.centres * points.counts, cuts[:-1])
    means: NDArray[np.float64] = sums / np.add.reduceat(points.counts, cuts[:-1])
    return means


def share(
    weights: NDArray[np.float32],
    clusters: int,
    init: Init,
    dtype: np.dtype[np.generic],
    name: str,
    seed: int,
    first: int,
) -> tuple[NDArray[np.float32], NDArray[np.unsignedinteger]]:
    """Codebook and codes for finite weights of shape (n,).

    The codebook is float32, rising and exact in `dtype`; the codes begin with `first`. Every weight gets the
    nearest centroid as stored, the lower one of two equally near, and no centroid is without weights.
    """
    if weights.size == 0:
        return np.empty(0, np.float32), np.empty(0, np.uint8)
    points = summarise(weights, float(weights.min()), float(weights.max()), point_limit(clusters))
    centroids = centroids_of(weights, points, clusters, init, name, seed)
    stored = dtype if dtype.itemsize < 4 else np.dtype(np.float32)
    codebook = np.unique(centroids.astype(np.float32).astype(stored).astype(np.float32))
    codes, used = Lookup.over(borders(codebook), *points.bulk).assign(weights, first)
    if not used.all():
        renumbered = (np.cumsum(used) - 1 + first).astype(codes.dtype)
        codes = np.concatenate([np.zeros(first, codes.dtype), renumbered])[codes]
        codebook = codebook[used]
        codes = codes.astype(np.uint8 if codebook.size + first <= 256 else np.uint16)
    return codebook, codes


def borders(codebook: NDArray[np.float32]) -> NDArray[np.float32]:
    """For each neighbouring pair the largest float32 that is not nearer to the upper of the two.

    That is the middle, rounded down. The sum of two float32 may be inexact even in float64; its rounding
    error (Knuth's two-sum) tells whether the true middle lies below the computed one.
    """
    lower, upper = codebook[:-1].astype(np.float64), codebook[1:].astype(np.float64)
    double = lower + upper
    part = double - lower
    error = (lower - (double - part)) + (upper - part)
    middle = double / 2
    border = middle.astype(np.float32)
    too_high = (border > middle) | ((border == middle) & (error < 0))
    return np.where(too_high, np.nextafter(border, np.float32(-np.inf)), border)
