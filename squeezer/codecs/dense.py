"""Every integer by its Huffman codeword, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from squeezer.codecs.base import (
    ByteReader,
    ByteWriter,
    Category,
    CorruptStreamError,
    Histogram,
    Meaning,
    varint,
    zigzag,
)
from squeezer.codecs.huffman import LANES, MAX_ALPHABET, HuffmanCode, decode, encode, quarters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


#: Streams of so many symbols have entry points, which then cost less than one in a thousand.
LONG = 1 << 15
#: Bytes of an entry point: how far it lies from the one before.
ENTRY_BYTES = 5


@dataclass(frozen=True)
class Symbols:
    """Integers, and the Huffman code made for them."""

    integers: NDArray[Any]
    counted: Histogram
    code: HuffmanCode

    @classmethod
    def of(cls, integers: NDArray[Any], counted: Histogram) -> Symbols:
        """The best code for these integers."""
        return cls(integers, counted, HuffmanCode.from_counts(counted.counts))

    @property
    def bits(self) -> int:
        """Length of the coded stream in bits."""
        return self.code.bits(self.counted.counts)

    @property
    def code_size(self) -> int:
        """Bytes that `write_code` appends."""
        return len(varint(zigzag(self.counted.low)) + varint(self.counted.alphabet - 1)) + self.code.written_size

    @property
    def stream_size(self) -> int:
        """Bytes that `write_stream` appends."""
        coded = (self.bits + 7) // 8
        return len(varint(coded)) + coded

    def write_code(self, out: ByteWriter) -> None:
        """Append the lowest integer, the size of the alphabet, and the table."""
        out.signed(self.counted.low)
        out.varint(self.counted.alphabet - 1)
        self.code.write(out)

    def encode(self, begins: list[int]) -> tuple[NDArray[np.uint8], list[int]]:
        """The stream, and the positions in it of some symbols."""
        return encode(self.code, self.integers, self.counted.low, self.bits, begins)


def read_code(data: ByteReader) -> tuple[int, HuffmanCode]:
    """The lowest integer of an alphabet, and its code."""
    low = data.signed()
    return low, HuffmanCode.read(data, data.varint(limit=MAX_ALPHABET - 1) + 1)


def write_stream(out: ByteWriter, stream: NDArray[np.uint8], category: Category) -> None:
    """Append a stream and its length."""
    out.varint(stream.size)
    out.put(stream, category)


def write_entries(out: ByteWriter, positions: list[int]) -> None:
    """Append rising positions, as distances."""
    for before, position in pairwise([0, *positions]):
        out.put((position - before).to_bytes(ENTRY_BYTES, "little"), Category.HEADER)


def read_entries(data: ByteReader, count: int) -> list[int]:
    """Read what `write_entries` wrote."""
    return list(accumulate(int.from_bytes(data.take(ENTRY_BYTES, Category.HEADER), "little") for _ in range(count)))


@dataclass(frozen=True)
class _DensePlan:
    symbols: Symbols

    @property
    def _begins(self) -> list[int]:
        count = self.symbols.integers.size
        return quarters(count) if count >= LONG else []

    @property
    def size(self) -> int:
        return self.symbols.code_size + ENTRY_BYTES * len(self._begins) + self.symbols.stream_size

    def write(self, out: ByteWriter) -> None:
        self.symbols.write_code(out)
        stream, lanes = self.symbols.encode(self._begins)
        write_entries(out, lanes)
        write_stream(out, stream, Category.VALUES)


class DenseHuffman:
    """One canonical Huffman code for all integers of the array."""

    number: ClassVar[int] = 2
    name: ClassVar[str] = "huffman"

    def plan(self, integers: NDArray[Any], counted: Histogram) -> _DensePlan:
        """The best code."""
        return _DensePlan(Symbols.of(integers, counted))

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean."""
        low, code = read_code(data)
        lanes = read_entries(data, LANES - 1 if out.size >= LONG else 0)
        stream = data.take(data.varint(), Category.VALUES)
        if lanes and lanes[-1] > 8 * len(stream):
            raise CorruptStreamError("an entry point past the end of its stream")
        decode(code, stream, lanes, meaning.of_range(low, code.lengths.size), out)
