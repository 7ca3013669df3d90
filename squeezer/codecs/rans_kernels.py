"""The compiled part of rANS decoding: asymmetric numeral systems (Duda 2013, arXiv:1311.2540), interleaved.

A state is a number x in [2^16, 2^32). With frequencies f of symbols that add up to 2^b, and `start` the sum of those
before, a decoder takes the symbol whose interval holds x mod 2^b, goes on with f * (x >> b) + (x mod 2^b) - start, and
appends a 16-bit word from the stream where that is below 2^16. One word is always enough, as b is at most 14. States of
several *lanes* take turns and share the stream (Giesen 2014, arXiv:1402.3392), so that a processor has several
independent chains of multiplications to work on.

`docs/format.md` says what lies in which lane and what contexts are. Contextual tables have one 64-bit entry for every
x mod 2^b, laid out so that few instructions take it apart:

| bits | what |
|---|---|
| 0-11 | f |
| 12-23 | x mod 2^b - start |
| 24-30 | the magnitude that enters the average, 8 min(abs(level), 15) |
| 31 | set where the entry is *rare*: it stands for a bucket of levels, or for none |
| 32-47 | 128 (level, limited to -3 .. 3, + 3): two of these and the average make the index of the next table |
| 48-63 | the integer, less the lowest one; in rare entries the row of `rare` |

Functions are inlined early, and take scalars rather than tuples or classes, since compiled code would otherwise count
references for every symbol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.codecs.trellis import BLOCK
from squeezer.compiled import kernel

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Lanes of a stream with contexts, whose blocks are those of a trellis, and of one without.
BLOCK_LANES = 4
SINGLE_LANES = 8
#: Zeros that follow the words: a round reads at most two words an element.
PADDING = 2 * BLOCK * BLOCK_LANES
#: In front of each lane's block: levels before it, all zero; more than the longest lag, which is 16.
_BEFORE = 32
_STRIDE = BLOCK + _BEFORE
_LANE_1, _LANE_2, _LANE_3 = np.uint64(_STRIDE), np.uint64(2 * _STRIDE), np.uint64(3 * _STRIDE)
#: An average's and a level's share of the index of a table; what q = 1 adds.
SIGNS = 128
QUANTISER = 2048
#: The table index where nothing is known: an average of 0 and two neighbours of level 0.
_NO_LEVEL = np.uint32(3 * SIGNS)
#: Lowest averages, in eighths, of the classes that tables are chosen by.
CLASS_BOUNDS = np.array([0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80], np.int64)
CLASSES = CLASS_BOUNDS.size
CLASS_OF = (np.searchsorted(CLASS_BOUNDS, np.arange(SIGNS), side="right") - 1).astype(np.int64)
#: Sums of two neighbours, limited to -3 .. 3.
SUMS = 7
#: The largest magnitude in the averages.
MAX_MAGNITUDE = 15
RARE = np.uint64(1 << 31)
#: Columns of `rare`: first integer less the lowest one, step from one to the next, bits that say how many steps.
RARE_COLUMNS = 3

_0, _1, _2, _3, _4 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
_5, _6, _7, _8 = np.uint64(5), np.uint64(6), np.uint64(7), np.uint64(8)
_12, _16, _24, _32, _48 = np.uint64(12), np.uint64(16), np.uint64(24), np.uint64(32), np.uint64(48)
_7_BITS, _12_BITS, _16_BITS = np.uint64(0x7F), np.uint64(0xFFF), np.uint64(0xFFFF)
_LOWEST = np.uint64(1 << 16)
_FLAG = np.uint64(QUANTISER)
_STATES = np.uint64(0x1E)


@kernel()
def _refilled(x, p, word):  # type: ignore[no-untyped-def] # compiled by numba
    """The state with the next word appended where it needs one, and the place of the word after that."""
    # The word is always loaded, and taken or not: a branch would be guessed wrong too often.
    low = x < _LOWEST
    return (x << _16 | np.uint64(word)) if low else x, p + np.uint64(low)


@kernel()
def _single(x, p, entry, word, bits):  # type: ignore[no-untyped-def] # compiled by numba
    """State and place after a symbol. Entries: f (16 bits), x mod 2^b - start (16 bits), what is meant (32 bits)."""
    return _refilled((entry & _16_BITS) * (x >> bits) + ((entry >> _16) & _16_BITS), p, word)


@kernel()
def decode_single(words, states, table, bits, out):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill `out` (unsigned, up to 32 bits) with what symbols mean; element i lies in lane i mod 8, or all in one.

    Args:
        words: uint16, with PADDING zeros after the last one.
        states: uint64, (lanes,), 8 or 1; the last states are left there.
        table: uint64, (2^bits,).
        bits: see the module.
        out: one-dimensional.

    Returns:
        How many words were read; -1 where that is more than there are.
    """
    mask, bits = np.uint64(table.size - 1), np.uint64(bits)
    limit = np.uint64(words.size - PADDING)
    p = _0
    whole = out.size // SINGLE_LANES * SINGLE_LANES if states.size == SINGLE_LANES else 0
    if whole:
        x0, x1, x2, x3 = states[0], states[1], states[2], states[3]
        x4, x5, x6, x7 = states[4], states[5], states[6], states[7]
        for begin in range(0, whole, PADDING):
            if p > limit:
                return -1
            for i in range(np.uint64(begin), np.uint64(min(begin + PADDING, whole)), _8):
                entry = table[x0 & mask]
                out[i] = entry >> _32
                x0, p = _single(x0, p, entry, words[p], bits)
                entry = table[x1 & mask]
                out[i + _1] = entry >> _32
                x1, p = _single(x1, p, entry, words[p], bits)
                entry = table[x2 & mask]
                out[i + _2] = entry >> _32
                x2, p = _single(x2, p, entry, words[p], bits)
                entry = table[x3 & mask]
                out[i + _3] = entry >> _32
                x3, p = _single(x3, p, entry, words[p], bits)
                entry = table[x4 & mask]
                out[i + _4] = entry >> _32
                x4, p = _single(x4, p, entry, words[p], bits)
                entry = table[x5 & mask]
                out[i + _5] = entry >> _32
                x5, p = _single(x5, p, entry, words[p], bits)
                entry = table[x6 & mask]
                out[i + _6] = entry >> _32
                x6, p = _single(x6, p, entry, words[p], bits)
                entry = table[x7 & mask]
                out[i + _7] = entry >> _32
                x7, p = _single(x7, p, entry, words[p], bits)
        states[0], states[1], states[2], states[3] = x0, x1, x2, x3
        states[4], states[5], states[6], states[7] = x4, x5, x6, x7
    for i in range(whole, out.size):
        if p > limit:
            return -1
        lane = i % states.size
        entry = table[states[lane] & mask]
        out[i] = entry >> _32
        states[lane], p = _single(states[lane], p, entry, words[p], bits)
    return np.int64(p) if p <= limit else -1


@kernel(inline="always")
def limited(level):  # type: ignore[no-untyped-def] # compiled by numba
    """A level, as far as it matters to its neighbours."""
    return min(max(level, -3), 3)


@kernel()
def _rare(x, p, entry, words, rare, count, centre, status):  # type: ignore[no-untyped-def] # compiled by numba
    """A level of a bucket: the bits that say which one are taken off the state as they are.

    Sets `status` where the bucket, or the table, has no such integer.
    """
    row = entry >> _48
    bits = np.uint64(rare[row, 2])
    index = rare[row, 0] + rare[row, 1] * np.int64(x & ((_1 << bits) - _1))
    x, p = _refilled(x >> bits, p, words[p])
    if index < 0 or index >= count:
        status[0] = 1
        index = np.int64(0)
    level = index - centre
    magnitude = 8 * min(abs(level), MAX_MAGNITUDE)
    fields = index << 48 | (limited(level) + 3) * SIGNS << 32 | magnitude << 24
    return x, p, np.uint64(fields)


@kernel()
def _index(average, near, far, state):  # type: ignore[no-untyped-def] # compiled by numba
    """Where in `chosen` the table of a context is; `near` and `far` are sign fields."""
    return np.uint64(average + near + np.int64(far)) + (state & _FLAG)


@kernel()
def _contextual(x, p, entry, word, bits):  # type: ignore[no-untyped-def] # compiled by numba
    """State and place after a symbol in context."""
    return _refilled((entry & _12_BITS) * (x >> bits) + ((entry >> _12) & _12_BITS), p, word)


@kernel()
def _followed(average, state, entry, window):  # type: ignore[no-untyped-def] # compiled by numba
    """After an entry: the average, its sign field, the trellis' state and the parity, and the entry's upper half."""
    high = entry >> _32
    average += (np.int64((entry >> _24) & _7_BITS) - average) >> window
    return average, np.int64(high & _16_BITS), (state & _STATES) | ((high >> _16) & _1), high


def scratch() -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
    """The upper halves of the entries of a round's blocks, and the same memory in halves: the even ones, sign fields.

    In front of each lane's block are levels of 0. (Kernels that own no array count no references.)
    """
    highs = np.full(BLOCK_LANES * _STRIDE, _NO_LEVEL, np.uint32)
    return highs, highs.view(np.uint16)


@kernel()
def _decode_rest(  # type: ignore[no-untyped-def] # compiled by numba
    words, p, states, tables, chosen, following, mask, bits, window, lag, initial, rare, count, centre, status,
    highs, signs, out, begin,
):  # fmt: skip
    """The blocks from `begin` on, with lanes of unequal lengths; element by element."""
    limit = np.uint64(words.size - PADDING)
    lanes = states.size
    averages = np.empty(lanes, np.int64)
    fields = np.empty(lanes, np.int64)
    trellis = np.empty(lanes, np.uint64)
    while begin < out.size:
        averages[:] = initial
        fields[:] = np.int64(_NO_LEVEL)
        trellis[:] = 0
        for i in range(min(BLOCK, out.size - begin)):
            if p > limit:
                return -1
            for lane in range(lanes):
                if begin + lane * BLOCK + i >= out.size:
                    break
                place = np.uint64(lane * _STRIDE + _BEFORE + i)
                index = _index(averages[lane], fields[lane], signs[_2 * place - lag], trellis[lane])
                entry = tables[np.uint64(chosen[index]) + (states[lane] & mask)]
                x, p = _contextual(states[lane], p, entry, words[p], bits)
                if entry & RARE:
                    x, p, entry = _rare(x, p, entry, words, rare, count, centre, status)
                states[lane] = x
                averages[lane], fields[lane], state, high = _followed(averages[lane], trellis[lane], entry, window)
                trellis[lane] = following[state]
                highs[place] = high
                out[begin + lane * BLOCK + i] = high >> _16
        begin += lanes * BLOCK
    return np.int64(p) if p <= limit else -1


def _decoder(*, quantiser: bool) -> Callable[..., int]:  # noqa: C901 # as the kernel in it
    """The decoder of streams with contexts, with or without the trellis' quantiser among them: a fifth of the time."""

    @kernel()
    def decode(  # type: ignore[no-untyped-def] # noqa: C901 # compiled by numba; four lanes side by side
        words, states, tables, chosen, following, bits, window, lag, initial, rare, count, centre, status,
        highs, signs, out,
    ):  # fmt: skip
        """Fill `out` (uint16) with integers less the lowest one. Block b of 1024 lies in lane b mod 4, or all in one.

        Args:
            words: uint16, with PADDING zeros after the last one.
            states: uint64, (lanes,), 4 or 1; the last states are left there.
            tables: uint64, (tables * 2^bits,): see the module.
            chosen: uint32, (4096,): where the table begins, by average + both sign fields, + QUANTISER where q = 1.
            following: uint16, (16,): 2 * the trellis' next state + QUANTISER * its q, by 2 * state + parity; or zeros.
            bits, window, lag, initial: see `docs/format.md`.
            rare: int64, (rows, RARE_COLUMNS).
            count: of the integers from the lowest to the highest.
            centre: the integer of level 0, less the lowest one.
            status: int64, (1,): set to 1 where an integer is not below `count`.
            highs, signs: see `scratch`.
            out: one-dimensional.

        Returns:
            How many words were read; -1 where that is more than there are.
        """
        mask, bits = np.uint64((1 << bits) - 1), np.uint64(bits)
        lag, window, initial = np.uint64(2 * lag), np.int64(window), np.int64(initial)
        limit = np.uint64(words.size - PADDING)
        p = _0
        lanes = states.size
        whole = out.size // (lanes * BLOCK) * (lanes * BLOCK) if lanes == BLOCK_LANES else 0
        x0, x1, x2, x3 = states[0], states[1 % lanes], states[2 % lanes], states[3 % lanes]
        for begin in range(0, whole, BLOCK_LANES * BLOCK):
            if p > limit:
                return -1
            a0, a1, a2, a3 = initial, initial, initial, initial
            c0 = c1 = c2 = c3 = np.int64(_NO_LEVEL)
            s0, s1, s2, s3 = _0, _0, _0, _0
            for i in range(np.uint64(_BEFORE), np.uint64(_STRIDE)):
                j = _2 * i - lag
                entry = tables[np.uint64(chosen[_index(a0, c0, signs[j], s0)]) + (x0 & mask)]
                x0, p = _contextual(x0, p, entry, words[p], bits)
                if entry & RARE:
                    x0, p, entry = _rare(x0, p, entry, words, rare, count, centre, status)
                a0, c0, s0, highs[i] = _followed(a0, s0, entry, window)
                if quantiser:
                    s0 = np.uint64(following[s0])
                entry = tables[np.uint64(chosen[_index(a1, c1, signs[j + _2 * _LANE_1], s1)]) + (x1 & mask)]
                x1, p = _contextual(x1, p, entry, words[p], bits)
                if entry & RARE:
                    x1, p, entry = _rare(x1, p, entry, words, rare, count, centre, status)
                a1, c1, s1, highs[i + _LANE_1] = _followed(a1, s1, entry, window)
                if quantiser:
                    s1 = np.uint64(following[s1])
                entry = tables[np.uint64(chosen[_index(a2, c2, signs[j + _2 * _LANE_2], s2)]) + (x2 & mask)]
                x2, p = _contextual(x2, p, entry, words[p], bits)
                if entry & RARE:
                    x2, p, entry = _rare(x2, p, entry, words, rare, count, centre, status)
                a2, c2, s2, highs[i + _LANE_2] = _followed(a2, s2, entry, window)
                if quantiser:
                    s2 = np.uint64(following[s2])
                entry = tables[np.uint64(chosen[_index(a3, c3, signs[j + _2 * _LANE_3], s3)]) + (x3 & mask)]
                x3, p = _contextual(x3, p, entry, words[p], bits)
                if entry & RARE:
                    x3, p, entry = _rare(x3, p, entry, words, rare, count, centre, status)
                a3, c3, s3, highs[i + _LANE_3] = _followed(a3, s3, entry, window)
                if quantiser:
                    s3 = np.uint64(following[s3])
            for lane in range(BLOCK_LANES):
                block = out[begin + lane * BLOCK : begin + (lane + 1) * BLOCK]
                lane_highs = highs[lane * _STRIDE + _BEFORE : (lane + 1) * _STRIDE]
                for i in range(block.size):
                    block[i] = lane_highs[i] >> np.uint32(16)
        if whole:
            states[0], states[1], states[2], states[3] = x0, x1, x2, x3
        return _decode_rest(
            words, p, states, tables, chosen, following, mask, bits, window, lag, initial, rare, count, centre, status,
            highs, signs, out, whole,
        )  # fmt: skip

    return decode


decode_blocks, decode_quantised_blocks = _decoder(quantiser=False), _decoder(quantiser=True)


@kernel()
def look_up(indices, values, out):  # type: ignore[no-untyped-def] # compiled by numba
    """The values of indices; both are bit patterns of the same width."""
    for i in range(indices.size):
        out[i] = values[np.uint64(indices[i])]


@kernel()
def fill(frequencies, fields, first, tables):  # type: ignore[no-untyped-def] # compiled by numba
    """Entries of contextual tables: see the module.

    Args:
        frequencies: int64, (tables, symbols), each adding up to 2^b.
        fields: uint64, (symbols,): what an entry has above its lowest 24 bits.
        first: 0 or 1: table k goes to row 2 k + first.
        tables: uint64, (rows, 2^b).
    """
    for k in range(frequencies.shape[0]):
        row = tables[2 * k + first]
        at = 0
        for symbol in range(fields.size):
            frequency = frequencies[k, symbol]
            for offset in range(frequency):
                row[at + offset] = fields[symbol] | np.uint64(offset) << _12 | np.uint64(frequency)
            at += frequency
