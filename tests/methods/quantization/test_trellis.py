"""The trellis search: against all sequences there are, against plain rounding, and against plain Python."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import squeezer
from squeezer.codecs.trellis import NEXT, quantisers, reconstruct
from squeezer.errors import Code, ModelError
from squeezer.methods import UniformQuantize
from squeezer.methods.quantization import trellis
from squeezer.methods.quantization.shaping import Shaping, shaping_of
from squeezer.methods.quantization.trellis import LIMIT, Search
from squeezer.methods.quantization.trellis_kernels import LANES, STRETCH
from squeezer.model import InMemoryModel
from squeezer.pipeline import run
from squeezer.recipe import parse_recipe
from squeezer.representations import Dense, Masked, Trellis, Uniform
from tests.methods.quantization.test_shaping import moments
from tests.reference import trellis_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALL = np.empty((0, 0), np.uint8)
F32 = np.dtype(np.float32)
ROOT = Path(__file__).parents[3]


def normal(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantize(values: NDArray[Any], **settings: object) -> Trellis:
    step = UniformQuantize.model_validate({"trellis": True} | settings)
    tensor = step.apply("w", Dense(values, values.dtype), None, 0)
    assert isinstance(tensor, Trellis)
    return tensor


def bits(tensor: Trellis | Uniform) -> float:
    return (tensor.cost_bits() - 32) / tensor.codes.size


def mean_square(tensor: Trellis | Uniform, values: NDArray[Any]) -> float:
    return float(np.square(tensor.decode().astype(np.float64) - values).mean())


# -- the search finds the minimum --------------------------------------------------------------------------------


def costs_of(x: NDArray[np.float64], sequences: NDArray[np.int64], prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every sequence of codes (m, n), by the definition, n weights at a time."""
    total = np.zeros(len(sequences))
    state = np.zeros(len(sequences), np.int64)
    for n, value in enumerate(x):
        code = sequences[:, n]
        q = state >> 1 & 1
        level = 2 * code - q * np.sign(code)
        total += (value - level) ** 2 + prices[q, np.abs(code)]
        state = NEXT[state, code & 1].astype(np.int64)
    return total


@pytest.mark.parametrize("priced", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_no_sequence_is_better(seed: int, priced: bool) -> None:
    random = np.random.default_rng(seed)
    most = [1, 2, 3][seed % 3]
    n = {1: 9, 2: 7, 3: 6}[most]
    weights = (random.standard_normal((1, n)) * 2 * most / 2.5).astype(np.float32)
    prices = random.uniform(0, 2, (2, most + 1)) * priced
    search = Search(np.float32(1), most, 0.0, None)
    codes, total = search._find(weights, ALL, prices.astype(np.float32) if priced else None)
    sequences = np.array(list(product(range(-most, most + 1), repeat=n)), np.int64)
    costs = costs_of(weights[0].astype(np.float64), sequences, prices)
    assert total == pytest.approx(costs.min(), rel=1e-5)
    assert costs_of(weights[0].astype(np.float64), codes.astype(np.int64), prices)[0] == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("shape", [(3,), (1024,), (5, 700), (LANES * STRETCH + 3, 1024), (1, 2 * 1024 * STRETCH + 1)])
def test_the_sum_is_that_of_the_codes(shape: tuple[int, ...]) -> None:
    weights = normal(*shape).reshape(1, -1) * 3
    codes, total = Search(np.float32(1), 100, 0.0, None)._find(weights, ALL, None)
    out = np.empty(weights.size, np.float32)
    reconstruct(codes.reshape(-1), np.float32(1), out)
    assert total == pytest.approx(float(np.square(weights.astype(np.float64) - out).sum()), rel=1e-5)
    assert total / weights.size < 0.27  # a grid twice as coarse would have 4/12


def plain(
    rows: NDArray[np.float32], mask: NDArray[np.bool_], shaping: Shaping, prices: NDArray[np.float32]
) -> list[int]:
    """The search in plain Python, from the description: a list of codes and errors for every survivor."""
    flat, kept = rows.reshape(-1), mask.reshape(-1)
    row, taps = shaping.row, shaping.gain.shape[1]
    done: list[int] = []
    errors: list[float] = []
    for start in range(0, flat.size, 1024):
        if start % (1024 * STRETCH) == 0:
            errors = [0.0] * start
        survivors: dict[int, tuple[float, list[int], list[float]]] = {0: (0.0, [], errors)}
        for n in range(start, min(start + 1024, flat.size)):
            arrived: dict[int, tuple[float, list[int], list[float]]] = {}
            tap, at = n % taps, n % row
            for state in sorted(survivors):
                cost, codes, past = survivors[state]
                own = np.array(past[n - tap : n])
                gain = shaping.gain.reshape(-1)[at]
                left = sum(past[n - at : n]) + float(shaping.rest[tap, :tap] @ own)
                target = float(flat[n]) - float(shaping.own[tap, :tap] @ own) + gain * left
                q = state >> 1 & 1
                for code in range(1 - prices.shape[1], prices.shape[1]) if kept[n] else [0]:
                    level = 2 * code - q * ((code > 0) - (code < 0))
                    error = float(flat[n]) - level if kept[n] else 0.0
                    metric = shaping.metric.reshape(-1)[at]
                    more = metric * (target - level) ** 2 + float(prices[q, abs(code)]) if kept[n] else 0.0
                    following = int(NEXT[state, code & 1])
                    if following not in arrived or cost + more < arrived[following][0]:
                        arrived[following] = (cost + more, [*codes, code], [*past, error])
            survivors = arrived
        _, codes, errors = min(survivors.values(), key=lambda survivor: survivor[0])
        done += codes
    return done


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    "shape", [(3, 5), (4, 6, 1, 1), (5, 7, 3, 3), (3, 1, 3, 3), (2, 3, 4), (60, 19), (2, 3, 2, 1, 3)]
)
def test_feedback_is_that_of_the_survivor(shape: tuple[int, ...], masked: bool) -> None:
    values = normal(*shape) * 3
    rows = values.reshape(shape[0], -1)
    mask = np.random.default_rng(1).random(rows.shape) > 0.3 * masked
    prices = np.abs(np.random.default_rng(2).standard_normal((2, 8))).cumsum(axis=1).astype(np.float32) / 4
    search = Search(np.float32(1), 7, 0.0, shaping_of(shape))
    codes, _ = search._find(rows, mask.view(np.uint8) if masked else ALL, prices)
    # In float32 costs are rounded, so that ties may fall otherwise.
    assert np.mean(codes.reshape(-1) == plain(rows, mask, shaping_of(shape), prices)) > 0.98


# -- what it is good for -------------------------------------------------------------------------------------------


def gain_over_rounding(values: NDArray[np.float32], relative_step: float, **settings: float) -> float:
    """dB of mean squared error at equal entropy."""
    found = quantize(values, relative_step=relative_step, **settings)
    steps = relative_step * np.linspace(0.6, 1.6, 26)
    rounded = [UniformQuantize(relative_step=float(s)).apply("w", Dense(values, F32), None, 0) for s in steps]
    sizes = [bits(tensor) for tensor in rounded]  # type: ignore[arg-type] # Uniform, without `trellis`
    errors = [10 * np.log10(mean_square(tensor, values)) for tensor in rounded]  # type: ignore[arg-type] # the same
    assert sizes[-1] < bits(found) < sizes[0]
    even = float(np.interp(-bits(found), [-size for size in sizes], errors))
    return even - 10 * float(np.log10(mean_square(found, values)))


@pytest.mark.parametrize("relative_step", [0.25, 0.5, 1.0])
def test_less_error_at_equal_entropy(relative_step: float) -> None:
    assert gain_over_rounding(normal(400, 500), relative_step) > 0.75


def test_prices_pay() -> None:
    values = np.random.default_rng(0).laplace(size=(400, 500)).astype(np.float32)
    without = gain_over_rounding(values, 1.5)
    assert gain_over_rounding(values, 1.2, rate_weight=0.1) > without + 0.3


@pytest.mark.parametrize("machine", ["one grid", "no choice"])
def test_another_machine_is_no_better_than_rounding(monkeypatch: pytest.MonkeyPatch, machine: str) -> None:
    """The gain is the machine's: with decisions that do not look ahead, or without the second grid, there is none."""
    values = normal(100, 200)

    def greedy(self: Search, rows: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.int32]:
        del mask
        x = rows.reshape(-1).astype(np.float64) / self._spacing
        codes = np.zeros(x.size, np.int32)
        state = 0
        for n, value in enumerate(x):
            state = state if n % 1024 else 0
            q = state >> 1 & 1 if machine == "no choice" else 0
            candidates = np.arange(int(abs(value)) // 2 + 3)
            best = int(np.argmin(np.abs(abs(value) - (2 * candidates - q * (candidates > 0)))))
            codes[n] = best if value >= 0 else -best
            state = int(NEXT[state, codes[n] & 1])
        return codes.reshape(rows.shape)

    honest = gain_over_rounding(values, 0.5)
    monkeypatch.setattr(Search, "__call__", greedy)
    assert honest > 0.5 > 0.2 > gain_over_rounding(values, 0.5)


def test_at_equal_step_the_file_is_a_little_larger_and_the_error_much_less() -> None:
    values = normal(300, 400)
    for relative_step in (0.2, 0.4, 0.8):
        rounded = UniformQuantize(relative_step=relative_step).apply("w", Dense(values, F32), None, 0)
        found = quantize(values, relative_step=relative_step)
        assert isinstance(rounded, Uniform)
        assert found.step == rounded.step / 2
        assert bits(rounded) < bits(found) < bits(rounded) + 0.2
        assert mean_square(found, values) < 0.76 * mean_square(rounded, values)


def test_the_page_s_table_is_so() -> None:
    page = (ROOT / "docs" / "methods" / "uniform_quantize.md").read_text("utf-8")
    table = page.split("For normally distributed weights:")[1].split("\n\n")[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")][1:] for line in table.splitlines()]
    steps, without, both, ratio, decibels = ([float(c.replace("−", "-")) for c in cells[i]] for i in (0, 2, 3, 4, 5))
    values = normal(300, 400)
    for i, relative_step in enumerate(steps):
        rounded = UniformQuantize(relative_step=relative_step).apply("w", Dense(values, F32), None, 0)
        found = quantize(values, relative_step=relative_step)
        assert isinstance(rounded, Uniform)
        assert bits(rounded) == pytest.approx(without[i], abs=0.01)
        assert bits(found) == pytest.approx(both[i], abs=0.01)
        assert mean_square(found, values) / mean_square(rounded, values) == pytest.approx(ratio[i], abs=0.01)
        assert -gain_over_rounding(values, relative_step) == pytest.approx(decibels[i], abs=0.03)


def response(values: NDArray[np.float32], tensor: Trellis | Uniform) -> float:
    error = (tensor.decode() - values).reshape(values.shape[0], -1).astype(np.float64)
    return float(np.einsum("oi,ij,oj->", error, moments(values.shape), error) / error.size)


def test_feedback_and_trellis_add_up() -> None:
    values = normal(40, 12, 3, 3)
    fed = UniformQuantize(relative_step=0.5, error_feedback=True).apply("w", Dense(values, F32), None, 0)
    both = quantize(values, relative_step=0.5, error_feedback=True)
    alone = quantize(values, relative_step=0.5)
    assert isinstance(fed, Uniform)
    assert response(values, both) < 0.88 * response(values, fed)
    assert response(values, both) < 0.5 * response(values, alone)
    for axes in ((2, 3), (1, 2, 3)):
        off = [float(np.abs((one.decode() - values).sum(axis=axes)).mean()) for one in (alone, both)]
        assert off[1] < 0.6 * off[0]


def test_the_metric_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(60, 12, 3, 3)
    weighed = response(values, quantize(values, relative_step=0.5, error_feedback=True))
    flat = shaping_of(values.shape)
    monkeypatch.setattr(
        "squeezer.methods.quantization.shaping.shaping_of", lambda _: flat._replace(metric=np.ones_like(flat.metric))
    )
    assert weighed < 0.99 * response(values, quantize(values, relative_step=0.5, error_feedback=True))


def test_more_weight_on_rate_is_fewer_bits_and_more_error() -> None:
    values = normal(100, 200)
    made = [quantize(values, relative_step=0.8, rate_weight=weight) for weight in (0.0, 0.03, 0.1, 0.2, 0.4)]
    assert [bits(one) for one in made] == sorted((bits(one) for one in made), reverse=True)
    assert [mean_square(one, values) for one in made] == sorted(mean_square(one, values) for one in made)


def test_prices_are_minus_the_logarithm_of_shares() -> None:
    codes = np.int32([[0, 1, -1, 2, 0, 3, 0, 0, -3, 1, 2]])
    q = quantisers(codes[0])
    lengths = trellis._code_lengths(codes, 3)
    for quantiser in range(2):
        found = codes[0][q == quantiser]
        halves = {k: (np.sum(found == k) + np.sum(found == -k)) / 2 + 0.5 for k in range(-3, 4)}
        for k in range(-3, 4):
            assert lengths[quantiser, abs(k)] == pytest.approx(-np.log2(halves[k] / sum(halves.values())))


def test_prices_come_from_a_sample_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    values = normal(64, 1024)
    whole = quantize(values, relative_step=0.8, rate_weight=0.1)
    monkeypatch.setattr("squeezer.methods.quantization.rate._SAMPLE", 1 << 13)
    sampled = quantize(values, relative_step=0.8, rate_weight=0.1)
    assert bits(sampled) == pytest.approx(bits(whole), rel=0.02)
    assert not np.array_equal(sampled.codes, whole.codes)


# -- tensors of all kinds ----------------------------------------------------------------------------------------


TENSORS = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 9)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@given(TENSORS, st.integers(2, 16), st.booleans(), st.sampled_from([0.0, 0.05]))
def test_bits_bound_the_codes(values: NDArray[np.float32], most_bits: int, feedback: bool, rate_weight: float) -> None:
    found = quantize(values, bits=most_bits, error_feedback=feedback, rate_weight=rate_weight)
    assert np.abs(found.codes.astype(np.int64)).max() <= 2 ** (most_bits - 1) - 1
    assert np.isfinite(found.decode()).all()
    expected = [np.float32(level) * found.step for level in trellis_levels(found.codes.reshape(-1).tolist())]
    np.testing.assert_array_equal(found.decode().reshape(-1), np.array(expected, np.float32))


@given(TENSORS, st.floats(0.05, 0.95), st.booleans(), st.sampled_from([0.0, 0.05]))
def test_pruned_weights_stay_zero(
    values: NDArray[np.float32], share: float, feedback: bool, rate_weight: float
) -> None:
    mask = np.random.default_rng(values.size).random(values.shape) > share
    values[~mask] = np.inf
    step = UniformQuantize(relative_step=0.3, trellis=True, error_feedback=feedback, rate_weight=rate_weight)
    found = step.apply("w", Masked(values, mask), None, 0)
    assert not found.decode()[~mask].any()
    assert np.isfinite(found.decode()).all()


def test_a_pruned_tensor_is_still_quantised_well() -> None:
    values = normal(100, 300)
    mask = np.abs(values) > 1
    step = UniformQuantize(relative_step=0.2, trellis=True)
    found = step.apply("w", Masked(values, mask), None, 0)
    rounded = UniformQuantize(relative_step=0.2).apply("w", Masked(values, mask), None, 0)
    off = [float(np.square(one.decode() - values)[mask].mean()) for one in (found, rounded)]
    assert off[0] < 0.9 * off[1]


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize("rate_weight", [0.0, 0.1])
def test_the_smallest_tensors(feedback: bool, rate_weight: float) -> None:
    settings = {"error_feedback": feedback, "rate_weight": rate_weight}
    assert quantize(np.empty((0, 3), np.float32), relative_step=0.5, **settings).codes.shape == (0, 3)
    assert quantize(np.empty((2, 0, 3, 3), np.float32), bits=8, **settings).decode().shape == (2, 0, 3, 3)
    one = quantize(np.float32([1.7]), step=0.5, error_feedback=feedback)
    assert one.decode().tolist() == [1.5]
    assert not quantize(np.zeros((3, 4), np.float32), bits=4, **settings).decode().any()
    pruned = Masked(np.ones((2, 3), np.float32), np.zeros((2, 3), np.bool_))
    step = UniformQuantize.model_validate({"bits": 8, "trellis": True} | settings)
    assert not step.apply("w", pruned, None, 0).decode().any()


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2],
)
@pytest.mark.parametrize("settings", [{"bits": 2}, {"bits": 8}, {"step": 0.037}, {"relative_step": 0.9}, {"step": 0.9}])
@pytest.mark.parametrize("feedback", [False, True])
def test_what_comes_back_is_finite_even_at_the_end_of_the_range(
    dtype: type, settings: dict[str, float], feedback: bool
) -> None:
    limit = min(float(ml_dtypes.finfo(dtype).max), float(np.finfo(np.float32).max))
    values = np.array([[limit, -limit, limit / 2, 0, limit, limit]]).astype(dtype)
    if "step" in settings:
        settings = {"step": min(limit * settings["step"], 1e38)}
    found = quantize(values, error_feedback=feedback, **settings)
    assert found.decode().dtype == values.dtype
    assert np.isfinite(found.decode().astype(np.float64)).all()


@pytest.mark.parametrize("codes", [1 << 20, (1 << 24) - 1, (1 << 24) + 1, (1 << 28) + 12345, LIMIT - 200])
@pytest.mark.parametrize("feedback", [False, True])
def test_codes_of_many_bits(codes: int, feedback: bool) -> None:
    values = np.random.default_rng(0).uniform(-1, 1, (40, 60)).astype(np.float32)
    values[0, 0] = 1
    found = quantize(values, step=1 / codes, error_feedback=feedback)
    assert np.abs(found.codes.astype(np.int64)).max() <= codes + 1
    # half of neighbouring levels' distance, and rounding to float32 here and there, also of the largest code
    assert np.abs(found.decode().astype(np.float64) - values).max() < 4 / codes + 5e-7
    # and the machine is followed to the last bit: a parity that got lost would show as half a step
    assert np.abs(found.codes).max() > codes * 0.99


@pytest.mark.parametrize("settings", [{"step": 1e-12}, {"step": 1e-60}, {"relative_step": 1e-11}, {"step": 1e-9}])
def test_a_step_that_needs_too_many_bits(settings: dict[str, float]) -> None:
    with pytest.raises(ModelError, match=r"'w'.* exceed 32 bits; make the step 3.73e-09") as caught:
        quantize(np.ones((2, 2), np.float32), **settings)
    assert caught.value.code is Code.INVALID_RECIPE
    assert quantize(np.ones((2, 2), np.float32), step=3.73e-9).decode() == pytest.approx(1, rel=1e-6)


def test_subnormal_weights() -> None:
    values = (np.arange(-190, 191, dtype=np.float32) * np.float32(1e-45)).reshape(3, 127)
    found = quantize(values, bits=8)
    assert np.abs(found.codes.astype(int)).max() <= 127
    assert np.abs(found.decode().astype(np.float64) - values).max() <= 4 * float(found.step)


@pytest.mark.parametrize("trellis_on", [False, True])
def test_a_step_is_never_zero(trellis_on: bool) -> None:
    values = np.float32([[1e-45, -1e-45, 0]])
    tensor = UniformQuantize(relative_step=0.1, trellis=trellis_on).apply("w", Dense(values, F32), None, 0)
    assert tensor.step > 0
    assert np.abs(tensor.decode() - values).max() <= (3e-45 if trellis_on else 0)


def test_non_finite_weights_are_refused() -> None:
    values = np.ones((4, 4), np.float32)
    values[0, 0] = np.nan
    with pytest.raises(ModelError, match=r"'w' holds 1 weight that is not finite") as caught:
        quantize(values, bits=8)
    assert caught.value.code is Code.NON_FINITE_WEIGHTS


def test_a_global_step_is_no_more_than_twice_a_tensor_s_own() -> None:
    tensors = {"large": Dense(normal(50, 50), F32), "small": Dense(normal(50, 50, seed=1) / np.float32(1000), F32)}
    step = UniformQuantize(relative_step=0.5, scope="global", trellis=True)
    surveyed = step.survey(lambda: iter(tensors.items()))
    found = {name: step.apply(name, tensor, surveyed, 0) for name, tensor in tensors.items()}
    own = float(np.sqrt(np.mean(tensors["small"].values.astype(np.float64) ** 2)))
    assert found["small"].step == pytest.approx(0.5 * own, rel=1e-4)


def test_threads_do_not_disturb_each_other() -> None:
    inputs = [normal(30, 8, 3, 3, seed=seed) for seed in range(6)]
    settings = {"relative_step": 0.4, "error_feedback": True, "rate_weight": 0.05}
    expected = [quantize(values, **settings).codes for values in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda values: quantize(values, **settings).codes, inputs * 3))
    for number, codes in enumerate(found):
        np.testing.assert_array_equal(codes, expected[number % len(inputs)])


@pytest.mark.parametrize(("level", "rows"), [("balanced", 1100), ("max", 3)])
def test_through_a_file(tmp_path: Path, level: str, rows: int) -> None:
    weights = {"conv": normal(20, 16, 3, 3), "half": normal(30, 40).astype(np.float16), "long": normal(rows, 1000)}
    recipe = {
        "steps": [{"method": "uniform_quantize", "relative_step": 0.4, "error_feedback": True, "trellis": True}],
        "encoding": {"level": level},
    }
    out = tmp_path / "model.sqz"
    run(InMemoryModel(weights), parse_recipe(recipe), out)
    loaded = squeezer.load(out)
    step = parse_recipe(recipe).steps[0]
    for name, values in weights.items():
        found = step.apply(name, Dense(values, values.dtype), None, 0)
        np.testing.assert_array_equal(loaded[name], found.decode())
        with squeezer.open(out) as artifact:
            stored = artifact.representation(name)
        assert isinstance(stored, Trellis)
        np.testing.assert_array_equal(stored.codes, found.codes)
