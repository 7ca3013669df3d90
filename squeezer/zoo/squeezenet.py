"""SqueezeNet 1.1 (Iandola et al. 2016, arXiv 1602.07360, as its authors released it later).

The names of the parameters are torchvision's, so that its checkpoints load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from squeezer.zoo.shapes import extent, unusable_shape

if TYPE_CHECKING:
    from squeezer.zoo.shapes import Shape, Shapes

#: What stands at each place of `features` after the first convolution: None for a pooling, else a module's sizes,
#: inputs, channels of `squeeze`, channels of each half of `expand`.
_PLAN = (
    None,
    (64, 16, 64),
    (128, 16, 64),
    None,
    (128, 32, 128),
    (256, 32, 128),
    None,
    (256, 48, 192),
    (384, 48, 192),
    (384, 64, 256),
    (512, 64, 256),
)
_SMALLEST = 17


class Fire(nn.Module):
    """Few channels, then many: (n, `inputs`, h, w) to (n, 2 `expanded`, h, w)."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Squeeze, expand in two ways, and put both results side by side."""
        x = functional.relu(self.squeeze(x))
        return torch.cat((functional.relu(self.expand1x1(x)), functional.relu(self.expand3x3(x))), 1)


class SqueezeNet11(nn.Module):
    """(batch, `channels`, height, width) images, of 224 x 224 or others, to (batch, `classes`) logits."""

    def __init__(self, classes: int = 1000, channels: int = 3) -> None:
        super().__init__()
        blocks = [nn.MaxPool2d(3, 2, ceil_mode=True) if sizes is None else Fire(*sizes) for sizes in _PLAN]
        self.features = nn.Sequential(nn.Conv2d(channels, 64, 3, 2), nn.ReLU(), *blocks)
        head = nn.Conv2d(512, classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), head, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(head.weight, std=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return torch.flatten(self.classifier(self.features(x)), 1)


def build(name: str, classes: int, shape: Shape) -> nn.Module:
    """The network for images of that shape."""
    if len(shape) != 3 or min(shape[1:]) < _SMALLEST:
        raise unusable_shape(name, shape, f"(channels, height, width), with sides of {_SMALLEST} or more")
    return SqueezeNet11(classes, shape[0])


def infer(name: str, shapes: Shapes) -> tuple[int, Shape]:  # noqa: ARG001 # the families' interface
    """How many classes a state dict is for, and inputs of which shape; it takes images of any size."""
    return extent(shapes, "classifier.1.weight", 0, 1000), (extent(shapes, "features.0.weight", 1, 3), 224, 224)
