"""Sparse integers: the distances between those that are not zero, and their values (Han et al. 2016, section 2).

A gap is the number of zeros before the next integer that is not zero. Gaps are symbols 0 .. skip-1 of one Huffman code;
its last symbol, `skip`, passes over that many zeros where a gap is longer. (The paper pads with filler zeros instead,
which also cost a value each.) The values have a Huffman code of their own.
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
    Meaning,
    as_bits,
    varint,
)
from squeezer.codecs.dense import Symbols, read_symbols
from squeezer.codecs.huffman import MAX_ALPHABET, HuffmanCode
from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Skips that are tried: the best one depends on how sparse the array is.
_SKIPS = tuple((1 << k) - 1 for k in range(3, MAX_ALPHABET.bit_length()))
#: A skip is rare where there are so many gaps for one.
_RARE = 4
#: Elements that are set to zero at once, just before values are put among them: these are still in the first cache.
_BLOCK = np.uint64(512)
_GAP = Itself(np.dtype(np.uint16))
_NO_SKIP = 1 << 16  # more than any gap symbol
_1 = np.uint64(1)


@dataclass(frozen=True)
class _GapsPlan:
    gaps: Symbols
    values: Symbols

    @property
    def _kept(self) -> int:
        return self.values.integers.size

    @property
    def _skips(self) -> int:
        return self.gaps.integers.size - self._kept

    @property
    def size(self) -> int:
        head = varint(self._kept) + varint(self._skips) + varint(self.gaps.size)
        return len(head) + self.gaps.size + self.values.size

    def write(self, out: ByteWriter) -> None:
        out.varint(self._kept)
        out.varint(self._skips)
        out.varint(self.gaps.size)
        self.gaps.write(out)
        self.values.write(out)


class _NothingPlan:
    """No integer differs from zero."""

    size = 1

    def write(self, out: ByteWriter) -> None:
        out.varint(0)


class Gaps:
    """Gaps and values, each with a canonical Huffman code."""

    number: ClassVar[int] = 3
    name: ClassVar[str] = "gaps"
    widest: ClassVar[int] = MAX_ALPHABET

    def plan(self, integers: NDArray[Any], counted: Histogram, *, trellis: bool = False) -> _GapsPlan | _NothingPlan:
        """Find the gaps, and the skip with which they take fewest bits."""
        del trellis
        zeros = int(counted.counts[-counted.low]) if 0 <= -counted.low < counted.alphabet else 0
        kept = integers.size - zeros
        if kept == 0:
            return _NothingPlan()
        # One more than there are: what comes after the last value is written as well, and not used.
        gaps, values = np.empty(kept + 1, np.int64), np.empty(kept + 1, integers.dtype)
        _split(integers, gaps, values)
        return _GapsPlan(_gap_symbols(gaps[:-1]), Symbols.of(values[:-1], _without_zero(counted)))

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean; most of it with what zero means."""
        bits, zero = as_bits(out), as_bits(np.ascontiguousarray(meaning.of_range(0, 1)))[0]
        kept = data.varint(limit=out.size)
        if kept == 0:
            data.finish()
            bits[:] = zero
            return
        skips = data.varint(limit=out.size - kept)
        gaps, values = np.empty(kept + skips, np.uint16), np.empty(kept, out.dtype)
        _, skip = read_symbols(data.part(data.varint()), gaps, _GAP, Category.GAPS)
        read_symbols(data, values, meaning)
        if not _scatter(gaps, skip if skips else _NO_SKIP, as_bits(values), zero, bits):
            raise CorruptStreamError("gaps that do not fit their tensor or their values")


def _without_zero(counted: Histogram) -> Histogram:
    counts = counted.counts.copy()
    if 0 <= -counted.low < counted.alphabet:
        counts[-counted.low] = 0
    return _trimmed(counts, counted.low)


def _trimmed(counts: NDArray[np.int64], low: int) -> Histogram:
    used = np.flatnonzero(counts)
    return Histogram(low + int(used[0]), counts[used[0] : used[-1] + 1])


def _gap_symbols(gaps: NDArray[np.int64]) -> Symbols:
    """The gaps as symbols. Where the last one of the alphabet is the skip, it occurs."""
    counts = np.bincount(gaps)
    used = np.flatnonzero(counts)
    # One more than the longest gap is a skip that does not occur.
    skips = [skip for skip in _SKIPS if skip < counts.size] + [counts.size] * (counts.size < MAX_ALPHABET)
    folds = [_folded(used, counts[used], skip) for skip in skips]
    # Many skips are slow to decode, and short in few cases.
    folds = [folded for folded in folds if _RARE * folded[-1] <= gaps.size] or folds
    candidates = [_trimmed(folded, 0) for folded in folds]
    codes = [HuffmanCode.from_counts(counted.counts) for counted in candidates]
    bits = [code.bits(counted.counts) + 8 * code.table.size for code, counted in zip(codes, candidates, strict=True)]
    best = int(np.argmin(bits))
    symbols = np.empty(int(folds[best].sum()), np.uint16)
    _emit(gaps, folds[best].size - 1, symbols)
    return Symbols(symbols, candidates[best], codes[best], Category.GAPS)


@kernel()
def _split(integers, gaps, values):  # type: ignore[no-untyped-def] # compiled by numba
    """Gaps and values of what is not zero."""
    at, after = np.uint64(0), np.uint64(0)
    for i in range(np.uint64(integers.size)):
        # Always stored, and kept where it is not zero: a branch here would often be guessed wrong.
        gaps[at] = i - after
        values[at] = integers[i]
        kept = integers[i] != 0
        at += np.uint64(kept)
        after = i + np.uint64(1) if kept else after


@kernel()
def _folded(gaps, counts, skip):  # type: ignore[no-untyped-def] # compiled by numba
    """How often each symbol occurs, the last of which is the skip."""
    folded = np.zeros(skip + 1, np.int64)
    for i in range(gaps.size):
        folded[gaps[i] % skip] += counts[i]
        folded[skip] += gaps[i] // skip * counts[i]
    return folded


@kernel()
def _emit(gaps, skip, symbols):  # type: ignore[no-untyped-def] # compiled by numba
    at = 0
    for gap in gaps:
        rest = gap
        while rest >= skip:
            symbols[at] = skip
            at += 1
            rest -= skip
        symbols[at] = rest
        at += 1


@kernel()
def _scatter(gaps, skip, values, zero, out):  # type: ignore[no-untyped-def] # compiled by numba
    """Put the values at their places, and zero at all others. False where they do not all find one."""
    size, symbols, count, skip = np.uint64(out.size), np.uint64(gaps.size), np.uint64(values.size), np.uint64(skip)
    place, end, symbol, value = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    while end < size:
        begin, end = end, min(end + _BLOCK, size)
        out[begin:end] = zero
        while symbol < symbols:
            gap = np.uint64(gaps[symbol])
            if place + gap >= end:
                break
            place += gap
            symbol += _1
            if gap != skip:
                if value == count:
                    return False
                out[place] = values[value]
                place += _1
                value += _1
    return symbol == symbols and value == count
