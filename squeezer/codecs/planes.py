"""Lossless coding of numbers, byte plane by byte plane.

The high bytes of trained weights hold their exponents, which take few values; the low bytes are noise. So the bytes of
equal significance are brought together and each such plane is Huffman-coded, or left raw where that would gain nothing
(ZipNN, Hershcovitch et al. 2024; DFloat11, Zhang et al. 2025). Floating-point numbers are first rotated left by one
bit: the sign, which is noise, goes to the far end, and the eight exponent bits of float32 and bfloat16 fill one plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit

from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, Itself, as_bits
from squeezer.codecs.dense import DenseHuffman
from squeezer.codecs.symbols import histogram

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.codecs.base import Plan

_BYTE = Itself(np.dtype(np.uint8))


@dataclass(frozen=True)
class _Plane:
    """One byte of each number; `coded` where a Huffman code makes it smaller."""

    data: NDArray[np.uint8]
    coded: Plan | None

    @classmethod
    def of(cls, data: NDArray[np.uint8]) -> _Plane:
        counted = histogram(data)
        plan = None if counted is None else DenseHuffman().plan(data, counted)
        return cls(data, plan if plan is not None and plan.size < data.size else None)

    @property
    def size(self) -> int:
        return self.data.size if self.coded is None else self.coded.size

    def write(self, out: ByteWriter) -> None:
        if self.coded is None:
            out.put(self.data, Category.VALUES)
        else:
            self.coded.write(out)


@dataclass(frozen=True)
class _PlanesPlan:
    planes: tuple[_Plane, ...]

    @property
    def size(self) -> int:
        return 1 + sum(plane.size for plane in self.planes)

    def write(self, out: ByteWriter) -> None:
        coded = sum(1 << i for i, plane in enumerate(self.planes) if plane.coded is not None)
        out.put(bytes([coded]), Category.HEADER)
        for plane in self.planes:
            plane.write(out)


class Planes:
    """Byte planes, each with a Huffman code of its own or raw."""

    number: ClassVar[int] = 1
    name: ClassVar[str] = "planes"

    def plan(self, array: NDArray[Any]) -> _PlanesPlan:
        """Every array of at least one element can be written."""
        planes = np.empty((array.dtype.itemsize, array.size), np.uint8)
        _split(_rotated(array, 1), planes)
        return _PlanesPlan(tuple(_Plane.of(plane) for plane in planes))

    def read(self, data: ByteReader, out: NDArray[Any]) -> None:
        """Fill `out` with the numbers."""
        width = out.dtype.itemsize
        coded = data.byte()
        if coded >> width:
            raise CorruptStreamError("more planes than a number has bytes")
        planes = np.empty((width, out.size), np.uint8)
        for i, plane in enumerate(planes):
            if coded >> i & 1:
                DenseHuffman().read(data, plane, _BYTE)
            else:
                plane[:] = np.frombuffer(data.take(out.size, Category.VALUES), np.uint8)
        bits = as_bits(out)
        _join(planes, bits)
        if not _is_integer(out):
            bits[:] = _rotated(out, 8 * width - 1)


def _is_integer(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iub"


def _rotated(array: NDArray[Any], left: int) -> NDArray[Any]:
    """The bit patterns of floating-point numbers, rotated left by some bits; those of other numbers as they are."""
    bits = as_bits(array)
    if _is_integer(array):
        return bits
    width = 8 * array.dtype.itemsize
    # In place, since this may be the largest array in memory.
    rotated: NDArray[Any] = bits << bits.dtype.type(left)
    rotated |= bits >> bits.dtype.type(width - left)
    return rotated


@njit(cache=True, nogil=True)
def _split(numbers, planes):  # type: ignore[no-untyped-def] # compiled by numba
    for i in range(numbers.size):
        number = np.uint64(numbers[i])
        for plane in range(planes.shape[0]):
            planes[plane, i] = number >> np.uint64(8 * plane)


@njit(cache=True, nogil=True)
def _join(planes, numbers):  # type: ignore[no-untyped-def] # compiled by numba
    for i in range(numbers.size):
        number = np.uint64(0)
        for plane in range(planes.shape[0]):
            number |= np.uint64(planes[plane, i]) << np.uint64(8 * plane)
        numbers[i] = number
