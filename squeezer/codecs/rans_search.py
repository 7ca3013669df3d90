"""The search for the cheapest tables and contexts of the rANS coder. Only the encoder has to do with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.codecs import rans_encode, rans_tables
from squeezer.codecs import rans_kernels as kernels
from squeezer.codecs.rans_contexts import (
    FINENESS,
    MAX_TABLES,
    MOST_CONTEXT_BITS,
    MOST_FREQUENT,
    WINDOWS,
    Contexts,
    Head,
)
from squeezer.codecs.trellis import BLOCK, NEXT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.codecs.base import Histogram

#: Tables for so many integers have finer depths.
_FINER_FROM = (3_000, 24_000, 100_000)
#: Levels up to this magnitude, or fewer, have a symbol each.
_MAX_REACH = 255
#: Where there are more tables, they are short, so that they fit into the second cache.
_MANY_TABLES = 6
#: Lags and windows are chosen by trial on so many blocks.
_SAMPLE_BLOCKS = 16
#: The best of them are tried on more.
_LAST_SAMPLE_BLOCKS = 32
#: What a sample gains by a table that means nothing, as a part of the bits that the table would take.
_CHANCE = 0.35
_LAGS = (1, 2, 3, 5, 7)
#: What a sample must promise for the whole array to be looked at.
_PROMISING = 1 / 2000
#: Bits an element that one more table must save: many tables do not fit into the cache.
_TABLE_PRICE = 0.001
#: Symbols of a table take bits too: a level that occurs less often than this is not worth one.
_SELDOM = 24


def fineness_of(occurrences: float) -> int:
    """Found by trial; the more symbols a table is for, the more bits it may take."""
    return FINENESS[sum(occurrences >= limit for limit in _FINER_FROM)]


def tables_of(counts: NDArray[np.int64], head: Head, most: int) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
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


@dataclass(frozen=True)
class Surveyed:
    """Contexts, and what the survey of an array with them found."""

    contexts: Contexts
    cells: NDArray[np.uint16]
    symbols: NDArray[np.uint16]
    depths: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    bits: float

    @classmethod
    def best(cls, integers: NDArray[Any], counted: Histogram, *, trellis: bool) -> Surveyed | None:
        """The cheapest contexts; None where a sample does not promise that they save anything."""
        first = _first_contexts(counted, trellis=trellis)
        sample = _Sample.of(integers, _SAMPLE_BLOCKS)
        trials = {(lag, 2): sample.bits(replace(first, lag=lag)) for lag in _LAGS}
        lag = min(trials, key=trials.__getitem__)[0]
        trials |= {(lag, window): sample.bits(replace(first, lag=lag, window=window)) for window in WINDOWS}
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
    def plainest(cls, integers: NDArray[Any], counted: Histogram) -> Surveyed:
        """Contexts that nothing is expected of, for levels that need buckets."""
        contexts = replace(_first_contexts(counted, trellis=False), signs=0)
        return cls.of(integers, contexts, [contexts])

    @classmethod
    def of(cls, integers: NDArray[Any], surveyed: Contexts, options: list[Contexts]) -> Surveyed:
        """The best of some contexts, which differ from those surveyed in `signs`, or lack `quantiser`."""
        cells, symbols, counts = _survey(integers, surveyed)
        contexts = min((_partitioned(option, counts) for option in options), key=lambda option: option[0])[1]
        bits = 11 if contexts.tables > _MANY_TABLES else MOST_CONTEXT_BITS
        head = replace(contexts.head, bits=bits, fineness=fineness_of(integers.size / contexts.tables))
        contexts = replace(contexts, head=head)
        depths, frequencies, length = tables_of(_by_table(contexts, counts), head, MOST_FREQUENT)
        return cls(contexts, cells, symbols, depths, frequencies, length + _bits_in_buckets(contexts, counts))


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
    head = Head(counted.low, counted.alphabet, MOST_CONTEXT_BITS, fineness_of(total))
    return Contexts(head, centre, min(reach, _MAX_REACH), 1, 2, 3, trellis, round(8 * mean))


@dataclass(frozen=True)
class _Sample:
    """Whole blocks from everywhere in an array, which are `share` of it."""

    integers: NDArray[Any]
    share: float

    @classmethod
    def of(cls, integers: NDArray[Any], most: int) -> _Sample:
        blocks = integers.size // BLOCK
        if blocks <= most:
            return cls(integers, 1.0)
        chosen = np.arange(most) * blocks // most
        some = integers[: blocks * BLOCK].reshape(blocks, -1)[chosen].reshape(-1)
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
    wide = contexts.symmetric
    counts = np.zeros((2 * kernels.SUMS * kernels.CLASSES, wide.symbols), np.int64)
    buckets, below, above, _ = wide.sides
    following = NEXT.astype(np.int64) if contexts.quantiser else np.zeros_like(NEXT, np.int64)
    rans_encode.survey(
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
    lower, below, above, upper = contexts.symmetric.sides
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
