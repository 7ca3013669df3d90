"""Rounding that weighs code length, against the formula in plain Python."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from squeezer.methods import UniformQuantize
from squeezer.methods.quantization import rate
from squeezer.methods.quantization.rate import Rounding
from squeezer.representations import Dense, Masked, Uniform
from squeezer.representations.base import entropy_bits

ALL = np.empty((0, 0), np.uint8)
WEIGHTS = arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 9)), elements=st.floats(-5, 5, width=32))


def quantize(values: NDArray[np.float32], **settings: float) -> Uniform:
    step = UniformQuantize.model_validate({"step": 1.0} | settings)
    return step.apply("w", Dense(values, values.dtype), None, 0)


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def reference_lengths(levels: list[int], most: int) -> dict[int, float]:
    counts = Counter(levels)
    halves = {k: (counts[k] + counts[-k]) / 2 + 0.5 for k in range(-most, most + 1)}
    total = sum(halves.values())
    return {k: -math.log2(halves[k] / total) for k in halves}


def reference_level(x: float, price: dict[int, float], most: int) -> int:
    candidates = {max(-most, min(most, k)) for k in (math.floor(x), math.ceil(x), 0)}
    return min(candidates, key=lambda k: (x - k) ** 2 + price[k])


def reference(values: NDArray[np.float32], weight: float) -> list[int]:
    """The whole of it: nearest levels, then passes of smoothed lengths, the best of which is kept."""
    xs = [float(x) for x in values.reshape(-1)]
    most = max(round(abs(x)) for x in xs)
    lengths = reference_lengths([round(x) for x in xs], most)
    best, least = [round(x) for x in xs], math.inf
    for _ in range(4):
        levels = [reference_level(x, {k: weight * length for k, length in lengths.items()}, most) for x in xs]
        fresh = reference_lengths(levels, most)
        total = sum((x - k) ** 2 + weight * fresh[k] for x, k in zip(xs, levels, strict=True))
        if total >= least:
            break
        best, least = levels, total
        lengths = {k: (lengths[k] + fresh[k]) / 2 for k in lengths}
    return best


@pytest.mark.parametrize("weight", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_decision_is_that_of_the_formula(weight: float, scale: float) -> None:
    values = normal(7, 30) * np.float32(scale)
    assert quantize(values, rate_weight=weight).codes.reshape(-1).tolist() == reference(values, weight)


@given(WEIGHTS)
def test_no_weight_on_rate_is_nearest_rounding(values: NDArray[np.float32]) -> None:
    codes = np.empty(values.shape, np.int8)
    Rounding(np.float32(0.5), 127, 0.0, None)(values, ALL, codes)
    np.testing.assert_array_equal(codes, np.rint(values / np.float64(0.5)))
    np.testing.assert_array_equal(quantize(values, step=0.5, rate_weight=0.0).codes, codes)


def test_more_weight_on_rate_is_fewer_bits_and_more_error() -> None:
    values = normal(100, 200)
    made = [quantize(values, step=0.8, rate_weight=weight) for weight in (0.0, 0.03, 0.1, 0.2, 0.4)]
    bits = [entropy_bits(one.codes) for one in made]
    errors = [float(np.square(one.decode() - values).sum()) for one in made]
    zeros = [int((one.codes == 0).sum()) for one in made]
    assert bits == sorted(bits, reverse=True)
    assert errors == sorted(errors)
    assert zeros == sorted(zeros)
    assert bits[-1] < 0.9 * bits[0]


def test_at_equal_bits_the_error_is_less_than_that_of_a_coarser_step() -> None:
    values = normal(100, 200)
    ours = quantize(values, step=1.0, rate_weight=0.12)
    coarser = next(
        one
        for one in (quantize(values, step=s) for s in np.arange(1.0, 2.5, 0.01))
        if entropy_bits(one.codes) <= entropy_bits(ours.codes)
    )
    assert np.square(ours.decode() - values).sum() < 0.95 * np.square(coarser.decode() - values).sum()


def test_a_price_beyond_reason_makes_zeros_and_no_mischief() -> None:
    assert not quantize(normal(50, 50), step=1.0, rate_weight=10).codes.any()
    assert not quantize(np.zeros((3, 4), np.float32), rate_weight=0.1).codes.any()


@given(WEIGHTS, st.floats(0.1, 0.9), st.booleans())
def test_pruned_weights_stay_zero(values: NDArray[np.float32], share: float, feedback: bool) -> None:
    mask = np.random.default_rng(values.size).random(values.shape) > share
    step = UniformQuantize(step=0.25, rate_weight=0.1, error_feedback=feedback)
    uniform = step.apply("w", Masked(values, mask), None, 0)
    assert uniform.shape == values.shape
    assert not uniform.codes[~mask].any()
    hidden = Masked(np.where(mask, values, np.float32(np.nan)), mask)
    np.testing.assert_array_equal(step.apply("w", hidden, None, 0).codes, uniform.codes)


def test_prices_come_from_a_sample_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(400, 100)
    whole = quantize(values, step=0.7, rate_weight=0.1)
    monkeypatch.setattr(rate, "_SAMPLE", 4_000)
    sampled = quantize(values, step=0.7, rate_weight=0.1)
    assert 0 < np.mean(whole.codes != sampled.codes) < 0.02
    np.testing.assert_array_equal(quantize(values, step=0.7, rate_weight=0.1).codes, sampled.codes)


def test_very_fine_steps_are_rounded_to_the_nearest() -> None:
    values = normal(20, 20)
    fine = quantize(values, step=1e-4, rate_weight=0.1)
    np.testing.assert_array_equal(fine.codes, quantize(values, step=1e-4).codes)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("feedback", [False, True])
def test_bits_still_bound_the_codes(bits: int, feedback: bool) -> None:
    step = UniformQuantize(bits=bits, rate_weight=0.05, error_feedback=feedback)
    codes = step.apply("w", Dense(normal(20, 30), np.dtype(np.float32)), None, 0).codes
    assert codes.dtype == np.int8
    assert np.abs(codes.astype(int)).max() <= 2 ** (bits - 1) - 1
