"""Magnitude pruning against a stable sort of magnitudes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from squeezer.errors import Code, ModelError
from squeezer.methods import MagnitudePrune
from squeezer.representations import Dense, Masked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from squeezer.representations import Representation

FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 3e38]),
)
TENSORS = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=FLOATS)


def dense(values: NDArray[np.generic]) -> Dense:
    return Dense(values, values.dtype)


def prune(step: MagnitudePrune, tensors: dict[str, Representation]) -> dict[str, Masked]:
    """What a pipeline does; every pass is a fresh generator."""

    def one_pass() -> Iterator[tuple[str, Representation]]:
        yield from tensors.items()

    surveyed = step.survey(one_pass) if step.survey_passes else None
    return {name: step.for_tensor(name).apply(name, tensor, surveyed, 0) for name, tensor in tensors.items()}


def reference(flat: NDArray[np.generic], remove: int, kept: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """The mask by a stable sort: pruned weights first, then by magnitude, then by position."""
    magnitude = np.abs(flat.astype(np.float64))
    if kept is not None:
        magnitude = np.where(kept, magnitude, -1.0)
        remove = max(remove, int((~kept).sum()))
    mask = np.ones(flat.size, np.bool_)
    mask[np.argsort(magnitude, kind="stable")[:remove]] = False
    return mask


@given(TENSORS, st.floats(0, 0.999))
def test_the_smallest_go_and_ties_go_in_order(values: NDArray[np.float32], sparsity: float) -> None:
    masked = MagnitudePrune(sparsity=sparsity).apply("w", dense(values), None, 0)
    remove = round(sparsity * values.size)
    assert np.count_nonzero(~masked.mask) == remove
    np.testing.assert_array_equal(masked.mask.reshape(-1), reference(values.reshape(-1), remove))
    np.testing.assert_array_equal(masked.decode()[masked.mask], values[masked.mask])


@given(st.lists(TENSORS, min_size=1, max_size=5), st.floats(0, 0.999))
def test_global_scope_ranks_all_together(values: list[NDArray[np.float32]], sparsity: float) -> None:
    tensors = {f"w{i}": dense(v) for i, v in enumerate(values)}
    pruned = prune(MagnitudePrune(sparsity=sparsity, scope="global"), tensors)
    everything = np.concatenate([v.reshape(-1) for v in values])
    wanted = reference(everything, round(sparsity * everything.size))
    np.testing.assert_array_equal(np.concatenate([p.mask.reshape(-1) for p in pruned.values()]), wanted)


@given(TENSORS, st.floats(0, 0.999), st.floats(0, 0.999), st.sampled_from(["layer", "global"]))
def test_what_is_pruned_stays_pruned(values: NDArray[np.float32], first: float, second: float, scope: str) -> None:
    once = MagnitudePrune(sparsity=first).apply("w", dense(values[:, ::-1].copy()), None, 0)
    once = Masked(values, once.mask)  # a mask that has nothing to do with these magnitudes
    step = MagnitudePrune.model_validate({"sparsity": second, "scope": scope})
    twice = prune(step, {"w": once})["w"]
    wanted = reference(values.reshape(-1), round(second * values.size), once.mask.reshape(-1))
    np.testing.assert_array_equal(twice.mask.reshape(-1), wanted)
    again = prune(step, {"w": twice})["w"]
    np.testing.assert_array_equal(again.mask, twice.mask)


def test_many_ties_beside_many_values() -> None:
    random = np.random.default_rng(0)
    values = np.round(random.standard_normal((300, 1000)), 1).astype(np.float32)
    values[:100] = random.standard_normal((100, 1000))
    for sparsity in (0.3, 0.7, 0.95):
        mask = MagnitudePrune(sparsity=sparsity).apply("w", dense(values), None, 0).mask.reshape(-1)
        np.testing.assert_array_equal(mask, reference(values.reshape(-1), round(sparsity * values.size)))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn])
def test_other_types_keep_their_values(dtype: type) -> None:
    values = np.random.default_rng(1).standard_normal((40, 50)).astype(dtype)
    masked = MagnitudePrune(sparsity=0.6).apply("w", dense(values), None, 0)
    assert masked.decode().dtype == values.dtype
    np.testing.assert_array_equal(masked.mask.reshape(-1), reference(values.reshape(-1).astype(np.float32), 1200))
    np.testing.assert_array_equal(masked.decode()[masked.mask], values[masked.mask])


def test_tensors_with_another_sparsity_are_ranked_apart() -> None:
    random = np.random.default_rng(2)
    tensors = {name: dense(random.standard_normal((20, 10)).astype(np.float32)) for name in ("a", "b", "fc")}
    step = MagnitudePrune(sparsity=0.5, scope="global", overrides={"fc": {"sparsity": 0.9}})
    gone = {name: int((~p.mask).sum()) for name, p in prune(step, tensors).items()}
    assert gone["fc"] == 180
    assert gone["a"] + gone["b"] == 200


def test_scope_makes_a_difference() -> None:
    random = np.random.default_rng(3)
    tensors = {
        "small": dense(random.standard_normal((50, 50)).astype(np.float32) / 100),
        "large": dense(random.standard_normal((50, 50)).astype(np.float32)),
    }
    by_layer = prune(MagnitudePrune(sparsity=0.5), tensors)
    together = prune(MagnitudePrune(sparsity=0.5, scope="global"), tensors)
    assert {name: int((~p.mask).sum()) for name, p in by_layer.items()} == {"small": 1250, "large": 1250}
    assert np.count_nonzero(together["small"].mask) < 100
    assert not MagnitudePrune(sparsity=0.5).survey_passes


def test_a_random_mask_keeps_less_energy() -> None:
    random = np.random.default_rng(4)
    values = random.standard_normal((100, 100)).astype(np.float32)
    kept = MagnitudePrune(sparsity=0.7).apply("w", dense(values), None, 0).decode()
    by_chance = values * (random.permutation(values.size) >= 7000).reshape(values.shape)
    assert np.sum(kept**2) > 2 * np.sum(by_chance**2)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_refused(scope: str, bad: float) -> None:
    values = np.ones((5, 5), np.float32)
    values[1, 2] = values[3, 3] = bad
    step = MagnitudePrune.model_validate({"sparsity": 0.5, "scope": scope})
    with pytest.raises(ModelError, match=r"'fc1.weight' holds 2 weights that are not finite") as caught:
        prune(step, {"fc1.weight": dense(values)})
    assert caught.value.code is Code.NON_FINITE_WEIGHTS


def test_an_empty_tensor() -> None:
    masked = MagnitudePrune(sparsity=0.5).apply("w", dense(np.empty((0, 3), np.float32)), None, 0)
    assert masked.mask.shape == (0, 3)
