"""Arrays by rows: held in memory, or read from a file as rows are asked for.

Files are read with `pread` and never mapped: the pages of a mapped file count as memory of the process.
"""

from __future__ import annotations

import os
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from squeezer.errors import Code, DataError
from squeezer.model import DTYPES, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Arrays that are together no larger are held in memory, and no more than that of decoded images. Others stay on disk.
MEMORY_BYTES = 256 << 20
_MAX_READ = 1 << 30  # Linux reads at most 2 GiB - 4 KiB at once
_TAKEN = {dtype for dtype in DTYPES.values() if dtype.kind != "c"}


class Source(Protocol):
    """An array whose rows can be asked for. `info.dtype` is that of the rows that come."""

    @property
    def info(self) -> TensorInfo:
        """Name, shape and element type."""
        ...

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at these positions, each from 0 to `shape[0] - 1`, as a contiguous array of its own."""
        ...


class Arrays(Protocol):
    """A file of named arrays."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that are there, whether or not they can be used."""
        ...

    def info(self, name: str) -> TensorInfo:
        """What is known of an array before it is read. Its extents and its size in the file agree.

        Raises:
            DataError, ModelError: it cannot be used, or the file lies about it.
        """
        ...

    def held(self, name: str) -> Source:
        """The array, read into memory."""
        ...

    def on_disk(self, name: str) -> Source:
        """The array, left in the file, or unpacked into another one."""
        ...

    def close(self) -> None:
        """Release files."""
        ...


class Held:
    """Rows of an array in memory."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self._array = np.ascontiguousarray(_native(array))
        self.info = TensorInfo(name, self._array.shape, self._array.dtype)

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """A copy of the rows."""
        return self._array[rows]


class OnDisk:
    """Rows of an array in a file, which stays open and belongs to the caller. `stored` is of the file's byte order."""

    def __init__(self, stored: TensorInfo, fd: int, offset: int) -> None:
        self.info = TensorInfo(stored.name, stored.shape, _native(np.empty(0, stored.dtype)).dtype)
        self._stored, self._fd, self._offset = stored.dtype, fd, offset
        self._row_bytes = prod(stored.shape[1:]) * stored.dtype.itemsize

    def take(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The rows, read now; those that follow one another at once."""
        array = np.empty((len(rows), *self.info.shape[1:]), self._stored)
        raw = array.reshape(-1).view(np.uint8).data
        starts = np.concatenate(([0], np.flatnonzero(np.diff(rows) != 1) + 1, [len(rows)])).tolist()
        for start, stop in pairwise(starts):
            if start < stop:
                target = raw[start * self._row_bytes : stop * self._row_bytes]
                read_into(self._fd, target, self._offset + int(rows[start]) * self._row_bytes)
        return _native(array)


def read_into(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill `buffer` with a file's bytes from `offset`.

    Raises:
        DataError: TRUNCATED_FILE.
    """
    while buffer:
        count = os.preadv(fd, [buffer[:_MAX_READ]], offset)
        if count == 0:
            raise DataError(Code.TRUNCATED_FILE, "The data set ends in the middle of an array; upload it again.")
        buffer, offset = buffer[count:], offset + count


def check_type(name: str, dtype: np.dtype[Any]) -> None:
    """Refuse elements that are no numbers.

    Raises:
        DataError: UNSAFE_PICKLE for Python objects, which are not opened; else UNSUPPORTED_DTYPE.
    """
    if dtype.hasobject:
        raise DataError(
            Code.UNSAFE_PICKLE,
            f"The array {name!r} of the data set holds pickled Python objects, which can run any code when they are "
            "loaded, so it was not opened. Save it as an array of numbers, all rows of the same shape.",
        )
    if dtype.newbyteorder("=") in _TAKEN:
        return
    if dtype.kind in "US":
        remedy = "Number the classes from 0 and save the numbers"
    else:
        remedy = f"Convert it to one of {', '.join(str(known) for known in sorted(_TAKEN, key=str))}"
    raise DataError(
        Code.UNSUPPORTED_DTYPE, f"The array {name!r} of the data set has elements of type {dtype}. {remedy}."
    )


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in this machine's byte order. A boolean is any byte in a file, and 0 or 1 in memory."""
    if array.dtype == np.bool_:
        truth: NDArray[Any] = array.view(np.uint8) != 0
        return truth
    return array.astype(array.dtype.newbyteorder("="), copy=False)
