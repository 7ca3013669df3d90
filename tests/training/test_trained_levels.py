import ml_dtypes
import numpy as np
import pytest
import torch

from squeezer.representations import Dense, Masked
from squeezer.training.trained_levels import MOST, TrainedLevels

RANDOM = np.random.default_rng(0)


def dense(values, dtype=np.float32) -> Dense:
    array = np.asarray(values).astype(dtype)
    return Dense(array, array.dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_what_is_trained_is_what_is_stored(dtype):
    levels = TrainedLevels(dense(RANDOM.standard_normal((7, 5)), dtype), 0.3, "cpu")
    with torch.no_grad():
        levels.theta += 0.123456
        levels.latent *= 40  # beyond the grid
    frozen = levels.freeze()
    assert frozen.dtype == dtype
    assert np.abs(frozen.codes.astype(int)).max() == MOST
    assert np.array_equal(levels.weights().detach().double().numpy(), frozen.decode().astype(np.float64))


def test_the_first_step_is_relative_to_the_weights_that_are_left():
    values = RANDOM.standard_normal((8, 8)).astype(np.float32)
    mask = RANDOM.random((8, 8)) < 0.3
    levels = TrainedLevels(Masked(values, mask), 0.5, "cpu")
    expected = 0.5 * np.sqrt(np.mean(np.square(values[mask].astype(np.float64))))
    assert levels.freeze().step == pytest.approx(expected, rel=1e-6)
    assert np.array_equal(levels.freeze().codes, np.where(mask, np.rint(values / levels.freeze().step), 0))
    assert TrainedLevels(dense(np.zeros((2, 2))), 0.5, "cpu").freeze().step == 0.5


def test_gradients_of_weights_and_step():
    levels = TrainedLevels(dense([[0.2, 1.4], [-0.6, 300.0]]), 1.0, "cpu")
    step = levels.freeze().step
    with torch.no_grad():
        levels.latent /= step
        levels.first.fill_(1.0)  # a step of one
        levels.latent.copy_(torch.tensor([[0.2, 1.4], [-0.6, 300.0]]))
    weight = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    (levels() * weight).sum().backward()
    assert torch.equal(levels.latent.grad, weight)
    # code - latent / step within the grid, and the code beyond; over the square root of four weights
    expected = (1 * (0 - 0.2) - 2 * (1 - 1.4) + 3 * (-1 + 0.6) + 0.5 * MOST) / 2
    assert levels.theta.grad.item() == pytest.approx(expected, rel=1e-5)


def test_pruned_weights_stay_zero_and_get_no_gradient():
    values, mask = np.ones((2, 3), np.float32), np.array([[True, False, True], [False, False, True]])
    levels = TrainedLevels(Masked(values, mask), 1.0, "cpu")
    levels.rate.update(levels.codes())
    (levels().sum() + levels.bits()).backward()
    assert np.array_equal(levels.latent.grad.numpy() != 0, mask)
    with torch.no_grad():
        levels.latent += 5
    assert np.array_equal(levels.freeze().codes != 0, mask)


def test_bits_draw_weights_towards_zero_and_widen_the_step():
    levels = TrainedLevels(dense(RANDOM.standard_normal((50, 50))), 0.3, "cpu")
    levels.rate.update(levels.codes())
    levels.bits().backward()
    moved = levels.latent.grad * levels.latent.detach().sign()
    assert (moved >= 0).all()
    assert moved.mean() > 0
    assert levels.theta.grad < 0  # gradient descent makes it larger


def test_a_step_that_is_not_trained_stays():
    levels = TrainedLevels(dense(RANDOM.standard_normal(20)), 0.125, "cpu", train_step=False)
    levels().sum().backward()
    assert levels.theta.grad is None
