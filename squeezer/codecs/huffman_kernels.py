"""The compiled part of Huffman coding. Arguments are as in `huffman`, which calls these.

Indices are unsigned throughout, and nothing is tested twice, for these loops are what decoding costs.
"""

from __future__ import annotations

import numpy as np

from squeezer.codecs.bitstream import READ_BITS, WINDOW_BITS, bits_at, bits_at_end, put_bits
from squeezer.compiled import kernel

#: Longest codeword that a file may hold: four of them, and what is left of a byte, fit in 64 bits.
MAX_LENGTH = 14
#: Codewords of alphabets up to 256 are at most so long, and look-up tables at least so many bits wide: two short
#: codewords often fit, five look-ups are made of one window, and the tables fit into a processor's first cache.
USUAL_LENGTH = 11
#: A long stream is decoded in so many parts at once.
LANES = 4
#: The length before the first one of a code table.
FIRST_LENGTH = 6
#: Bits above a step's length: how many symbols it gives. A round's steps add up to less than 2^COUNT_SHIFT bits.
COUNT_SHIFT = 6
#: A codeword, or two, with the length in the bits below this.
WORD_SHIFT = 6
_LOOKUPS = WINDOW_BITS // USUAL_LENGTH
_MOST, _MASK = np.uint64(2 * _LOOKUPS), np.uint64((1 << USUAL_LENGTH) - 1)
_1, _2, _3, _4, _7 = (np.uint64(k) for k in (1, 2, 3, 4, 7))
_6, _LOW_6, _WHOLE_BYTES = np.uint64(6), np.uint64(63), np.uint64(56)
_READ_BITS, _LANES = np.uint64(READ_BITS), np.uint64(LANES)


@kernel()
def package_merge(counts, limit):  # type: ignore[no-untyped-def] # compiled by numba
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


@kernel()
def write_lengths(lengths, out):  # type: ignore[no-untyped-def] # compiled by numba
    """Write a code table to `out`, which is all zeros, with a byte for each symbol and 8 more; returns its bits."""
    last, position, symbol = np.int64(FIRST_LENGTH), 0, 0
    while symbol < lengths.size:
        length = np.int64(lengths[symbol])
        if length == 0:
            run = 1
            while symbol + run < lengths.size and lengths[symbol + run] == 0:
                run += 1
            digits = 0
            while run >> digits > 1:
                digits += 1
            position = _append(out, position, 0b011, 3)
            position = _append(out, position, (1 << digits) - 1, digits + 1)
            position = _append(out, position, run - (1 << digits), digits)
            symbol += run
            continue
        if length == last:
            position = _append(out, position, 0b0, 1)
        elif abs(length - last) == 1:
            position = _append(out, position, 0b101 if length > last else 0b001, 3)
        else:
            position = _append(out, position, 0b111 | length << 3, 7)
        last = length
        symbol += 1
    return position


@kernel()
def _append(out, position, bits, count):  # type: ignore[no-untyped-def] # compiled by numba
    for bit in range(count):
        out[(position + bit) >> 3] |= (bits >> bit & 1) << (position + bit & 7)
    return position + count


@kernel()
def read_lengths(stream, lengths):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill `lengths`, all zeros, from a code table; returns its bits, or -1 where it is not that of a complete code.

    Past the end of the stream there are zeros, which the caller finds out from the number of bits.
    """
    last, symbol, position, kraft = np.int64(FIRST_LENGTH), np.int64(0), 0, 0
    while symbol < lengths.size:
        bits = np.int64(bits_at_end(stream, np.uint64(position)) & np.uint64(0xFFFFFFFF))
        if bits & 1 == 0:
            position += 1
        elif bits & 2 == 0:
            last += 1 if bits & 4 else -1
            position += 3
        elif bits & 4:
            last = bits >> 3 & 15
            position += 7
        else:
            bits >>= 3
            digits = 0
            while bits & 1 and digits < MAX_LENGTH:
                digits += 1
                bits >>= 1
            symbol += (1 << digits) + (bits >> 1 & ((1 << digits) - 1))
            position += 4 + 2 * digits
            continue
        if last < 1 or last > MAX_LENGTH:
            return -1
        lengths[symbol] = last
        symbol += 1
        kraft += int(1 << (MAX_LENGTH - last))
    # Kraft (1949): a prefix code that wastes no codeword has sum 2^-length = 1.
    return position if symbol == lengths.size and kraft == 1 << MAX_LENGTH else -1


@kernel()
def canonical(lengths):  # type: ignore[no-untyped-def] # compiled by numba
    """Each symbol's codeword, first bit lowest, of lengths whose Kraft sum is at most 1."""
    used = np.zeros(MAX_LENGTH + 2, np.int64)
    for length in lengths:
        used[length + 1] += 1
    # The first codeword of each length.
    following = np.zeros(MAX_LENGTH + 2, np.int64)
    for length in range(2, MAX_LENGTH + 1):
        following[length] = following[length - 1] + used[length] << 1
    words = np.zeros(lengths.size, np.uint32)
    for symbol in range(lengths.size):
        length = lengths[symbol]
        code, word = following[length], 0
        following[length] += 1
        for _ in range(length):
            word = word << 1 | code & 1
            code >>= 1
        words[symbol] = word
    return words


@kernel()
def fill_lookup(lengths, values, width, pairs, steps, firsts):  # type: ignore[no-untyped-def] # compiled by numba
    """For each pattern of the next `width` bits, the symbols that they begin with, at least one and at most two.

    `pairs` receives two values for each pattern, `steps` the bits that they take, and above COUNT_SHIFT how many they
    are, `firsts` the bits that the first one takes. The code must be complete.
    """
    words = canonical(lengths)
    first = np.zeros(1 << width, np.uint16)
    for symbol in range(lengths.size):
        if lengths[symbol]:
            for pattern in range(words[symbol], 1 << width, 1 << lengths[symbol]):
                first[pattern] = symbol
    for pattern in range(1 << width):
        symbol = first[pattern]
        length = np.int64(lengths[symbol])
        second = first[pattern >> length]
        both = length + np.int64(lengths[second])
        pairs[2 * pattern], pairs[2 * pattern + 1] = values[symbol], values[second]
        steps[pattern] = both | 2 << COUNT_SHIFT if both <= width else length | 1 << COUNT_SHIFT
        firsts[pattern] = length


@kernel()
def decode_lanes(stream, positions, width, pairs, steps, firsts, out):  # type: ignore[no-untyped-def] # compiled by numba
    """Decode the four quarters of `out`, each from its position, which becomes that of its end.

    A processor that waits for one lane's look-up goes on with another's. Longer codewords than usual are too rare to
    be worth it, and their lanes are decoded one by one.
    """
    bits, quarter = np.uint64(8 * stream.size), np.uint64(out.size) // _LANES
    e0, e1, e2, e3 = quarter, quarter + quarter, quarter + quarter + quarter, np.uint64(out.size)
    p0, p1, p2, p3 = positions[0], positions[1], positions[2], positions[3]
    a0, a1, a2, a3 = np.uint64(0), e0, e1, e2
    while width == USUAL_LENGTH:
        furthest = max(max(p0, p1), max(p2, p3))
        room = min(min(e0 - a0, e1 - a1), min(e2 - a2, e3 - a3))
        # So many rounds are surely within the stream and within each quarter, and need no test.
        rounds = min(room // _MOST, (bits - min(bits, furthest)) // _READ_BITS)
        if rounds == 0:
            break
        p0, p1, p2, p3, a0, a1, a2, a3 = _rounds(
            stream, p0, p1, p2, p3, a0 << _6, a1 << _6, a2 << _6, a3 << _6, rounds, pairs, steps, out
        )
    positions[0] = decode_part(stream, p0, width, pairs, steps, firsts, out, a0, e0)
    positions[1] = decode_part(stream, p1, width, pairs, steps, firsts, out, a1, e1)
    positions[2] = decode_part(stream, p2, width, pairs, steps, firsts, out, a2, e2)
    positions[3] = decode_part(stream, p3, width, pairs, steps, firsts, out, a3, e3)


@kernel()
def _rounds(stream, p0, p1, p2, p3, s0, s1, s2, s3, rounds, pairs, steps, out):  # type: ignore[no-untyped-def] # compiled
    """Decode so many windows of each lane. A function of its own, so that all that it needs is kept in registers.

    A state is an index in `out`, and in the six bits below it how many bits were used since the window was loaded.
    """
    for _ in range(rounds):
        w0, w1, w2, w3 = bits_at(stream, p0), bits_at(stream, p1), bits_at(stream, p2), bits_at(stream, p3)
        for _ in range(_LOOKUPS):
            w0, s0 = _next(w0, s0, _MASK, pairs, steps, out)
            w1, s1 = _next(w1, s1, _MASK, pairs, steps, out)
            w2, s2 = _next(w2, s2, _MASK, pairs, steps, out)
            w3, s3 = _next(w3, s3, _MASK, pairs, steps, out)
        p0, p1, p2, p3 = p0 + (s0 & _LOW_6), p1 + (s1 & _LOW_6), p2 + (s2 & _LOW_6), p3 + (s3 & _LOW_6)
        s0, s1, s2, s3 = s0 & ~_LOW_6, s1 & ~_LOW_6, s2 & ~_LOW_6, s3 & ~_LOW_6
    return p0, p1, p2, p3, s0 >> _6, s1 >> _6, s2 >> _6, s3 >> _6


@kernel()
def _next(window, state, mask, pairs, steps, out):  # type: ignore[no-untyped-def] # compiled by numba
    """One look-up: writes two values, and moves on by as many as there were."""
    pattern = window & mask
    at = state >> _6
    first, second = pairs[pattern + pattern], pairs[pattern + pattern + _1]
    step = np.uint64(steps[pattern])
    out[at] = first
    out[at + _1] = second
    return window >> (step & _LOW_6), state + step


@kernel()
def decode_part(stream, position, width, pairs, steps, firsts, out, at, end):  # type: ignore[no-untyped-def] # compiled
    """Decode out[at:end] from one position; returns the position after it."""
    position, at, end = np.uint64(position), np.uint64(at), np.uint64(end)
    bits, mask = np.uint64(8 * stream.size), np.uint64((1 << width) - 1)
    lookups = WINDOW_BITS // width
    while end - at >= np.uint64(2 * lookups) and position + _READ_BITS <= bits:
        window, state = bits_at(stream, position), at << _6
        for _ in range(lookups):
            window, state = _next(window, state, mask, pairs, steps, out)
        position, at = position + (state & _LOW_6), state >> _6
    while at < end:
        pattern = bits_at_end(stream, position) & mask
        out[at] = pairs[pattern + pattern]
        position += np.uint64(firsts[pattern])
        at += _1
    return position


@kernel()
def join_pairs(codes, pairs):  # type: ignore[no-untyped-def] # compiled by numba
    """The code of every two symbols, one after the other: codeword above WORD_SHIFT, length below."""
    for first in range(codes.size):
        for second in range(codes.size):
            word, length = _joined(np.uint64(codes[first]), np.uint64(codes[second]))
            pairs[first * codes.size + second] = word << _6 | length


@kernel()
def encode_parts(integers, low, codes, pairs, bounds, stream, positions):  # type: ignore[no-untyped-def] # compiled
    """Append the codewords of integers[bounds[0]:bounds[-1]]; `positions` receives where each part begins.

    `codes` has for each symbol its codeword above WORD_SHIFT and its length below; `pairs` the same for each two
    symbols, or is empty. The stream has 8 bytes more than it needs.
    """
    low, alphabet = np.uint64(low), np.uint64(codes.size)
    lowest = low * alphabet + low
    pending, held, at = np.uint64(0), np.uint64(0), np.uint64(0)
    for part in range(positions.size):
        positions[part] = np.uint64(8) * at + held
        i, end = np.uint64(bounds[part]), np.uint64(bounds[part + 1])
        while i + _3 < end:
            a, b = np.uint64(integers[i]), np.uint64(integers[i + _1])
            c, d = np.uint64(integers[i + _2]), np.uint64(integers[i + _3])
            if pairs.size:
                first = np.uint64(pairs[a * alphabet + b - lowest])
                second = np.uint64(pairs[c * alphabet + d - lowest])
                word, length = _joined(first, second)
            else:
                word, length = _joined(np.uint64(codes[a - low]), np.uint64(codes[b - low]))
                more, longer = _joined(np.uint64(codes[c - low]), np.uint64(codes[d - low]))
                word, length = word | more << length, length + longer
            pending, held, at = _flush(pending | word << held, held + length, at, stream)
            i += _4
        while i < end:
            code = np.uint64(codes[np.uint64(integers[i]) - low])
            pending, held, at = _flush(pending | code >> _6 << held, held + (code & _LOW_6), at, stream)
            i += _1
    put_bits(stream, at, pending)


@kernel()
def _joined(first, second):  # type: ignore[no-untyped-def] # compiled by numba
    """The codeword and the length of two codes, one after the other."""
    return first >> _6 | second >> _6 << (first & _LOW_6), (first + second) & _LOW_6


@kernel()
def _flush(pending, held, at, stream):  # type: ignore[no-untyped-def] # compiled by numba
    """Store all bits, and keep those that do not fill a byte."""
    put_bits(stream, at, pending)
    return pending >> (held & _WHOLE_BYTES), held & _7, at + (held >> _3)
