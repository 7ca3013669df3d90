"""`open_model`: the format is told by content, and every refusal has its code and its remedy."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from squeezer.artifact.layout import MAGIC
from squeezer.errors import Code, ModelError
from squeezer.formats import open_model

if TYPE_CHECKING:
    from pathlib import Path


def code_of(path: Path) -> Code:
    with pytest.raises(ModelError) as caught:
        open_model(path).close()
    assert len(caught.value.detail) > 20
    return caught.value.code


@pytest.mark.parametrize("suffix", ["", ".txt", ".pt", ".safetensors", ".zip"])
def test_the_suffix_does_not_matter(tmp_path: Path, suffix: str) -> None:
    tensors = {"w": torch.arange(6.0).reshape(2, 3)}
    save_file(tensors, tmp_path / f"a{suffix}")
    torch.save(tensors, tmp_path / f"b{suffix}")
    torch.save(tensors, tmp_path / f"c{suffix}", _use_new_zipfile_serialization=False)
    for name, expected in (("a", "safetensors"), ("b", "pytorch"), ("c", "pytorch")):
        model = open_model(tmp_path / f"{name}{suffix}")
        assert model.format == expected
        np.testing.assert_array_equal(model.read("w"), tensors["w"].numpy())
        assert model.input_bytes == (tmp_path / f"{name}{suffix}").stat().st_size
        model.close()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", Code.EMPTY_FILE),
        (b"just a text\n" * 100, Code.UNKNOWN_FORMAT),
        (b'let x = {"a": 1};\n' * 10, Code.UNKNOWN_FORMAT),
        (b'12345678{"a": 1};\n' * 10, Code.UNKNOWN_FORMAT),
        (b'{"architectures": ["Bert"]}', Code.UNKNOWN_FORMAT),
        (b"{not json", Code.UNKNOWN_FORMAT),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), Code.UNKNOWN_FORMAT),
        (b"x", Code.UNKNOWN_FORMAT),
        (b"\x1f\x8b\x08" + bytes(100), Code.UNKNOWN_FORMAT),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", Code.UNKNOWN_FORMAT),
        (b"\x08\x07\x12\x07pytorch\x1a\x062.0.0:" + bytes(50), Code.INVALID_ONNX),
        (b"PK\x03\x04" + bytes(100), Code.TRUNCATED_FILE),
        (pickle.dumps({"a": 1}), Code.UNSAFE_PICKLE),
        (pickle.dumps({"a": 1}, protocol=2), Code.UNSAFE_PICKLE),
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    assert code_of(path) == code


def test_our_own_files_name_the_way_back(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(MAGIC + bytes(100))
    with pytest.raises(ModelError, match="squeezer decompress"):
        open_model(tmp_path / "m")


def test_unknown_formats_name_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(os.urandom(1000).replace(b"\x80", b"x"))
    with pytest.raises(ModelError, match=r"safetensors.*PyTorch.*Hugging Face") as caught:
        open_model(path)
    assert caught.value.code is Code.UNKNOWN_FORMAT


def test_nothing_there(tmp_path: Path) -> None:
    assert code_of(tmp_path / "absent") is Code.FILE_NOT_FOUND


def test_a_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert code_of(tmp_path / "fifo") is Code.FILE_NOT_FOUND


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript_is_refused_with_the_remedy(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(3, 2)), tmp_path / "script.pt")
    with pytest.raises(ModelError, match=r"squeezer\.export.*torch\.save") as caught:
        open_model(tmp_path / "script.pt")
    assert caught.value.code is Code.UNSUPPORTED_FORMAT


def test_a_data_set_is_no_model(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros(3))
    with pytest.raises(ModelError, match=r"\.npz"):
        open_model(tmp_path / "data.npz")


def test_an_empty_zip(tmp_path: Path) -> None:
    zipfile.ZipFile(tmp_path / "empty.zip", "w").close()
    assert code_of(tmp_path / "empty.zip") is Code.NO_TENSORS


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from([b"", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{", b"{", b"\x80\x02"]), st.binary(max_size=600))
def test_any_bytes_end_in_a_model_error(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "model"
    path.write_bytes(start + rest)
    code_of(path)


def run(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_importing_does_not_load_torch(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(2)}, tmp_path / "m")
    out = run(
        "import sys, pathlib, squeezer.formats\n"
        f"squeezer.formats.open_model(pathlib.Path({str(tmp_path / 'm')!r})).read('w')\n"
        "print('torch' in sys.modules, 'numba' in sys.modules)"
    )
    assert out.split() == ["False", "False"]


def test_without_torch_the_error_says_what_to_install(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2)}, tmp_path / "m")
    out = run(
        "import sys, pathlib, squeezer.formats\n"
        "sys.modules['torch'] = None\n"
        f"try: squeezer.formats.open_model(pathlib.Path({str(tmp_path / 'm')!r}))\n"
        "except squeezer.errors.ModelError as error: print(error.code, error)"
    )
    assert out.startswith("missing_dependency")
    assert "pip install 'squeezer[torch]'" in out


def test_without_onnx_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x062.0.0:" + bytes(50))
    out = run(
        "import sys, pathlib, squeezer.formats\n"
        "sys.modules['onnx'] = None\n"
        f"try: squeezer.formats.open_model(pathlib.Path({str(tmp_path / 'm')!r}))\n"
        "except squeezer.errors.ModelError as error: print(error.code, error)"
    )
    assert out.startswith("missing_dependency")
    assert "pip install 'squeezer[onnx]'" in out
