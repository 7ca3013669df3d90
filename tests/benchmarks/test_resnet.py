from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import resnet
from squeezer.zoo.resnet import CifarResNet


def test_accuracy_takes_weights_with_and_without_the_prefix() -> None:
    """A network whose last layer always says class 3."""
    torch.manual_seed(0)
    state = {name: tensor.numpy() for name, tensor in CifarResNet(8).state_dict().items()}
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
