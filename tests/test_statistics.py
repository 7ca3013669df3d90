"""Intervals and tests, against scipy, brute force and simulation."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from squeezer.statistics import CalibrationBins, Interval, all_alike, bootstrap, mcnemar, swap_test

Array = NDArray[np.float64]


def ratio(sums: Array) -> Array:
    return np.asarray(sums[..., 0] / sums[..., 1])


def of(values: Array) -> Array:
    """Rows whose ratio is a mean."""
    return np.stack([values, np.ones(len(values))], 1)


# McNemar --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"), [(0, 0), (1, 0), (0, 7), (5, 5), (6, 5), (30, 12), (700, 801), (3000, 2790), (0, 1500)]
)
def test_mcnemar_is_the_binomial_test(first: int, second: int) -> None:
    wanted = 1.0 if first + second == 0 else stats.binomtest(first, first + second, 0.5).pvalue
    assert mcnemar(first, second) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(second, first) == mcnemar(first, second)


# Bootstrap ------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_scipy() -> None:
    values = np.random.default_rng(3).exponential(size=80)  # skewed, so that the corrections count
    ours = bootstrap(of(values), ratio, seed=1, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=2).confidence_interval
    plain = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    assert ours is not None
    assert ours == pytest.approx(tuple(theirs), abs=0.008)
    assert abs(ours.high - plain.high) > 0.015  # the percentile interval would be seen as wrong


def test_the_interval_of_a_figure_that_is_no_mean_is_that_of_scipy() -> None:
    rng = np.random.default_rng(5)
    truth = rng.normal(size=120)
    guess = truth + 0.5 * rng.normal(size=120)

    def r2(sums: Array) -> Array:
        n, error, square, total = np.moveaxis(sums, -1, 0)
        return np.asarray(1 - error / (square - total**2 / n))

    def r2_of(guess: Array, truth: Array, axis: int = -1) -> Array:
        spread = ((truth - truth.mean(axis, keepdims=True)) ** 2).sum(axis)
        return np.asarray(1 - ((guess - truth) ** 2).sum(axis) / spread)

    rows = np.stack([np.ones(120), (guess - truth) ** 2, truth**2, truth], 1)
    ours = bootstrap(rows, r2, seed=0, resamples=8000)
    theirs = stats.bootstrap((guess, truth), r2_of, paired=True, n_resamples=8000, vectorized=True, rng=1)
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=0.012)


def test_repeated_rows_are_drawn_as_all_others() -> None:
    """Few distinct rows are drawn by their counts, many one by one: the intervals agree."""
    right = (np.random.default_rng(0).random(400) < 0.9).astype(np.float64)
    few = bootstrap(of(right), ratio, seed=0, resamples=20_000)
    marked = np.column_stack([of(right), np.random.default_rng(1).random(400)])  # a column that is not looked at
    assert few == pytest.approx(bootstrap(marked, ratio, seed=0, resamples=20_000), abs=0.004)


@pytest.mark.parametrize(("examples", "chance"), [(60, 0.85), (300, 0.97)])
def test_the_interval_covers_the_truth_as_often_as_it_says(examples: int, chance: float) -> None:
    rng = np.random.default_rng(7)
    held = wide = 0
    for trial in range(400):
        right = (rng.random(examples) < chance).astype(np.float64)
        found = bootstrap(of(right), ratio, seed=trial, resamples=500)
        assert found is not None
        held += found.low <= chance <= found.high
        narrow = bootstrap(of(right), ratio, seed=trial, resamples=500, level=0.6)
        assert narrow is not None
        wide += narrow.low <= chance <= narrow.high
    assert 0.91 <= held / 400 <= 0.985
    assert wide / 400 < 0.75  # the simulation can tell


def test_the_interval_depends_on_the_seed_alone() -> None:
    rows = of(np.random.default_rng(0).normal(size=50))
    assert bootstrap(rows, ratio, seed=4) == bootstrap(rows, ratio, seed=4)
    assert bootstrap(rows, ratio, seed=4) != bootstrap(rows, ratio, seed=5)


def test_no_spread_no_width() -> None:
    assert bootstrap(of(np.ones(30)), ratio, seed=0) == Interval(1.0, 1.0)


def test_what_is_not_finite_has_no_interval() -> None:
    rows = of(np.array([1.0, np.nan, 2.0]))
    assert bootstrap(rows, ratio, seed=0) is None
    assert swap_test(rows, of(np.ones(3)), ratio, seed=0) is None


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        bootstrap(np.zeros((0, 2)), ratio, seed=0)


@pytest.mark.parametrize("examples", [1, 10, 360])
def test_all_alike_is_clopper_and_pearson(examples: int) -> None:
    exact = stats.binomtest(examples, examples).proportion_ci(0.95, method="exact")
    assert all_alike(examples) == pytest.approx(exact.low, rel=1e-9)


# The paired test ------------------------------------------------------------------------------------------


def test_the_swap_test_is_that_of_all_swaps() -> None:
    first = np.array([0.2, 0.4, 0.1, 0.9, 0.3, 0.5, 0.7, 0.2, 0.6, 0.4])
    second = first + np.array([0.3, -0.1, 0.2, 0.3, 0.1, -0.2, 0.4, 0.25, 0.0, 0.15])
    change = second - first
    means = np.array([np.dot(signs, change) / 10 for signs in product((-1, 1), repeat=10)])
    exact = np.mean(np.abs(means) >= abs(change.mean()) - 1e-12)
    assert swap_test(of(first), of(second), ratio, seed=0, rounds=19_999) == pytest.approx(exact, abs=0.01)


def test_the_swap_test_of_right_and_wrong_is_mcnemars() -> None:
    first = np.r_[np.ones(200), np.ones(30), np.zeros(14), np.zeros(20)]
    second = np.r_[np.ones(200), np.zeros(30), np.ones(14), np.zeros(20)]
    p = swap_test(of(first), of(second), ratio, seed=0, rounds=19_999)
    assert p == pytest.approx(mcnemar(30, 14), abs=0.005)


def test_the_swap_test_finds_nothing_where_nothing_is() -> None:
    """Under the null the p values are uniform: 5 % of them are below 0.05."""
    rng = np.random.default_rng(0)
    found = [
        swap_test(of(rng.normal(size=40)), of(rng.normal(size=40)), ratio, seed=trial, rounds=199)
        for trial in range(300)
    ]
    values = np.array(found, np.float64)
    assert 0.02 <= np.mean(values <= 0.05) <= 0.09
    assert 0.42 <= values.mean() <= 0.58


def test_a_figure_compared_with_itself() -> None:
    rows = of(np.random.default_rng(0).normal(size=40))
    assert swap_test(rows, rows, ratio, seed=0) == 1.0


# Calibration ----------------------------------------------------------------------------------------------


def guo(confidence: Array, right: NDArray[np.bool_], bins: int) -> float:
    """The formula, bin by bin."""
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.sum() / len(confidence) * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_the_calibration_error_is_the_formula_in_however_many_parts() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.1, 1.0, 1000)
    confidence[:3] = 1.0
    right = rng.random(1000) < confidence**2
    bins = CalibrationBins()
    for part in np.array_split(np.arange(1000), 7):
        bins.add(confidence[part], right[part])
    assert bins.error() == pytest.approx(guo(confidence, right, 15), rel=1e-12)


def test_a_calibrated_network_has_a_small_error_and_a_boastful_one_a_large_one() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 20_000)
    honest, boastful = CalibrationBins(), CalibrationBins()
    honest.add(confidence, rng.random(20_000) < confidence)
    boastful.add(confidence, rng.random(20_000) < confidence - 0.2)
    assert (honest.error() or 1) < 0.02
    assert boastful.error() == pytest.approx(0.2, abs=0.02)


def test_nothing_counted_no_error() -> None:
    assert CalibrationBins().error() is None
