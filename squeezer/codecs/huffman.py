"""Length-limited canonical Huffman codes (Huffman 1952; Larmore and Hirschberg 1990; Schwartz and Kallick 1964).

A code is given by the length of each symbol's codeword. Codewords are numbered in order of (length, symbol) and are
written with their first bit lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, as_bits
from squeezer.codecs.bitstream import as_stream, check_end
from squeezer.codecs.huffman_kernels import (
    LANES,
    MAX_LENGTH,
    USUAL_LENGTH,
    WORD_SHIFT,
    canonical,
    decode_lanes,
    decode_part,
    encode_parts,
    fill_lookup,
    join_pairs,
    package_merge,
    read_lengths,
    write_lengths,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Largest alphabet that is Huffman-coded.
MAX_ALPHABET = 4096
#: Larger alphabets may have codewords so much longer than their symbols' numbers.
_SPARE_LENGTH = 3
#: Alphabets up to this size are encoded two symbols at a time; their table of pairs fits into a cache.
_PAIRED = 64


@dataclass(frozen=True)
class HuffmanCode:
    """A complete prefix code over the alphabet 0 .. len(lengths)-1.

    `lengths` (uint8) holds 0 for symbols that do not occur. In an alphabet of one symbol that has the length 0 as well:
    it takes no bits.
    """

    lengths: NDArray[np.uint8]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64]) -> HuffmanCode:
        """The shortest code with no codeword longer than the limit; the first and the last symbol must occur."""
        wanted = max(USUAL_LENGTH, int(counts.size - 1).bit_length() + _SPARE_LENGTH)
        used = np.flatnonzero(counts)
        lengths = np.zeros(counts.size, np.uint8)
        if counts.size > 1:
            order = used[np.argsort(counts[used], kind="stable")]
            lengths[order] = package_merge(counts[order], min(MAX_LENGTH, wanted))
        return cls(lengths)

    @property
    def is_constant(self) -> bool:
        """Whether the alphabet has a single symbol."""
        return self.lengths.size == 1

    @property
    def max_length(self) -> int:
        """Length of the longest codeword."""
        return int(self.lengths.max())

    def bits(self, counts: NDArray[np.int64]) -> int:
        """How many bits symbols of these frequencies take."""
        return int(np.dot(self.lengths.astype(np.int64), counts))

    def codewords(self) -> NDArray[np.uint32]:
        """Each symbol's codeword, first bit lowest."""
        words: NDArray[np.uint32] = canonical(self.lengths)
        return words

    @cached_property
    def table(self) -> NDArray[np.uint8]:
        """The lengths as a file holds them; an alphabet of one symbol has no table."""
        if self.is_constant:
            return np.empty(0, np.uint8)
        table = np.zeros(self.lengths.size + 8, np.uint8)
        return table[: _bytes(write_lengths(self.lengths, table))]

    def write(self, out: ByteWriter) -> None:
        """Append the table."""
        out.put(self.table, Category.TABLES)

    @classmethod
    def read(cls, data: ByteReader, alphabet: int) -> HuffmanCode:
        """Read what `write` wrote, for an alphabet of that many symbols.

        Raises:
            CorruptStreamError: where the lengths are not those of a complete code.
        """
        lengths = np.zeros(alphabet, np.uint8)
        if alphabet > 1:
            bits = int(read_lengths(as_stream(data.ahead), lengths))
            if bits < 0:
                raise CorruptStreamError("a code table that is not that of a complete prefix code")
            data.take(_bytes(bits), Category.TABLES)
        return cls(lengths)


def _bytes(bits: int) -> int:
    return (bits + 7) // 8


def lane_bounds(count: int) -> NDArray[np.int64]:
    """Where the lanes of a long stream begin, and where the last one ends."""
    return np.array([*range(0, LANES * (count // LANES), count // LANES), count], np.int64)


def encode(
    code: HuffmanCode, integers: NDArray[Any], low: int, bits: int, bounds: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], list[int]]:
    """The codewords of all symbols `integers - low`, `bits` of them in all, as bytes.

    `bounds` divide the integers; returned are also the positions, in bits, at which the parts begin.
    """
    codes = code.codewords() << WORD_SHIFT | code.lengths
    paired = codes.size <= _PAIRED and code.max_length <= USUAL_LENGTH
    pairs = np.empty(codes.size**2 if paired else 0, np.uint32)
    if paired:
        join_pairs(codes, pairs)
    stream = np.empty(_bytes(bits) + 8, np.uint8)
    positions = np.empty(bounds.size - 1, np.int64)
    encode_parts(integers, low, codes, pairs, bounds, stream, positions)
    return stream[: _bytes(bits)], positions.tolist()


def decode(code: HuffmanCode, data: memoryview, lanes: list[int], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill `out` with the values that the symbols stand for (`values`, one for each of the alphabet).

    `lanes` are the positions at which lanes begin, the first one 0; they lie within the stream.

    Raises:
        CorruptStreamError: where the stream does not end with the last symbol, or a lane not where the next begins.
    """
    stream, bits, patterns = as_stream(data), as_bits(out), as_bits(np.ascontiguousarray(values))
    width = max(USUAL_LENGTH, code.max_length)
    pairs, steps, firsts = (
        np.empty(2 << width, bits.dtype),
        np.empty(1 << width, np.uint8),
        np.empty(1 << width, np.uint8),
    )
    fill_lookup(code.lengths, patterns, width, pairs, steps, firsts)
    if len(lanes) == 1:
        used = int(decode_part(stream, 0, width, pairs, steps, firsts, bits, 0, bits.size))
    else:
        positions = np.array(lanes, np.uint64)
        decode_lanes(stream, positions, width, pairs, steps, firsts, bits)
        *ends, used = positions.tolist()
        if ends != lanes[1:]:
            raise CorruptStreamError("a part of a stream that does not end where the next one begins")
    check_end(used, len(data))
