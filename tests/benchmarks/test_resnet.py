from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import resnet


@pytest.mark.parametrize(("layers", "millions"), [(20, 0.27), (56, 0.85)])
def test_the_number_of_parameters_is_the_published_one(layers: int, millions: float) -> None:
    """He et al. 2016, table 6."""
    network = resnet.CifarResNet(layers)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == layers - 1


def test_other_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="6n"):
        resnet.CifarResNet(21)


def test_a_stage_halves_the_image_and_pads_the_shortcut_on_both_sides() -> None:
    block = resnet.Block(16, 32, 2).eval()
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_accuracy_takes_weights_with_and_without_the_prefix() -> None:
    """A network whose last layer always says class 3."""
    torch.manual_seed(0)
    state = {name: tensor.numpy() for name, tensor in resnet.CifarResNet(8).state_dict().items()}
    state["linear.weight"] = np.zeros_like(state["linear.weight"])
    state["linear.bias"] = np.eye(10, dtype=np.float32)[3]
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    labels = np.array([3, 3, 3, 3, 3, 3, 0, 1])
    inputs = resnet.images(pixels)
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    assert resnet.accuracy(8, state, inputs, labels) == 75
    assert resnet.accuracy(8, {f"module.{name}": a for name, a in state.items()}, inputs, labels) == 75
    del state["bn1.weight"]
    with pytest.raises(RuntimeError, match=r"bn1\.weight"):
        resnet.accuracy(8, state, inputs, labels)


def test_images_are_normalised_by_channel() -> None:
    inputs = resnet.images(np.full((1, 32, 32, 3), 255, np.uint8))
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    np.testing.assert_allclose(inputs[0, :, 5, 7].numpy(), expected, rtol=1e-5)
