"""Length-limited canonical Huffman codes (Huffman 1952; Larmore and Hirschberg 1990; Schwartz and Kallick 1964).

A code is given by the length of each symbol's codeword. Codewords are numbered in order of (length, symbol) and are
written with their first bit lowest, into 32-bit little-endian words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, as_bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Longest codeword that a file may hold: a length fits in four bits.
MAX_LENGTH = 15
#: Largest alphabet that is Huffman-coded; anything wider is split into byte planes.
MAX_ALPHABET = 4096


@dataclass(frozen=True)
class HuffmanCode:
    """A complete prefix code over the alphabet 0 .. len(lengths)-1.

    `lengths` (uint8) holds 0 for symbols that do not occur. An alphabet in which only one symbol occurs has length 1
    for it, takes no bits at all, and is not a complete code: `is_constant`.
    """

    lengths: NDArray[np.uint8]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64]) -> HuffmanCode:
        """The shortest code, for these symbol frequencies, with no codeword longer than the limit."""
        limit = min(MAX_LENGTH, max(11, int(counts.size - 1).bit_length() + 3))
        used = np.flatnonzero(counts)
        lengths = np.zeros(counts.size, np.uint8)
        if used.size == 1:
            lengths[used] = 1
        elif used.size > 1:
            order = used[np.argsort(counts[used], kind="stable")]
            lengths[order] = _package_merge(counts[order], limit)
        return cls(lengths)

    @property
    def is_constant(self) -> bool:
        """Whether only one symbol occurs."""
        return int(np.count_nonzero(self.lengths)) == 1

    @property
    def max_length(self) -> int:
        """Length of the longest codeword."""
        return int(self.lengths.max(initial=0))

    def bits(self, counts: NDArray[np.int64]) -> int:
        """How many bits symbols of these frequencies take."""
        return 0 if self.is_constant else int(np.dot(self.lengths.astype(np.int64), counts))

    def codewords(self) -> NDArray[np.uint32]:
        """Each symbol's codeword, first bit lowest."""
        words = np.zeros(self.lengths.size, np.uint32)
        code = previous = 0
        for symbol in self._canonical_order():
            length = int(self.lengths[symbol])
            code <<= length - previous
            words[symbol] = int(f"{code:0{length}b}"[::-1], 2)
            code, previous = code + 1, length
        return words

    def lookup(self, values: NDArray[Any]) -> Lookup:
        """The decoding table, with one of `values` for each symbol of the alphabet."""
        width = 0 if self.is_constant else self.max_length
        symbols = np.zeros(1 << width, np.intp)
        words = self.codewords()
        for symbol in np.flatnonzero(self.lengths):
            symbols[int(words[symbol]) :: 1 << int(self.lengths[symbol])] = symbol
        lengths = np.zeros(1, np.uint8) if self.is_constant else self.lengths[symbols]
        return Lookup(width, as_bits(np.ascontiguousarray(values[symbols])), lengths)

    def _canonical_order(self) -> NDArray[np.intp]:
        used = np.flatnonzero(self.lengths)
        return used[np.argsort(self.lengths[used], kind="stable")]

    def write(self, out: ByteWriter) -> None:
        """Write the lengths: a nibble each, and for a run of 1 to 16 absent symbols a nibble 0 and one for the run."""
        nibbles = self._nibbles()
        if len(nibbles) % 2:
            nibbles.append(0)
        pairs = np.array(nibbles, np.uint8).reshape(-1, 2)
        out.put((pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8), Category.TABLES)

    def _nibbles(self) -> list[int]:
        nibbles: list[int] = []
        run = 0
        for length in [*self.lengths.tolist(), -1]:
            if length == 0 and run < 16:
                run += 1
                continue
            if run:
                nibbles += [0, run - 1]
            run = int(length == 0)
            if length > 0:
                nibbles.append(length)
        return nibbles

    @property
    def written_size(self) -> int:
        """How many bytes `write` appends."""
        return (len(self._nibbles()) + 1) // 2

    @classmethod
    def read(cls, data: ByteReader, alphabet: int) -> HuffmanCode:
        """Read what `write` wrote, for an alphabet of that many symbols.

        Raises:
            CorruptStreamError: where the lengths are not those of a complete code.
        """
        nibbles = _read_nibbles(data)
        lengths: list[int] = []
        while len(lengths) < alphabet:
            nibble = next(nibbles)
            lengths += [nibble] if nibble else [0] * (next(nibbles) + 1)
        if len(lengths) != alphabet:
            raise CorruptStreamError("a code table that overshoots its alphabet")
        code = cls(np.array(lengths, np.uint8))
        code._check()
        return code

    def _check(self) -> None:
        used = self.lengths[self.lengths > 0].astype(np.int64)
        if used.size == 0:
            raise CorruptStreamError("a code table without symbols")
        # Kraft (1949): a prefix code that wastes no codeword has sum 2^-length = 1.
        if used.size > 1 and int((1 << (MAX_LENGTH - used)).sum()) != 1 << MAX_LENGTH:
            raise CorruptStreamError("a code table that is no complete prefix code")


def _read_nibbles(data: ByteReader) -> Iterator[int]:
    while True:
        byte = data.byte(Category.TABLES)
        yield byte & 15
        yield byte >> 4


@dataclass(frozen=True)
class Lookup:
    """For each pattern of the next `width` bits: the value they begin with, as a bit pattern, and its length."""

    width: int
    values: NDArray[Any]
    lengths: NDArray[np.uint8]


def encode(code: HuffmanCode, integers: NDArray[Any], low: int, bits: int) -> NDArray[np.uint8]:
    """The codewords of all symbols `integers - low`, `bits` of them in all, as bytes."""
    if code.is_constant:
        return np.empty(0, np.uint8)
    words = np.empty((bits + 31) // 32, np.uint32)
    _encode(integers, low, code.codewords(), code.lengths, words)
    return words.view(np.uint8)[: (bits + 7) // 8]


def decode(code: HuffmanCode, stream: memoryview, values: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill `out` with the values that the symbols stand for (`values`, one for each of the alphabet).

    Raises:
        CorruptStreamError: where the stream does not end with the last symbol.
    """
    lookup = code.lookup(values)
    used = _decode(to_words(stream), lookup.values, lookup.lengths, lookup.width, as_bits(out))
    check_end(used, len(stream))


def to_words(stream: memoryview) -> NDArray[np.uint32]:
    """A copy of the stream as 32-bit words, the last one filled up with zero bits."""
    padded = np.zeros((len(stream) + 3) // 4 * 4, np.uint8)
    padded[: len(stream)] = np.frombuffer(stream, np.uint8)
    return padded.view(np.uint32)


def check_end(used_bits: int, stream_bytes: int) -> None:
    """Raise CorruptStreamError unless the last symbol ended in the stream's last byte."""
    if (used_bits + 7) // 8 != stream_bytes:
        raise CorruptStreamError(f"symbols that take {used_bits} bits in a stream of {stream_bytes} bytes")


@njit(cache=True, nogil=True)
def _package_merge(counts, limit):  # type: ignore[no-untyped-def] # compiled by numba
    """Optimal lengths, at most `limit`, for ascending counts of at least two symbols (Larmore, Hirschberg 1990)."""
    n = counts.size
    is_leaf = np.zeros((limit, 2 * n), np.bool_)
    previous = np.empty(2 * n, np.int64)
    size = 0
    for level in range(limit):
        merged = np.empty(2 * n, np.int64)
        leaf = package = at = 0
        while leaf < n or package + 1 < size:
            weight = previous[package] + previous[package + 1] if package + 1 < size else 0
            if leaf < n and (package + 1 >= size or counts[leaf] <= weight):
                merged[at] = counts[leaf]
                is_leaf[level, at] = True
                leaf += 1
            else:
                merged[at] = weight
                package += 2
            at += 1
        previous, size = merged, at
    lengths = np.zeros(n, np.uint8)
    take = 2 * n - 2
    for level in range(limit - 1, -1, -1):
        leaves = 0
        for at in range(take):
            leaves += is_leaf[level, at]
        for leaf in range(leaves):
            lengths[leaf] += 1
        take = 2 * (take - leaves)
    return lengths


@njit(cache=True, nogil=True)
def _encode(integers, low, codewords, lengths, words):  # type: ignore[no-untyped-def] # compiled by numba
    pending = np.uint64(0)
    held = np.uint64(0)
    at = 0
    for i in range(integers.size):
        symbol = integers[i] - low
        pending |= np.uint64(codewords[symbol]) << held
        held += np.uint64(lengths[symbol])
        if held >= 32:
            words[at] = np.uint32(pending & np.uint64(0xFFFFFFFF))
            at += 1
            pending >>= np.uint64(32)
            held -= np.uint64(32)
    if held > 0:
        words[at] = np.uint32(pending)


@njit(cache=True, nogil=True)
def _decode(words, values, lengths, width, out):  # type: ignore[no-untyped-def] # compiled by numba
    """Decode out.size symbols; returns the bits used. Past the end of the words it reads zeros, never memory."""
    mask = np.uint64((1 << width) - 1)
    window = np.uint64(0)
    held = np.int64(0)
    at = 0
    for i in range(out.size):
        if held < width:
            if at < words.size:
                window |= np.uint64(words[at]) << np.uint64(held)
            at += 1
            held += 32
        slot = window & mask
        length = lengths[slot]
        out[i] = values[slot]
        window >>= np.uint64(length)
        held -= length
    return at * 32 - held
