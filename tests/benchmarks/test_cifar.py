from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import cifar


def packed(pixels: NDArray[np.uint8]) -> bytes:
    """The inverse of `unpack`: differences along each row, red and blue less green, by channel."""
    differences = np.diff(pixels, axis=2, prepend=np.uint8(0))
    differences[..., [0, 2]] -= differences[..., [1]]
    return lzma.compress(np.ascontiguousarray(differences.transpose(3, 0, 1, 2)).tobytes())


def test_images_are_unpacked(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    assert np.array_equal(cifar.unpack(packed(pixels)), pixels)

    parts = {"test": pixels[:3], "train": pixels[1:]}
    labels = {"test": np.array([1, 2, 3], np.uint8), "train": np.array([4, 5, 6], np.uint8)}
    arrays = {f"x_{part}_xz": np.frombuffer(packed(images), np.uint8) for part, images in parts.items()}
    np.savez(tmp_path / "cifar10.npz", **arrays, y_test=labels["test"], y_train=labels["train"])  # type: ignore[arg-type] # numpy's stubs take keywords for a flag
    for part, read in (("test", cifar.test_images), ("train", cifar.train_images)):
        images, truth = read(tmp_path)
        assert np.array_equal(images, parts[part])
        assert np.array_equal(truth, labels[part])
