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

from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, as_bits
from squeezer.codecs.huffman import HuffmanCode, decode, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray

_BYTES = 256


@dataclass(frozen=True)
class _Plane:
    """One byte of each number: Huffman-coded where `code` is set."""

    data: NDArray[np.uint8]
    code: HuffmanCode | None
    bits: int

    @classmethod
    def of(cls, data: NDArray[np.uint8]) -> _Plane:
        counts = np.bincount(data, minlength=_BYTES)
        code = HuffmanCode.from_counts(counts)
        plane = cls(data, code, code.bits(counts))
        return plane if plane.size < data.size else cls(data, None, 8 * data.size)

    @property
    def size(self) -> int:
        coded = (self.bits + 7) // 8
        return coded if self.code is None else self.code.written_size + _LENGTH_BYTES + coded

    def write(self, out: ByteWriter) -> None:
        if self.code is None:
            out.put(self.data, Category.VALUES)
            return
        self.code.write(out)
        out.put(((self.bits + 7) // 8).to_bytes(_LENGTH_BYTES, "little"), Category.HEADER)
        out.put(encode(self.code, self.data, 0, self.bits, [])[0], Category.VALUES)


#: A plane's coded length has a fixed width, so that its size is known without a varint's case distinction.
_LENGTH_BYTES = 5


@dataclass(frozen=True)
class _PlanesPlan:
    planes: tuple[_Plane, ...]

    @property
    def size(self) -> int:
        return 1 + sum(plane.size for plane in self.planes)

    def write(self, out: ByteWriter) -> None:
        coded = sum(1 << i for i, plane in enumerate(self.planes) if plane.code is not None)
        out.put(bytes([coded]), Category.HEADER)
        for plane in self.planes:
            plane.write(out)


class Planes:
    """Byte planes, each with a Huffman code of its own or raw."""

    number: ClassVar[int] = 1
    name: ClassVar[str] = "planes"

    def plan(self, array: NDArray[Any]) -> _PlanesPlan:
        """Every array of at least one element can be written."""
        width = array.dtype.itemsize
        columns = _rotated(array, 1).view(np.uint8).reshape(-1, width)
        return _PlanesPlan(tuple(_Plane.of(np.ascontiguousarray(columns[:, i])) for i in range(width)))

    def read(self, data: ByteReader, out: NDArray[Any]) -> None:
        """Fill `out` with the numbers."""
        width = out.dtype.itemsize
        columns = np.empty((out.size, width), np.uint8)
        coded = data.byte()
        if coded >> width:
            raise CorruptStreamError("more planes than a number has bytes")
        for i in range(width):
            columns[:, i] = _read_plane(data, out.size, bool(coded >> i & 1))
        numbers = columns.reshape(-1).view(as_bits(out).dtype).view(out.dtype)
        as_bits(out)[:] = _rotated(numbers, 8 * width - 1)


def _read_plane(data: ByteReader, count: int, coded: bool) -> NDArray[np.uint8]:
    if not coded:
        return np.frombuffer(data.take(count, Category.VALUES), np.uint8)
    code = HuffmanCode.read(data, _BYTES)
    length = int.from_bytes(data.take(_LENGTH_BYTES, Category.HEADER), "little")
    plane = np.empty(count, np.uint8)
    decode(code, data.take(length, Category.VALUES), [], np.arange(_BYTES, dtype=np.uint8), plane)
    return plane


def _rotated(array: NDArray[Any], left: int) -> NDArray[Any]:
    """The bit patterns of floating-point numbers, rotated left by some bits; those of other numbers as they are."""
    bits = as_bits(array)
    if array.dtype.kind in "iub":
        return bits
    width = 8 * array.dtype.itemsize
    # In place, since this may be the largest array in memory.
    rotated: NDArray[Any] = bits << bits.dtype.type(left)
    rotated |= bits >> bits.dtype.type(width - left)
    return rotated
