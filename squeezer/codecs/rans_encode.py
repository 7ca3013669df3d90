"""The compiled part of rANS encoding. It goes through the integers backwards; states are as in `rans_kernels`."""

from __future__ import annotations

import numpy as np

from squeezer.codecs.rans_kernels import CLASS_OF, CLASSES, MAX_MAGNITUDE, SUMS, limited
from squeezer.codecs.trellis import BLOCK
from squeezer.compiled import kernel

_1, _2, _16, _32 = np.uint64(1), np.uint64(2), np.uint64(16), np.uint64(32)
_16_BITS = np.uint64(0xFFFF)


@kernel()
def encode_single(integers, low, codes, bits, lanes, words, states):  # type: ignore[no-untyped-def] # compiled by numba
    """Write the words of integers without context to the end of `words` (uint16, one an integer).

    Args:
        integers: C-contiguous, one-dimensional.
        low: the integer of symbol 0.
        codes: uint32, f and, above bit 16, start of each symbol.
        bits: see the module.
        lanes: 8 or 1.
        words: where to.
        states: uint64, (lanes,); the first states of the decoder are left there.

    Returns:
        Where in `words` the first word is.
    """
    at = words.size
    shift, top = np.uint64(bits), np.uint64(32 - bits)
    for i in range(integers.size - 1, -1, -1):
        lane = i & (lanes - 1)
        code = np.uint64(codes[integers[i] - low])
        states[lane], at = _pushed(states[lane], at, words, code & _16_BITS, code >> _16, shift, top)
    return at


@kernel(inline="always", error_model="numpy")
def _pushed(x, at, words, f, start, shift, top):  # type: ignore[no-untyped-def] # compiled by numba
    """The state from which a decoder takes a symbol of frequency f and goes on with x."""
    full = x >= f << top
    words[at - 1] = x & _16_BITS
    at -= np.int64(full)
    x = x >> _16 if full else x
    # Both fit into 32 bits, whose division is the faster one.
    quotient = np.uint64(np.uint32(x) // np.uint32(f))
    return (quotient << shift) + (x - quotient * f) + start, at


@kernel(inline="always")
def _bucket(excess):  # type: ignore[no-untyped-def] # compiled by numba
    """The bucket of a level that lies `excess` + 1 beyond the direct ones: bucket j holds 2^(j+1) of them."""
    number = np.int64(0)
    while (excess + 2) >> (number + 2):
        number += 1
    return number


@kernel()
def survey(integers, centre, below, above, buckets, window, lag, initial, following, cells, symbols, counts):  # type: ignore[no-untyped-def] # compiled by numba
    """The cell of contexts and the symbol of every integer, and how often they occur together.

    Args:
        integers: C-contiguous, one-dimensional.
        centre: the integer of level 0.
        below, above: levels from -below to above have a symbol each.
        buckets: of levels below those.
        window, lag, initial: see `docs/format.md`.
        following: int64, (8, 2): the trellis' next state; or zeros.
        cells: uint16, as `integers`: (q * SUMS + sum + 3) * CLASSES + class.
        symbols: uint16, as `integers`: from the lowest level up.
        counts: int64, (2 * SUMS * CLASSES, symbols), zeros.
    """
    zero = buckets + below
    for begin in range(0, integers.size, BLOCK):
        average, state = np.int64(initial), np.int64(0)
        before = np.int64(0)
        end = min(begin + BLOCK, integers.size)
        for i in range(begin, end):
            far = limited(np.int64(integers[i - lag]) - centre) if i - lag >= begin else np.int64(0)
            cell = ((state >> 1 & 1) * SUMS + limited(before + far) + 3) * CLASSES + CLASS_OF[average]
            integer = np.int64(integers[i])
            level = integer - centre
            if level > above:
                symbol = zero + above + 1 + _bucket(level - above - 1)
            elif level < -below:
                symbol = buckets - 1 - _bucket(-level - below - 1)
            else:
                symbol = zero + level
            cells[i] = cell
            symbols[i] = symbol
            counts[cell, symbol] += 1
            before = limited(level)
            average += (8 * min(abs(level), MAX_MAGNITUDE) - average) >> window
            state = following[state, integer & 1]


@kernel()
def encode_blocks(integers, centre, below, above, cells, symbols, codes, bits, words, states):  # type: ignore[no-untyped-def] # compiled by numba
    """Write the words of integers in context to the end of `words` (uint16; one an integer, and one a bucket's).

    Args:
        integers, centre, below, above, cells, symbols: as in `survey`.
        codes: uint32, (cells, symbols): f and, above bit 16, start.
        bits: see the module.
        words: where to.
        states: uint64, (lanes,); the first states of the decoder are left there.

    Returns:
        Where in `words` the first word is.
    """
    at = words.size
    lanes = states.size
    shift, top = np.uint64(bits), np.uint64(32 - bits)
    round_size = lanes * BLOCK
    for begin in range((integers.size - 1) // round_size * round_size, -1, -round_size):
        for i in range(min(BLOCK, integers.size - begin) - 1, -1, -1):
            for lane in range(lanes - 1, -1, -1):
                place = begin + lane * BLOCK + i
                if place >= integers.size:
                    continue
                x = states[lane]
                level = np.int64(integers[place]) - centre
                if level > above or level < -below:
                    x, at = _pushed_bits(x, at, words, level - above - 1 if level > above else -level - below - 1)
                code = np.uint64(codes[cells[place], symbols[place]])
                states[lane], at = _pushed(x, at, words, code & _16_BITS, code >> _16, shift, top)
    return at


@kernel()
def _pushed_bits(x, at, words, excess):  # type: ignore[no-untyped-def] # compiled by numba
    """The bits that say which level of its bucket it is."""
    bits = np.uint64(_bucket(excess) + 1)
    if x >> (_32 - bits):
        at -= 1
        words[at] = x & _16_BITS
        x >>= _16
    return x << bits | (np.uint64(excess + 2) & ((_1 << bits) - _1)), at
