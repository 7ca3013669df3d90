"""Every integer by its Huffman codeword, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from squeezer.codecs.base import ByteReader, ByteWriter, Category, Histogram, Meaning, varint, zigzag
from squeezer.codecs.huffman import MAX_ALPHABET, HuffmanCode, decode, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SymbolStream:
    """Integers, the Huffman code made for them, and how it is written: lowest integer, alphabet, table, stream."""

    integers: NDArray[Any]
    counted: Histogram
    code: HuffmanCode

    @classmethod
    def of(cls, integers: NDArray[Any], counted: Histogram) -> SymbolStream:
        """The best code for these integers."""
        return cls(integers, counted, HuffmanCode.from_counts(counted.counts))

    @property
    def bits(self) -> int:
        """Length of the coded stream in bits."""
        return self.code.bits(self.counted.counts)

    @property
    def size(self) -> int:
        """Bytes that `write` appends."""
        coded = (self.bits + 7) // 8
        numbers = varint(zigzag(self.counted.low)) + varint(self.counted.alphabet - 1) + varint(coded)
        return len(numbers) + self.code.written_size + coded

    def write(self, out: ByteWriter, category: Category = Category.VALUES) -> None:
        """Append everything that `read_symbols` needs."""
        out.signed(self.counted.low)
        out.varint(self.counted.alphabet - 1)
        self.code.write(out)
        out.varint((self.bits + 7) // 8)
        out.put(encode(self.code, self.integers, self.counted.low, self.bits), category)


@dataclass(frozen=True)
class StreamHeader:
    """What stands before a coded stream: the code, and which integer its first symbol is."""

    low: int
    code: HuffmanCode
    length: int

    @classmethod
    def read(cls, data: ByteReader) -> StreamHeader:
        """Read lowest integer, alphabet, table, and the stream's length in bytes."""
        low = data.signed()
        code = HuffmanCode.read(data, data.varint(limit=MAX_ALPHABET - 1) + 1)
        return cls(low, code, data.varint())


class DenseHuffman:
    """One canonical Huffman code for all integers of the array."""

    number: ClassVar[int] = 2
    name: ClassVar[str] = "huffman"

    def plan(self, integers: NDArray[Any], counted: Histogram) -> SymbolStream:
        """The best code."""
        return SymbolStream.of(integers, counted)

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean."""
        header = StreamHeader.read(data)
        values = meaning.of_range(header.low, header.code.lengths.size)
        decode(header.code, data.take(header.length, Category.VALUES), values, out)
