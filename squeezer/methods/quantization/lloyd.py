"""Lloyd's iteration from the starting points of Han, Mao, Dally (ICLR 2016), section 3.2."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.methods.quantization.points import Points

#: Convergence takes tens to hundreds of rounds; this only guards against rounding that never settles.
_ROUNDS = 10_000


def linear_start(points: Points, clusters: int) -> NDArray[np.float64]:
    """Centroids evenly spaced between the least and the largest point."""
    return np.linspace(points.centres[0], points.centres[-1], clusters)


def density_start(points: Points, clusters: int) -> NDArray[np.float64]:
    """Centroids where the cumulative distribution takes evenly spaced values: (i + 1/2) / clusters."""
    below = np.cumsum(points.counts)
    wanted = (np.arange(clusters) + 0.5) / clusters * below[-1]
    start: NDArray[np.float64] = points.centres[np.searchsorted(below, wanted)]
    return start


def random_start(weights: NDArray[np.float32], clusters: int, name: str, seed: int) -> NDArray[np.float64]:
    """Weights drawn without replacement; recipe seed and tensor name together are the seed."""
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    chosen = np.random.default_rng([seed, key]).choice(weights.size, min(clusters, weights.size), replace=False)
    return np.sort(weights[chosen].astype(np.float64))


def lloyd(points: Points, centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move centroids to the means of the points nearest to them, until none moves.

    Empty ones are dropped at last. Shapes (clusters,) to (at most clusters,); rising.
    """
    weight = np.concatenate([[0.0], np.cumsum(points.counts)])
    total = np.concatenate([[0.0], np.cumsum(points.counts * points.centres)])
    previous = None
    for _ in range(_ROUNDS):
        borders = (centroids[1:] + centroids[:-1]) / 2
        cuts = np.concatenate([[0], np.searchsorted(points.centres, borders, side="right"), [points.centres.size]])
        members = np.diff(weight[cuts])
        if previous is not None and np.array_equal(cuts, previous):
            break
        previous = cuts
        centroids = np.where(members > 0, np.diff(total[cuts]) / np.maximum(members, 1), centroids)
    kept: NDArray[np.float64] = centroids[members > 0]
    return kept
