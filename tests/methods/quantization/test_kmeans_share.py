"""Weight sharing against references in plain numpy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.cluster import KMeans

from squeezer.errors import Code, ModelError
from squeezer.methods import KmeansShare, MagnitudePrune, UniformQuantize
from squeezer.representations import Dense, Masked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.representations import Representation, Shared

INITS = ("optimal", "linear", "density", "random")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
TENSORS = arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 12)), elements=FINITE)


def dense(values: NDArray[np.generic]) -> Dense:
    return Dense(values, values.dtype)


def share(tensor: Representation, clusters: int, init: str = "optimal", seed: int = 0, name: str = "w") -> Shared:
    step = KmeansShare.model_validate({"clusters": clusters, "init": init})
    return step.apply(name, tensor, None, seed)


def squared_error(values: NDArray[np.floating], decoded: NDArray[np.floating]) -> float:
    return float(np.sum((values.astype(np.float64) - decoded.astype(np.float64)) ** 2))


def nearest(values: NDArray[np.floating], codebook: NDArray[np.floating]) -> NDArray[np.intp]:
    """By long double distances; the lower of two equally near, since argmin takes the first."""
    distance = np.abs(values.astype(np.longdouble)[:, None] - codebook.astype(np.longdouble)[None, :])
    return distance.argmin(axis=1)


@settings(max_examples=200)
@given(TENSORS, st.integers(1, 9), st.sampled_from(INITS))
def test_every_weight_gets_the_nearest_centroid(values: NDArray[np.float32], clusters: int, init: str) -> None:
    shared = share(dense(values), clusters, init)
    assert shared.codebook.dtype == np.float32
    assert shared.codes.dtype == np.uint8
    assert not shared.sparse
    assert 1 <= shared.codebook.size <= clusters
    assert np.all(np.diff(shared.codebook) > 0)
    assert np.unique(shared.codes).tolist() == list(range(shared.codebook.size))
    found, best = shared.codebook[shared.codes], shared.codebook[nearest(values.reshape(-1), shared.codebook)]
    distance = [
        np.abs(values.astype(np.longdouble) - c.astype(np.longdouble).reshape(values.shape)) for c in (found, best)
    ]
    np.testing.assert_array_equal(distance[0], distance[1])


def test_nearest_in_a_large_tensor_with_every_kind_of_tail() -> None:
    random = np.random.default_rng(0)
    for values in (
        random.standard_normal(30_000),
        random.standard_cauchy(30_000),
        1 + 1e-5 * random.standard_normal(30_000),
        np.append(random.standard_normal(30_000), [1e30, -3e38]),
        np.exp(20 * random.standard_normal(30_000)) * random.choice([-1, 1], 30_000),
    ):
        weights = values.astype(np.float32).reshape(2, -1)
        for clusters in (2, 32, 300):
            shared = share(dense(weights), clusters)
            np.testing.assert_array_equal(shared.codes.reshape(-1), nearest(weights.reshape(-1), shared.codebook))
            assert np.unique(shared.codes).size == shared.codebook.size


@given(
    arrays(np.float32, (4, 5), elements=st.sampled_from([0.0, -0.0, 1.5, -2.0, 1e-45, 3e38, 0.1])),
    st.sampled_from(INITS),
)
def test_few_distinct_values_are_kept_exactly(values: NDArray[np.float32], init: str) -> None:
    shared = share(dense(values), 7, init)
    np.testing.assert_array_equal(shared.codebook, np.unique(values))
    np.testing.assert_array_equal(shared.decode(), values)


def test_few_distinct_values_in_a_large_tensor() -> None:
    levels = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    values = np.random.default_rng(1).choice(levels, (200, 500))
    shared = share(dense(values), 300)
    np.testing.assert_array_equal(shared.codebook, np.unique(levels))
    assert shared.codes.dtype == np.uint16
    np.testing.assert_array_equal(shared.decode(), values)
    np.testing.assert_array_equal(share(dense(shared.decode()), 300).decode(), values)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("value", [0.0, -3.25, 1e-45, 3.4e38])
def test_constant_tensors(init: str, value: float) -> None:
    values = np.full((70, 80), value, np.float32)
    shared = share(dense(values), 16, init)
    assert shared.codebook.tolist() == [np.float32(value)]
    assert not shared.codes.any()


def test_optimal_is_no_worse_than_scikit_learn_and_better_than_lloyd_from_a_random_start() -> None:
    values = np.random.default_rng(0).laplace(size=(50, 60)).astype(np.float32)
    ours = squared_error(values, share(dense(values), 16).decode())
    theirs = KMeans(16, n_init=5, random_state=0, max_iter=1000, tol=0).fit(values.reshape(-1, 1)).inertia_
    assert ours <= theirs * (1 + 1e-5)
    chance = [squared_error(values, share(dense(values), 16, "random", seed).decode()) for seed in range(5)]
    assert min(chance) >= ours * (1 - 1e-6)
    assert max(chance) > ours * 1.01


def test_centroids_are_the_means_of_their_members() -> None:
    values = np.random.default_rng(1).standard_normal((60, 60)).astype(np.float32)
    for init in INITS:
        shared = share(dense(values), 20, init)
        means = [values[shared.codes == code].mean(dtype=np.float64) for code in range(shared.codebook.size)]
        np.testing.assert_allclose(shared.codebook, means, rtol=1e-6)


@pytest.mark.parametrize(("clusters", "tolerance"), [(8, 5e-4), (32, 5e-4), (256, 5e-3), (1000, 2e-2)])
@pytest.mark.parametrize("law", ["normal", "laplace", "uniform", "student", "outliers", "two groups"])
def test_the_histogram_is_good_enough(law: str, clusters: int, tolerance: float) -> None:
    """Against the exact optimum over all values, found with as many points as there are values."""
    from squeezer.methods.quantization.partition import optimal_cuts

    random = np.random.default_rng(2)
    size = 60_000
    values = {
        "normal": lambda: random.standard_normal(size),
        "laplace": lambda: random.laplace(size=size),
        "uniform": lambda: random.random(size),
        "student": lambda: random.standard_t(4, size),
        "outliers": lambda: np.append(random.standard_normal(size - 3), [20, -30, 100]),
        "two groups": lambda: np.append(random.normal(-1, 1e-3, size // 2), random.normal(1, 0.1, size // 2)),
    }[law]().astype(np.float32)
    points = np.sort(values.astype(np.float64))
    cuts = optimal_cuts(points, np.ones(size), clusters)
    best = sum(np.sum((part - part.mean()) ** 2) for part in np.split(points, cuts[1:-1]))
    found = squared_error(values, share(dense(values.reshape(10, -1)), clusters).decode().reshape(-1))
    assert found <= best * (1 + tolerance)


def test_a_plain_grid_of_as_many_values_is_worse() -> None:
    values = np.random.default_rng(3).standard_normal((100, 100)).astype(np.float32)
    grid = UniformQuantize(bits=5).apply("w", dense(values), None, 0)
    assert np.unique(grid.codes).size <= 31
    assert squared_error(values, share(dense(values), 31).decode()) < 0.8 * squared_error(values, grid.decode())


@pytest.mark.parametrize("init", INITS)
def test_pruned_weights_stay_zero_and_cost_no_centroid(init: str) -> None:
    values = np.random.default_rng(4).standard_normal((50, 60)).astype(np.float32)
    masked = MagnitudePrune(sparsity=0.7).apply("w", dense(values), None, 0)
    shared = share(masked, 32, init)
    assert shared.sparse
    assert shared.shape == values.shape
    assert shared.codebook.size <= 32
    np.testing.assert_array_equal(shared.codes == 0, ~masked.mask)
    np.testing.assert_array_equal(shared.decode()[~masked.mask], 0)
    alone = share(dense(values[masked.mask].reshape(1, -1)), 32, init)
    np.testing.assert_array_equal(shared.codebook, alone.codebook)
    np.testing.assert_array_equal(shared.codes[masked.mask] - 1, alone.codes.reshape(-1))


def test_the_width_of_codes_counts_the_symbol_for_pruned_weights() -> None:
    values = np.random.default_rng(5).standard_normal((100, 100)).astype(np.float32)
    masked = Masked(values, np.abs(values) > 0.5)
    assert share(dense(values), 256).codes.dtype == np.uint8
    assert share(dense(values), 257).codes.dtype == np.uint16
    assert share(masked, 255).codes.dtype == np.uint8
    assert share(masked, 256).codes.dtype == np.uint16


def test_bits_are_clusters() -> None:
    values = np.random.default_rng(6).standard_normal((30, 40)).astype(np.float32)
    by_bits = KmeansShare(bits=3).apply("w", dense(values), None, 0)
    assert by_bits.codebook.size == 8
    np.testing.assert_array_equal(by_bits.codes, share(dense(values), 8).codes)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.float64])
@pytest.mark.parametrize("size", [500, 50_000])
def test_the_codebook_is_exact_in_the_tensors_type(dtype: type, size: int) -> None:
    values = np.random.default_rng(7).standard_normal((10, size // 10)).astype(dtype)
    shared = share(dense(values), 64)
    assert shared.dtype == values.dtype
    assert shared.codebook.dtype == np.float32
    np.testing.assert_array_equal(shared.codebook.astype(dtype).astype(np.float32), shared.codebook)
    assert np.unique(shared.codes).size == shared.codebook.size
    assert squared_error(values, shared.decode()) <= 0.1 * np.sum(values.astype(np.float64) ** 2)


def test_the_random_start_depends_on_seed_and_name_alone() -> None:
    tensor = dense(np.random.default_rng(8).standard_normal((60, 60)).astype(np.float32))
    first = share(tensor, 16, "random", seed=1).codebook
    np.testing.assert_array_equal(first, share(tensor, 16, "random", seed=1).codebook)
    assert not np.array_equal(first, share(tensor, 16, "random", seed=2).codebook)
    assert not np.array_equal(first, share(tensor, 16, "random", seed=1, name="v").codebook)


def test_non_finite_weights_are_refused() -> None:
    values = np.ones((4, 4), np.float32)
    values[2, 2] = -np.inf
    with pytest.raises(ModelError, match=r"'w' holds 1 weight that is not finite") as caught:
        share(dense(values), 4)
    assert caught.value.code is Code.NON_FINITE_WEIGHTS
    with pytest.raises(ModelError, match="too large"):
        share(dense(np.full((2, 2), 1e300)), 4)


def test_an_empty_or_wholly_pruned_tensor() -> None:
    assert share(dense(np.empty((3, 0), np.float32)), 4).codes.shape == (3, 0)
    shared = share(Masked(np.ones((2, 3), np.float32), np.zeros((2, 3), np.bool_)), 4)
    assert shared.codebook.size == 0
    assert shared.decode().tolist() == [[0, 0, 0], [0, 0, 0]]
