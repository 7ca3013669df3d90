import numpy as np
import pytest
import torch

from squeezer.errors import Code, DataError
from squeezer.training.losses import Objective, distillation_loss, logits, objective, task_loss

RNG = np.random.default_rng(0)


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shares = np.exp(x - x.max(axis, keepdims=True))
    return shares / shares.sum(axis, keepdims=True)


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(array.astype(np.float32) if array.dtype == np.float64 else array) for array in arrays]


@pytest.mark.parametrize(
    ("outputs", "targets", "axis"),
    [((7, 4), (7,), 1), ((7, 5, 4), (7, 5), 2), ((7, 4, 5), (7, 5), 1), ((2, 4, 3, 3), (2, 3, 3), 1)],
    ids=["rows", "tokens", "positions", "pixels"],
)
def test_cross_entropy_by_its_formula(outputs, targets, axis):
    x, y = RNG.normal(size=outputs) * 3, RNG.integers(0, 4, targets)
    y.flat[0] = -100  # this one is ignored
    own = np.take_along_axis(np.moveaxis(softmax(x, axis), axis, -1), np.maximum(y, 0)[..., None], -1)[..., 0]
    wanted = -np.log(own)[y >= 0].mean()
    assert task_loss("cross_entropy", *tensors(x, y)).item() == pytest.approx(wanted, rel=1e-5)
    other = np.where(y >= 0, (y + 1) % 4, y)
    assert task_loss("cross_entropy", *tensors(x, other)).item() != pytest.approx(wanted, rel=1e-2)


def test_nothing_but_ignored_positions():
    assert task_loss("cross_entropy", *tensors(RNG.normal(size=(2, 3)), np.array([-100, -100]))).item() == 0


def test_other_losses_by_their_formulae():
    x, y = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 3))
    bits = RNG.integers(0, 2, (6, 3)).astype(np.float64)
    p = 1 / (1 + np.exp(-x))
    error = np.abs(x - y)
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    wanted = {
        "mse": (error**2).mean(),
        "l1": error.mean(),
        "huber": np.where(error < 1, error**2 / 2, error - 0.5).mean(),
        "cosine": 1 - cosine.mean(),
    }
    for name, value in wanted.items():
        assert task_loss(name, *tensors(x, y)).item() == pytest.approx(value, rel=1e-5), name
    wanted_bits = -(bits * np.log(p) + (1 - bits) * np.log(1 - p)).mean()
    assert task_loss("binary_cross_entropy", *tensors(x, bits)).item() == pytest.approx(wanted_bits, rel=1e-5)
    # (b) targets for a (b, 1) output are not spread over all pairs
    column, row = tensors(x[:, :1], y[:, 0])
    assert task_loss("mse", column, row).item() == pytest.approx(((x[:, 0] - y[:, 0]) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_distillation_by_its_formula(temperature):
    student, teacher = RNG.normal(size=(2, 8, 5)) * 4
    p, q = softmax(teacher / temperature, 1), softmax(student / temperature, 1)
    wanted = temperature**2 * (p * np.log(p / q)).sum(1).mean()
    found = distillation_loss("cross_entropy", *tensors(student, teacher), temperature).item()
    assert found == pytest.approx(wanted, rel=1e-4)
    assert distillation_loss("cross_entropy", *tensors(teacher, student), temperature).item() != pytest.approx(
        wanted, rel=1e-2
    )
    assert distillation_loss("cross_entropy", *tensors(student, student + 3), temperature).item() == pytest.approx(
        0, abs=1e-5
    )


def test_distillation_of_other_outputs():
    student, teacher = RNG.normal(size=(2, 8, 5)) * 2
    p, q = (1 / (1 + np.exp(-x / 3)) for x in (teacher, student))
    wanted = 9 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert distillation_loss("binary_cross_entropy", *tensors(student, teacher), 3).item() == pytest.approx(
        wanted, rel=1e-4
    )
    for name in ("mse", "l1", "huber"):
        found = distillation_loss(name, *tensors(student, teacher), 3).item()
        assert found == pytest.approx(((student - teacher) ** 2).mean(), rel=1e-5)
    assert distillation_loss("cosine", *tensors(3 * teacher, teacher), 3).item() == pytest.approx(0, abs=1e-6)


def test_a_masked_class_gives_no_nan():
    student, teacher = tensors(RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3)))
    student[:, 1] = teacher[:, 1] = -torch.inf
    student.requires_grad_()
    loss = distillation_loss("cross_entropy", student, teacher, 2)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_the_sum_is_weighted_by_alpha():
    student, teacher, y = tensors(RNG.normal(size=(8, 5)), RNG.normal(size=(8, 5)), RNG.integers(0, 5, 8))
    hard = task_loss("cross_entropy", student, y).item()
    soft = distillation_loss("cross_entropy", student, teacher, 2.0).item()
    for alpha in (0.0, 0.3, 1.0):
        found = Objective("cross_entropy", 2.0, alpha)(student, y, teacher).item()
        assert found == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=1e-5)
    assert objective("mse", 1, None, labelled=True).alpha == 0.5
    assert objective("mse", 1, None, labelled=False).alpha == 1
    with pytest.raises(DataError, match="leave alpha out") as refused:
        objective("mse", 1, 0.3, labelled=False)
    assert refused.value.code == Code.MISSING_ARRAY


def test_probabilities_become_logits_again():
    x, y = RNG.normal(size=(6, 4)), RNG.integers(0, 4, 6)
    raw, labels = tensors(x, y)
    assert task_loss("cross_entropy", logits(raw.softmax(1), "cross_entropy"), labels).item() == pytest.approx(
        task_loss("cross_entropy", raw, labels).item(), rel=1e-5
    )
    bits = torch.from_numpy((x > 0).astype(np.float32))
    assert task_loss(
        "binary_cross_entropy", logits(raw.sigmoid(), "binary_cross_entropy"), bits
    ).item() == pytest.approx(task_loss("binary_cross_entropy", raw, bits).item(), rel=1e-5)
    certain = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss = task_loss("cross_entropy", logits(certain, "cross_entropy"), torch.tensor([1]))
    loss.backward()
    assert loss.isfinite()
    assert certain.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "outputs", "targets"),
    [("cross_entropy", (3, 4), (3, 2)), ("cross_entropy", (3,), (3,)), ("mse", (3, 4), (3,)), ("mse", (3, 4), (4, 3))],
)
def test_shapes_that_do_not_fit_are_named(loss, outputs, targets):
    y = torch.zeros(targets, dtype=torch.int64 if loss == "cross_entropy" else torch.float32)
    with pytest.raises(DataError) as refused:
        task_loss(loss, torch.zeros(outputs), y)
    assert refused.value.code == Code.INVALID_DATA
    assert str(tuple(outputs)) in refused.value.detail


@pytest.mark.parametrize(("shape", "axis"), [((6, 5, 4), 2), ((6, 4, 3, 3), 1)], ids=["tokens", "pixels"])
def test_positions_to_ignore_are_ignored_in_distillation_too(shape, axis):
    student, teacher = RNG.normal(size=(2, *shape)) * 2
    y = RNG.integers(0, 4, np.delete(shape, axis))
    y[RNG.random(y.shape) < 0.5] = -100
    p, q = softmax(teacher / 2, axis), softmax(student / 2, axis)
    wanted = 4 * (p * np.log(p / q)).sum(axis)[y >= 0].mean()
    objective = Objective("cross_entropy", 2.0, 1.0)
    assert objective(*tensors(student, y, teacher)).item() == pytest.approx(wanted, rel=1e-4)
    student[np.broadcast_to(np.expand_dims(y < 0, axis), shape)] = np.nan
    assert objective(*tensors(student, y, teacher)).item() == pytest.approx(wanted, rel=1e-4)
    assert objective(*tensors(student, np.full_like(y, -100), teacher)).item() == 0
