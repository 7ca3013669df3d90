import math

import numpy as np
import pytest
import torch

from squeezer.errors import ModelError
from squeezer.methods import Finetune
from squeezer.training.optim import Optimiser, learning_rate


def rates(total: int = 100, **settings: object) -> list[float]:
    step = Finetune(lr=0.1, **settings)
    return [learning_rate(step, i, total) for i in range(total)]


def test_schedules_by_their_formulae():
    assert rates(schedule="constant") == [0.1] * 100
    assert rates(schedule="linear") == pytest.approx([0.1 * (1 - i / 100) for i in range(100)])
    assert rates(schedule="cosine") == pytest.approx([0.05 * (1 + math.cos(math.pi * i / 100)) for i in range(100)])
    warm = rates(schedule="cosine", warmup=0.2)
    assert warm[:20] == pytest.approx([0.1 * (i + 1) / 20 for i in range(20)])
    assert warm[20] == max(warm) == pytest.approx(0.1)
    assert warm[60] == pytest.approx(0.05)
    assert 0 < warm[-1] < 1e-3
    assert rates(1) == pytest.approx([0.1])


def parameters() -> list[torch.nn.Parameter]:
    rng = np.random.default_rng(0)
    shapes = (3, 4, 2, 2), (4, 3), (5,), ()
    return [torch.nn.Parameter(torch.from_numpy(rng.normal(size=shape).astype(np.float32))) for shape in shapes]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_updates_by_their_formulae(optimizer):
    """Adam as in Kingma & Ba 2015, algorithm 1; Nesterov's momentum as PyTorch's; decay apart, of weights alone."""
    found = parameters()
    wanted = [p.detach().double().numpy().copy() for p in found]
    first, second = ([np.zeros_like(w) for w in wanted] for _ in range(2))
    step = Finetune(lr=0.01, optimizer=optimizer, momentum=0.8, weight_decay=0.5)
    optimiser = Optimiser(found, step)
    for t in range(1, 4):
        for p in found:
            p.grad = (p.detach() * t).cos()
        gradients = [p.grad.double().numpy() for p in found]
        optimiser.update(0.01 / t)
        for i, g in enumerate(gradients):
            if wanted[i].ndim >= 2:
                wanted[i] *= 1 - 0.01 / t * 0.5
            if optimizer == "adam":
                first[i] = 0.9 * first[i] + 0.1 * g
                second[i] = 0.999 * second[i] + 0.001 * g**2
                wanted[i] -= 0.01 / t * first[i] / (1 - 0.9**t) / (np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
            else:
                first[i] = g if t == 1 else 0.8 * first[i] + g
                wanted[i] -= 0.01 / t * (g + 0.8 * first[i])
        for p, w in zip(found, wanted, strict=True):
            assert p.detach().numpy() == pytest.approx(w, abs=1e-5)
            assert p.grad is None


def test_layout_in_memory_makes_no_difference():
    """The fused kernels go through memory as it lies."""
    plain, last = parameters(), parameters()
    last[0] = torch.nn.Parameter(last[0].detach().contiguous(memory_format=torch.channels_last))
    step = Finetune(lr=0.1, weight_decay=0.1)
    for found in (plain, last):
        optimiser = Optimiser(found, step)
        for _ in range(3):
            sum(p.sin().sum() for p in found).backward()
            optimiser.update(0.1)
    assert torch.equal(plain[0], last[0])


def test_clipping():
    found = parameters()
    for p in found:
        p.grad = torch.ones_like(p)
    norm = math.sqrt(sum(p.numel() for p in found))
    assert Optimiser(found, Finetune(clip=2.0)).clip().item() == pytest.approx(norm)
    assert math.sqrt(sum(p.grad.square().sum().item() for p in found)) == pytest.approx(2, rel=1e-4)
    assert Optimiser(found, Finetune(clip=None)).clip().item() == pytest.approx(2, rel=1e-4)
    assert found[0].grad.flatten()[0].item() == pytest.approx(2 / norm, rel=1e-4)


def test_nothing_to_train_is_said():
    with pytest.raises(ModelError, match="no weights that could be trained"):
        Optimiser([], Finetune())


def test_what_gets_no_gradient_does_not_decay():
    """Weights of an output that is not judged, say: nothing would bring them back."""
    used, unused = parameters()[:2]
    before = unused.detach().clone()
    optimiser = Optimiser([used, unused], Finetune(lr=0.1, weight_decay=0.5))
    used.sum().backward()
    optimiser.clip()
    optimiser.update(0.1)
    assert torch.equal(unused, before)
