"""The ResNets for CIFAR-10 of He et al. (CVPR 2016, section 4.2), and their measured accuracy.

The names of the parameters are those of akamaster/pytorch_resnet_cifar10, so that its checkpoints load.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: By channel, of images scaled to 0..1; these checkpoints were trained with ImageNet's.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
_BATCH = 50


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
    """A ResNet of 6n + 2 layers: (batch, 3, 32, 32) images to (batch, 10) logits."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        blocks, rest = divmod(layers - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, ...), not {layers}")
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, blocks, 1)
        self.layer2 = _stage(16, 32, blocks, 2)
        self.layer3 = _stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: torch.Tensor = self.linear(out.mean((2, 3)))
        return logits


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = Block(inputs, outputs, stride)
    return nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def images(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Normalised network inputs, `channels_last`, from (n, 32, 32, 3) pixels."""
    mean, deviation = np.array(MEAN, np.float32), np.array(DEVIATION, np.float32)
    scaled = (pixels.astype(np.float32) / 255 - mean) / deviation
    return torch.from_numpy(scaled).permute(0, 3, 1, 2)


def logits(layers: int, weights: Mapping[str, NDArray[np.generic]], inputs: torch.Tensor) -> NDArray[np.float32]:
    """The logits (images, classes) of the network with these weights, with or without DataParallel's `module.`."""
    network = CifarResNet(layers)
    state = {name.removeprefix("module."): torch.from_numpy(array) for name, array in weights.items()}
    network.load_state_dict(state)
    network.eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch documents it, its stubs lack it

    def work(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            result: torch.Tensor = network(batch)
            return result

    # One batch a thread: torch's own threads wait for each other at every layer, long where the machine is busy.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return torch.cat(list(pool.map(work, torch.split(inputs, _BATCH)))).numpy()


def accuracy(
    layers: int, weights: Mapping[str, NDArray[np.generic]], inputs: torch.Tensor, labels: NDArray[np.integer]
) -> float:
    """Top-1 accuracy in per cent of the network with these weights."""
    return 100 * float(np.mean(logits(layers, weights, inputs).argmax(1) == labels))
