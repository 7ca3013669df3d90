"""Reads and writes safetensors files (https://github.com/huggingface/safetensors, "Format").

A file is the header's length (64 bits, little-endian), the header (JSON: name -> dtype, shape, data_offsets),
and the tensors' bytes. The header is validated completely before anything is allocated. Tensors are read with
`pread` straight into their arrays: a mapped file would count as resident memory, and kill the process where
the file is cut off meanwhile.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from squeezer.errors import Code, ModelError
from squeezer.formats.detect import MAX_HEADER_BYTES
from squeezer.formats.output import whole_file
from squeezer.model import DTYPE_NAMES, DTYPES, Dropped, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

_METADATA = "__metadata__"
_MAX_DIMENSIONS = 64  # numpy's
_MAX_ELEMENTS = 2**62  # of all dimensions that are not 0; below numpy's limit on addresses
_MAX_READ = 1 << 30  # Linux reads at most 2 GiB - 4 KiB at once


def _lie(detail: str) -> NoReturn:
    raise ModelError(Code.INVALID_SAFETENSORS, f"The safetensors header is wrong: {detail}. Write the file again.")


@dataclass(frozen=True)
class _Entry:
    info: TensorInfo
    begin: int
    end: int


class SafetensorsModel:
    """An opened safetensors file, or one that is stored as it is inside another file.

    `offset` and `length` give its place in bytes; the whole file by default.

    Raises:
        ModelError: INVALID_SAFETENSORS, TRUNCATED_FILE, UNSUPPORTED_DTYPE or NO_TENSORS.
    """

    format = "safetensors"
    graph = None  # weights alone

    def __init__(self, path: Path, offset: int = 0, length: int | None = None) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        try:
            self.input_bytes = os.fstat(self._fd).st_size - offset if length is None else length
            header, size = _read_header(self._fd, offset, self.input_bytes)
            self._data = offset + 8 + size
            self.dropped = _metadata(header)
            self._entries = _parse_entries(header)
            _check_layout(list(self._entries.values()), self.input_bytes - 8 - size)
            if not self._entries:
                raise ModelError(
                    Code.NO_TENSORS, "The safetensors file holds no tensors; there is nothing to compress."
                )
        except BaseException:
            os.close(self._fd)
            raise
        self.aliases: dict[str, str] = {}
        self.files: dict[str, int] = {}

    @property
    def tensors(self) -> list[TensorInfo]:
        """All tensors, in the header's order."""
        return [entry.info for entry in self._entries.values()]

    def read(self, name: str) -> NDArray[np.generic]:
        """The tensor of that name, read from the file now."""
        entry = self._entries[name]
        array = np.empty(entry.info.shape, entry.info.dtype)
        raw = array.reshape(-1).view(np.uint8)
        _read_into(self._fd, raw.data, self._data + entry.begin)
        if entry.info.dtype == np.bool_ and raw.size and raw.max() > 1:
            raise ModelError(
                Code.INVALID_SAFETENSORS,
                f"The boolean tensor {name!r} holds other bytes than 0 and 1. Write the file again.",
            )
        return array

    def read_file(self, path: str) -> bytes:
        """A safetensors file has no other files with it."""
        raise KeyError(path)

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def _read_into(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` from the file, or raise TRUNCATED_FILE."""
    while buffer:
        count = os.preadv(fd, [buffer[:_MAX_READ]], offset)
        if count == 0:
            raise ModelError(Code.TRUNCATED_FILE, "The file ends in the middle of a tensor; upload it again.")
        buffer, offset = buffer[count:], offset + count


def _read_header(fd: int, offset: int, length: int) -> tuple[dict[str, Any], int]:
    """The parsed header and its size in bytes."""
    prefix = bytearray(8)
    if length < 8:
        raise ModelError(Code.TRUNCATED_FILE, "The file ends before its safetensors header; upload it again.")
    _read_into(fd, memoryview(prefix), offset)
    (size,) = struct.unpack("<Q", prefix)
    if size > MAX_HEADER_BYTES:
        _lie(f"it claims to be {size} bytes long, and {MAX_HEADER_BYTES} are the most")
    if size > length - 8:
        raise ModelError(
            Code.TRUNCATED_FILE,
            f"The file ends within its safetensors header: {size} bytes are announced "
            f"and {length - 8} are there. Upload it again.",
        )
    text = bytearray(size)
    _read_into(fd, memoryview(text), offset + 8)
    return _parse_header(bytes(text)), size


def _parse_header(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        _lie("it does not begin with a brace")
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (
        ValueError,
        RecursionError,
    ) as error:  # ValueError: bad JSON, bad UTF-8, an integer of too many digits
        _lie(f"it is not JSON ({str(error)[:200]})")
    assert isinstance(header, dict)  # noqa: S101  # it begins with a brace
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        _lie("a key appears twice")
    return mapping


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _metadata(header: dict[str, Any]) -> list[Dropped]:
    """Take the metadata out of the header. The format alone, which `write` sets, is not worth a word."""
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _lie(f"{_METADATA} is not a map of texts")
    keys = sorted(metadata.keys() - {"format"})
    if not keys:
        return []
    names = ", ".join(keys[:10]) + (", ..." if len(keys) > 10 else "")
    return [Dropped(_METADATA, f"the file's metadata ({names}) belong to no tensor")]


def _parse_entries(header: dict[str, Any]) -> dict[str, _Entry]:
    return {name: _parse_entry(name, value) for name, value in header.items()}


def _parse_entry(name: str, value: Any) -> _Entry:
    try:
        name.encode()
    except UnicodeEncodeError:
        _lie(f"the name {name!r} is not Unicode")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        _lie(f"tensor {name!r} needs dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        _lie(f"the dtype of {name!r} is not a text")
    if dtype not in DTYPES:
        raise ModelError(
            Code.UNSUPPORTED_DTYPE,
            f"Tensor {name!r} is of type {dtype[:40]!r}, which Squeezer cannot store. "
            f"It takes {', '.join(DTYPES)}; convert the tensor.",
        )
    if not _are_sizes(shape) or len(shape) > _MAX_DIMENSIONS or prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        _lie(f"the shape of {name!r} is not a list of at most {_MAX_DIMENSIONS} possible sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        _lie(f"the offsets of {name!r} are not two positions")
    info = TensorInfo(name, tuple(shape), DTYPES[dtype])
    if offsets[1] - offsets[0] != info.nbytes:
        _lie(f"{name!r} needs {info.nbytes} bytes and its offsets span {offsets[1] - offsets[0]}")
    return _Entry(info, *offsets)


def _are_sizes(value: Any) -> bool:
    """Whether this is a list of whole numbers from 0 to 2^63 - 1 (`True` is none)."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < 2**63 for size in value)


def _check_layout(entries: list[_Entry], available: int) -> None:
    """The tensors must cover the rest of the file without a hole and without overlapping."""
    position = 0
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            _lie(f"{entry.info.name!r} begins at {entry.begin} and should begin at {position}")
        position = entry.end
    if position > available:
        raise ModelError(
            Code.TRUNCATED_FILE,
            f"The file ends too early: its tensors need {position} bytes and {available} are there. Upload it again.",
        )
    if position < available:
        _lie(f"{available - position} bytes after the last tensor belong to none")


def write(
    path: Path,
    tensors: Sequence[TensorInfo],
    read: Callable[[str], NDArray[np.generic]],
    aliases: Mapping[str, str],
) -> None:
    """Write a safetensors file with one tensor in memory at a time, atomically.

    `read(name)` gives the array of a stored tensor. `aliases` (alias -> stored name) are written as tensors
    of their own: safetensors has no ties. The header keeps the tensors' order; their bytes are ordered by
    element size, so that all of them are aligned, as PyTorch's reader wants.

    Raises:
        ModelError: a tensor is named `__metadata__`, which safetensors reserves.
        ValueError: `read` returned another shape or dtype than announced.
        OSError: the disk is full, or the folder cannot be written.
    """
    sources = {info.name: info for info in tensors}
    named = [(info.name, info) for info in tensors] + [(alias, sources[name]) for alias, name in aliases.items()]
    if any(name == _METADATA for name, _ in named):
        raise ModelError(
            Code.UNSUPPORTED_FORMAT,
            f"safetensors cannot hold a tensor named {_METADATA!r}; take only the .sqz.",
        )
    by_alignment = sorted(named, key=lambda pair: -pair[1].dtype.itemsize)
    with whole_file(path) as file:
        file.write(_make_header(named, by_alignment))
        for _, info in by_alignment:
            file.write(_checked(info, read(info.name)).reshape(-1).view(np.uint8).data)


def _make_header(named: list[tuple[str, TensorInfo]], by_alignment: list[tuple[str, TensorInfo]]) -> bytes:
    offsets, position = {}, 0
    for name, info in by_alignment:
        offsets[name] = [position, position + info.nbytes]
        position += info.nbytes
    header: dict[str, Any] = {_METADATA: {"format": "pt"}}  # transformers refuses files without it
    for name, info in named:
        header[name] = {"dtype": DTYPE_NAMES[info.dtype], "shape": info.shape, "data_offsets": offsets[name]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _checked(info: TensorInfo, array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.shape != info.shape or array.dtype != info.dtype:
        raise ValueError(f"{info.name}: {array.dtype}{array.shape} was read, {info.dtype}{info.shape} announced")
    return np.ascontiguousarray(array)
