"""PyTorch checkpoints: both containers, all kinds of tensors, and files that mean harm."""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeezer.errors import Code, ModelError
from squeezer.formats import open_model
from squeezer.formats.safetensors import write

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from squeezer.model import Model

DTYPES = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint64: np.uint64,
    torch.uint32: np.uint32,
    torch.uint16: np.uint16,
    torch.uint8: np.uint8,
    torch.bool: np.bool_,
    torch.complex64: np.complex64,
}
both_containers = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def saved(tmp_path: Path, document: Any, *, zipped: bool = True) -> Path:
    path = tmp_path / "checkpoint"
    torch.save(document, path, _use_new_zipfile_serialization=zipped)
    return path


def opened(tmp_path: Path, document: Any, *, zipped: bool = True) -> Model:
    return open_model(saved(tmp_path, document, zipped=zipped))


def error_of(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught:
        open_model(path)
    return caught.value


def assert_same(model: Model, name: str, tensor: torch.Tensor) -> None:
    """Compares through Python numbers (and bits where there are NaNs), on a way of its own."""
    array = model.read(name)
    assert array.dtype == DTYPES[tensor.dtype]
    assert array.shape == tuple(tensor.shape)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    buffer = io.BytesIO()
    torch.save(tensor.detach().clone(memory_format=torch.contiguous_format), buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert array.tobytes() == archive.read("archive/data/0")


#: torch.load itself fails on these in a legacy container, with and without weights_only.
NOT_IN_LEGACY = {torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64}


@pytest.mark.parametrize("dtype", sorted(NOT_IN_LEGACY, key=str), ids=str)
def test_types_that_legacy_containers_cannot_hold(tmp_path: Path, dtype: torch.dtype) -> None:
    path = saved(tmp_path, {"w": torch.zeros(3).to(dtype)}, zipped=False)
    with pytest.raises(AttributeError):
        torch.load(path, weights_only=False)
    assert error_of(path).code is Code.INVALID_CHECKPOINT


@pytest.mark.parametrize(
    ("dtype", "zipped"),
    [(dtype, True) for dtype in DTYPES] + [(dtype, False) for dtype in DTYPES if dtype not in NOT_IN_LEGACY],
)
def test_every_dtype(tmp_path: Path, dtype: torch.dtype, zipped: bool) -> None:
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (48,), dtype=torch.uint8)
    tensors = {
        "matrix": raw.view(dtype).reshape(3, -1),
        "scalar": raw.view(dtype)[1],
        "empty": torch.zeros(2, 0, dtype=dtype),
    }
    model = opened(tmp_path, tensors, zipped=zipped)
    assert [info.name for info in model.tensors] == list(tensors)
    for name, tensor in tensors.items():
        assert_same(model, name, tensor)
    model.close()


@both_containers
def test_views_are_made_contiguous(tmp_path: Path, zipped: bool) -> None:
    base = torch.arange(24.0)
    tensors = {
        "transposed": base.reshape(4, 6).T,
        "strided": base[1::3],
        "expanded": torch.tensor([2.0]).expand(5, 7),
        "overlapping": base.as_strided((5, 4), (2, 1)),
        "channels_last": torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "parameter": torch.nn.Parameter(torch.rand(3)),
        "sliced": base[20:],
    }
    model = opened(tmp_path, tensors, zipped=zipped)
    assert not model.aliases
    for name, tensor in tensors.items():
        assert_same(model, name, tensor)
    model.close()


def test_conjugated_and_negated_views_are_resolved(tmp_path: Path) -> None:
    values = torch.tensor([1 + 2j, 3 - 4j])
    model = opened(tmp_path, {"w": values.conj()})
    np.testing.assert_array_equal(model.read("w"), np.array([1 - 2j, 3 + 4j], np.complex64))
    model = opened(tmp_path, {"neg": values.conj().imag})
    np.testing.assert_array_equal(model.read("neg"), np.array([-2, 4], np.float32))


@both_containers
def test_tied_tensors_are_aliases(tmp_path: Path, zipped: bool) -> None:
    weight = torch.rand(4, 4)
    tensors = {
        "embed": weight,
        "other_view": weight.T,
        "head": weight,
        "part": weight[:2],
        "equal_but_apart": weight.clone(),
        "empty": torch.zeros(0),
        "empty_too": torch.zeros(0),
    }
    model = opened(tmp_path, tensors, zipped=zipped)
    assert model.aliases == {"head": "embed"}
    assert [info.name for info in model.tensors] == [name for name in tensors if name != "head"]
    assert_same(model, "part", weight[:2])
    assert_same(model, "other_view", weight.T)


def test_names_come_back_as_they_are(tmp_path: Path) -> None:
    names = ["module.conv.weight", "../../etc/passwd", "重み.🙂", "", "a\0b", "/abs", "with space\n"]
    model = opened(tmp_path, {"state_dict": OrderedDict((name, torch.rand(2)) for name in names)})
    assert [info.name for info in model.tensors] == names
    write(tmp_path / "out", list(model.tensors), model.read, model.aliases)
    assert [info.name for info in open_model(tmp_path / "out").tensors] == names
    assert error_of(saved(tmp_path, {"\ud800": torch.rand(2)})).code is Code.INVALID_CHECKPOINT


def test_a_real_module(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "best": 0.5,
        "state_dict": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "args": argparse.Namespace(lr=0.1),
    }
    model = opened(tmp_path, checkpoint)
    assert [info.name for info in model.tensors] == list(module.state_dict())
    for name, tensor in module.state_dict().items():
        assert_same(model, name, tensor)
    assert {item.name: item.reason for item in model.dropped} == {
        "epoch": "not a tensor (int)",
        "best": "not a tensor (float)",
        "optimizer": "optimizer or other training state (12 tensors)",
        "args": "not a tensor (Namespace)",
    }


def edited(
    document: Any, edit: Callable[[bytes], bytes], name: str = "data.pkl", compress: int = zipfile.ZIP_STORED
) -> bytes:
    """The checkpoint with one of its records changed."""
    source, target = io.BytesIO(), io.BytesIO()
    torch.save(document, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, edit(content) if info.filename.endswith(name) else content, compress)
    return target.getvalue()


@both_containers
def test_saved_on_a_gpu(tmp_path: Path, zipped: bool) -> None:
    weight = torch.arange(4.0)
    on_cpu, on_gpu = b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"

    def move(content: bytes) -> bytes:
        assert on_cpu in content
        return content.replace(on_cpu, on_gpu)

    path = saved(tmp_path, {"w": weight}, zipped=zipped)
    path.write_bytes(edited({"w": weight}, move) if zipped else move(path.read_bytes()))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)  # so it does say so
    assert_same(open_model(path), "w", weight)


class RunsCode:
    """Pickled, this touches the file `path` when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return subprocess.call, (["touch", str(self.path)],)


class RunsSystem(RunsCode):
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@both_containers
@pytest.mark.parametrize("kind", [RunsCode, RunsSystem])
def test_code_is_not_run(tmp_path: Path, kind: type[RunsCode], zipped: bool) -> None:
    mark = tmp_path / "mark"
    path = saved(tmp_path, {"w": torch.rand(2), "x": kind(mark)}, zipped=zipped)
    error = error_of(path)
    assert error.code is Code.UNSAFE_PICKLE
    assert "torch.save(model.state_dict()" in error.detail
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.exists()  # it would have run


@both_containers
def test_a_pickled_module_names_the_remedy(tmp_path: Path, zipped: bool) -> None:
    error = error_of(saved(tmp_path, torch.nn.Linear(2, 2), zipped=zipped))
    assert error.code is Code.UNSAFE_PICKLE
    assert "torch.nn.modules.linear.Linear" in error.detail
    assert "torch.save(model.state_dict()" in error.detail


@pytest.mark.parametrize("value", [np.zeros(3), np.float64(0.5)], ids=["array", "scalar"])
def test_numpy_objects_name_the_remedy(tmp_path: Path, value: Any) -> None:
    error = error_of(saved(tmp_path, {"state_dict": {"w": torch.rand(2)}, "best": value}))
    assert error.code is Code.UNSAFE_PICKLE
    assert "NumPy" in error.detail


def test_an_unusual_pickle_protocol(tmp_path: Path) -> None:
    torch.save({"w": torch.rand(2)}, tmp_path / "m", pickle_protocol=4)
    assert error_of(tmp_path / "m").code is Code.INVALID_CHECKPOINT


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.zeros(2, dtype=torch.complex128),
        torch.zeros(2, dtype=torch.float8_e4m3fnuz),
    ],
    ids=["sparse", "meta", "complex128", "float8_fnuz"],
)
def test_tensors_that_cannot_be_stored(tmp_path: Path, tensor: torch.Tensor) -> None:
    error = error_of(saved(tmp_path, {"good": torch.rand(2), "bad": tensor}))
    assert error.code is Code.UNSUPPORTED_DTYPE
    assert "'bad'" in error.detail
    opened(tmp_path, {"state_dict": {"good": torch.rand(2)}, "bad": tensor}).close()  # but elsewhere they may be


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_cannot_be_stored(tmp_path: Path) -> None:
    quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    assert error_of(saved(tmp_path, {"w": quantised})).code is Code.UNSUPPORTED_DTYPE


@pytest.mark.parametrize("document", [{}, {"epoch": 1}, [], torch.rand(3), [torch.rand(2)], 7], ids=repr)
@both_containers
def test_no_named_tensors(tmp_path: Path, document: Any, zipped: bool) -> None:
    assert error_of(saved(tmp_path, document, zipped=zipped)).code is Code.NO_TENSORS


@both_containers
def test_a_file_cut_off_anywhere(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, {"w": torch.rand(5)}, zipped=zipped)
    content = path.read_bytes()
    for end in range(20, len(content), 7 if zipped else 3):
        path.write_bytes(content[:end])
        assert error_of(path).code is Code.TRUNCATED_FILE, end


def number(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little")


DOCUMENT = {"w": torch.arange(4.0), "v": torch.arange(100.0)}


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"K\x04t", b"K\x40t", Code.INVALID_CHECKPOINT),  # the record is said to be longer than it is
        (b"K\x04t", number(2**30) + b"t", Code.INVALID_CHECKPOINT),
        (b"K\x04\x85", number(2**30) + b"\x85", Code.INVALID_CHECKPOINT),  # a shape beyond the storage
        (
            b"K\x04\x85q\x08K\x01\x85",
            number(2**30) + b"\x85q\x08K\x00\x85",
            Code.ARCHIVE_TOO_LARGE,
        ),  # expanded
    ],
)
def test_lengths_that_lie(tmp_path: Path, old: bytes, new: bytes, code: Code) -> None:
    def lie(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    path = tmp_path / "m"
    path.write_bytes(edited(DOCUMENT, lambda content: content))
    open_model(path).close()
    path.write_bytes(edited(DOCUMENT, lie))
    assert error_of(path).code is code


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(edited(DOCUMENT, lambda content: content, compress=zipfile.ZIP_DEFLATED))
    assert error_of(tmp_path / "m").code is Code.INVALID_CHECKPOINT


def test_booleans_of_other_bytes_are_made_proper(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(edited({"w": torch.tensor([True, False])}, lambda _: b"\x02\x00", name="data/0"))
    assert open_model(path).read("w").tobytes() == b"\x01\x00"


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data(), st.booleans())
def test_mutations_end_in_an_error_or_in_tensors(tmp_path: Path, data: st.DataObject, zipped: bool) -> None:
    content = bytearray(saved(tmp_path, {"model": DOCUMENT, "epoch": 3}, zipped=zipped).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "m"
    path.write_bytes(content)
    try:
        model = open_model(path)
        for info in model.tensors:
            assert model.read(info.name).nbytes == info.nbytes < 64 << 20
        model.close()
    except ModelError:
        pass
