import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

from squeezer.representations import REPRESENTATIONS, Dense, Masked, Representation, Shared, Trellis, Uniform, digest
from squeezer.training.lookup import summed
from squeezer.training.parametrisation import PARAMETRISATIONS, UniformWeights, parametrise
from squeezer.training.tensors import to_numpy, to_torch

TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]


def tensors(dtype: np.dtype) -> dict[str, Representation]:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.1, (6, 5)).astype(dtype)
    codes = rng.integers(-3, 4, (6, 5)).astype(np.int8)
    book = np.sort(rng.normal(0, 0.1, 4)).astype(np.float32)
    return {
        "dense": Dense(values, dtype),
        "masked": Masked(values, rng.random((6, 5)) < 0.4),
        "shared": Shared(book, rng.integers(0, 4, (6, 5)).astype(np.uint8), False, dtype),
        "shared, sparse": Shared(book, rng.integers(0, 5, (6, 5)).astype(np.uint8), True, dtype),
        "uniform": Uniform(np.float32(0.037), codes, dtype),
        "trellis": Trellis(np.float32(0.037), codes, dtype),
    }


CASES = [(name, np.dtype(dtype)) for dtype, name in itertools.product(TYPES, tensors(np.dtype(np.float32)))]


def test_every_kind_has_a_parametrisation():
    assert PARAMETRISATIONS.keys() == REPRESENTATIONS.keys()


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_untrained_comes_back_bit_for_bit(name, dtype):
    tensor = tensors(dtype)[name]
    one = parametrise(tensor, "cpu")
    assert digest(one.freeze()) == digest(tensor)
    assert one.freeze().decode().tobytes() == tensor.decode().tobytes()


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_what_is_trained_is_what_is_delivered(name, dtype):
    one = parametrise(tensors(dtype)[name], "cpu")
    generator = torch.Generator().manual_seed(0)
    before = one.freeze().decode()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    frozen = one.freeze()
    wide = np.float64 if dtype == np.float64 else np.float32
    assert frozen.dtype == dtype
    assert np.array_equal(to_numpy(one().double(), np.dtype(np.float64)).astype(wide), frozen.decode().astype(wide))
    assert to_numpy(one.weights(), dtype).tobytes() == frozen.decode().tobytes()
    assert frozen.decode().tobytes() != before.tobytes()


@pytest.mark.parametrize("name", ["masked", "shared, sparse", "uniform"])
def test_zeros_stay_zero_and_get_no_gradient(name):
    tensor = tensors(np.dtype(np.float32))[name]
    zero = tensor.decode() == 0
    assert zero.any()
    assert not zero.all()
    one = parametrise(tensor, "cpu")
    adam = torch.optim.Adam(one.parameters(), 0.1)
    for _ in range(3):
        one().sub(1).square().sum().backward()
        if name != "shared, sparse":
            (latent,) = one.parameters()
            assert torch.equal(latent.grad == 0, torch.from_numpy(zero))
        adam.step()
        adam.zero_grad()
    decoded = one.freeze().decode()
    assert not np.signbit(decoded[zero]).any()
    assert np.array_equal(decoded == 0, zero)
    # the control: a dense tensor with the same zeros does not keep them
    free = parametrise(Dense(tensor.decode(), np.dtype(np.float32)), "cpu")
    free().sub(1).square().sum().backward()
    torch.optim.Adam(free.parameters(), 0.1).step()
    assert not (free.freeze().decode()[zero] == 0).any()


@pytest.mark.parametrize("sparse", [False, True])
def test_a_centroid_gets_the_sum_of_its_weights_gradients(sparse):
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 5 + sparse, (40, 30)).astype(np.uint16)
    one = parametrise(Shared(np.linspace(-1, 1, 5).astype(np.float32), codes, sparse, np.dtype(np.float32)), "cpu")
    gradient = rng.normal(size=codes.shape).astype(np.float32)
    one().backward(torch.from_numpy(gradient))
    # Han et al. 2016, equation 3: dL/dC_k = sum over i, j of dL/dW_ij [I_ij = k]
    wanted = [sum(g for g, code in zip(gradient.flat, codes.flat, strict=True) if code == k + sparse) for k in range(5)]
    found = one.codebook.grad.numpy()
    assert found == pytest.approx(np.array(wanted), rel=1e-5)
    # the control: the mean, or the pruned weights' gradient in addition, is something else
    assert found != pytest.approx(np.array(wanted) / 240, rel=1e-2)


def test_a_gpu_would_add_whole_numbers_in_any_order():
    rng = np.random.default_rng(4)
    gradient, codes = (
        torch.from_numpy(rng.normal(size=5000)),
        torch.from_numpy(rng.integers(0, 7, 5000).astype(np.int32)),
    )
    gradient[0] = 1e6
    by_order = summed(gradient, codes, 7)
    from squeezer.training.lookup import _in_whole_numbers

    turned = torch.from_numpy(rng.permutation(5000))
    first, second = (_in_whole_numbers(g, c, 7) for g, c in ((gradient, codes), (gradient[turned], codes[turned])))
    assert torch.equal(first, second)
    assert first == pytest.approx(by_order, abs=5000 * 1e6 * 2.0**-36)
    assert not torch.equal(by_order, summed(gradient[turned], codes[turned], 7))  # the control
    gradient[3] = torch.nan
    assert _in_whole_numbers(gradient, codes, 7).isnan().all()


def test_latent_weights_move_levels_by_their_sum():
    """A push of a tenth of a step at a time changes the code after five of them, not at once and not never."""
    one = parametrise(Uniform(np.float32(0.5), np.array([[1, -2, 0, 3]], np.int8), np.dtype(np.float32)), "cpu")
    assert isinstance(one, UniformWeights)
    seen = []
    for _ in range(12):
        with torch.no_grad():
            one.latent += 0.051
        seen.append(one.freeze().codes.tolist()[0])
    assert seen[3] == [1, -2, 0, 3]
    assert seen[5] == [2, -1, 0, 3]  # zero stays, and 3 is the largest there was
    assert seen[-1] == [2, -1, 0, 3]
    one().sum().backward()
    assert one.latent.grad.tolist() == [[1, 1, 0, 1]]


def test_a_trellis_trains_its_step():
    tensor = tensors(np.dtype(np.float32))["trellis"]
    one = parametrise(tensor, "cpu")
    target = torch.from_numpy(2 * tensor.decode())
    adam = torch.optim.Adam(one.parameters(), 0.02)
    for _ in range(200):
        adam.zero_grad()
        (one() - target).square().sum().backward()
        adam.step()
    frozen = one.freeze()
    assert np.array_equal(frozen.codes, tensor.codes)
    assert float(frozen.step) == pytest.approx(2 * float(tensor.step), rel=0.01)


def test_buffers_and_integers_are_not_trained():
    numbers = Dense(np.arange(6, dtype=np.int64), np.dtype(np.int64))
    mean = Dense(np.array([0.1, 0.7], np.float16), np.dtype(np.float32))
    coded = tensors(np.dtype(np.float32))["uniform"]
    for tensor, buffer in ((numbers, False), (mean, True), (coded, True)):
        one = parametrise(tensor, "cpu", buffer=buffer)
        assert not list(one.parameters())
        assert digest(one.freeze()) == digest(tensor)
        one().add_(1)  # what it gives is a copy
        assert digest(one.freeze()) == digest(tensor)
    statistic = parametrise(mean, "cpu", buffer=True)
    statistic.value.fill_(1 / 3)
    assert statistic.value.dtype == torch.float32
    assert statistic().tolist() == [float(np.float16(1 / 3))] * 2
    assert statistic.freeze().values.dtype == np.float16


@pytest.mark.parametrize("dtype", [*TYPES, np.bool_, np.int8, np.uint16, np.complex64], ids=str)
def test_arrays_go_to_torch_and_back(dtype):
    array = (np.random.default_rng(0).normal(size=(3, 4)) * 5).astype(dtype)
    tensor = to_torch(array.T)
    assert tensor.shape == (4, 3)
    back = to_numpy(tensor, np.dtype(dtype))
    assert back.tobytes() == np.ascontiguousarray(array.T).tobytes()
    back[:] = 0
    assert to_numpy(tensor, np.dtype(dtype)).tobytes() == np.ascontiguousarray(array.T).tobytes()
