"""What is opened as a `.sqz` file and is something else, or changes while it is open."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest

import squeezer
from squeezer.artifact import ArtifactWriter
from squeezer.artifact.layout import MAGIC, VERSION
from squeezer.artifact.writer import encode_tensor
from squeezer.errors import ArtifactError, Code
from squeezer.representations import Dense

F32 = np.dtype(np.float32)


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    path = tmp_path / "valid.sqz"
    tensor = Dense(np.random.default_rng(0).standard_normal(5000).astype(np.float32), F32)
    with ArtifactWriter(path) as writer:
        for name in ("a", "b"):
            writer.add(name, tensor, encode_tensor(tensor))
        writer.add_file("notes.txt", os.urandom(3000))
    return path


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", Code.NOT_AN_ARTIFACT),
        (MAGIC[:2], Code.NOT_AN_ARTIFACT),
        (MAGIC, Code.CORRUPT_ARTIFACT),
        (MAGIC + bytes([VERSION]), Code.CORRUPT_ARTIFACT),
        (MAGIC + bytes([VERSION]) + b"\xff" * 40, Code.CORRUPT_ARTIFACT),
        (MAGIC + bytes([VERSION]) + bytes(40), Code.CORRUPT_ARTIFACT),
        (MAGIC + bytes([VERSION + 1]) + bytes(40), Code.NEWER_ARTIFACT),
        (MAGIC + b"\xff" + bytes(40), Code.NEWER_ARTIFACT),
        (bytes(1 << 16), Code.NOT_AN_ARTIFACT),
        (b"hello world, this is a text file", Code.NOT_AN_ARTIFACT),
        (b"PK\x03\x04" + bytes(100), Code.NOT_AN_ARTIFACT),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, code: Code) -> None:
    path = tmp_path / "m.sqz"
    path.write_bytes(content)
    with pytest.raises(ArtifactError) as error:
        squeezer.open(path)
    assert error.value.code == code


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null", "/proc/self/maps", "/proc/self/status"])
def test_files_without_a_size_are_refused(path: str) -> None:
    with pytest.raises(ArtifactError):
        squeezer.open(path)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in ("fifo", "socket", "."):
            with pytest.raises((ArtifactError, OSError)):
                squeezer.open(tmp_path / path)


def test_a_file_that_shrinks_while_it_is_open(valid: Path) -> None:
    with squeezer.open(valid) as artifact:
        first, second = artifact.names
        os.truncate(valid, artifact.entry(second).offset + 7)
        assert artifact[first].shape == (5000,)
        with pytest.raises(ArtifactError, match=r"'b'.*truncated") as error:
            artifact[second]
        assert error.value.code is Code.CORRUPT_ARTIFACT
        with pytest.raises(ArtifactError, match=r"notes\.txt.*truncated"):
            artifact.read_file("notes.txt")


def test_a_file_that_is_overwritten_while_it_is_open(valid: Path) -> None:
    with squeezer.open(valid) as artifact:
        with valid.open("r+b") as file:
            file.write(bytes(valid.stat().st_size))
        for name in artifact.names:
            with pytest.raises(ArtifactError, match="checksum") as error:
                artifact[name]
            assert error.value.code is Code.CORRUPT_ARTIFACT


def test_a_file_that_grows_while_it_is_open(valid: Path) -> None:
    with squeezer.open(valid) as artifact:
        with valid.open("ab") as file:
            file.write(bytes(1000))
        assert artifact["b"].shape == (5000,)
    with pytest.raises(ArtifactError) as error:
        squeezer.open(valid)
    assert error.value.code is Code.CORRUPT_ARTIFACT


@pytest.mark.parametrize("tail", [b"\0", b"\n", bytes(8), MAGIC])
def test_trailing_bytes_are_refused(valid: Path, tail: bytes) -> None:
    valid.write_bytes(valid.read_bytes() + tail)
    with pytest.raises(ArtifactError) as error:
        squeezer.open(valid)
    assert error.value.code is Code.CORRUPT_ARTIFACT


def test_two_files_in_one_are_refused(valid: Path) -> None:
    """The index of the second one is right, but for where its payloads lie."""
    valid.write_bytes(2 * valid.read_bytes())
    with pytest.raises(ArtifactError) as error:
        squeezer.open(valid)
    assert error.value.code is Code.CORRUPT_ARTIFACT
