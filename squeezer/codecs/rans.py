"""Integers by interleaved rANS with static tables (Duda 2013; Giesen 2014).

Without contexts there is one table for all integers. With contexts, integers are *levels*, counted from the commonest
one, and the table of a level is chosen by

- an average of the magnitudes before it, since magnitudes differ from channel to channel and from kernel to kernel;
- the sum of two neighbours: the level before, and the one `lag` places back, which in a convolution is the one above
  where `lag` is the kernel's width. Where the sum is negative, the level's mirror image is coded: the weights of a
  kernel tend to have the sign of their neighbours;
- for the codes of a trellis, which of the two quantisers holds, where that pays.

Similar contexts share a table. How many tables there are, and which contexts have which, is chosen by their cost, and
stands before the stream. Levels that are rare lie in buckets of 2, 4, 8, ... that are one symbol of the table.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from squeezer.codecs import rans_kernels as kernels
from squeezer.codecs import rans_tables
from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, Meaning, as_bits, varint, zigzag
from squeezer.codecs.symbols import WIDEST
from squeezer.codecs.trellis import NEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from squeezer.codecs.base import Histogram, Plan

#: The most integers in an alphabet without contexts; with them, some can lie in buckets.
_WIDEST_SINGLE = 1 << 12
#: Arrays of so many elements have several lanes.
LANED = 1 << 12
#: Frequencies of a table add up to 2^11 .. 2^14, with contexts to 2^12 at most.
_BITS, _MOST_CONTEXT_BITS = range(11, 15), 12
#: Steps of a depth in a bit.
_FINENESS = (2, 4, 8, 16)
_FINER_FROM = (3_000, 24_000, 100_000)
_WINDOWS = range(1, 5)
#: The largest frequency of a table with contexts.
_MOST = (1 << 12) - 1
#: Values of more bytes are looked up after the symbols are decoded.
_MAX_PATTERN = 4
#: Levels up to this magnitude, or fewer, have a symbol each.
MAX_REACH = 255
MAX_TABLES = 64
#: Where there are more, they are short, so that they fit into the second cache.
_MANY_TABLES = 6
_LOWEST_STATE = 1 << 16
#: Lags and windows are chosen by trial on so many blocks.
_SAMPLE_BLOCKS = 16
#: The best of them are tried on more.
_LAST_SAMPLE_BLOCKS = 32
#: What a sample gains by a table that means nothing, as a part of the bits that the table would take.
_CHANCE = 0.35
_LAGS = (1, 2, 3, 5, 7)
#: Contexts must promise to save at least this share, as they are slower.
_WORTHWHILE = 1 / 500
#: What a sample must promise for the whole array to be looked at.
_PROMISING = 1 / 2000
#: Bits an element that one more table must save: many tables do not fit into the cache.
_TABLE_PRICE = 0.001
#: Symbols of a table take bits too: a level that occurs less often than this is not worth one.
_SELDOM = 24


def _lanes(size: int, lanes: int) -> int:
    return lanes if size >= LANED else 1


def _fineness(occurrences: float) -> int:
    """Found by trial; the more symbols a table is for, the more bits it may take."""
    return _FINENESS[sum(occurrences >= limit for limit in _FINER_FROM)]


def _buckets(levels: int) -> int:
    """How many buckets hold so many levels."""
    return (levels + 1).bit_length() - 1


@dataclass(frozen=True)
class _Head:
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
        flags |= (self.bits - _BITS.start) << 2 | _FINENESS.index(self.fineness) << 4
        return bytes([flags]) + varint(zigzag(self.low)) + varint(self.count - 1)

    @classmethod
    def read(cls, data: ByteReader) -> tuple[_Head, int]:
        """What `numbers` gives, and the flags."""
        flags = data.byte()
        low = data.signed()
        count = data.varint(limit=(WIDEST if flags & 1 else _WIDEST_SINGLE) - 1) + 1
        return cls(low, count, (flags >> 2 & 3) + _BITS.start, _FINENESS[flags >> 4 & 3]), flags


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

    head: _Head
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
        ways = self.lag - 1 | (self.window - _WINDOWS.start) << 4
        return flags + varint(self.centre) + bytes([self.reach, ways, self.initial])

    @classmethod
    def read(cls, data: ByteReader, head: _Head, flags: int) -> Contexts:
        """Read what `numbers` gives after the head."""
        centre = data.varint(limit=head.count - 1)
        reach, ways, initial = data.byte(), data.byte(), data.byte()
        window = (ways >> 4) + _WINDOWS.start
        if window not in _WINDOWS or initial > 8 * kernels.MAX_MAGNITUDE or head.bits > _MOST_CONTEXT_BITS:
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
                groups.append(half.sum(0)[:, self._own])
        return np.stack(groups)

    @property
    def _own(self) -> slice:
        """Which of the survey's symbols there are."""
        sides, all_sides = self.sides, replace(self, signs=1).sides
        begin = all_sides[0] + all_sides[1] - sides[0] - sides[1]
        return slice(begin, begin + self.symbols)


@dataclass(frozen=True)
class _RansPlan:
    """A coded array. `numbers` are parameters, `tables` depths and runs, `values` states and words."""

    numbers: bytes
    tables: bytes
    values: bytes

    @property
    def size(self) -> int:
        return len(self.numbers) + len(varint(len(self.tables))) + len(self.tables) + len(self.values)

    def write(self, out: ByteWriter) -> None:
        out.put(self.numbers, Category.HEADER)
        out.varint(len(self.tables))
        out.put(self.tables, Category.TABLES)
        out.put(self.values, Category.VALUES)


class Rans:
    """Interleaved rANS."""

    number: ClassVar[int] = 5
    name: ClassVar[str] = "rans"
    widest: ClassVar[int] = WIDEST

    def plan(self, integers: NDArray[Any], counted: Histogram, *, trellis: bool = False) -> Plan:
        """Find the cheapest tables, and code."""
        # Less than a block is too little to learn contexts from, and the search for them takes milliseconds.
        several = counted.alphabet > 1 and integers.size >= kernels.BLOCK
        surveyed = _Surveyed.best(integers, counted, trellis=trellis) if several else None
        if counted.alphabet <= _WIDEST_SINGLE:
            single = _Single.of(counted, integers.size)
            if surveyed is None or surveyed.bits >= (1 - _WORTHWHILE) * single.bits:
                return single.plan(integers)
        return (surveyed or _Surveyed.plainest(integers, counted)).plan(integers)

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean."""
        head, flags = _Head.read(data)
        values = np.ascontiguousarray(meaning.of_range(head.low, head.count))
        if flags & 1:
            indices = _read_blocks(data, Contexts.read(data, head, flags), out.size)
        elif flags & ~0b111100:
            raise CorruptStreamError("flags that have no meaning")
        elif out.dtype.itemsize > _MAX_PATTERN:
            indices = np.empty(out.size, np.uint16)
            _read_single(data, head, np.arange(head.count, dtype=np.uint16), indices)
        else:
            _read_single(data, head, values, out)
            return
        kernels.look_up(indices, as_bits(values), as_bits(out))


@dataclass(frozen=True)
class _Single:
    """One table for all integers, and how many bits it takes with them."""

    head: _Head
    depths: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    bits: float

    @classmethod
    def of(cls, counted: Histogram, size: int) -> _Single:
        bits = 14 if size >= 1 << 17 or counted.alphabet > 1 << 9 else 12
        head = _Head(counted.low, counted.alphabet, bits, _fineness(size))
        return cls(head, *_tables(counted.counts[None], head, 1 << bits))

    def plan(self, integers: NDArray[Any]) -> _RansPlan:
        frequencies = self.frequencies[0]
        states = np.full(_lanes(integers.size, kernels.SINGLE_LANES), _LOWEST_STATE, np.uint64)
        words = np.empty(integers.size + 1, np.uint16)
        begin = kernels.encode_single(
            integers, self.head.low, _codes(frequencies), self.head.bits, states.size, words, states
        )
        tables = rans_tables.BitWriter()
        rans_tables.write_depths(tables, self.depths[0], self.head.fineness)
        return _RansPlan(self.head.numbers(0), tables.getvalue(), _values(states, words[begin:]))


@dataclass(frozen=True)
class _Surveyed:
    """Contexts, and what the survey of an array with them found."""

    contexts: Contexts
    cells: NDArray[np.uint16]
    symbols: NDArray[np.uint16]
    depths: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    bits: float

    @classmethod
    def best(cls, integers: NDArray[Any], counted: Histogram, *, trellis: bool) -> _Surveyed | None:
        """The cheapest contexts; None where a sample does not promise that they save anything."""
        first = _first_contexts(counted, trellis=trellis)
        sample = _Sample.of(integers, _SAMPLE_BLOCKS)
        trials = {(lag, 2): sample.bits(replace(first, lag=lag)) for lag in _LAGS}
        lag = min(trials, key=trials.__getitem__)[0]
        trials |= {(lag, window): sample.bits(replace(first, lag=lag, window=window)) for window in _WINDOWS}
        lag, window = min(trials, key=trials.__getitem__)
        first = replace(first, lag=lag, window=window)
        if not _Sample.of(integers, _LAST_SAMPLE_BLOCKS).promises(first):
            return None
        options = [
            replace(first, signs=signs, quantiser=quantiser)
            for signs in range(kernels.SUMS // 2 + 1)
            for quantiser in ([False, True] if trellis else [False])
        ]
        return cls.of(integers, first, options)

    @classmethod
    def plainest(cls, integers: NDArray[Any], counted: Histogram) -> _Surveyed:
        """Contexts that nothing is expected of, for levels that need buckets."""
        contexts = replace(_first_contexts(counted, trellis=False), signs=0)
        return cls.of(integers, contexts, [contexts])

    @classmethod
    def of(cls, integers: NDArray[Any], surveyed: Contexts, options: list[Contexts]) -> _Surveyed:
        """The best of some contexts, which differ from those surveyed in `signs`, or lack `quantiser`."""
        cells, symbols, counts = _survey(integers, surveyed)
        contexts = min((_partitioned(option, counts) for option in options), key=lambda option: option[0])[1]
        bits = 11 if contexts.tables > _MANY_TABLES else _MOST_CONTEXT_BITS
        head = replace(contexts.head, bits=bits, fineness=_fineness(integers.size / contexts.tables))
        contexts = replace(contexts, head=head)
        depths, frequencies, length = _tables(_by_table(contexts, counts), head, _MOST)
        return cls(contexts, cells, symbols, depths, frequencies, length + _bits_in_buckets(contexts, counts))

    def plan(self, integers: NDArray[Any]) -> _RansPlan:
        contexts = self.contexts
        codes = _cell_codes(contexts, self.frequencies)
        _, below, above, _ = replace(contexts, signs=1).sides
        centre = contexts.head.low + contexts.centre
        states = np.full(_lanes(integers.size, kernels.BLOCK_LANES), _LOWEST_STATE, np.uint64)
        words = np.empty(2 * integers.size + 1, np.uint16)
        begin = kernels.encode_blocks(
            integers, centre, below, above, self.cells, self.symbols, codes, contexts.head.bits, words, states
        )
        tables = rans_tables.BitWriter()
        for lengths in contexts.runs:
            rans_tables.write_runs(tables, list(lengths))
        for depths in self.depths:
            rans_tables.write_depths(tables, depths, contexts.head.fineness)
        return _RansPlan(contexts.numbers(), tables.getvalue(), _values(states, words[begin:]))


def _tables(counts: NDArray[np.int64], head: _Head, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    """Depths, frequencies, and the bits that tables and symbols take; counts are (tables, symbols)."""
    counts = counts.copy()
    if counts.shape[1] > 1:
        # A table of one symbol would have a frequency that does not fit.
        for row in np.flatnonzero(np.count_nonzero(counts, axis=1) < 2):
            counts[row, np.flatnonzero(counts[row] == 0)[:2]] = 1
    depths = np.stack([rans_tables.chosen_depths(one, head.fineness) for one in counts])
    frequencies = rans_tables.frequencies(depths, head.fineness, head.bits, most)
    out = rans_tables.BitWriter()
    for one in depths:
        rans_tables.write_depths(out, one, head.fineness)
    lengths = head.bits - np.log2(np.maximum(frequencies, 1))
    return depths, frequencies, float((counts * lengths).sum()) + out.count


def _codes(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """f and, above bit 16, start."""
    starts = np.cumsum(frequencies, axis=-1) - frequencies
    codes: NDArray[np.uint32] = (frequencies | starts << 16).astype(np.uint32)
    return codes


def _values(states: NDArray[np.uint64], words: NDArray[np.uint16]) -> bytes:
    return states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def _first_contexts(counted: Histogram, *, trellis: bool) -> Contexts:
    counts = counted.counts
    centre = int(counts.argmax())
    widest = max(centre, counts.size - 1 - centre)
    magnitudes = np.zeros(widest + 1, np.int64)
    magnitudes[: counts.size - centre] += counts[centre:]
    magnitudes[: centre + 1] += counts[centre::-1]
    magnitudes[0] = counts[centre]
    total = int(magnitudes.sum())
    reach = int(np.flatnonzero(magnitudes >= max(_SELDOM, total >> 11)).max(initial=0))
    # A last bucket that would be nearly empty takes as much room as the levels themselves.
    reach = widest if widest - reach < 3 else max(reach, 1)
    mean = float(np.minimum(np.arange(widest + 1), kernels.MAX_MAGNITUDE) @ magnitudes) / total
    head = _Head(counted.low, counted.alphabet, 12, 4)
    return Contexts(head, centre, min(reach, MAX_REACH), 1, 2, 3, trellis, round(8 * mean))


@dataclass(frozen=True)
class _Sample:
    """Whole blocks from everywhere in an array, which are `share` of it."""

    integers: NDArray[Any]
    share: float

    @classmethod
    def of(cls, integers: NDArray[Any], most: int) -> _Sample:
        blocks = integers.size // kernels.BLOCK
        if blocks <= most:
            return cls(integers, 1.0)
        chosen = np.arange(most) * blocks // most
        some = integers[: blocks * kernels.BLOCK].reshape(blocks, -1)[chosen].reshape(-1)
        return cls(some, some.size / integers.size)

    def bits(self, contexts: Contexts) -> float:
        """How many bits the sample and its share of the tables take."""
        return _partitioned(contexts, _survey(self.integers, contexts)[2], self.share)[0]

    def promises(self, contexts: Contexts) -> bool:
        """Whether contexts seem to save anything, and not only since several tables fit any sample better than one."""
        counts = _survey(self.integers, contexts)[2]
        share = max(self.share, _CHANCE)
        one_table = counts.sum((0, 1, 2))[None, None]
        bits = float(rans_tables.partition(one_table, 0.0, share, np.zeros((1, 1), np.int64)))
        with_contexts = _partitioned(contexts, counts, share)[0] - _bits_in_buckets(contexts, counts)
        return with_contexts < (1 - _PROMISING) * bits


def _survey(
    integers: NDArray[Any], contexts: Contexts
) -> tuple[NDArray[np.uint16], NDArray[np.uint16], NDArray[np.int64]]:
    """Cells, symbols, and the frequencies, (2, sums, classes, symbols)."""
    cells, symbols = np.empty(integers.size, np.uint16), np.empty(integers.size, np.uint16)
    wide = replace(contexts, signs=1)
    counts = np.zeros((2 * kernels.SUMS * kernels.CLASSES, wide.symbols), np.int64)
    buckets, below, above, _ = wide.sides
    following = NEXT.astype(np.int64) if contexts.quantiser else np.zeros_like(NEXT, np.int64)
    kernels.survey(
        integers, contexts.head.low + contexts.centre, below, above, buckets, contexts.window, contexts.lag,
        contexts.initial, following, cells, symbols, counts,
    )  # fmt: skip
    return cells, symbols, counts.reshape(2, kernels.SUMS, kernels.CLASSES, wide.symbols)


def _partitioned(contexts: Contexts, counts: NDArray[np.int64], share: float = 1.0) -> tuple[float, Contexts]:
    """About how many bits these contexts and a share of the tables take, and the contexts with the cheapest runs."""
    folded = contexts.folded(counts)
    ends = np.zeros(folded.shape[:2], np.int64)
    price = _TABLE_PRICE * float(counts.sum())
    bits = float(rans_tables.partition(folded, price, share, ends))
    while np.count_nonzero(ends) > MAX_TABLES:
        price *= 2
        bits = float(rans_tables.partition(folded, price, share, ends))
    runs = tuple(tuple(int(end - begin) for begin, end in enumerate(group) if end) for group in ends)
    return bits + _bits_in_buckets(contexts, counts), replace(contexts, runs=runs)


def _bits_in_buckets(contexts: Contexts, counts: NDArray[np.int64]) -> int:
    """How many bits say which level of its bucket each is."""
    lower, below, above, upper = replace(contexts, signs=1).sides
    bits = np.concatenate([np.arange(lower, 0, -1), np.zeros(below + above + 1, np.int64), np.arange(1, upper + 1)])
    return int(counts.reshape(-1, bits.size).sum(0) @ bits)


def _by_table(contexts: Contexts, counts: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = []
    for group, lengths in zip(contexts.folded(counts), contexts.runs, strict=True):
        at = 0
        for length in lengths:
            rows.append(group[at : at + length].sum(0))
            at += length
    return np.stack(rows)


def _sums() -> Iterator[tuple[int, int]]:
    """q and sum, in the order of the survey's cells."""
    for quantiser in range(2):
        for total in range(-(kernels.SUMS // 2), kernels.SUMS // 2 + 1):
            yield quantiser, total


def _cell_codes(contexts: Contexts, frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The code of each of the survey's symbols in each of its cells."""
    wide = np.zeros((frequencies.shape[0], replace(contexts, signs=1).symbols), np.uint32)
    wide[:, contexts._own] = _codes(frequencies)
    return np.concatenate([
        wide[contexts.table_of(quantiser, total), :: -1 if contexts.is_mirrored(total) else 1]
        for quantiser, total in _sums()
    ])  # fmt: skip


def _read_single(data: ByteReader, head: _Head, values: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill `out` with the values of the symbols."""
    reader = rans_tables.BitReader(data.take(data.varint(), Category.TABLES))
    frequencies = rans_tables.frequencies(
        reader.depths(1, head.count, head.fineness), head.fineness, head.bits, 1 << 14
    )
    reader.finish()
    states, words = _read_stream(data, _lanes(out.size, kernels.SINGLE_LANES))
    symbols = np.repeat(np.arange(head.count), frequencies[0])
    starts = np.cumsum(frequencies[0]) - frequencies[0]
    offsets = np.arange(symbols.size) - starts[symbols]
    entries = (frequencies[0][symbols] | offsets << 16).astype(np.uint64)
    entries |= as_bits(values).astype(np.uint64)[symbols] << np.uint64(32)
    used = kernels.decode_single(words, states, entries, head.bits, as_bits(out))
    _check_end(states, used, words)


def _read_blocks(data: ByteReader, contexts: Contexts, size: int) -> NDArray[np.uint16]:
    """So many integers, less the lowest one."""
    head = contexts.head
    reader = rans_tables.BitReader(data.take(data.varint(), Category.TABLES))
    runs = tuple(tuple(reader.runs(kernels.CLASSES)) for _ in range(contexts.groups))
    contexts = replace(contexts, runs=runs)
    if contexts.tables > MAX_TABLES:
        raise CorruptStreamError("more tables than there may be")
    depths = reader.depths(contexts.tables, contexts.symbols, head.fineness)
    frequencies = rans_tables.frequencies(depths, head.fineness, head.bits, _MOST)
    reader.finish()
    states, words = _read_stream(data, _lanes(size, kernels.BLOCK_LANES))
    fields, rare = _fields(contexts)
    tables = np.empty((2 * contexts.tables, 1 << head.bits), np.uint64)
    for mirrored in range(2 if contexts.signs else 1):
        kernels.fill(frequencies, fields[:: 1 - 2 * mirrored], mirrored, tables)
    status = np.zeros(1, np.int64)
    out = np.empty(size, np.uint16)
    decode = kernels.decode_quantised_blocks if contexts.quantiser else kernels.decode_blocks
    used = decode(
        words, states, tables.reshape(-1), _chosen(contexts), _following(contexts), head.bits, contexts.window,
        contexts.lag, contexts.initial, rare, head.count, contexts.centre, status, *kernels.scratch(), out,
    )  # fmt: skip
    if status[0]:
        raise CorruptStreamError("an integer outside its alphabet")
    _check_end(states, used, words)
    return out


def _fields(contexts: Contexts) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
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
    fields = np.concatenate([buckets[:lower][::-1], direct, buckets[lower:]]).astype(np.uint64)
    return fields, np.array(rows, np.int64)


def _chosen(contexts: Contexts) -> NDArray[np.uint32]:
    """Where the table begins, by average, sum of neighbours and q."""
    middle = kernels.SUMS // 2
    rows = np.array([
        [2 * table + contexts.is_mirrored(total) for table in contexts.table_of(quantiser, total)]
        for quantiser, total in _sums()
    ])  # fmt: skip
    by_sum = rows.reshape(2, kernels.SUMS, kernels.CLASSES)[:, np.clip(np.arange(16), middle, 3 * middle) - middle]
    chosen: NDArray[np.uint32] = (by_sum[:, :, kernels.CLASS_OF] << contexts.head.bits).astype(np.uint32)
    return chosen.reshape(-1)


def _following(contexts: Contexts) -> NDArray[np.uint16]:
    """The trellis' next state, and its q, by state and parity of the integer less the lowest one."""
    if not contexts.quantiser:
        return np.zeros(2 * len(NEXT), np.uint16)
    states = NEXT.astype(np.uint16)
    if contexts.head.low % 2:
        states = states[:, ::-1]
    following: NDArray[np.uint16] = (states << 1 | (states >> 1 & 1) * kernels.QUANTISER).astype(np.uint16)
    return following.reshape(-1)


def _read_stream(data: ByteReader, lanes: int) -> tuple[NDArray[np.uint64], NDArray[np.uint16]]:
    """States, and words with their padding."""
    states = np.frombuffer(data.take(4 * lanes, Category.VALUES), "<u4").astype(np.uint64)
    stream = data.rest(Category.VALUES)
    if len(stream) % 2 or int(states.min()) < _LOWEST_STATE:
        raise CorruptStreamError("a stream that no encoder writes")
    words = np.zeros(len(stream) // 2 + kernels.PADDING, np.uint16)
    words[: len(stream) // 2] = np.frombuffer(stream, "<u2")
    return states, words


def _check_end(states: NDArray[np.uint64], used: int, words: NDArray[np.uint16]) -> None:
    if used + kernels.PADDING != words.size or np.any(states != _LOWEST_STATE):
        raise CorruptStreamError("a stream that does not end with the last symbol")
