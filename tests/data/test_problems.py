"""Data that does not fit, and the sentence that says so; `data` of a recipe that contradicts itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from pydantic import ValidationError

from squeezer.data.spec import METRICS, DataSpec, Loss, Metric
from squeezer.errors import Code
from squeezer.graph import Input
from tests.data.making import VECTOR, labels, numbered, problem, problem_of, save


def test_rows_of_the_wrong_shape(tmp_path: Path) -> None:
    sentence = problem_of({"x": numbered(100, 5)}, tmp_path / "data")
    assert "'x' of the data set has rows of the shape (5)" in sentence
    assert "'x' wants (4)" in sentence


def test_arrays_of_different_lengths(tmp_path: Path) -> None:
    sentence = problem_of({"x": numbered(100), "y": labels(99)}, tmp_path / "data")
    assert "'x' and 'y' of the data set have 100 and 99 rows" in sentence


@pytest.mark.parametrize("x", [np.zeros((0, 4)), np.zeros((100, 0)), np.float64(3.0)])
def test_empty_arrays(tmp_path: Path, x: Any) -> None:
    assert "empty or has no rows" in problem_of({"x": x}, tmp_path / "data")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    x = numbered(100)
    x[62, 3] = value
    assert f"x[62, 3] of the data set is {value}" in problem_of({"x": x}, tmp_path / "data")
    arrays = {"x_train": numbered(100), "x_test": x}
    assert "x_test[62, 3]" in problem_of(arrays, tmp_path / "data")


def test_two_rows(tmp_path: Path) -> None:
    error = problem(save(tmp_path / "data", {"x": numbered(2)}))
    assert error.code is Code.TOO_FEW_ROWS
    assert "of 2 rows" in error.detail
    assert "data.test" in error.detail


def test_resize_is_for_images(tmp_path: Path) -> None:
    sentence = problem_of({"x": numbered(100)}, tmp_path / "data", transform={"resize": [2, 2]})
    assert "resize is for the images of a .zip" in sentence


def test_complex_inputs(tmp_path: Path) -> None:
    error = problem(save(tmp_path / "data", {"x": numbered(100)}), Input("x", (None, 4), "C64"))
    assert error.code is Code.UNSUPPORTED_DTYPE


def test_splits_of_other_shapes(tmp_path: Path) -> None:
    arrays = {"x_train": numbered(100), "x_test": numbered(100, 5)}
    assert "'x_test'" in problem_of(arrays, tmp_path / "data", VECTOR)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"loss": "mse", "metric": "accuracy"}, "metric accuracy does not go with loss mse"),
        ({"loss": "hinge"}, "loss"),
        ({"inputs": []}, "inputs"),
        ({"test": 1.0}, "test"),
        ({"validation": 0}, "validation"),
        ({"transform": {"std": [1, 0]}}, "greater than 0"),
        ({"transform": {"std": []}}, "std"),
        ({"transform": {"mean": [1, 2], "std": [1, 2, 3]}}, "2 numbers and std 3"),
        ({"transform": {"scale": 0}}, "scale"),
        ({"transform": {"scale": float("inf")}}, "scale"),
        ({"transform": {"resize": [0, 4]}}, "1 to 4096"),
        ({"transform": {"rotate": 3}}, "rotate"),
        ({"transforms": {"x": {"channels": "middle"}}}, "channels"),
    ],
)
def test_recipes_that_make_no_sense(document: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        DataSpec.model_validate(document)


def test_every_loss_has_a_metric_and_every_metric_a_loss() -> None:
    assert set(METRICS) == set(get_args(Loss))
    assert {metric for metrics in METRICS.values() for metric in metrics} == set(get_args(Metric))
    defaults = {loss: DataSpec(loss=loss).measure for loss in METRICS}
    assert defaults == {
        "cross_entropy": "accuracy",
        "binary_cross_entropy": "binary_accuracy",
        "mse": "mse",
        "l1": "mae",
        "huber": "mse",
        "cosine": "cosine_similarity",
    }
    assert DataSpec(metric="perplexity").measure == "perplexity"
