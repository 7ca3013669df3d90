"""The library's five functions on real files."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import squeezer
from squeezer.artifact import Artifact
from squeezer.errors import ArtifactError, Code, ModelError, RecipeError


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "fc1.weight": random.standard_normal((64, 32)).astype(np.float32),
        "fc1.bias": random.standard_normal(64).astype(np.float32),
        "fc2.weight": random.standard_normal((8, 64)).astype(np.float32),
    }


@pytest.fixture
def model(tmp_path: Path, weights: dict[str, np.ndarray]) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    return path


def test_lossless_there_and_back(tmp_path: Path, model: Path, weights: dict[str, np.ndarray]) -> None:
    report = squeezer.compress(model, "lossless", tmp_path / "out.sqz")
    assert report.input_bytes == model.stat().st_size
    squeezer.verify(tmp_path / "out.sqz")
    assert squeezer.decompress(tmp_path / "out.sqz", tmp_path / "back.safetensors") == [tmp_path / "back.safetensors"]
    for loaded in (squeezer.load(tmp_path / "out.sqz"), load_file(tmp_path / "back.safetensors")):
        assert loaded.keys() == weights.keys()
        assert all(loaded[name].tobytes() == weights[name].tobytes() for name in weights)


def test_the_default_is_safe_and_beside_the_model(model: Path) -> None:
    report = squeezer.compress(model)
    assert report.preset == "safe"
    assert model.with_suffix(".sqz").stat().st_size == report.output_bytes


def test_a_folder_comes_back_with_its_files(tmp_path: Path, model: Path, weights: dict[str, np.ndarray]) -> None:
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.write(model, "model.safetensors")
        zipped.writestr("config.json", json.dumps({"layers": 2}))
        zipped.writestr("tokenizer/vocab.txt", "a\nb\n")
    report = squeezer.compress(archive, "lossless", tmp_path / "out.sqz")
    assert report.tensor_bytes == sum(array.nbytes for array in weights.values())
    assert report.ledger["files"] > 0
    squeezer.decompress(tmp_path / "out.sqz", tmp_path / "folder")
    assert json.loads((tmp_path / "folder/config.json").read_text()) == {"layers": 2}
    assert (tmp_path / "folder/tokenizer/vocab.txt").read_text() == "a\nb\n"
    assert load_file(tmp_path / "folder/model.safetensors").keys() == weights.keys()


def test_errors_name_their_cause_and_leave_no_file(tmp_path: Path, model: Path) -> None:
    with pytest.raises(RecipeError):
        squeezer.compress(model, "smallest", tmp_path / "out.sqz")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ModelError) as error:
        squeezer.compress(tmp_path / "text", "safe", tmp_path / "out.sqz")
    assert error.value.code is Code.UNKNOWN_FORMAT
    assert not (tmp_path / "out.sqz").exists()
    with pytest.raises(ArtifactError) as damaged:
        squeezer.load(model)
    assert damaged.value.code is Code.NOT_AN_ARTIFACT


def test_opening_reads_only_what_is_asked_for(tmp_path: Path, weights: dict[str, np.ndarray]) -> None:
    save_file({"large": np.zeros((3000, 3000), np.float32), "small": weights["fc1.bias"]}, tmp_path / "m.safetensors")
    squeezer.compress(tmp_path / "m.safetensors", {"steps": [], "encoding": {"coder": "raw", "small_tensors": "exact"}})
    with squeezer.open(tmp_path / "m.sqz") as artifact:
        read = _bytes_read()
        assert artifact["small"].tobytes() == weights["fc1.bias"].tobytes()
        assert _bytes_read() - read < 10_000
        assert isinstance(artifact, Artifact)
        assert set(artifact) == {"large", "small"}


def _bytes_read() -> int:
    text = Path(f"/proc/{os.getpid()}/io").read_text()
    return int(text.split("rchar: ")[1].split()[0])
