"""Error feedback, against dense linear algebra."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from squeezer.methods import UniformQuantize
from squeezer.methods.quantization.shaping import CORRELATION, MEAN_SHARE, shaping_of
from squeezer.representations import Dense, Uniform

SHAPES = [(3, 5), (4, 6, 1, 1), (2, 5, 3, 3), (3, 1, 3, 3), (2, 3, 4), (2, 2, 2, 1, 3), (2, 1), (2, 0, 3, 3)]


def moments(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """H, entry by entry from its definition."""
    places = list(product(range(shape[1]), *map(range, shape[2:])))
    return np.array(
        [
            [
                MEAN_SHARE
                + (1 - MEAN_SHARE)
                * (a[0] == b[0])
                * CORRELATION ** sum(abs(x - y) for x, y in zip(a[1:], b[1:], strict=True))
                for b in places
            ]
            for a in places
        ]
    ).reshape(len(places), len(places))


def reference(values: NDArray[np.float32], step: float) -> NDArray[np.int64]:
    """Round a weight, move all later ones of its row to where e' H e is least; by normal equations, each time anew."""
    h = moments(values.shape)
    x = values.reshape(values.shape[0], h.shape[0]).astype(np.float64) / np.float64(np.float32(step))
    codes = np.zeros(x.shape, np.int64)
    for row, code in zip(x, codes, strict=True):
        error = np.zeros(row.size)
        for j in range(row.size):
            later = -np.linalg.solve(h[j:, j:], h[j:, :j] @ error[:j])
            code[j] = np.rint(row[j] - later[0])
            error[j] = row[j] - code[j]
    return codes


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if 0 not in shape])
def test_the_metric_makes_squares_of_innovations_add_up_to_the_response(shape: tuple[int, ...]) -> None:
    h = moments(shape)
    shaping = shaping_of(shape)
    error = np.random.default_rng(1).standard_normal(len(h))
    taps = shaping.gain.shape[1]
    total = 0.0
    for n, metric in enumerate(shaping.metric.reshape(-1)):
        i, t = divmod(n, taps)
        kernel = error[i * taps : n]
        mean = shaping.own[t, :t] @ kernel - shaping.gain[i, t] * (error[:n].sum() + shaping.rest[t, :t] @ kernel)
        total += metric * (error[n] - mean) ** 2
    assert shaping.metric.mean() == pytest.approx(1)
    # The factor is the mean of the true metric: the last weight's is the last diagonal element of H.
    assert total / shaping.metric[-1, -1] * h[-1, -1] == pytest.approx(error @ h @ error)


def quantize(values: NDArray[np.float32], **settings: object) -> Uniform:
    step = UniformQuantize.model_validate({"step": 0.5} | settings)
    return step.apply("w", Dense(values, values.dtype), None, 0)


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_feedback_is_the_least_squares_correction(shape: tuple[int, ...]) -> None:
    values = normal(*shape)
    codes = quantize(values, step=0.2, error_feedback=True).codes
    assert codes.shape == shape
    np.testing.assert_array_equal(codes.reshape(shape[0], -1), reference(values, 0.2))


def response(values: NDArray[np.float32], uniform: Uniform) -> float:
    """Mean of e' H e over the rows, per weight."""
    error = (uniform.decode() - values).reshape(values.shape[0], -1).astype(np.float64)
    return float(np.einsum("oi,ij,oj->", error, moments(values.shape), error) / error.size)


@pytest.mark.parametrize("settings", [{}, {"rate_weight": 0.1}])
def test_sums_of_kernels_and_rows_are_kept(settings: dict[str, float]) -> None:
    values = normal(16, 12, 3, 3)
    plain, fed = quantize(values, **settings), quantize(values, **settings, error_feedback=True)
    for axes in ((2, 3), (1, 2, 3)):
        off = [float(np.abs((one.decode() - values).sum(axis=axes)).mean()) for one in (plain, fed)]
        assert off[1] < 0.7 * off[0]
    # Each weight is further off than before, and the outputs nearer: that is the bargain.
    assert np.square(fed.decode() - values).sum() > np.square(plain.decode() - values).sum()
    assert response(values, fed) < 0.5 * response(values, plain)


def test_a_row_of_many_inputs_keeps_its_sum_within_a_step() -> None:
    values = normal(50, 3000)
    plain, fed = quantize(values), quantize(values, error_feedback=True)
    off = [np.abs((one.decode().astype(np.float64) - values).sum(axis=1)) for one in (plain, fed)]
    assert off[1].max() < 2 * 0.5
    assert off[0].max() > 10 * 0.5
    # and hardly costs anything
    assert np.square(fed.decode() - values).sum() < 1.02 * np.square(plain.decode() - values).sum()


def test_kernels_do_not_mix_between_rows() -> None:
    values = normal(6, 4, 3, 3)
    together = quantize(values, error_feedback=True).codes
    for o in range(6):
        np.testing.assert_array_equal(quantize(values[o : o + 1], error_feedback=True).codes[0], together[o])


def test_a_vector_has_nothing_to_feed_back_to() -> None:
    values = normal(30)
    np.testing.assert_array_equal(quantize(values, error_feedback=True).codes, quantize(values).codes)


def test_kernels_beyond_measure_are_taken_as_inputs() -> None:
    own, rest, gain, metric = shaping_of((2, 3, 40, 40))
    assert own.shape == rest.shape == (1, 1)
    assert gain.shape == metric.shape == (4800, 1)


def test_all_float_types_and_their_ends() -> None:
    values = np.array([[60000, -60000, 65504, 3.0], [1, 2, 3, 4]], np.float16)
    uniform = UniformQuantize(bits=3, error_feedback=True).apply("w", Dense(values, values.dtype), None, 0)
    assert uniform.decode().dtype == np.float16
    assert np.isfinite(uniform.decode()).all()
