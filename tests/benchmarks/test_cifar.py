from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np

from benchmarks import cifar


def test_images_are_unpacked(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    # The inverse: differences along each row, red and blue less green, by channel.
    differences = np.diff(pixels, axis=2, prepend=np.uint8(0))
    differences[..., [0, 2]] -= differences[..., [1]]
    packed = lzma.compress(np.ascontiguousarray(differences.transpose(3, 0, 1, 2)).tobytes())
    assert np.array_equal(cifar.unpack(packed), pixels)

    labels = np.array([1, 2, 3, 4], np.uint8)
    np.savez(tmp_path / "cifar10.npz", x_test_xz=np.frombuffer(packed, np.uint8), y_test=labels)
    images, read = cifar.test_images(tmp_path)
    assert np.array_equal(images, pixels)
    assert np.array_equal(read, labels)
