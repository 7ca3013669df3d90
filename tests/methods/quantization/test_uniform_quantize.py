"""Uniform quantisation against numpy's own arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from squeezer.errors import Code, ModelError
from squeezer.methods import UniformQuantize
from squeezer.representations import Dense, Masked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.representations import Representation, Uniform

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TENSORS = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=FINITE)


def dense(values: NDArray[np.generic]) -> Dense:
    return Dense(values, values.dtype)


def quantize(step: UniformQuantize, tensors: dict[str, Representation]) -> dict[str, Uniform]:
    surveyed = step.survey(lambda: iter(tensors.items())) if step.survey_passes else None
    return {name: step.for_tensor(name).apply(name, tensor, surveyed, 0) for name, tensor in tensors.items()}


@given(TENSORS, st.integers(2, 16))
def test_bits_bound_the_codes_and_the_error(values: NDArray[np.float32], bits: int) -> None:
    uniform = UniformQuantize(bits=bits).apply("w", dense(values), None, 0)
    most = 2 ** (bits - 1) - 1
    assert np.abs(uniform.codes.astype(np.int64)).max() <= most
    largest = np.abs(values).max()
    if largest > 1e-30:  # the step is a normal number
        assert uniform.step == pytest.approx(float(largest) / most, rel=2e-7)
        assert np.abs(uniform.codes.astype(np.int64)).max() == most
    error = np.abs(uniform.decode().astype(np.float64) - values)
    assert error.max() <= float(uniform.step) * 0.5 * (1 + 1e-5) + float(largest) * 1e-7
    assert np.all(uniform.codes[values == 0] == 0)


@given(TENSORS, st.sampled_from([0.25, 0.1, 1e-3, 7.0]))
def test_codes_are_the_rounded_quotients(values: NDArray[np.float32], step: float) -> None:
    values = np.clip(values, -1000, 1000)
    uniform = UniformQuantize(step=step).apply("w", dense(values), None, 0)
    assert uniform.step == np.float32(step)
    np.testing.assert_array_equal(uniform.codes, np.rint(values.astype(np.float64) / np.float32(step)))
    kinds = (np.dtype(kind) for kind in (np.int8, np.int16, np.int32))
    codes = uniform.codes.astype(np.int64)
    assert uniform.codes.dtype == next(kind for kind in kinds if np.array_equal(codes.astype(kind), codes))


def test_halves_go_to_the_even_multiple() -> None:
    values = np.array([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32)
    codes = UniformQuantize(step=1.0).apply("w", dense(values), None, 0).codes
    assert codes.tolist() == [[0, 2, 2, 0, -2, -2]]


@pytest.mark.parametrize(
    ("largest", "kind"),
    [(127, np.int8), (-128, np.int8), (128, np.int16), (32767, np.int16), (32768, np.int32)],
)
def test_the_narrowest_integers(largest: int, kind: type) -> None:
    uniform = UniformQuantize(step=1.0).apply("w", dense(np.array([[0, largest]], np.float32)), None, 0)
    assert uniform.codes.dtype == kind
    assert uniform.decode().tolist() == [[0, largest]]


def test_the_relative_step_is_of_the_root_mean_square() -> None:
    values = np.random.default_rng(0).standard_normal((123, 45)).astype(np.float32)
    uniform = UniformQuantize(relative_step=0.2).apply("w", dense(values), None, 0)
    assert uniform.step == pytest.approx(0.2 * np.sqrt(np.mean(values.astype(np.float64) ** 2)), rel=1e-6)


def test_a_global_step_does_not_round_a_small_tensor_to_zero() -> None:
    random = np.random.default_rng(0)
    tensors = {"large": random.standard_normal((50, 50)), "small": random.standard_normal((50, 50)) / 1000}
    codes = quantize(
        UniformQuantize(relative_step=0.5, scope="global"), {n: dense(w.astype("f")) for n, w in tensors.items()}
    )
    own = float(np.sqrt(np.mean(tensors["small"] ** 2)))
    assert codes["small"].step == pytest.approx(2 * 0.5 * own, rel=1e-4)
    assert codes["large"].step == pytest.approx(0.5 * np.sqrt(np.mean(tensors["large"] ** 2) / 2), rel=1e-3)


def test_global_scope_takes_one_step_for_all() -> None:
    random = np.random.default_rng(1)
    arrays_ = {"a": random.standard_normal((30, 40)) / 1.5, "b": random.standard_normal((20, 10))}
    tensors = {name: dense(values.astype(np.float32)) for name, values in arrays_.items()}
    everything = np.concatenate([t.values.reshape(-1) for t in tensors.values()]).astype(np.float64)
    by_bits = quantize(UniformQuantize(bits=8, scope="global"), tensors)
    for uniform in by_bits.values():
        assert uniform.step == pytest.approx(np.abs(everything).max() / 127, rel=1e-6)
    relative = quantize(
        UniformQuantize(relative_step=0.1, scope="global", overrides={"b": {"relative_step": 0.3}}), tensors
    )
    mean = np.sqrt(np.mean(everything**2))
    assert relative["a"].step == pytest.approx(0.1 * mean, rel=1e-6)
    assert relative["b"].step == pytest.approx(0.3 * mean, rel=1e-6)
    assert not UniformQuantize(step=0.1, scope="global").survey_passes
    assert UniformQuantize(step=0.1, scope="global", overrides={"b": {"bits": 4}}).survey_passes


@given(TENSORS, st.floats(0.05, 0.95), st.sampled_from([{"bits": 5}, {"relative_step": 0.3}]))
def test_pruned_weights_stay_zero_and_do_not_count(
    values: NDArray[np.float32], share: float, settings: dict[str, float]
) -> None:
    mask = np.random.default_rng(values.size).random(values.shape) > share
    step = UniformQuantize.model_validate(settings)
    uniform = step.apply("w", Masked(values, mask), None, 0)
    assert not uniform.codes[~mask].any()
    kept = values[mask].reshape(1, -1)
    alone = step.apply("w", dense(kept), None, 0)
    assert uniform.step == alone.step
    np.testing.assert_array_equal(uniform.codes[mask], alone.codes.reshape(-1))
    assert uniform.codes.dtype == alone.codes.dtype


@pytest.mark.parametrize("settings", [{"bits": 2}, {"bits": 8}, {"step": 0.5}, {"relative_step": 0.1}])
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_zero_and_constant_tensors(settings: dict[str, float], scope: str) -> None:
    step = UniformQuantize.model_validate(settings | {"scope": scope})
    zero = dense(np.zeros((3, 4), np.float32))
    assert not quantize(step, {"w": zero})["w"].decode().any()
    constant = quantize(step, {"w": dense(np.full((3, 4), -1.5, np.float32))})["w"].decode()
    np.testing.assert_allclose(constant, -1.5, rtol=1e-6)


@pytest.mark.parametrize("settings", [{"step": 1e-12}, {"step": 1e-60}, {"relative_step": 1e-11}])
def test_a_step_that_needs_too_many_bits(settings: dict[str, float]) -> None:
    step = UniformQuantize.model_validate(settings)
    with pytest.raises(ModelError, match=r"'fc'.* exceed 32 bits; make the step 9.31e-10") as caught:
        step.apply("fc", dense(np.ones((2, 2), np.float32)), None, 0)
    assert caught.value.code is Code.INVALID_RECIPE


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)
@pytest.mark.parametrize("settings", [{"bits": 4}, {"bits": 8}, {"step": 0.037}, {"relative_step": 0.9}])
def test_what_comes_back_is_finite_even_at_the_end_of_the_range(dtype: type, settings: dict[str, float]) -> None:
    limit = min(float(ml_dtypes.finfo(dtype).max), float(np.finfo(np.float32).max))
    values = np.array([[limit, -limit, limit / 2, 0]]).astype(dtype)
    if "step" in settings:
        settings = {"step": min(limit * settings["step"], 1e38)}
    decoded = UniformQuantize.model_validate(settings).apply("w", dense(values), None, 0).decode()
    assert decoded.dtype == values.dtype
    assert np.isfinite(decoded.astype(np.float64)).all()


def test_subnormal_weights() -> None:
    values = (np.arange(-190, 191, dtype=np.float32) * np.float32(1e-45)).reshape(3, 127)
    uniform = UniformQuantize(bits=8).apply("w", dense(values), None, 0)
    assert np.abs(uniform.codes.astype(int)).max() <= 127
    assert np.abs(uniform.decode().astype(np.float64) - values).max() <= float(uniform.step)


def test_non_finite_weights_are_refused() -> None:
    values = np.ones((4, 4), np.float32)
    values[0, 0] = np.nan
    for step in (UniformQuantize(bits=8), UniformQuantize(bits=8, scope="global")):
        with pytest.raises(ModelError, match=r"'w' holds 1 weight that is not finite") as caught:
            quantize(step, {"w": dense(values)})
        assert caught.value.code is Code.NON_FINITE_WEIGHTS


def test_an_empty_or_wholly_pruned_tensor() -> None:
    assert UniformQuantize(bits=8).apply("w", dense(np.empty((0, 3), np.float32)), None, 0).codes.shape == (
        0,
        3,
    )
    pruned = Masked(np.ones((2, 3), np.float32), np.zeros((2, 3), np.bool_))
    for step in (UniformQuantize(bits=8), UniformQuantize(relative_step=0.1)):
        assert not step.apply("w", pruned, None, 0).decode().any()
