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

from squeezer.codecs import rans_encode, rans_tables
from squeezer.codecs import rans_kernels as kernels
from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, Meaning, as_bits, varint
from squeezer.codecs.rans_contexts import (
    MAX_TABLES,
    MOST_FREQUENT,
    WIDEST_SINGLE,
    Contexts,
    Head,
    cell_codes,
    entry_fields,
    following_states,
    table_starts,
)
from squeezer.codecs.rans_search import Surveyed, fineness_of, tables_of
from squeezer.codecs.symbols import WIDEST
from squeezer.codecs.trellis import BLOCK

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.codecs.base import Histogram, Plan

#: Arrays of so many elements have several lanes.
LANED = 1 << 12
#: Values of more bytes are looked up after the symbols are decoded.
_MAX_PATTERN = 4
_LOWEST_STATE = 1 << 16
#: Contexts must save at least this share, as they are slower.
_WORTHWHILE = 1 / 500


def _lanes(size: int, lanes: int) -> int:
    return lanes if size >= LANED else 1


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
        several = counted.alphabet > 1 and integers.size >= BLOCK
        surveyed = Surveyed.best(integers, counted, trellis=trellis) if several else None
        if counted.alphabet <= WIDEST_SINGLE:
            single = _Single.of(counted, integers.size)
            if surveyed is None or surveyed.bits >= (1 - _WORTHWHILE) * single.bits:
                return single.plan(integers)
        return _contextual_plan(integers, surveyed or Surveyed.plainest(integers, counted))

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out` with what the integers mean."""
        head, flags = Head.read(data)
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

    head: Head
    depths: NDArray[np.int64]
    frequencies: NDArray[np.int64]
    bits: float

    @classmethod
    def of(cls, counted: Histogram, size: int) -> _Single:
        bits = 14 if size >= 1 << 17 or counted.alphabet > 1 << 9 else 12
        head = Head(counted.low, counted.alphabet, bits, fineness_of(size))
        return cls(head, *tables_of(counted.counts[None], head, 1 << bits))

    def plan(self, integers: NDArray[Any]) -> _RansPlan:
        frequencies = self.frequencies[0]
        states = np.full(_lanes(integers.size, kernels.SINGLE_LANES), _LOWEST_STATE, np.uint64)
        words = np.empty(integers.size + 1, np.uint16)
        begin = rans_encode.encode_single(
            integers, self.head.low, rans_tables.codes(frequencies), self.head.bits, states.size, words, states
        )
        tables = rans_tables.BitWriter()
        rans_tables.write_depths(tables, self.depths[0], self.head.fineness)
        return _RansPlan(self.head.numbers(0), tables.getvalue(), _values(states, words[begin:]))


def _contextual_plan(integers: NDArray[Any], surveyed: Surveyed) -> _RansPlan:
    contexts = surveyed.contexts
    cells = cell_codes(contexts, surveyed.frequencies)
    _, below, above, _ = contexts.symmetric.sides
    centre = contexts.head.low + contexts.centre
    states = np.full(_lanes(integers.size, kernels.BLOCK_LANES), _LOWEST_STATE, np.uint64)
    words = np.empty(2 * integers.size + 1, np.uint16)
    begin = rans_encode.encode_blocks(
        integers, centre, below, above, surveyed.cells, surveyed.symbols, cells, contexts.head.bits, words, states
    )
    tables = rans_tables.BitWriter()
    for lengths in contexts.runs:
        rans_tables.write_runs(tables, list(lengths))
    for depths in surveyed.depths:
        rans_tables.write_depths(tables, depths, contexts.head.fineness)
    return _RansPlan(contexts.numbers(), tables.getvalue(), _values(states, words[begin:]))


def _values(states: NDArray[np.uint64], words: NDArray[np.uint16]) -> bytes:
    return states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def _read_single(data: ByteReader, head: Head, values: NDArray[Any], out: NDArray[Any]) -> None:
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
    frequencies = rans_tables.frequencies(depths, head.fineness, head.bits, MOST_FREQUENT)
    reader.finish()
    states, words = _read_stream(data, _lanes(size, kernels.BLOCK_LANES))
    entries, rare = entry_fields(contexts)
    tables = np.empty((2 * contexts.tables, 1 << head.bits), np.uint64)
    for mirrored in range(2 if contexts.signs else 1):
        kernels.fill(frequencies, entries[:: 1 - 2 * mirrored], mirrored, tables)
    status = np.zeros(1, np.int64)
    out = np.empty(size, np.uint16)
    decode = kernels.decode_quantised_blocks if contexts.quantiser else kernels.decode_blocks
    used = decode(
        words, states, tables.reshape(-1), table_starts(contexts), following_states(contexts), head.bits,
        contexts.window, contexts.lag, contexts.initial, rare, head.count, contexts.centre, status,
        *kernels.scratch(), out,
    )  # fmt: skip
    if status[0]:
        raise CorruptStreamError("an integer outside its alphabet")
    _check_end(states, used, words)
    return out


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
