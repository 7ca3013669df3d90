"""Hugging Face folders on disk and zipped, and sharded weights."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from squeezer.errors import Code, ModelError
from squeezer.formats import huggingface, open_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from squeezer.model import Model

TENSORS = {f"layer.{i}.weight": np.random.default_rng(i).random((4, i + 1)).astype(np.float32) for i in range(4)}
NAMES = list(TENSORS)


def zip_stored(folder: Path) -> Path:
    return pack(folder, zipfile.ZIP_STORED)


def zip_deflated(folder: Path) -> Path:
    return pack(folder, zipfile.ZIP_DEFLATED)


def zip_with_folder(folder: Path) -> Path:
    return pack(folder, zipfile.ZIP_STORED, f"{folder.name}/")


def pack(folder: Path, compress: int, prefix: str = "") -> Path:
    target = folder.parent / "upload"
    with zipfile.ZipFile(target, "w", compress) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, prefix + str(path.relative_to(folder)))
    return target


def as_it_is(folder: Path) -> Path:
    return folder


every_form = pytest.mark.parametrize("form", [as_it_is, zip_stored, zip_deflated, zip_with_folder])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with everything but weights."""
    path = tmp_path / "bert"
    (path / "onnx").mkdir(parents=True)
    (path / "config.json").write_text('{"architectures": ["Bert"]}')
    (path / "onnx" / "config.json").write_text("{}")
    (path / "onnx" / "model.onnx").write_bytes(b"onnx")
    (path / "optimizer.pt").write_bytes(b"adam")
    (path / ".gitattributes").write_text("*.bin lfs")
    return path


def put_single(folder: Path) -> None:
    save_file(TENSORS, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"the same again")


def put_shards(folder: Path, stem: str = "model", suffix: str = "safetensors") -> dict[str, str]:
    weight_map = {}
    for number, names in enumerate((NAMES[:3], NAMES[3:]), 1):
        shard = f"{stem}-{number:05}-of-00002.{suffix}"
        part = {name: TENSORS[name] for name in names}
        if suffix == "safetensors":
            save_file(part, folder / shard)
        else:
            torch.save({name: torch.from_numpy(array) for name, array in part.items()}, folder / shard)
        weight_map |= dict.fromkeys(names, shard)
    write_index(folder / f"{stem}.{suffix}.index.json", weight_map)
    return weight_map


def write_index(path: Path, weight_map: Any) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def check(model: Model, names: list[str] = NAMES) -> None:
    assert {info.name for info in model.tensors} == set(names)
    for name in names:
        np.testing.assert_array_equal(model.read(name), TENSORS[name])
        assert model.read(name).dtype == np.float32


def error_of(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_model(path)
    return caught.value


def put_pytorch(folder: Path) -> None:
    torch.save({name: torch.from_numpy(array) for name, array in TENSORS.items()}, folder / "pytorch_model.bin")


def put_pytorch_shards(folder: Path) -> None:
    put_shards(folder, "pytorch_model", "bin")


def put_shards_without_index(folder: Path) -> None:
    put_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def put_other_name(folder: Path) -> None:
    save_file(TENSORS, folder / "adapter.safetensors")


@every_form
@pytest.mark.parametrize(
    "put", [put_single, put_shards, put_pytorch, put_pytorch_shards, put_shards_without_index, put_other_name]
)
def test_folders(folder: Path, form: Callable[[Path], Path], put: Callable[[Path], Any]) -> None:
    put(folder)
    path = form(folder)
    model = open_model(path)
    assert model.format == "huggingface"
    check(model)
    assert model.files == {"config.json": 27, "onnx/config.json": 2}
    assert model.read_file("config.json") == b'{"architectures": ["Bert"]}'
    with pytest.raises(KeyError):
        model.read_file("../upload")
    dropped = {Path(item.name).name: item.reason for item in model.dropped}
    assert dropped["model.onnx"].startswith("other weights")
    assert dropped["optimizer.pt"] == "training state"
    assert ".gitattributes" in dropped
    if path.is_file():
        assert model.input_bytes == path.stat().st_size
    model.close()


def test_temporary_files_and_descriptors_are_released(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_shards(folder)
    upload = zip_deflated(folder)
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a Path would be opened and counted, too
    model = open_model(upload)
    assert list(temporary.iterdir())
    check(model)
    model.close()
    assert not list(temporary.iterdir())
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert "model-00002-of-00002.safetensors: The file is a Git LFS pointer" in error_of(zip_deflated(folder)).detail
    assert not list(temporary.iterdir())
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208  # likewise


def test_an_index_beside_its_shards(folder: Path) -> None:
    put_shards(folder)
    (folder / "private.txt").write_text("not asked for")
    model = open_model(folder / "model.safetensors.index.json")
    check(model)
    assert model.files == {}
    model.close()


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", 3, None, "a\\b"], ids=repr
)
def test_an_index_cannot_name_files_elsewhere(folder: Path, shard: Any) -> None:
    write_index(folder / "index", {"w": shard})
    assert error_of(folder / "index").code is Code.INVALID_ARCHIVE


@every_form
def test_a_missing_shard(folder: Path, form: Callable[[Path], Path]) -> None:
    put_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    error = error_of(form(folder))
    assert error.code is Code.FILE_NOT_FOUND
    assert "model-00002-of-00002.safetensors" in error.detail
    assert error_of(folder / "model.safetensors.index.json").code is Code.FILE_NOT_FOUND
    (folder / "model.safetensors.index.json").unlink()
    save_file(TENSORS, folder / "model-00003-of-00003.safetensors")
    (folder / "model-00001-of-00002.safetensors").unlink()
    assert "model-00001-of-00003" in error_of(form(folder)).detail


def test_an_index_that_lies(folder: Path) -> None:
    weight_map = put_shards(folder)
    index = folder / "model.safetensors.index.json"
    write_index(index, {**weight_map, "absent": "model-00001-of-00002.safetensors"})
    assert "'absent'" in error_of(folder).detail
    write_index(index, {NAMES[0]: "config.json"})
    assert error_of(folder).code is Code.UNKNOWN_FORMAT
    for content in ("[]", '{"weight_map": {}}', '{"weight_map": []}', "nonsense", "[" * 100_000):
        index.write_text(content)
        assert error_of(folder).code is Code.UNKNOWN_FORMAT


def test_a_tensor_in_two_shards(folder: Path) -> None:
    put_shards(folder)
    save_file(TENSORS, folder / "model-00002-of-00002.safetensors")
    assert "two shards" in error_of(folder).detail


def test_several_models_are_refused_by_name(folder: Path) -> None:
    for name in ("unet", "vae"):
        (folder / name).mkdir()
        save_file(TENSORS, folder / name / "model.safetensors")
    error = error_of(folder)
    assert error.code is Code.UNSUPPORTED_FORMAT
    assert "unet/model.safetensors" in error.detail
    save_file(TENSORS, folder / "a.safetensors")
    check(open_model(folder))  # the one at the top
    save_file(TENSORS, folder / "b.safetensors")
    assert error_of(folder).code is Code.UNSUPPORTED_FORMAT


def test_no_weights(folder: Path) -> None:
    assert error_of(folder).code is Code.NO_TENSORS


def test_code_in_a_folder_is_not_run(folder: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), folder / "pytorch_model.bin")
    for form in (as_it_is, zip_stored, zip_deflated):
        assert error_of(form(folder)).code is Code.UNSAFE_PICKLE


def test_a_zip_in_a_zip_is_not_opened(folder: Path, tmp_path: Path) -> None:
    put_single(folder)
    inner = zip_stored(folder)
    outer = tmp_path / "outer"
    outer.mkdir()
    inner.rename(outer / "model.safetensors")
    assert error_of(zip_stored(outer)).code is Code.UNKNOWN_FORMAT


def test_large_files_beside_the_weights_are_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_single(folder)
    (folder / "corpus.txt").write_bytes(bytes(1000))
    monkeypatch.setattr(huggingface, "MAX_FILES_BYTES", 500)
    model = open_model(folder)
    assert model.files == {"config.json": 27, "onnx/config.json": 2}
    assert "corpus.txt" in {item.name for item in model.dropped}
    model.close()


def test_tied_tensors_of_a_pickle_stay_aliases(folder: Path) -> None:
    weight = torch.rand(3, 3)
    torch.save({"a": weight, "b": weight}, folder / "pytorch_model.bin")
    model = open_model(zip_stored(folder))
    assert model.aliases == {"b": "a"}
    model.close()
