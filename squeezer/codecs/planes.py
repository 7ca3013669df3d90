"""Lossless coding of numbers, byte plane by byte plane.

The high bytes of trained weights hold their exponents, which take few values; the low bytes are noise. So the bytes of
equal significance are brought together, and each such plane is coded by itself, or left raw where that would gain
nothing (ZipNN, Hershcovitch et al. 2024; DFloat11, Zhang et al. 2025). Floating-point numbers are first rotated left by
one bit: the sign, which is noise, goes to the far end, and the eight exponent bits of float32 and bfloat16 fill one
plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from squeezer.codecs.base import (
    ByteReader,
    ByteWriter,
    Category,
    CorruptStreamError,
    Histogram,
    Itself,
    Level,
    as_bits,
    varint,
)
from squeezer.codecs.symbols import APART, count
from squeezer.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from squeezer.codecs.base import Plan, SymbolCodec

_BYTE = Itself(np.dtype(np.uint8))
#: The number that stands for a plane that is not coded.
_RAW = 0
#: Elements whose planes are coded together. Other rows of a matrix can have other distributions.
BLOCK = 1 << 17
#: So many elements are worked on at a time: they and their planes fit into the first cache.
_CACHED = 2048
#: A coded plane takes longer to read, so it has to be smaller by at least this share.
_WORTHWHILE = 1 / 256
#: Below level `max`, a plane by a fast codec that is larger than its entropy by at most this share is small enough.
#: Exponents by a Huffman code are, and then the slower codecs would gain about 0.2 % of a tensor.
_EXCESS = 1 / 32


@dataclass(frozen=True)
class _Plane:
    """One byte of each number, and how it is coded."""

    data: NDArray[np.uint8]
    codec: int = _RAW
    coded: Plan | None = None

    @property
    def size(self) -> int:
        return self.data.size if self.coded is None else len(varint(self.coded.size)) + self.coded.size

    def write(self, out: ByteWriter) -> None:
        if self.coded is None:
            out.put(self.data, Category.VALUES)
        else:
            out.varint(self.coded.size)
            self.coded.write(out)


@dataclass(frozen=True)
class _PlanesPlan:
    """The planes of each block."""

    blocks: list[list[_Plane]]

    @property
    def size(self) -> int:
        return sum((len(planes) + 1) // 2 + sum(plane.size for plane in planes) for planes in self.blocks)

    def write(self, out: ByteWriter) -> None:
        for planes in self.blocks:
            codecs = sum(plane.codec << 4 * i for i, plane in enumerate(planes))
            out.put(codecs.to_bytes((len(planes) + 1) // 2, "little"), Category.HEADER)
            for plane in planes:
                plane.write(out)


class Planes:
    """Byte planes in blocks, each plane of a block by a symbol codec of its own or raw."""

    number: ClassVar[int] = 1
    name: ClassVar[str] = "planes"

    def __init__(
        self,
        plans: Callable[[NDArray[Any], Histogram, Level], Iterable[tuple[SymbolCodec, Plan]]],
        codecs: Mapping[int, SymbolCodec],
    ) -> None:
        """Code planes by other codecs.

        Args:
            plans: the plans worth comparing for some integers, their histogram, and a level, from the fastest codec on.
            codecs: symbol codecs by their numbers.
        """
        self._plans = plans
        self._codecs = codecs

    def plan(self, array: NDArray[Any], level: Level) -> _PlanesPlan:
        """Every array of at least one element can be written."""
        return _PlanesPlan([self._block(block, level) for block in _blocks(array)])

    def _block(self, array: NDArray[Any], level: Level) -> list[_Plane]:
        width = array.dtype.itemsize
        planes = np.empty((width, array.size), np.uint8)
        counts = np.zeros((width, APART, 256), np.int64)
        _split(as_bits(array), 0 if _is_integer(array) else 1, planes, counts)
        return [self._plane(plane, counted, level) for plane, counted in zip(planes, counts.sum(1), strict=True)]

    def _plane(self, data: NDArray[np.uint8], counts: NDArray[np.int64], level: Level) -> _Plane:
        used = np.flatnonzero(counts)
        shares = counts[used] / data.size
        entropy = -float((shares * np.log2(shares)).sum())
        # Most planes are noise, and not worth a second look.
        if entropy > 8 * (1 - _WORTHWHILE):
            return _Plane(data)
        counted = Histogram(int(used[0]), counts[used[0] : used[-1] + 1])
        best = _Plane(data)
        for codec, plan in self._plans(data, counted, level):
            best = min(best, _Plane(data, codec.number, plan), key=lambda plane: plane.size)
            # Plans come from the fastest codec on, and are only made when they are asked for.
            if level != Level.MAX and best.size <= (1 + _EXCESS) * entropy / 8 * data.size:
                break
        return best if best.size < (1 - _WORTHWHILE) * data.size else _Plane(data)

    def read(self, data: ByteReader, out: NDArray[Any]) -> None:
        """Fill `out` with the numbers."""
        for block in _blocks(out):
            self._read_block(data, block)

    def _read_block(self, data: ByteReader, out: NDArray[Any]) -> None:
        width = out.dtype.itemsize
        heads = int.from_bytes(data.take((width + 1) // 2, Category.HEADER), "little")
        if heads >> 4 * width:
            raise CorruptStreamError("more planes than a number has bytes")
        planes = np.empty((width, out.size), np.uint8)
        for i, plane in enumerate(planes):
            self._read_plane(heads >> 4 * i & 15, data, plane)
        _join(planes, 0 if _is_integer(out) else 1, as_bits(out))

    def _read_plane(self, number: int, data: ByteReader, plane: NDArray[np.uint8]) -> None:
        if number == _RAW:
            plane[:] = np.frombuffer(data.take(plane.size, Category.VALUES), np.uint8)
            return
        codec = self._codecs.get(number)
        if codec is None:
            raise CorruptStreamError("a plane's codec that this version does not know")
        coded = data.part(data.varint())
        codec.read(coded, plane, _BYTE)
        coded.finish()


def _blocks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (array[start : start + BLOCK] for start in range(0, array.size, BLOCK))


def _is_integer(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "iub"


@kernel()
def _split(numbers, left, planes, counts):  # type: ignore[no-untyped-def] # compiled by numba
    """The bytes of each number, rotated left by some bits, one plane for each; and `count` of every plane."""
    width, size = planes.shape
    for start in range(0, size, _CACHED):
        block = numbers[start : start + _CACHED]
        for k in range(width):
            plane = planes[k, start : start + _CACHED]
            right = np.uint64((8 * k - left) % (8 * width))
            if right > np.uint64(8 * (width - 1)):
                back = np.uint64(8 * width) - right
                for i in range(block.size):
                    number = np.uint64(block[i])
                    plane[i] = np.uint8(number >> right | number << back)
            else:
                for i in range(block.size):
                    plane[i] = np.uint8(np.uint64(block[i]) >> right)
            count(plane, 0, counts[k])


@kernel()
def _join(planes, right, numbers):  # type: ignore[no-untyped-def] # compiled by numba
    """Numbers from their planes, rotated right by some bits."""
    width, size = planes.shape
    top = np.uint64(8 * width - right)
    right = np.uint64(right)
    for start in range(0, size, _CACHED):
        block = numbers[start : start + _CACHED]
        for k in range(width):
            plane, shift = planes[k, start : start + _CACHED], np.uint64(8 * k)
            if k == 0:
                for i in range(block.size):
                    block[i] = plane[i]
            else:
                for i in range(block.size):
                    block[i] |= np.uint64(plane[i]) << shift
        if right:
            for i in range(block.size):
                block[i] = np.uint64(block[i]) >> right | np.uint64(block[i]) << top
