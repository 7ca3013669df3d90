"""CIFAR-10's images, from the file `cifar10.npz` that docs/benchmarks.md describes."""

from __future__ import annotations

import lzma
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SIDE = 32


def test_images(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels of shape (10000, 32, 32, 3), RGB, and labels of shape (10000,)."""
    with np.load(folder / "cifar10.npz") as archive:
        return unpack(archive["x_test_xz"].tobytes()), archive["y_test"]


def train_images(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels of shape (50000, 32, 32, 3), RGB, and labels of shape (50000,)."""
    with np.load(folder / "cifar10.npz") as archive:
        return unpack(archive["x_train_xz"].tobytes()), archive["y_train"]


def unpack(packed: bytes) -> NDArray[np.uint8]:
    """Pixels (n, 32, 32, 3) from LZMA over channels of differences along each row; red and blue less green."""
    differences = np.frombuffer(lzma.decompress(packed), np.uint8).reshape(3, -1, _SIDE, _SIDE)
    pixels = differences.transpose(1, 2, 3, 0).copy()
    pixels[..., 0] += pixels[..., 1]
    pixels[..., 2] += pixels[..., 1]
    return np.add.accumulate(pixels, axis=2, dtype=np.uint8)
