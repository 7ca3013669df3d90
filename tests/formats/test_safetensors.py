"""Our safetensors reader and writer against the reference implementation."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from squeezer.errors import Code, ModelError
from squeezer.formats import open_model
from squeezer.formats.safetensors import SafetensorsModel, write
from squeezer.model import DTYPES, TensorInfo
from squeezer.training.module import DTYPES as TORCH_DTYPES

same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def random_array(dtype: np.dtype[Any], shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Random bits, NaNs and infinities included."""
    raw = np.random.default_rng(seed).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    return (raw % 2 if dtype == np.bool_ else raw).view(dtype).reshape(shape)


def as_torch(array: np.ndarray[Any, Any], name: str) -> torch.Tensor:
    if array.size == 0:
        return torch.empty(array.shape, dtype=TORCH_DTYPES[name])
    raw = torch.from_numpy(array.reshape(-1).view(np.uint8).copy())
    return raw.view(TORCH_DTYPES[name]).reshape(array.shape)


def to_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def raw_file(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def error_of(tmp_path: Path, content: bytes) -> ModelError:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        SafetensorsModel(path)
    return caught.value


def test_every_dtype_is_covered() -> None:
    assert TORCH_DTYPES.keys() == DTYPES.keys()


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (5,), (2, 3, 4)])
def test_reads_what_the_reference_wrote(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    array = random_array(DTYPES[name], shape, 1)
    tensors = {"odd": torch.zeros(3, dtype=torch.uint8), "w": as_torch(array, name)}
    safetensors.torch.save_file(tensors, tmp_path / "m")
    model = open_model(tmp_path / "m")
    info = {info.name: info for info in model.tensors}["w"]
    assert (info.shape, info.dtype) == (shape, DTYPES[name])
    read = model.read("w")
    assert (read.shape, read.dtype) == (shape, DTYPES[name])
    assert read.tobytes() == array.tobytes()
    assert read.flags.c_contiguous
    assert read.flags.writeable
    assert model.read("w") is not read
    model.close()


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@settings(parent=same_folder, max_examples=60)
@given(st.dictionaries(names, st.tuples(st.sampled_from(sorted(DTYPES)), shapes), min_size=1, max_size=6))
@example({"../../etc/passwd": ("F32", (2,)), "重み.🙂": ("BOOL", (3,)), "": ("BF16", ()), "\0": ("F64", (1,))})
def test_round_trip_through_the_reference(tmp_path: Path, spec: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    arrays = {name: random_array(DTYPES[dtype], shape, 2) for name, (dtype, shape) in spec.items()}
    infos = [TensorInfo(name, array.shape, array.dtype) for name, array in arrays.items()]
    write(tmp_path / "m", infos, arrays.__getitem__, {})
    reference = safetensors.torch.load_file(tmp_path / "m")
    assert reference.keys() == arrays.keys()
    model = open_model(tmp_path / "m")
    assert list(model.tensors) == infos  # and so the order
    for name, (dtype, shape) in spec.items():
        assert reference[name].dtype == TORCH_DTYPES[dtype]
        assert tuple(reference[name].shape) == shape
        assert to_bytes(reference[name]) == arrays[name].tobytes() == model.read(name).tobytes()
    model.close()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_aliases_are_written_as_tensors_and_all_are_aligned(tmp_path: Path) -> None:
    arrays = {"small": np.arange(3, dtype=np.int8), "w": np.arange(4.0), "h": np.ones(3, ml_dtypes.bfloat16)}
    infos = [TensorInfo(name, array.shape, array.dtype) for name, array in arrays.items()]
    write(tmp_path / "m", infos, arrays.__getitem__, {"tied": "w"})
    loaded = safetensors.torch.load_file(tmp_path / "m")
    assert to_bytes(loaded["tied"]) == arrays["w"].tobytes()
    with safetensors.safe_open(tmp_path / "m", "np") as file:
        assert file.metadata() == {"format": "pt"}
    content = (tmp_path / "m").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    for name, array in {**arrays, "tied": arrays["w"]}.items():
        assert (8 + size + header[name]["data_offsets"][0]) % array.itemsize == 0


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"old")

    def broken(name: str) -> Any:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError):
        write(path, [TensorInfo("w", (2,), np.dtype(np.float32))], broken, {})
    with pytest.raises(ValueError, match="announced"):
        write(path, [TensorInfo("w", (2,), np.dtype(np.float32))], lambda _: np.zeros(3, np.float32), {})
    with pytest.raises(ModelError, match="__metadata__"):
        write(path, [TensorInfo("__metadata__", (), np.dtype(np.float32))], broken, {})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("m", b"old")]


def test_non_contiguous_arrays_are_written_in_row_major_order(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3).T
    write(tmp_path / "m", [TensorInfo("w", (3, 2), array.dtype)], lambda _: array, {})
    np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "m")["w"], array)


def test_metadata_are_listed_as_dropped(tmp_path: Path) -> None:
    for metadata, count in (({"format": "pt"}, 0), ({"format": "pt", "author": "me"}, 1), (None, 0)):
        safetensors.numpy.save_file({"w": np.zeros(2)}, tmp_path / "m", metadata)
        model = open_model(tmp_path / "m")
        assert len(model.dropped) == count
        assert all("author" in item.reason for item in model.dropped)
        model.close()


F32 = bytes(8)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (raw_file({}), Code.NO_TENSORS),
        (raw_file({"__metadata__": {"format": "pt"}}), Code.NO_TENSORS),
        (raw_file(b"{"), Code.INVALID_SAFETENSORS),
        (raw_file(b'{"w": NaN}'), Code.INVALID_SAFETENSORS),
        (raw_file(b'{"w": \xff}'), Code.INVALID_SAFETENSORS),
        (raw_file(b'{"a":' * 5000 + b"1" + b"}" * 5000), Code.INVALID_SAFETENSORS),
        (raw_file(b'{"w":' + b"1" * 5000 + b"}"), Code.INVALID_SAFETENSORS),
        (raw_file({"w": 3}), Code.INVALID_SAFETENSORS),
        (raw_file({"w": []}), Code.INVALID_SAFETENSORS),
        (raw_file({"w": {"dtype": "F32", "shape": [2]}}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"__metadata__": {"a": 1}, "w": entry()}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"__metadata__": [], "w": entry()}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(dtype=32)}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(dtype="F99")}, F32), Code.UNSUPPORTED_DTYPE),
        (raw_file({"w": entry(dtype="F4")}, F32), Code.UNSUPPORTED_DTYPE),
        (raw_file({"w": entry(shape=[-2])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(shape=[2.0])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(shape=[True, 2])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(shape="2")}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(shape=[3])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(shape=[1] * 65 + [2])}, F32), Code.INVALID_SAFETENSORS),
        (
            raw_file({"w": entry(shape=[2**62, 4, 2])}, F32),
            Code.INVALID_SAFETENSORS,
        ),  # 2**65 elements: 0 in 64 bits
        (raw_file({"w": entry(shape=[0, 2**40, 2**40], offsets=[0, 0])}), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(offsets=[0])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(offsets=[8, 0])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(offsets=[-8, 0])}, F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry(offsets=[4, 12])}, F32 + F32), Code.INVALID_SAFETENSORS),  # a hole
        (raw_file({"w": entry(), "v": entry()}, F32), Code.INVALID_SAFETENSORS),  # on top of each other
        (raw_file({"w": entry(), "v": entry(offsets=[4, 12])}, F32 + F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry()}, F32 + b"x"), Code.INVALID_SAFETENSORS),
        (raw_file(b'{"w":%s,"w":%s}' % ((json.dumps(entry()).encode(),) * 2), F32), Code.INVALID_SAFETENSORS),
        (
            raw_file(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', F32),
            Code.INVALID_SAFETENSORS,
        ),
        (raw_file(b'{"\\ud800":%s}' % json.dumps(entry()).encode(), F32), Code.INVALID_SAFETENSORS),
        (raw_file({"w": entry()}, F32[:-1]), Code.TRUNCATED_FILE),
        (raw_file({"w": entry(shape=[2**40], offsets=[0, 2**42])}, F32), Code.TRUNCATED_FILE),
        (raw_file({"w": entry()}, F32)[:30], Code.TRUNCATED_FILE),
        (struct.pack("<Q", 2**63) + b"{}", Code.INVALID_SAFETENSORS),
        (struct.pack("<Q", 100_000_001) + b"{}", Code.INVALID_SAFETENSORS),
        (struct.pack("<Q", 90_000_000) + b"{}", Code.TRUNCATED_FILE),
        (b"\x02\0\0", Code.TRUNCATED_FILE),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes, code: Code) -> None:
    tracemalloc.start()
    try:
        assert error_of(tmp_path, content).code is code
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_booleans_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(raw_file({"w": entry("BOOL", [2], [0, 2])}, b"\x01\x02"))
    model = open_model(tmp_path / "m")
    with pytest.raises(ModelError, match="boolean"):
        model.read("w")
    model.close()


def test_a_file_that_is_cut_after_opening(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(raw_file({"w": entry()}, F32))
    model = SafetensorsModel(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(ModelError) as caught:
        model.read("w")
    assert caught.value.code is Code.TRUNCATED_FILE
    model.close()


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    error_of(tmp_path, raw_file({"w": entry()}, F32[:-1]))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def sample() -> bytes:
    return safetensors.numpy.save(
        {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int16)}
    )


@settings(parent=same_folder, max_examples=200)
@given(st.data())
def test_every_mutation_ends_in_an_error_or_in_what_the_reference_reads(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(sample())
    (size,) = struct.unpack("<Q", content[:8])
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, 8 + size - 1))
        kind = data.draw(st.sampled_from(["set", "digit", "delete", "insert", "cut"]))
        if kind == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif kind == "digit":
            content[position : position + 1] = str(data.draw(st.integers(0, 2**70))).encode()
        elif kind == "delete":
            del content[position]
        elif kind == "insert":
            content.insert(position, data.draw(st.sampled_from(b'{}[],:"0123456789-eE')))
        else:
            del content[-data.draw(st.integers(1, 40)) :]
        if data.draw(st.booleans()) and kind in ("digit", "delete", "insert"):
            content[:8] = struct.pack("<Q", max(0, len(content) - 8 - 32))
        size = min(size, len(content) - 8)
        if size <= 0:
            return
    path = tmp_path / "m"
    path.write_bytes(content)
    try:
        model = open_model(path)
    except ModelError:
        return
    ours = {info.name: model.read(info.name) for info in model.tensors}
    model.close()
    reference = safetensors.torch.load(bytes(content))  # raises where the reference refuses what we took
    assert reference.keys() == ours.keys()
    for name, array in ours.items():
        assert to_bytes(reference[name]) == array.tobytes()


def test_the_mutation_test_accepts_the_sample(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(sample())
    assert {info.name for info in open_model(tmp_path / "m").tensors} == {"w", "b"}
