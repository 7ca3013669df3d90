"""Error feedback by a matrix: against the algorithm in plain Python, searches without it, and on its purpose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from squeezer.codecs.trellis import BLOCK, NEXT, quantisers, reconstruct
from squeezer.methods.quantization.feedback import Feedback, shares_of
from squeezer.methods.quantization.feedback_kernels import WINDOW
from squeezer.methods.quantization.shaping import shaping_of
from squeezer.methods.quantization.trellis import Search

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = np.empty((0, 0), np.uint8)
SPACING = np.float32(0.25)
MOST = 100


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def moments(row: int, seed: int = 1) -> NDArray[np.float64]:
    """Of inputs that have a mean and resemble their neighbours."""
    draws = np.cumsum(normal(4 * row, row, seed=seed), axis=1).astype(np.float64) + 2
    return np.asarray(draws.T @ draws / len(draws))


def decoded(codes: NDArray[np.int32], spacing: np.float32 = SPACING) -> NDArray[np.float32]:
    weights = np.empty(codes.size, np.float32)
    reconstruct(np.ascontiguousarray(codes).reshape(-1), spacing, weights)
    return weights.reshape(codes.shape)


def output_error(weights: NDArray[Any], codes: NDArray[np.int32], h: NDArray[np.float64]) -> float:
    """The mean square of what outputs are off, times the number of outputs."""
    errors = weights.astype(np.float64) - decoded(codes)
    return float(np.einsum("ri,ij,rj->", errors, h, errors))


def by_hand(weights: NDArray[np.float32], mask: NDArray[np.uint8], h: NDArray[np.float64]) -> NDArray[np.int32]:
    """The search as its page has it, in float64: every survivor with all its codes and all errors of its row."""
    shares, metric = shares_of(h, 0.01)
    x = weights.astype(np.float64) / float(SPACING)
    row = x.shape[1]
    done: list[int] = []
    survivors: dict[int, tuple[float, list[int], list[float]]] = {0: (0.0, [], [])}
    for n in range(x.size):
        r, j = divmod(n, row)
        extended: dict[int, tuple[float, list[int], list[float]]] = {}
        for state, (cost, codes, errors) in survivors.items():
            errors = errors if j else []
            target = x[r, j] + sum(float(shares[k, j]) * errors[k] for k in range(j))
            q = state >> 1 & 1
            candidates = range(-MOST, MOST + 1) if mask.size == 0 or mask[r, j] else [0]
            for parity in (0, 1):
                levels = [(2 * c - q * int(np.sign(c)), c) for c in candidates if c % 2 == parity]
                if not levels:
                    continue
                level, code = min(levels, key=lambda one: abs(target - one[0]))
                entry = (
                    cost + float(metric[j]) * (target - level) ** 2,
                    [*codes, code],
                    [*errors, x[r, j] - level],
                )
                to = int(NEXT[state, parity])
                if to not in extended or entry[0] < extended[to][0]:
                    extended[to] = entry
        survivors = extended
        if (n + 1) % BLOCK == 0 or n + 1 == x.size:
            _, codes, errors = min(survivors.values(), key=lambda one: one[0])
            done += codes
            survivors = {0: (0.0, [], errors)}
    return np.array(done, np.int32).reshape(x.shape)


@pytest.mark.parametrize(("rows", "row"), [(3, 7), (2, WINDOW), (3, 2 * WINDOW + 5), (13, 90)])
@pytest.mark.parametrize("pruned", [False, True])
def test_codes_are_those_of_the_page(rows: int, row: int, pruned: bool) -> None:
    weights, h = normal(rows, row), moments(row)
    mask = (np.random.default_rng(3).random(weights.shape) < 0.7).astype(np.uint8) if pruned else ALL
    codes = Feedback(h[None], 0.01).codes(weights, mask, SPACING, MOST)
    expected = by_hand(weights, mask, h)
    # float32 may decide a near tie the other way, and then all that follows in the row is another way as good.
    assert np.mean(codes != expected) <= 0.02 or output_error(weights, codes, h) == pytest.approx(
        output_error(weights, expected, h), rel=0.02
    )
    if pruned:
        assert not codes[mask == 0].any()


def test_metric_and_shares_are_the_quadratic_form() -> None:
    h, errors = moments(20), normal(20).astype(np.float64)
    shares, metric = shares_of(h, 0.0)
    innovations = errors + errors @ shares
    found = float(metric @ innovations**2)
    assert found / (errors @ h @ errors) == pytest.approx(20 / _diagonal_sum(h), rel=1e-3)


def _diagonal_sum(h: NDArray[np.float64]) -> float:
    """Of D in M D M', by conditioning: 1 / D_j is the variance of error j, given those before it, at precision H."""
    covariance = np.linalg.inv(h)
    return float(
        sum(
            1 / (covariance[j, j] - covariance[j, :j] @ np.linalg.solve(covariance[:j, :j], covariance[:j, j]))
            for j in range(len(h))
        )
    )


def test_without_correlations_it_is_the_search_without_feedback() -> None:
    weights = normal(50, 60)
    codes = Feedback(np.eye(60)[None], 0.01).codes(weights, ALL, SPACING, MOST)
    plain = Search(SPACING, MOST, 0.0, None)(weights, ALL)
    assert (codes == plain).all()


def test_outputs_are_off_by_less_than_with_any_other_feedback() -> None:
    weights, h = normal(40, 9 * 16), moments(9 * 16)
    given = output_error(weights, Feedback(h[None], 0.01).codes(weights, ALL, SPACING, MOST), h)
    assumed = output_error(weights, Search(SPACING, MOST, 0.0, shaping_of((40, 16, 3, 3)))(weights, ALL), h)
    none = output_error(weights, Search(SPACING, MOST, 0.0, None)(weights, ALL), h)
    assert given < 0.5 * assumed
    assert given < 0.1 * none


def test_negative_control_the_feedback_of_other_inputs_is_no_good() -> None:
    weights, h = normal(40, 64), moments(64)
    order = np.random.default_rng(5).permutation(64)
    given, other = (
        output_error(weights, Feedback(one[None], 0.01).codes(weights, ALL, SPACING, MOST), h)
        for one in (h, h[order][:, order])
    )
    assert other > 2 * given


def test_groups_have_their_own_inputs() -> None:
    weights, h = normal(40, 64), moments(64)
    order = np.random.default_rng(5).permutation(64)
    both = np.stack([h, h[order][:, order]])

    def error_of_second_half(given: NDArray[np.float64]) -> float:
        errors = (weights - decoded(Feedback(given, 0.01).codes(weights, ALL, SPACING, MOST)))[20:].astype(np.float64)
        return float(np.einsum("ri,ij,rj->", errors, both[1], errors))

    assert error_of_second_half(both) < 0.5 * error_of_second_half(both[::-1])


def test_pruned_weights_are_made_good() -> None:
    weights, h = normal(40, 64), moments(64)
    mask = (np.random.default_rng(3).random(weights.shape) < 0.8).astype(np.uint8)
    made_good = Feedback(h[None], 0.01).codes(weights, mask, SPACING, MOST)
    zeroed = Feedback(h[None], 0.01).codes(np.where(mask == 0, np.float32(0), weights), mask, SPACING, MOST)
    assert output_error(weights, made_good, h) < 0.2 * output_error(weights, zeroed, h)


def test_codes_stay_within_their_limit() -> None:
    codes = Feedback(moments(64)[None], 0.01).codes(10 * normal(20, 64), ALL, SPACING, 3)
    assert np.abs(codes).max() == 3
    for most in (0, 1):
        assert np.abs(Feedback(moments(64)[None], 0.01).codes(normal(20, 64), ALL, SPACING, most)).max() == most


def test_inputs_that_are_always_zero() -> None:
    weights = normal(20, 64)
    codes = Feedback(np.zeros((1, 64, 64)), 0.01).codes(weights, ALL, SPACING, MOST)
    assert (codes == Search(SPACING, MOST, 0.0, None)(weights, ALL)).all()


def test_a_long_tensor_begins_anew_at_every_block() -> None:
    weights, h = normal(70, 50), moments(50)
    codes = Feedback(h[None], 0.01).codes(weights, ALL, SPACING, MOST)
    q = quantisers(codes.reshape(-1))
    assert not q[::BLOCK].any()
    assert np.abs(weights - decoded(codes)).max() < 40 * SPACING
