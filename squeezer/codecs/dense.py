"""Every integer by its Huffman codeword, one after the other."""

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
    Meaning,
    as_bits,
    varint,
    zigzag,
)
from squeezer.codecs.huffman import MAX_ALPHABET, HuffmanCode, decode, encode, lane_bounds
from squeezer.codecs.huffman_kernels import LANES

if TYPE_CHECKING:
    from numpy.typing import NDArray


#: Streams of so many symbols have entry points, which then cost less than one in a thousand.
LONG = 1 << 15


@dataclass(frozen=True)
class Symbols:
    """A plan: integers, and the Huffman code made for them. Gaps and their values are such plans as well."""

    integers: NDArray[Any]
    counted: Histogram
    code: HuffmanCode
    category: Category = Category.VALUES

    @classmethod
    def of(cls, integers: NDArray[Any], counted: Histogram, category: Category = Category.VALUES) -> Symbols:
        """The best code for these integers, whose stream is of that category."""
        return cls(integers, counted, HuffmanCode.from_counts(counted.counts), category)

    @property
    def size(self) -> int:
        """How many bytes `write` appends."""
        size = len(varint(zigzag(self.counted.low)) + varint(self.counted.alphabet - 1)) + self.code.table.size
        return size + (LANES - 1) * self._entry_bytes + (self._bits + 7) // 8

    @property
    def _bits(self) -> int:
        return self.code.bits(self.counted.counts)

    @property
    def _entry_bytes(self) -> int:
        """Bytes of an entry point: the reader finds them from how many bytes there are, entry points and all."""
        if self.code.is_constant or self.integers.size < LONG:
            return 0
        count = 1
        while _position_bytes((self._bits + 7) // 8 + (LANES - 1) * count) > count:
            count += 1
        return count

    def write(self, out: ByteWriter) -> None:
        """Append the alphabet, its code, and the stream."""
        out.signed(self.counted.low)
        out.varint(self.counted.alphabet - 1)
        if self.code.is_constant:
            return
        self.code.write(out)
        count, width = self.integers.size, self._entry_bytes
        bounds = lane_bounds(count) if width else np.array([0, count])
        stream, lanes = encode(self.code, self.integers, self.counted.low, self._bits, bounds)
        out.put(b"".join(lane.to_bytes(width, "little") for lane in lanes[1:]), Category.HEADER)
        out.put(stream, self.category)


def _position_bytes(stream_bytes: int) -> int:
    """Bytes that hold any position in so many."""
    return ((8 * stream_bytes).bit_length() + 7) // 8


def read_symbols(
    data: ByteReader, out: NDArray[Any], meaning: Meaning, category: Category = Category.VALUES
) -> tuple[int, int]:
    """Fill `out` with what is meant by each integer that `Symbols.write` wrote, up to the end of the data.

    Returns:
        The lowest and the highest integer of the alphabet.

    Raises:
        CorruptStreamError: where the bytes are not what an encoder writes.
    """
    low, alphabet = data.signed(), data.varint(limit=MAX_ALPHABET - 1) + 1
    values = meaning.of_range(low, alphabet)
    code = HuffmanCode.read(data, alphabet)
    if code.is_constant:
        data.finish()
        as_bits(out)[:] = as_bits(np.ascontiguousarray(values))
    else:
        lanes = _read_entries(data) if out.size >= LONG else [0]
        stream = data.rest(category)
        if max(lanes) > 8 * len(stream):
            raise CorruptStreamError("an entry point past the end of its stream")
        decode(code, stream, lanes, values, out)
    return low, low + alphabet - 1


def _read_entries(data: ByteReader) -> list[int]:
    width = _position_bytes(data.remaining)
    held = data.take((LANES - 1) * width, Category.HEADER)
    return [0, *(int.from_bytes(held[lane * width : (lane + 1) * width], "little") for lane in range(LANES - 1))]


class DenseHuffman:
    """One canonical Huffman code for all integers of the array."""

    number: ClassVar[int] = 2
    name: ClassVar[str] = "huffman"
    widest: ClassVar[int] = MAX_ALPHABET

    def plan(self, integers: NDArray[Any], counted: Histogram, *, trellis: bool = False) -> Symbols:
        """The best code."""
        del trellis
        return Symbols.of(integers, counted)

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean."""
        read_symbols(data, out, meaning)
