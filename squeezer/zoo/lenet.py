"""LeNet-300-100 and LeNet-5 for handwritten digits, in the sizes that Deep Compression compresses.

LeCun et al. 1998, "Gradient-based learning applied to document recognition", Proceedings of the IEEE 86;
Han et al. 2016, "Deep Compression", ICLR, tables 2 and 3.
"""

from __future__ import annotations

from math import isqrt, prod
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from squeezer.zoo.shapes import extent, unusable_shape

if TYPE_CHECKING:
    from squeezer.zoo.shapes import Shape, Shapes


class LeNet300(nn.Module):
    """Two hidden layers of 300 and 100: (batch, ...) of `features` numbers each to (batch, `classes`) logits."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        x = functional.relu(self.fc2(x))
        logits: torch.Tensor = self.fc3(x)
        return logits


class LeNet5(nn.Module):
    """Caffe's LeNet-5: (batch, `channels`, 4 s + 12, 4 s + 12) images to (batch, `classes`) logits; s is `side`.

    Its parameters have the names of PyTorch's MNIST example, which also put a ReLU after each convolution; Caffe had
    one after `fc1` alone.
    """

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(50 * side * side, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(torch.flatten(x, 1)))
        logits: torch.Tensor = self.fc2(x)
        return logits


def build(name: str, classes: int, shape: Shape) -> nn.Module:
    """The network of that name for inputs of that shape."""
    if name == "lenet-300-100":
        return LeNet300(prod(shape), classes)
    side = (shape[-1] - 12) // 4
    if len(shape) != 3 or shape[1] != shape[2] or side < 1 or shape[2] != 4 * side + 12:
        raise unusable_shape(name, shape, "(channels, side, side), with a side of 16, 20, 24, 28...")
    return LeNet5(shape[0], side, classes)


def infer(name: str, shapes: Shapes) -> tuple[int, Shape]:
    """How many classes a state dict is for, and inputs of which shape."""
    if name == "lenet-300-100":
        features = extent(shapes, "fc1.weight", 1, 784)
        side = isqrt(features)
        return extent(shapes, "fc3.weight", 0, 10), (1, side, side) if side * side == features else (features,)
    side = 4 * isqrt(extent(shapes, "fc1.weight", 1, 800) // 50) + 12
    return extent(shapes, "fc2.weight", 0, 10), (extent(shapes, "conv1.weight", 1, 1), side, side)
