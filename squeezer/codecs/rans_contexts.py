"""Contexts of the rANS coder: what of them stands in a stream, and what the kernels look up by them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from squeezer.codecs import rans_kernels as kernels
from squeezer.codecs.base import ByteReader, CorruptStreamError, varint, zigzag
from squeezer.codecs.rans_tables import codes
from squeezer.codecs.symbols import WIDEST
from squeezer.codecs.trellis import NEXT, following

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: The most integers in an alphabet without contexts; with them, some can lie in buckets.
WIDEST_SINGLE = 1 << 12
#: Frequencies of a table add up to 2^11 .. 2^14, with contexts to 2^12 at most.
_BITS, MOST_CONTEXT_BITS = range(11, 15), 12
#: The largest frequency of a table with contexts.
MOST_FREQUENT = (1 << 12) - 1
#: Steps of a depth in a bit.
FINENESS = (2, 4, 8, 16)
WINDOWS = range(1, 5)
MAX_TABLES = 64


def _buckets(levels: int) -> int:
    """How many buckets hold so many levels."""
    return (levels + 1).bit_length() - 1


@dataclass(frozen=True)
class Head:
    """What every stream begins with.

    Attributes:
        low: the lowest integer.
        count: how many integers lie from the lowest to the highest.
        bits: frequencies of a table add up to 2^bits.
        fineness: steps of a depth in a bit.
    """

    low: int
    count: int
    bits: int
    fineness: int

    def numbers(self, flags: int) -> bytes:
        """As they are written, with further flags from other classes."""
        flags |= (self.bits - _BITS.start) << 2 | FINENESS.index(self.fineness) << 4
        return bytes([flags]) + varint(zigzag(self.low)) + varint(self.count - 1)

    @classmethod
    def read(cls, data: ByteReader) -> tuple[Head, int]:
        """What `numbers` gives, and the flags."""
        flags = data.byte()
        low = data.signed()
        count = data.varint(limit=(WIDEST if flags & 1 else WIDEST_SINGLE) - 1) + 1
        return cls(low, count, (flags >> 2 & 3) + _BITS.start, FINENESS[flags >> 4 & 3]), flags


@dataclass(frozen=True)
class Contexts:
    """How contexts are made, and which table each has.

    Attributes:
        head: see there.
        centre: the integer of level 0, less the lowest one.
        reach: levels of up to this magnitude have a symbol each.
        lag: how far back the second neighbour is; 1 to 16, 1 where there is none.
        window: the average covers about 2^window levels; 1 to 4.
        signs: sums of neighbours are told apart up to this magnitude; 0 to 3. Nothing is mirrored where it is 0.
        quantiser: whether the trellis' quantiser is a context.
        initial: the average before the first level of a block, in eighths; at most 120.
        runs: for each group (quantiser, sum), lengths of the runs of classes that share a table.
    """

    head: Head
    centre: int
    reach: int
    lag: int
    window: int
    signs: int
    quantiser: bool
    initial: int
    runs: tuple[tuple[int, ...], ...] = ()

    @property
    def groups(self) -> int:
        """How many times the classes of averages are split into runs."""
        return (self.signs + 1) * (1 + self.quantiser)

    @property
    def tables(self) -> int:
        """How many tables there are."""
        return sum(map(len, self.runs))

    @property
    def sides(self) -> tuple[int, int, int, int]:
        """Of the symbols: buckets below, levels below 0, levels above, buckets above."""
        below, above = self.centre, self.head.count - 1 - self.centre
        if self.signs:
            below = above = max(below, above)
        lower, upper = min(self.reach, below), min(self.reach, above)
        return _buckets(below - lower), lower, upper, _buckets(above - upper)

    @property
    def symbols(self) -> int:
        """How many symbols a table has."""
        return sum(self.sides) + 1

    def numbers(self) -> bytes:
        """The parameters, but for the runs, as they are written."""
        flags = self.head.numbers(1 | self.quantiser << 1 | self.signs << 6)
        ways = self.lag - 1 | (self.window - WINDOWS.start) << 4
        return flags + varint(self.centre) + bytes([self.reach, ways, self.initial])

    @classmethod
    def read(cls, data: ByteReader, head: Head, flags: int) -> Contexts:
        """Read what `numbers` gives after the head."""
        centre = data.varint(limit=head.count - 1)
        reach, ways, initial = data.byte(), data.byte(), data.byte()
        window = (ways >> 4) + WINDOWS.start
        if window not in WINDOWS or initial > 8 * kernels.MAX_MAGNITUDE or head.bits > MOST_CONTEXT_BITS:
            raise CorruptStreamError("a parameter out of its range")
        return cls(head, centre, reach, (ways & 15) + 1, window, flags >> 6, bool(flags & 2), initial)

    def table_of(self, quantiser: int, total: int) -> list[int]:
        """The table of each class, where q and the sum of the neighbours are these."""
        group = (quantiser if self.quantiser else 0) * (self.signs + 1) + min(abs(total), self.signs)
        first = sum(map(len, self.runs[:group]))
        return [first + k for k, length in enumerate(self.runs[group]) for _ in range(length)]

    def is_mirrored(self, total: int) -> bool:
        """Whether the mirror image is coded, where the sum of the neighbours is this."""
        return self.signs > 0 and total < 0

    def folded(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frequencies by group, class and symbol, from those of the survey: (2, sums, classes, symbols).

        The survey's symbols are those of signs that are told apart.
        """
        by_quantiser = counts if self.quantiser else counts.sum(0, keepdims=True)
        middle = kernels.SUMS // 2
        groups = []
        for half in by_quantiser:
            if self.signs:
                sums = [half[middle]] + [half[middle + k] + half[middle - k, :, ::-1] for k in range(1, middle + 1)]
                groups += [*sums[: self.signs], np.sum(sums[self.signs :], axis=0)]
            else:
                groups.append(half.sum(0)[:, self.own])
        return np.stack(groups)

    @property
    def symmetric(self) -> Contexts:
        """With as many symbols below level 0 as above: those that a survey counts, and that mirror images need."""
        return replace(self, signs=max(self.signs, 1))

    @property
    def own(self) -> slice:
        """Which of the survey's symbols there are."""
        sides, all_sides = self.sides, self.symmetric.sides
        begin = all_sides[0] + all_sides[1] - sides[0] - sides[1]
        return slice(begin, begin + self.symbols)


def _sums() -> Iterator[tuple[int, int]]:
    """q and sum, in the order of the survey's cells."""
    for quantiser in range(2):
        for total in range(-(kernels.SUMS // 2), kernels.SUMS // 2 + 1):
            yield quantiser, total


def cell_codes(contexts: Contexts, frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The code of each of the survey's symbols in each of its cells."""
    wide = np.zeros((frequencies.shape[0], contexts.symmetric.symbols), np.uint32)
    wide[:, contexts.own] = codes(frequencies)
    return np.concatenate([
        wide[contexts.table_of(quantiser, total), :: -1 if contexts.is_mirrored(total) else 1]
        for quantiser, total in _sums()
    ])  # fmt: skip


def entry_fields(contexts: Contexts) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """What entries of each symbol have above their lowest 24 bits, and the rows for those that are rare."""
    lower, below, above, upper = contexts.sides
    levels = np.arange(-below, above + 1)
    indices = contexts.centre + levels
    signs = (np.clip(levels, -3, 3) + 3) * kernels.SIGNS
    magnitudes = 8 * np.minimum(np.abs(levels), kernels.MAX_MAGNITUDE)
    direct = indices << 48 | signs << 32 | magnitudes << 24
    # The mirror image of a level may lie outside of the alphabet. Row 0 is outside as well.
    direct[(indices < 0) | (indices >= contexts.head.count)] = int(kernels.RARE)
    rows = [(-1, 0, 0)]
    rows += [(contexts.centre - below - (2 << j) + 1, -1, j + 1) for j in range(lower)]
    rows += [(contexts.centre + above + (2 << j) - 1, 1, j + 1) for j in range(upper)]
    buckets = np.arange(1, len(rows)) << 48 | int(kernels.RARE)
    found = np.concatenate([buckets[:lower][::-1], direct, buckets[lower:]]).astype(np.uint64)
    return found, np.array(rows, np.int64)


def table_starts(contexts: Contexts) -> NDArray[np.uint32]:
    """Where the table begins, by average, sum of neighbours and q."""
    middle = kernels.SUMS // 2
    rows = np.array([
        [2 * table + contexts.is_mirrored(total) for table in contexts.table_of(quantiser, total)]
        for quantiser, total in _sums()
    ])  # fmt: skip
    by_sum = rows.reshape(2, kernels.SUMS, kernels.CLASSES)[:, np.clip(np.arange(16), middle, 3 * middle) - middle]
    found: NDArray[np.uint32] = (by_sum[:, :, kernels.CLASS_OF] << contexts.head.bits).astype(np.uint32)
    return found.reshape(-1)


def following_states(contexts: Contexts) -> NDArray[np.uint16]:
    """The trellis' next state, and its q, by state and parity of the integer less the lowest one."""
    if not contexts.quantiser:
        return np.zeros(2 * len(NEXT), np.uint16)
    states = following(contexts.head.low).astype(np.uint16)
    found: NDArray[np.uint16] = (states << 1 | (states >> 1 & 1) * kernels.QUANTISER).astype(np.uint16)
    return found.reshape(-1)
