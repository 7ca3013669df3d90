"""Arrays in a `.npz` file: a zip of `.npy` files, each a header (text of a dict) and the elements.

Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html. The headers are parsed by numpy's own
functions, which evaluate nothing but literals. Nothing is allocated before the header agrees with the size that the zip
gives, which in turn is checked while unpacking. Pickles are never opened.
"""

from __future__ import annotations

import errno
import io
import os
import tempfile
import tokenize
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.lib import format as npy

from squeezer.data.sources import Held, OnDisk, Source, check_type
from squeezer.errors import Code, DataError
from squeezer.model import TensorInfo

if TYPE_CHECKING:
    from pathlib import Path

    from squeezer.formats.zipped import Archive

MAGIC = b"\x93NUMPY"
_SUFFIX = ".npy"
_HEAD_BYTES = 1 << 16  # what may hold the header; numpy itself reads at most 10,000 characters
_MAX_DIMENSIONS = 64  # numpy's
#: What parsing a text as a literal can raise (`ast.literal_eval`), and what numpy makes of it.
_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    KeyError,
    OverflowError,
    RecursionError,
    MemoryError,
    tokenize.TokenError,
)


@dataclass(frozen=True)
class _Member:
    path: str
    info: TensorInfo  # the element type perhaps in the other byte order
    fortran: bool
    begin: int  # of the elements, within the member


class Npz:
    """An opened `.npz` file. What does not end in `.npy` is no array, and is left alone.

    Args:
        archive: the checked zip, which belongs to the caller.
        scratch: where large deflated arrays are unpacked; the system's temporary folder by default.
    """

    def __init__(self, archive: Archive, scratch: Path | None = None) -> None:
        self._archive = archive
        self._paths = {path.removesuffix(_SUFFIX): path for path in archive.members if path.endswith(_SUFFIX)}
        self._scratch = scratch
        self._unpacked: list[IO[bytes]] = []
        self._fd = -1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all arrays."""
        return tuple(self._paths)

    def info(self, name: str) -> TensorInfo:
        """Shape and type by the header."""
        info = self._member(name).info
        return replace(info, dtype=info.dtype.newbyteorder("="))

    def held(self, name: str) -> Source:
        """The array in memory, its checksum compared."""
        member = self._member(name)
        array = np.empty(member.info.nbytes // member.info.dtype.itemsize, member.info.dtype)
        raw, position = array.view(np.uint8).data, -member.begin
        for block in self._archive.blocks(member.path):
            useful = block[max(0, -position) :]
            start = max(0, position)
            raw[start : start + len(useful)] = useful
            position += len(block)
        return Held(name, array.reshape(member.info.shape, order="F" if member.fortran else "C"))

    def on_disk(self, name: str) -> Source:
        """The array where it lies, or unpacked into a nameless file; its checksum compared either way."""
        member = self._member(name)
        if member.fortran and len(member.info.shape) > 1:
            raise DataError(
                Code.INVALID_DATA,
                f"The array {name!r} of the data set is large and in Fortran's order, so that its rows do not lie "
                "together. Save numpy.ascontiguousarray of it.",
            )
        if self._archive.is_stored(member.path):
            self._archive.verify(member.path)
            if self._fd < 0:
                self._fd = os.open(self._archive.path, os.O_RDONLY)
            return OnDisk(member.info, self._fd, self._archive.offset(member.path) + member.begin)
        return OnDisk(member.info, self._unpack(member.path), member.begin)

    def close(self) -> None:
        """Close the files and give the scratch space back."""
        for file in self._unpacked:
            file.close()
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _unpack(self, path: str) -> int:
        try:
            file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115  # `close` closes it
            self._unpacked.append(file)
            for block in self._archive.blocks(path):
                file.write(block)
            file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(
                    Code.DISK_FULL,
                    "There is no room to unpack the data set. Save it with numpy.savez, which does not compress.",
                ) from error
            raise
        return file.fileno()

    def _member(self, name: str) -> _Member:
        path = self._paths[name]
        head = next(self._archive.blocks(path), b"")[:_HEAD_BYTES]
        shape, fortran, dtype, begin = _parse(name, head)
        check_type(name, dtype)
        info = TensorInfo(name, shape, dtype)
        present = self._archive.members[path].file_size - begin
        if info.nbytes != present:
            _lie(name, f"it announces {info.nbytes} bytes of elements and {present} are there")
        return _Member(path, info, fortran, begin)


def _parse(name: str, head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran's order, type, and where the elements begin."""
    file = io.BytesIO(head)
    try:
        version = npy.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            _lie(name, f"it is of version {version[0]}.{version[1]}, and 1.0 and 2.0 are taken")
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except _ERRORS as error:
        _lie(name, str(error).partition("\n")[0][:200] or type(error).__name__)
    if len(shape) > _MAX_DIMENSIONS or not all(type(extent) is int and extent >= 0 for extent in shape):
        _lie(name, f"the shape {str(shape)[:200]} is impossible")
    return shape, fortran, dtype, file.tell()


def _lie(name: str, detail: str) -> NoReturn:
    raise DataError(
        Code.INVALID_DATA,
        f"The array {name!r} of the data set has a wrong header: {detail}. Save it again with numpy.savez.",
    )
