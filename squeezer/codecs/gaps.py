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
    Itself,
    Meaning,
    as_bits,
    varint,
)
from squeezer.codecs.bitstream import bits_at, bits_at_end, check_end, to_words
from squeezer.codecs.dense import ENTRY_BYTES, LONG, Symbols, read_code, read_entries, write_entries, write_stream
from squeezer.codecs.huffman import MAX_ALPHABET, MAX_LENGTH, MAX_PATTERN, Lookup

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Alphabets tried for the gaps: the best one depends on how sparse the array is.
_ALPHABETS = tuple(1 << k for k in range(3, MAX_ALPHABET.bit_length()))
#: Gaps below this are counted in a table, the few others one by one.
_TABLE = 1 << 16
#: Gaps between two loads of 64 bits.
_ROUND = 4
_ROUND_BITS = np.uint64(_ROUND * MAX_LENGTH)
_1, _LOW_32 = np.uint64(1), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class _GapsPlan:
    """Gap symbols and values; `half` values, gaps of `middle` symbols and `place` elements make the first lane."""

    gaps: Symbols
    values: Symbols
    half: int
    middle: int
    place: int

    @property
    def _long(self) -> bool:
        return self.values.integers.size >= LONG

    @property
    def size(self) -> int:
        streams = sum(part.code_size + part.stream_size for part in (self.gaps, self.values))
        return len(varint(self.values.integers.size)) + streams + 3 * ENTRY_BYTES * self._long

    def write(self, out: ByteWriter) -> None:
        out.varint(self.values.integers.size)
        self.gaps.write_code(out)
        self.values.write_code(out)
        gap_stream, gap_position = self.gaps.encode([self.middle])
        value_stream, value_position = self.values.encode([self.half])
        if self._long:
            for position in ([self.place], gap_position, value_position):
                write_entries(out, position)
        write_stream(out, gap_stream, Category.GAPS)
        write_stream(out, value_stream, Category.VALUES)


class _NothingPlan:
    """No integer differs from zero."""

    size = 1

    def write(self, out: ByteWriter) -> None:
        out.varint(0)


class Gaps:
    """Gaps and values, each with a canonical Huffman code."""

    number: ClassVar[int] = 3
    name: ClassVar[str] = "gaps"

    def plan(self, integers: NDArray[Any], counted: Histogram) -> _GapsPlan | _NothingPlan:
        """Find the gaps, and the alphabet for them that takes fewest bits."""
        zeros = int(counted.counts[-counted.low]) if 0 <= -counted.low < counted.alphabet else 0
        kept = integers.size - zeros
        if kept == 0:
            return _NothingPlan()
        distances = np.empty(kept, np.uint32)
        values = np.empty(kept, integers.dtype)
        half = kept // 2
        place = int(_split(integers, distances, values, half))
        gaps, middle = _gap_symbols(distances, half)
        return _GapsPlan(gaps, Symbols.of(values, _without_zero(counted)), half, middle, place)

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean; most of it with what zero means."""
        if out.dtype.itemsize > MAX_PATTERN:
            integers = np.empty(out.size, np.int32)
            self.read(data, integers, Itself(integers.dtype))
            out[:] = meaning.of(integers)
            return
        bits = as_bits(out)
        bits[:] = as_bits(meaning.of_range(0, 1))[0]
        kept = data.varint(limit=out.size)
        if kept == 0:
            return
        gap_low, gap_code = read_code(data)
        low, code = read_code(data)
        if gap_low < 0 or not 1 <= gap_low + gap_code.lengths.size - 1 < MAX_ALPHABET:
            raise CorruptStreamError("gaps outside their alphabet")
        lanes = [read_entries(data, 1)[0] for _ in range(3)] if kept >= LONG else [0, 0, 0]
        gap_stream = data.take(data.varint(), Category.GAPS)
        stream = data.take(data.varint(), Category.VALUES)
        half = kept // 2 if kept >= LONG else 0
        # Where there is no second entry point, the first lane is empty.
        starts, counts = np.array([[0, 0, 0], lanes], np.int64), np.array([half, kept - half], np.int64)
        if lanes[0] > out.size or lanes[1] > 8 * len(gap_stream) or lanes[2] > 8 * len(stream):
            raise CorruptStreamError("an entry point past the end of its stream")
        symbols = np.arange(gap_low, gap_low + gap_code.lengths.size).astype(np.uint16)
        gap, value = (
            Lookup.of(gap_code, symbols),
            Lookup.of(code, np.ascontiguousarray(meaning.of_range(low, code.lengths.size))),
        )
        ends = np.zeros((2, 3), np.int64)
        inside = _scatter(
            to_words(gap_stream), 8 * len(gap_stream), gap.width, gap.pairs, gap.lengths, symbols[-1],
            to_words(stream), 8 * len(stream), value.width, value.pairs, value.lengths, bits, starts, counts, ends,
        )  # fmt: skip
        if not inside:
            raise CorruptStreamError("a weight beyond the end of its tensor")
        if not np.array_equal(ends[0], starts[1]):
            raise CorruptStreamError("a part of a stream that does not end where the next one begins")
        check_end(int(ends[1, 1]), len(gap_stream))
        check_end(int(ends[1, 2]), len(stream))


def _without_zero(counted: Histogram) -> Histogram:
    counts = counted.counts.copy()
    if 0 <= -counted.low < counted.alphabet:
        counts[-counted.low] = 0
    used = np.flatnonzero(counts)
    return Histogram(counted.low + int(used[0]), counts[used[0] : used[-1] + 1])


def _gap_symbols(distances: NDArray[np.uint32], half: int) -> tuple[Symbols, int]:
    """The gaps as symbols, and how many of these make the first `half` gaps."""
    table = np.zeros(_TABLE, np.int64)
    large = np.empty(distances.size, np.uint32) if int(distances.max()) >= _TABLE else np.empty(0, np.uint32)
    found = _count_gaps(distances, table, large)
    gaps = np.concatenate([np.flatnonzero(table), large[:found].astype(np.int64)])
    counts = np.concatenate([table[table > 0], np.ones(found, np.int64)])
    folded = min((_folded(gaps, counts, alphabet) for alphabet in _ALPHABETS), key=_estimated_bits)
    skip = folded.size - 1
    symbols = np.empty(int(folded.sum()), np.uint16)
    middle = int(_emit(distances, skip, symbols, half))
    low = int(np.flatnonzero(folded)[0])
    # The skip symbol ends the alphabet even where it does not occur, since the reader finds it there.
    return Symbols.of(symbols, Histogram(low, folded[low:])), middle


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
def _split(integers, distances, values, half):  # type: ignore[no-untyped-def] # compiled by numba
    """Gaps and values of what is not zero; returns the place after the first `half` of them."""
    at = 0
    last = -1
    place = 0
    for i in range(integers.size):
        if integers[i] != 0:
            distances[at] = i - last - 1
            values[at] = integers[i]
            last = i
            at += 1
            if at == half:
                place = i + 1
    return place


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
def _emit(distances, skip, symbols, half):  # type: ignore[no-untyped-def] # compiled by numba
    """Gaps as symbols; returns how many symbols the first `half` gaps are."""
    at = 0
    middle = 0
    for i in range(distances.size):
        rest = np.int64(distances[i])
        while rest >= skip:
            symbols[at] = skip
            at += 1
            rest -= skip
        symbols[at] = rest
        at += 1
        if i + 1 == half:
            middle = at
    return middle


@njit(cache=True, nogil=True)
def _scatter(  # type: ignore[no-untyped-def] # compiled by numba
    gap_words, gap_bits, gap_width, gap_pairs, gap_lengths, skip,
    words, bits, width, pairs, lengths, out, starts, counts, ends,
):  # fmt: skip
    """Put both lanes' values at their places. False where a place is outside.

    A lane starts at (place, position in the gaps, position in the values), and has so many values; `ends` receives
    the same of where it ended. The first lane may write up to where the second one starts.
    """
    gap_mask, mask = np.uint64((1 << gap_width) - 1), np.uint64((1 << width) - 1)
    gap_limit, limit, skip = np.uint64(gap_bits), np.uint64(bits), np.uint64(skip)
    place_a, gap_a, at_a = np.uint64(starts[0, 0]), np.uint64(starts[0, 1]), np.uint64(starts[0, 2])
    place_b, gap_b, at_b = np.uint64(starts[1, 0]), np.uint64(starts[1, 1]), np.uint64(starts[1, 2])
    end_a, end_b = place_b, np.uint64(out.size)
    left_a, left_b = np.int64(counts[0]), np.int64(counts[1])
    while left_a >= _ROUND and left_b >= _ROUND:
        if max(gap_a, gap_b) + _ROUND_BITS > gap_limit or max(at_a, at_b) + _ROUND_BITS > limit:
            break
        gaps_a, gaps_b = bits_at(gap_words, gap_a), bits_at(gap_words, gap_b)
        window_a, window_b = bits_at(words, at_a), bits_at(words, at_b)
        for _ in range(_ROUND):
            gaps_a, gap_a, symbol_a = _gap(gaps_a, gap_a, gap_mask, gap_pairs, gap_lengths)
            gaps_b, gap_b, symbol_b = _gap(gaps_b, gap_b, gap_mask, gap_pairs, gap_lengths)
            place_a, place_b = place_a + symbol_a, place_b + symbol_b
            if place_a >= end_a or place_b >= end_b:
                return False
            if symbol_a != skip:
                window_a, at_a = _put(window_a, at_a, mask, pairs, lengths, out, place_a)
                place_a += _1
                left_a -= 1
            if symbol_b != skip:
                window_b, at_b = _put(window_b, at_b, mask, pairs, lengths, out, place_b)
                place_b += _1
                left_b -= 1
    ends[0], ends[1] = (place_a, gap_a, at_a), (place_b, gap_b, at_b)
    gap_code, code = (gap_words, gap_mask, gap_pairs, gap_lengths), (words, mask, pairs, lengths)
    first = _scatter_rest(gap_code, skip, code, out, end_a, left_a, ends[0])
    return first and _scatter_rest(gap_code, skip, code, out, end_b, left_b, ends[1])


@njit(cache=True, nogil=True)
def _scatter_rest(gap_code, skip, code, out, end, left, state):  # type: ignore[no-untyped-def] # compiled by numba
    """Put the last values of a lane one by one; `state` is where it stands, before and after."""
    gap_words, gap_mask, gap_pairs, gap_lengths = gap_code
    words, mask, pairs, lengths = code
    place, gap, at = np.uint64(state[0]), np.uint64(state[1]), np.uint64(state[2])
    while left > 0:
        _, gap, symbol = _gap(bits_at_end(gap_words, gap), gap, gap_mask, gap_pairs, gap_lengths)
        place += symbol
        if place >= end:
            return False
        if symbol != skip:
            _, at = _put(bits_at_end(words, at), at, mask, pairs, lengths, out, place)
            place += _1
            left -= 1
    state[0], state[1], state[2] = place, gap, at
    return True


@njit(cache=True, nogil=True)
def _gap(window, position, mask, pairs, lengths):  # type: ignore[no-untyped-def] # compiled by numba
    slot = window & mask
    length = np.uint64(lengths[slot])
    return window >> length, position + length, pairs[slot] & _LOW_32


@njit(cache=True, nogil=True)
def _put(window, position, mask, pairs, lengths, out, place):  # type: ignore[no-untyped-def] # compiled by numba
    slot = window & mask
    length = np.uint64(lengths[slot])
    out[place] = pairs[slot] & _LOW_32
    return window >> length, position + length
