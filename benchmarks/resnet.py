"""What the ResNets of the zoo make of CIFAR-10: inputs, logits and accuracy."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from squeezer.zoo.resnet import CifarResNet

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: By channel, of images scaled to 0..1; these checkpoints were trained with ImageNet's.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
_BATCH = 50


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
