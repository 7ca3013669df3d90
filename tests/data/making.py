"""Data sets for tests, and all rows of one that was opened."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from squeezer.data.dataset import Batch, Dataset, Split
from squeezer.data.open import open_dataset
from squeezer.data.spec import DataSpec
from squeezer.errors import Code, DataError
from squeezer.graph import Input

Array = np.ndarray[Any, Any]
VECTOR = Input("x", (None, 4), "F32")
IMAGE = Input("x", (None, 3, 8, 10), "F32")


def numbered(rows: int, columns: int = 4) -> Array:
    """Rows that all differ, and whose first number is their place."""
    array = np.random.default_rng(rows).random((rows, columns)).astype(np.float32)
    array[:, 0] = np.arange(rows)
    return array


def labels(rows: int, classes: int = 3) -> Array:
    return np.arange(rows) % classes


def save(path: Path, arrays: dict[str, Array], way: str = "stored") -> Path:
    match way:
        case "stored":
            np.savez(path.open("wb"), **arrays)
        case "deflated":
            np.savez_compressed(path.open("wb"), **arrays)
        case "safetensors":
            safetensors.numpy.save_file(arrays, path)
    return path


def opened(path: Path, *inputs: Input, outputs: tuple[int | None, ...] | None = None, **spec: Any) -> Dataset:
    return open_dataset(path, DataSpec(**spec), inputs or [VECTOR], outputs=outputs, scratch=path.parent)


def everything(dataset: Dataset, split: Split) -> Batch:
    return dataset.batch(split, np.arange(dataset.size(split)))


def problem(path: Path, *inputs: Input, outputs: tuple[int | None, ...] | None = None, **spec: Any) -> DataError:
    """The error with which a data set is refused. The file is left as it was, and nothing is left beside it."""
    beside = sorted(path.parent.iterdir())
    with pytest.raises(DataError) as caught:
        opened(path, *inputs, outputs=outputs, **spec).close()
    assert sorted(path.parent.iterdir()) == beside
    return caught.value


def problem_of(arrays: dict[str, Array], path: Path, *inputs: Input, **more: Any) -> str:
    """The sentence with which these arrays are refused as invalid."""
    error = problem(save(path, arrays), *inputs, **more)
    assert error.code is Code.INVALID_DATA, error.detail
    return error.detail


def encoded(pixels: Array, kind: str = "PNG", **options: Any) -> bytes:
    """An image file with these pixels, (height, width) or (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return path
