"""Optimal cuts against the textbook dynamic programme."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from squeezer.methods.quantization.partition import optimal_cuts

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cost(centres: NDArray[np.float64], counts: NDArray[np.float64], cuts: NDArray[np.int64]) -> float:
    """The sum of squared distances to the means of the clusters."""
    total = 0.0
    for start, stop in pairwise(cuts):
        part, weight = centres[start:stop], counts[start:stop]
        total += float(weight @ (part - np.average(part, weights=weight)) ** 2)
    return total


def least_cost(centres: NDArray[np.float64], counts: NDArray[np.float64], clusters: int) -> float:
    """D[k][j] = min over i of D[k-1][i] + cost(i, j): O(k n^2), costs from their definition."""
    points = len(centres)
    pairs = [(i, j) for i in range(points) for j in range(i + 1, points + 1)]
    interval = {pair: cost(centres, counts, np.array(pair)) for pair in pairs}
    best = [0.0] + [np.inf] * points
    for _ in range(clusters):
        best = [np.inf] + [min(best[i] + interval[i, j] for i in range(j)) for j in range(1, points + 1)]
    return best[points]


@settings(max_examples=100)
@given(
    st.lists(
        st.tuples(st.integers(-1000, 1000), st.integers(1, 9)),
        min_size=1,
        max_size=16,
        unique_by=lambda p: p[0],
    ),
    st.data(),
)
def test_the_least_cost_is_found(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    centres, counts = np.array(sorted(pairs), np.float64).T
    clusters = data.draw(st.integers(1, len(pairs)))
    cuts = optimal_cuts(centres, counts, clusters)
    assert cuts[0] == 0
    assert cuts[-1] == len(pairs)
    assert np.all(np.diff(cuts) > 0)
    assert cuts.size == clusters + 1
    assert cost(centres, counts, cuts) == pytest.approx(least_cost(centres, counts, clusters), rel=1e-9, abs=1e-6)


@pytest.mark.parametrize("clusters", range(1, 25))
def test_ties_everywhere(clusters: int) -> None:
    """On even points many numbers of clusters have the same price, so that solutions must be spliced."""
    centres, counts = np.arange(24.0), np.ones(24)
    cuts = optimal_cuts(centres, counts, clusters)
    assert np.all(np.diff(cuts) > 0)
    assert cuts.size == clusters + 1
    assert cost(centres, counts, cuts) == pytest.approx(least_cost(centres, counts, clusters))


@pytest.mark.parametrize("scale", [1e-40, 1e-6, 1e35])
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_scale_and_offset_change_nothing(scale: float, offset: float) -> None:
    random = np.random.default_rng(0)
    centres, counts = np.sort(random.standard_normal(40)), random.integers(1, 100, 40).astype(np.float64)
    np.testing.assert_array_equal(optimal_cuts((centres + offset) * scale, counts, 7), optimal_cuts(centres, counts, 7))


def test_even_cuts_are_worse() -> None:
    centres, counts = np.sort(np.random.default_rng(1).standard_cauchy(200)), np.ones(200)
    even = np.linspace(0, 200, 9).astype(np.int64)
    assert cost(centres, counts, optimal_cuts(centres, counts, 8)) < 0.5 * cost(centres, counts, even)
