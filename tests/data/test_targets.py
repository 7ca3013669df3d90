"""Which targets go with which loss, and the labels and numbers that are refused before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from squeezer.data.dataset import Split
from squeezer.data.targets import class_axis
from squeezer.graph import Input
from tests.data.making import Array, everything, labels, numbered, opened, problem_of, save

ROWS = 300
X = numbered(ROWS)


def targets_of(tmp_path: Path, y: Array, outputs: tuple[int | None, ...] | None = None, **spec: Any) -> Array:
    """The targets of all rows of TRAIN, with y[i] == place of the row where it is y's first number."""
    dataset = opened(save(tmp_path / "data", {"x": X, "y": y}), outputs=outputs, **spec)
    (inputs,), targets = everything(dataset, Split.TRAIN)
    assert targets is not None
    places = inputs[:, 0].astype(int)
    np.testing.assert_array_equal(targets.reshape(len(places), -1), y[places].reshape(len(places), -1))
    return targets


def refused(tmp_path: Path, y: Array, outputs: tuple[int | None, ...] | None = None, **spec: Any) -> str:
    return problem_of({"x": X, "y": y}, tmp_path / "data", outputs=outputs, **spec)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, np.bool_])
def test_labels_of_any_type(tmp_path: Path, dtype: type) -> None:
    y = labels(ROWS, 2).astype(dtype)
    assert targets_of(tmp_path, y, (None, 2)).dtype == np.int64
    assert targets_of(tmp_path, y[:, None], (None, 2)).ndim == 1
    assert targets_of(tmp_path, y[:, None]).ndim == 1


@pytest.mark.parametrize(
    ("outputs", "positions"),
    [((None, 7, 5), (7,)), ((None, 5, 7), (7,)), ((None, None, 5), (7,)), ((None, 5, 4, 6), (4, 6))],
)
def test_labels_of_positions(tmp_path: Path, outputs: tuple[int | None, ...], positions: tuple[int, ...]) -> None:
    y = np.random.default_rng(0).integers(0, 5, (ROWS, *positions))
    y[::3, 0] = -100
    assert targets_of(tmp_path, y, outputs).shape[1:] == positions
    y[40, 1] = 5
    assert "y[40, 1" in refused(tmp_path, y, outputs)
    assert "0 to 4" in refused(tmp_path, y, outputs)
    y[40, 1] = -1
    assert "-100 marks a position" in refused(tmp_path, y, outputs)


def test_labels_of_pixels_with_a_channel(tmp_path: Path) -> None:
    y = np.random.default_rng(0).integers(0, 5, (ROWS, 1, 4, 6))
    assert targets_of(tmp_path, y, (None, 5, 4, 6)).shape[1:] == (4, 6)


def test_the_axis_of_classes() -> None:
    assert class_axis((None, 10), (None,)) == 1
    assert class_axis((None, 7, 5), (None, 7)) == 2
    assert class_axis((None, 5, 7), (None, 7)) == 1
    assert class_axis((None, 7, 7), (None, 7)) == 2  # as transformers have it
    assert class_axis((None, 6, 6, 6), (None, 6, 6)) == 1  # as networks of images have it
    assert class_axis((None, 4, 6, 5), (None, 4, 6)) == 3
    assert class_axis((None, 5, None, None), (None, 4, 6)) == 1
    assert class_axis((None, 10), (None, 10)) is None
    assert class_axis((None, 9, 5), (None, 7)) is None
    assert class_axis((None,), ()) is None


def test_labels_out_of_range(tmp_path: Path) -> None:
    y = labels(ROWS, 10)
    targets_of(tmp_path, y, (None, 10))
    assert "y[9] of the data set is 9, but the network has 9 classes, so labels are 0 to 8" in refused(
        tmp_path, y, (None, 9)
    )
    y[33] = -1
    assert "y[33] of the data set is -1" in refused(tmp_path, y)
    y[33] = -100  # positions can be ignored, rows cannot
    assert "y[33]" in refused(tmp_path, y)
    y[33] = 2**40
    assert "y[33]" in refused(tmp_path, y)


def test_labels_that_are_no_labels(tmp_path: Path) -> None:
    y = labels(ROWS).astype(float)
    y[7] = 0.5
    assert "y[7] of the data set is 0.5, but labels are whole numbers" in refused(tmp_path, y)
    y[7] = np.nan
    assert "y[7] of the data set is nan" in refused(tmp_path, y)


def test_one_class_only(tmp_path: Path) -> None:
    assert "one class alone, 4" in refused(tmp_path, np.full(ROWS, 4), (None, 10))
    ignored = np.full((ROWS, 7), -100)
    assert "no label that counts" in refused(tmp_path, ignored, (None, 7, 5))
    ignored[3] = 2
    assert "one class alone, 2" in refused(tmp_path, ignored, (None, 7, 5))
    assert "all 1" in refused(tmp_path, np.ones((ROWS, 2)), (None, 2), loss="binary_cross_entropy")


def test_one_hot_labels_are_explained(tmp_path: Path) -> None:
    assert "y.argmax(1)" in refused(tmp_path, np.eye(3)[labels(ROWS)], (None, 3))


def test_shapes_of_labels(tmp_path: Path) -> None:
    sentence = refused(tmp_path, np.zeros((ROWS, 4, 4), int), (None, 10))
    assert "(any, 4, 4)" in sentence
    assert "(any, 10)" in sentence


@pytest.mark.parametrize(
    ("shape", "outputs", "expected"),
    [
        ((), (None, 1), (1,)),
        ((1,), (None,), ()),
        ((6,), (None, 6), (6,)),
        ((4, 4), (None, 1, 4, 4), (1, 4, 4)),
        ((6,), None, (6,)),
    ],
)
def test_numbers_take_the_shape_of_the_output(
    tmp_path: Path, shape: tuple[int, ...], outputs: tuple[int | None, ...] | None, expected: tuple[int, ...]
) -> None:
    y = np.random.default_rng(0).random((ROWS, *shape)).astype(np.float32)
    for loss in ("mse", "l1", "huber", "cosine", "binary_cross_entropy"):
        targets = targets_of(tmp_path, y, outputs, loss=loss)
        assert targets.dtype == np.float32
        assert targets.shape[1:] == expected
    assert "do not go together" in refused(tmp_path, np.zeros((ROWS, 5)), (None, 6), loss="mse")


def test_numbers_out_of_range(tmp_path: Path) -> None:
    y = np.random.default_rng(0).random((ROWS, 2))
    y[5, 1] = 1.25
    targets_of(tmp_path, y.astype(np.float32), (None, 2), loss="mse")
    assert "y[5, 1] of the data set is 1.25" in refused(tmp_path, y, (None, 2), loss="binary_cross_entropy")
    for value in (np.nan, np.inf, 1e39):
        y[5, 1] = value
        assert "y[5, 1]" in refused(tmp_path, y, (None, 2), loss="mse")


def test_no_targets(tmp_path: Path) -> None:
    dataset = opened(save(tmp_path / "data", {"x": X}), outputs=(None, 10))
    assert not dataset.labelled
    assert everything(dataset, Split.TRAIN).targets is None


def test_rows_are_named_beyond_the_first_block(tmp_path: Path) -> None:
    """The pass reads some MiB at once, and counts on."""
    x = np.zeros((40_000, 100), np.float32)
    x[:, 0] = np.arange(len(x))
    y = labels(len(x))
    path, wanted = tmp_path / "data", Input("x", (None, 100), "F32")
    y[39_999] = 11
    assert "y[39999] of the data set is 11" in problem_of({"x": x, "y": y}, path, wanted, outputs=(None, 10))
    x[31_234, 17] = np.inf
    assert "x[31234, 17] of the data set is inf" in problem_of({"x": x}, path, wanted)
