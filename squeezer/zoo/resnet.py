"""The ResNets for CIFAR-10 (He et al. 2016, "Deep residual learning for image recognition", CVPR, section 4.2).

The names of the parameters are those of akamaster/pytorch_resnet_cifar10, so that its checkpoints load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from squeezer.zoo.shapes import extent, unusable_shape

if TYPE_CHECKING:
    from squeezer.zoo.shapes import Shape, Shapes


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A).

    Maps (n, `inputs`, h, w) to (n, `outputs`, h / stride, w / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.added = (outputs - inputs) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, and add the input: subsampled, and with empty channels on both sides where there are more."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.added:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added, self.added))
        return functional.relu(out + shortcut)


class CifarResNet(nn.Module):
    """A ResNet of 6n + 2 layers: (batch, `channels`, 32, 32) images, or others, to (batch, `classes`) logits."""

    def __init__(self, layers: int, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(layers - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, ...), not {layers}")
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: torch.Tensor = self.linear(out.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def build(name: str, classes: int, shape: Shape) -> nn.Module:
    """The network of that name for images of that shape."""
    if len(shape) != 3 or min(shape) < 1:
        raise unusable_shape(name, shape, "(channels, height, width)")
    return CifarResNet(int(name.removeprefix("resnet")), classes, shape[0])


def infer(name: str, shapes: Shapes) -> tuple[int, Shape]:  # noqa: ARG001 # the families' interface
    """How many classes a state dict is for, and inputs of which shape; it takes images of any size."""
    return extent(shapes, "linear.weight", 0, 10), (extent(shapes, "conv1.weight", 1, 3), 32, 32)
