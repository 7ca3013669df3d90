"""Sparse integers: the distances between those that are not zero, and their values (Han et al. 2016, section 2).

A gap is the number of zeros before the next integer that is not zero. Gaps are symbols 0 .. skip-1 of one Huffman code;
its last symbol, `skip`, passes over that many zeros where a gap is longer. (The paper pads with filler zeros instead,
which also cost a value each.) The values have a Huffman code of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numba import njit

from squeezer.codecs.base import (
    ByteReader,
    ByteWriter,
    Category,
    CorruptStreamError,
    Histogram,
    Meaning,
    as_bits,
    varint,
)
from squeezer.codecs.dense import StreamHeader, SymbolStream
from squeezer.codecs.huffman import MAX_ALPHABET, check_end, to_words

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Alphabets tried for the gaps: the best one depends on how sparse the array is.
_ALPHABETS = tuple(1 << k for k in range(3, MAX_ALPHABET.bit_length()))
#: Gaps below this are counted in a table, the few others one by one.
_TABLE = 1 << 16


@dataclass(frozen=True)
class _GapsPlan:
    kept: int
    gaps: SymbolStream | None
    values: SymbolStream | None

    @property
    def size(self) -> int:
        streams = sum(stream.size for stream in (self.gaps, self.values) if stream is not None)
        return len(varint(self.kept)) + streams

    def write(self, out: ByteWriter) -> None:
        out.varint(self.kept)
        if self.gaps is not None and self.values is not None:
            self.gaps.write(out, Category.GAPS)
            self.values.write(out)


class Gaps:
    """Gaps and values, each with a canonical Huffman code."""

    number: ClassVar[int] = 3
    name: ClassVar[str] = "gaps"

    def plan(self, integers: NDArray[Any], counted: Histogram) -> _GapsPlan:
        """Find the gaps, and the alphabet for them that takes fewest bits."""
        zeros = int(counted.counts[-counted.low]) if 0 <= -counted.low < counted.alphabet else 0
        kept = integers.size - zeros
        if kept == 0:
            return _GapsPlan(0, None, None)
        distances = np.empty(kept, np.uint32)
        values = np.empty(kept, integers.dtype)
        _split(integers, distances, values)
        return _GapsPlan(kept, _gap_stream(distances), SymbolStream.of(values, _without_zero(counted)))

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean; most of it with what zero means."""
        bits = as_bits(out)
        bits[:] = as_bits(meaning.of_range(0, 1))[0]
        kept = data.varint(limit=out.size)
        if kept == 0:
            return
        gap_header = StreamHeader.read(data)
        gap_stream = data.take(gap_header.length, Category.GAPS)
        value_header = StreamHeader.read(data)
        value_stream = data.take(value_header.length, Category.VALUES)
        symbols = np.arange(gap_header.low, gap_header.low + gap_header.code.lengths.size)
        skip = int(symbols[-1])
        if gap_header.low < 0 or not 1 <= skip < MAX_ALPHABET:
            raise CorruptStreamError("gaps outside their alphabet")
        gaps = gap_header.code.lookup(symbols.astype(np.uint16))
        values = value_header.code.lookup(meaning.of_range(value_header.low, value_header.code.lengths.size))
        gap_bits, value_bits = _scatter(
            to_words(gap_stream), gaps.values, gaps.lengths, gaps.width, skip,
            to_words(value_stream), values.values, values.lengths, values.width, kept, bits,
        )  # fmt: skip
        if gap_bits < 0:
            raise CorruptStreamError("a weight beyond the end of its tensor")
        check_end(gap_bits, len(gap_stream))
        check_end(value_bits, len(value_stream))


def _without_zero(counted: Histogram) -> Histogram:
    counts = counted.counts.copy()
    if 0 <= -counted.low < counted.alphabet:
        counts[-counted.low] = 0
    used = np.flatnonzero(counts)
    return Histogram(counted.low + int(used[0]), counts[used[0] : used[-1] + 1])


def _gap_stream(distances: NDArray[np.uint32]) -> SymbolStream:
    table = np.zeros(_TABLE, np.int64)
    large = np.empty(distances.size, np.uint32) if int(distances.max()) >= _TABLE else np.empty(0, np.uint32)
    found = _count_gaps(distances, table, large)
    gaps = np.concatenate([np.flatnonzero(table), large[:found].astype(np.int64)])
    counts = np.concatenate([table[table > 0], np.ones(found, np.int64)])
    folded = min((_folded(gaps, counts, alphabet) for alphabet in _ALPHABETS), key=_estimated_bits)
    skip = folded.size - 1
    symbols = np.empty(int(folded.sum()), np.uint16)
    _emit(distances, skip, symbols)
    low = int(np.flatnonzero(folded)[0])
    # The skip symbol ends the alphabet even where it does not occur, since the reader finds it there.
    return SymbolStream.of(symbols, Histogram(low, folded[low:]))


def _folded(gaps: NDArray[np.int64], counts: NDArray[np.int64], alphabet: int) -> NDArray[np.int64]:
    """How often each symbol occurs where gaps of `alphabet - 1` and more are split."""
    skip = alphabet - 1
    folded = np.zeros(alphabet, np.int64)
    np.add.at(folded, gaps % skip, counts)
    folded[skip] = int((gaps // skip * counts).sum())
    return folded


def _estimated_bits(folded: NDArray[np.int64]) -> float:
    used = folded[folded > 0]
    table = 4.0 * np.flatnonzero(folded).size + 8.0 * np.count_nonzero(np.diff(np.flatnonzero(folded)) > 1)
    return float(-(used * np.log2(used / used.sum())).sum()) + table


@njit(cache=True, nogil=True)
def _split(integers, distances, values):  # type: ignore[no-untyped-def] # compiled by numba
    at = 0
    last = -1
    for i in range(integers.size):
        if integers[i] != 0:
            distances[at] = i - last - 1
            values[at] = integers[i]
            last = i
            at += 1


@njit(cache=True, nogil=True)
def _count_gaps(distances, table, large):  # type: ignore[no-untyped-def] # compiled by numba
    found = 0
    for gap in distances:
        if gap < table.size:
            table[gap] += 1
        else:
            large[found] = gap
            found += 1
    return found


@njit(cache=True, nogil=True)
def _emit(distances, skip, symbols):  # type: ignore[no-untyped-def] # compiled by numba
    at = 0
    for gap in distances:
        rest = np.int64(gap)
        while rest >= skip:
            symbols[at] = skip
            at += 1
            rest -= skip
        symbols[at] = rest
        at += 1


@njit(cache=True, nogil=True)
def _scatter(  # type: ignore[no-untyped-def] # compiled by numba
    gap_words, gap_symbols, gap_lengths, gap_width, skip, words, values, lengths, width, kept, out
):
    """Put `kept` values at their places; returns the bits used of both streams, or -1 where a place is outside.

    Past the end of a stream it reads zeros, never memory; every gap symbol moves on or ends, so it terminates.
    """
    gap_mask = np.uint64((1 << gap_width) - 1)
    mask = np.uint64((1 << width) - 1)
    gap_window = np.uint64(0)
    window = np.uint64(0)
    gap_held = np.int64(0)
    held = np.int64(0)
    gap_at = 0
    at = 0
    place = np.int64(-1)
    for _ in range(kept):
        while True:
            if gap_held < gap_width:
                if gap_at < gap_words.size:
                    gap_window |= np.uint64(gap_words[gap_at]) << np.uint64(gap_held)
                gap_at += 1
                gap_held += 32
            slot = gap_window & gap_mask
            length = gap_lengths[slot]
            gap_window >>= np.uint64(length)
            gap_held -= length
            symbol = np.int64(gap_symbols[slot])
            place += symbol
            if symbol < skip:
                break
            if place >= out.size:
                return -1, -1
        place += 1
        if place >= out.size:
            return -1, -1
        if held < width:
            if at < words.size:
                window |= np.uint64(words[at]) << np.uint64(held)
            at += 1
            held += 32
        slot = window & mask
        length = lengths[slot]
        out[place] = values[slot]
        window >>= np.uint64(length)
        held -= length
    return gap_at * 32 - gap_held, at * 32 - held
