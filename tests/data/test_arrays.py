"""Arrays come back as they were saved, from every format and in every way: held, read by rows, unpacked."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest

from squeezer.data import npz, sources
from squeezer.data.batches import order
from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError
from squeezer.graph import Input
from tests.data.making import VECTOR, everything, labels, numbered, opened, problem_of, save

WAYS = ["stored", "deflated", "safetensors"]
ROWS = 500


@pytest.fixture(params=["held", "on disk"])
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "on disk":
        monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    return str(request.param)


@pytest.mark.parametrize("way", WAYS)
def test_rows_come_back(tmp_path: Path, way: str, memory: str) -> None:
    x, y = numbered(ROWS), labels(ROWS)
    dataset = opened(save(tmp_path / "data", {"x": x, "y": y}, way))
    assert dataset.labelled
    seen = []
    for split in Split:
        rows = order(dataset.size(split), 0, 0)
        (inputs,), targets = dataset.batch(split, rows)
        places = inputs[:, 0].astype(int)
        np.testing.assert_array_equal(inputs, x[places])
        np.testing.assert_array_equal(targets, y[places])
        assert targets is not None
        assert (inputs.dtype, targets.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(everything(dataset, split).inputs[0][rows], inputs)
        seen += places.tolist()
    assert sorted(seen) == list(range(ROWS))
    dataset.close()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("way", WAYS)
def test_only_what_is_left_on_disk_is_read_again(tmp_path: Path, way: str, memory: str) -> None:
    """Shows that the two ways differ: the file's last bytes are changed after it was opened."""
    path = save(tmp_path / "data", {"x": numbered(ROWS)}, way)
    dataset = opened(path)
    before = [everything(dataset, split).inputs[0].copy() for split in Split]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\x3e" * (len(content) // 4) + content[len(content) * 3 // 4 :])
    after = [everything(dataset, split).inputs[0] for split in Split]
    same = all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert same == (memory == "held" or way == "deflated")  # what was deflated has been unpacked elsewhere


class Noting(npz.Npz):
    """Remembers which arrays were taken into memory."""

    names_held: ClassVar[list[str]] = []

    def held(self, name: str) -> sources.Source:
        self.names_held.append(name)
        return super().held(name)


def test_small_arrays_are_held_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together they stay within the limit."""
    x, z, y = numbered(ROWS), numbered(ROWS), labels(ROWS).astype(np.uint8)
    path = save(tmp_path / "data", {"x": x, "z": z, "y": y})
    monkeypatch.setattr(npz, "Npz", Noting)
    held = []
    for limit in (ROWS - 1, ROWS, ROWS + x.nbytes, ROWS + 2 * x.nbytes):
        monkeypatch.setattr(sources, "MEMORY_BYTES", limit)
        Noting.names_held.clear()
        opened(path, VECTOR, Input("z", (None, 4), "F32")).close()
        held.append("".join(Noting.names_held))
    assert held == ["", "y", "yx", "yxz"]


def test_byte_order_and_booleans(tmp_path: Path, memory: str) -> None:
    x = numbered(ROWS)
    flags = x[:, 1:] > 0.5
    path = save(tmp_path / "data", {"x": x.astype(">f8"), "flags": flags})
    dataset = opened(path, Input("x", (None, 4), "F64"), Input("flags", (None, 3), "BOOL"))
    a, b = everything(dataset, Split.TRAIN).inputs
    places = a[:, 0].astype(int)
    np.testing.assert_array_equal(a, x[places].astype(np.float64))
    np.testing.assert_array_equal(b, flags[places])
    assert (a.dtype.str, b.dtype.str) == ("<f8", "|b1")


def test_fortran_order(tmp_path: Path, memory: str) -> None:
    x = np.asfortranarray(numbered(ROWS))
    if memory == "on disk":
        assert "Fortran" in problem_of({"x": x}, tmp_path / "data")
        return
    (inputs,) = everything(opened(save(tmp_path / "data", {"x": x})), Split.TRAIN).inputs
    np.testing.assert_array_equal(inputs, x[inputs[:, 0].astype(int)])


def test_bfloat16(tmp_path: Path, memory: str) -> None:
    x = numbered(200).astype(ml_dtypes.bfloat16)
    dataset = opened(save(tmp_path / "data", {"x": x}, "safetensors"), Input("x", (None, 4), "BF16"))
    (inputs,) = everything(dataset, Split.TRAIN).inputs
    assert inputs.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(inputs, x[inputs[:, 0].astype(int)])


def test_rows_outside_a_split_are_a_mistake(tmp_path: Path) -> None:
    dataset = opened(save(tmp_path / "data", {"x": numbered(ROWS)}))
    for row in (-1, dataset.size(Split.TRAIN)):
        with pytest.raises(IndexError):
            dataset.batch(Split.TRAIN, np.array([row]))
    assert dataset.batch(Split.TRAIN, np.array([], int)).inputs[0].shape == (0, 4)


def test_a_file_that_is_cut_off_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MEMORY_BYTES", 0)
    path = save(tmp_path / "data", {"x": numbered(ROWS)})
    dataset = opened(path)
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError) as caught:
        everything(dataset, Split.TRAIN)
    assert caught.value.code is Code.TRUNCATED_FILE


def test_several_inputs_by_name(tmp_path: Path, memory: str) -> None:
    x, tokens = numbered(ROWS), np.arange(3 * ROWS).reshape(ROWS, 3)
    path = save(tmp_path / "data", {"tokens": tokens, "x": x, "target": x[:, 1:2]})
    inputs = Input("tokens", (None, 3), "I64"), Input("x", (None, 4), "F32")
    dataset = opened(path, *inputs, loss="mse", targets="target", outputs=(None, 1))
    (a, b), c = everything(dataset, Split.TEST)
    places = b[:, 0].astype(int)
    np.testing.assert_array_equal(a, tokens[places])
    np.testing.assert_array_equal(c, x[places, 1:2])
    assert a.dtype == np.int64
