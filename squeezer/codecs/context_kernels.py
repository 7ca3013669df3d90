"""The compiled part of the context-adaptive binary coder: estimators, mixing, range coder, binarisation.

Every binary decision ("bin") is coded with a probability that its contexts have learnt. A context holds two estimates
of the probability of a 1, of different speed, whose mean is used (ISO/IEC 15938-17, as in VVC; Wiedemann et al.,
DeepCABAC, 2020). They start as running means and turn into exponential ones. Where a bin has two contexts, their
estimates are mixed in the logistic domain by weights that learn (Mahoney 2005, "Adaptive weighing of context models").
The range coder (Martin 1979) keeps 64 bits and moves 32 at a time; carries run into the words already written.

`docs/format.md` says all of it, bit by bit. Arguments that travel together: `model` (int32) has a row for each context:
the fast estimate and the slow one, both in units of 2^-22, and how many bins it saw; `weights` (int64) has a row for
each kind of mixed bin; `fast` and `slow` are the estimators' shifts; `coder` is (low, range, words written) of the
encoder, and (code - low, range, words read) of the decoder. They are neither tuple nor class, and most
functions are inlined early, since compiled code would otherwise count references in every bin (twice the time).
"""

from __future__ import annotations

import numpy as np

from squeezer.codecs.trellis import BLOCK
from squeezer.compiled import kernel

#: Estimates are fractions of this.
ONE = 1 << 22
#: What a bin without a context is coded with; of 2^16.
HALF = 1 << 15
#: Classes of average magnitude.
CLASSES = 16
#: Magnitudes above are alike to the contexts.
MAX_MAGNITUDE = 1024
#: A level takes at most so many bits.
MAX_BITS = 33
#: Bits after a level's first that have contexts.
MODELLED_BITS = 5

# Rows of the model. Contexts are averages (along the row, down the column) with the trellis' quantiser, or the
# neighbours themselves.
_BY_AVERAGES = 0
_BY_NEIGHBOURS = _BY_AVERAGES + 2 * CLASSES * CLASSES
_SIGN_BEFORE = _BY_NEIGHBOURS + 125
_SIGN_ABOVE = _SIGN_BEFORE + 27
_LENGTH_BY_NEIGHBOURS = _SIGN_ABOVE + 9
_BITS = _LENGTH_BY_NEIGHBOURS + 25 * MAX_BITS
#: Where the contexts of the values begin, by class: the lengths of levels, or the trees.
VALUES = _BITS + (MAX_BITS << MODELLED_BITS)

#: Rows of the weights: significance, sign, and a length's bins.
_SIGNIFICANCE, _SIGN, _LENGTH = 0, 1, 2
#: Weights of a length's bins from this one on are alike.
_LENGTHS = 6
MIXERS = _LENGTH + _LENGTHS
#: A weight of 1.
UNIT = 1 << 16

#: 1/(n + 1.6) in units of 2^-16: how far the n-th bin of a context moves a running mean.
RATES = np.array([(65536 * 10) // (10 * n + 16) for n in range(4096)], np.int64)
#: The logarithm of the odds, in 256ths, of probability (i + 1/2) / 4096.
STRETCH = np.round(256 * np.log((np.arange(4096) + 0.5) / (4095.5 - np.arange(4096)))).astype(np.int64)
#: The largest logarithm of odds that a mixer gives, in 256ths.
LIMIT = 2816
#: The probability, in units of 2^-16, of each logarithm of odds from -LIMIT to LIMIT.
SQUASH = np.round(65536 / (1 + np.exp(-np.arange(-LIMIT, LIMIT + 1) / 256))).astype(np.int64)


def _class_of(value: int) -> int:
    """Half octaves of an average magnitude, which is given in 16ths."""
    if value < 2:
        return 0
    octave = value.bit_length() - 1
    return min(CLASSES - 1, 2 * (octave - 1) + (value >> (octave - 1) & 1))


#: The class of an average magnitude in 16ths.
CLASS_TABLE = np.array([_class_of(value) for value in range(512)], np.int64)


@kernel(inline="always")
def _learn(model, fast, slow, context, bit):  # type: ignore[no-untyped-def] # compiled by numba
    """Move both estimates of a context towards a bin."""
    quick = np.int64(model[context, 0])
    steady = np.int64(model[context, 1])
    seen = np.int64(model[context, 2])
    target = np.int64(ONE if bit else 0)
    if seen >> slow:
        quick += (target - quick) >> fast
        steady += (target - steady) >> slow
    else:
        model[context, 2] = seen + 1
        rate = RATES[seen]
        quick += ((target - quick) * max(rate, np.int64(65536) >> fast)) >> 16
        steady += ((target - steady) * max(rate, np.int64(65536) >> slow)) >> 16
    model[context, 0] = quick
    model[context, 1] = steady


@kernel(inline="always")
def _share(model, context):  # type: ignore[no-untyped-def] # compiled by numba
    """The probability of a 1 in a context, in units of 2^-16."""
    return (np.int64(model[context, 0]) + np.int64(model[context, 1])) >> 7


@kernel(inline="always")
def _mix(model, weights, mixer, one, two):  # type: ignore[no-untyped-def] # compiled by numba
    """The probability that two contexts give together, and the logarithm of odds of each."""
    first = STRETCH[_share(model, one) >> 4]
    second = STRETCH[_share(model, two) >> 4]
    odds = (weights[mixer, 0] * first + weights[mixer, 1] * second) >> 16
    return SQUASH[min(max(odds, -LIMIT), LIMIT) + LIMIT], first, second


@kernel(inline="always")
def _learn_mix(model, weights, fast, slow, mixer, one, two, mixed, bit):  # type: ignore[no-untyped-def] # compiled by numba
    """Move the weights down the gradient of the code length, then both contexts."""
    share, first, second = mixed
    error = np.int64(65536 if bit else 0) - share
    weights[mixer, 0] += (error * first) >> 16
    weights[mixer, 1] += (error * second) >> 16
    _learn(model, fast, slow, one, bit)
    _learn(model, fast, slow, two, bit)


@kernel(inline="always")
def _narrow(coder, words, bit, share):  # type: ignore[no-untyped-def] # compiled by numba
    """Encode a bin of which a 1 has probability `share` / 2^16, from 1 to 65535."""
    low, span, at = coder
    part = (span >> np.uint64(16)) * np.uint64(share)
    if bit:
        bottom = low
        low += span - part
        span = part
        if low < bottom:
            # A carry: it runs through words of all ones, and stops, since the whole is a fraction below 1.
            back = at - 1
            while back >= 0 and words[back] == 0xFFFFFFFF:
                words[back] = 0
                back -= 1
            if back >= 0:
                words[back] += 1
    else:
        # A 0 takes the lower part, so that what is all zeros takes no byte in the end.
        span -= part
    if span <= np.uint64(0xFFFFFFFF):
        words[at] = low >> np.uint64(32)
        at += 1
        low <<= np.uint64(32)
        span <<= np.uint64(32)
    return low, span, at


@kernel(inline="always")
def _split(coder, words, share):  # type: ignore[no-untyped-def] # compiled by numba
    """Decode a bin: (bit, coder). Past the end come zeros."""
    code, span, at = coder
    part = (span >> np.uint64(16)) * np.uint64(share)
    rest = span - part
    bit = code >= rest
    if bit:
        code -= rest
        span = part
    else:
        span = rest
    if span <= np.uint64(0xFFFFFFFF):
        code <<= np.uint64(32)
        span <<= np.uint64(32)
        if at < words.size:
            code |= np.uint64(words[at])
        at += 1
    return bit, (code, span, at)


@kernel(inline="always")
def _put(coder, words, model, fast, slow, context, bit):  # type: ignore[no-untyped-def] # compiled by numba
    share = _share(model, context) | 1
    _learn(model, fast, slow, context, bit)
    return _narrow(coder, words, bit, share)


@kernel(inline="always")
def _get(coder, words, model, fast, slow, context):  # type: ignore[no-untyped-def] # compiled by numba
    bit, coder = _split(coder, words, _share(model, context) | 1)
    _learn(model, fast, slow, context, bit)
    return bit, coder


@kernel(inline="always")
def _put_mixed(coder, words, model, weights, fast, slow, mixer, one, two, bit):  # type: ignore[no-untyped-def] # compiled by numba
    mixed = _mix(model, weights, mixer, one, two)
    _learn_mix(model, weights, fast, slow, mixer, one, two, mixed, bit)
    return _narrow(coder, words, bit, mixed[0])


@kernel(inline="always")
def _get_mixed(coder, words, model, weights, fast, slow, mixer, one, two):  # type: ignore[no-untyped-def] # compiled by numba
    mixed = _mix(model, weights, mixer, one, two)
    bit, coder = _split(coder, words, mixed[0])
    _learn_mix(model, weights, fast, slow, mixer, one, two, mixed, bit)
    return bit, coder


@kernel()
def _put_size(coder, words, model, weights, fast, slow, base, near, size):  # type: ignore[no-untyped-def] # compiled by numba
    """The size of a level, at least 1: its length in bits less one (unary), then the bits after the first."""
    length = 0
    while size >> (length + 1):
        length += 1
    for step in range(min(length + 1, MAX_BITS - 1)):
        mixer = _LENGTH + min(step, _LENGTHS - 1)
        coder = _put_mixed(coder, words, model, weights, fast, slow, mixer, base + step, near + step, step < length)
    for done in range(length):
        bit = (size >> (length - 1 - done)) & 1 != 0
        if done < MODELLED_BITS:
            context = _BITS + (length << MODELLED_BITS) + (size >> (length - done))
            coder = _put(coder, words, model, fast, slow, context, bit)
        else:
            coder = _narrow(coder, words, bit, HALF)
    return coder


@kernel()
def _get_size(coder, words, model, weights, fast, slow, base, near):  # type: ignore[no-untyped-def] # compiled by numba
    length = 0
    while length < MAX_BITS - 1:
        mixer = _LENGTH + min(length, _LENGTHS - 1)
        more, coder = _get_mixed(coder, words, model, weights, fast, slow, mixer, base + length, near + length)
        if not more:
            break
        length += 1
    size = np.int64(1)
    for done in range(length):
        if done < MODELLED_BITS:
            bit, coder = _get(coder, words, model, fast, slow, _BITS + (length << MODELLED_BITS) + size)
        else:
            bit, coder = _split(coder, words, HALF)
        size = 2 * size + (1 if bit else 0)
    return size, coder


@kernel(inline="always")
def _sign(level):  # type: ignore[no-untyped-def] # compiled by numba
    return (level > 0) + 2 * (level < 0)


@kernel(inline="always")
def _contexts(columns, column, before, row):  # type: ignore[no-untyped-def] # compiled by numba
    """The classes of both averages, the integer above, and what the neighbours are as one number below 125.

    Integers here are clipped to -2 .. 2. Where columns are not followed, the last but two stands for the one above.
    """
    across = CLASS_TABLE[min(row >> 2, 511)]
    if columns.shape[0]:
        down = CLASS_TABLE[min(columns[column, 0] >> 2, 511)]
        above = columns[column, 1]
    else:
        down = across
        above = before[2]
    near = (before[0] + 2) * 25 + (before[1] + 2) * 5 + above + 2
    return across, down, above, near


@kernel(inline="always")
def _mean(across, down, quantiser, by_class):  # type: ignore[no-untyped-def] # compiled by numba
    """Which contexts of the values hold: by quantiser, and by the mean of both classes where that counts."""
    return quantiser * CLASSES + ((across + down) >> 1) if by_class else quantiser


@kernel(inline="always")
def _follow(columns, column, before, row, level, window):  # type: ignore[no-untyped-def] # compiled by numba
    """Take a level into the averages and the neighbours; returns the next column, the neighbours, the row's average."""
    magnitude = min(abs(level), MAX_MAGNITUDE) << 6
    clipped = min(max(level, -2), 2)
    row += (magnitude - row) >> window
    if columns.shape[0]:
        columns[column, 0] += (magnitude - columns[column, 0]) >> 3
        columns[column, 1] = clipped
        column += 1
        if column == columns.shape[0]:
            column = 0
    return column, (clipped, before[0], before[1]), row


@kernel()
def encode(indices, centre, split, depth, by_class, window, model, weights, fast, slow, columns, following):  # type: ignore[no-untyped-def] # compiled by numba
    """Code indices of integers in their alphabet: the 32-bit words written, and the last interval's low end and width.

    Args:
        indices: uint16 or uint32.
        centre: the index that has a bin for itself.
        split: how many of the other indices count as negative.
        depth: of the tree, or 0 to code sizes as levels.
        by_class: whether contexts of values depend on the averages.
        window: the row's average covers about 2^window integers.
        model, weights, fast, slow: see the module.
        columns: int64, zeros, two for each column: average and last integer; or none.
        following: int64, (8, 2): the trellis' next state after even and odd indices; or zeros, where it is no context.
    """
    words = np.empty(indices.size // 16 + 1024, np.uint32)
    coder = (np.uint64(0), np.uint64(0xFFFFFFFFFFFFFFFF), np.int64(0))
    row = np.int64(0)
    column = 0
    state = np.int64(0)
    before = (np.int64(0), np.int64(0), np.int64(0))
    for i in range(indices.size):
        if coder[2] + 128 > words.size:
            # An integer has at most 67 bins of at most 16 bits: 34 words.
            larger = np.empty(2 * words.size, np.uint32)
            larger[: words.size] = words
            words = larger
        across, down, above, near = _contexts(columns, column, before, row)
        index = np.int64(indices[i])
        other = index != centre
        if i % BLOCK == 0:
            state = np.int64(0)
        quantiser = state >> 1 & 1
        averages = _BY_AVERAGES + (quantiser * CLASSES + across) * CLASSES + down
        coder = _put_mixed(
            coder, words, model, weights, fast, slow, _SIGNIFICANCE, averages, _BY_NEIGHBOURS + near, other
        )
        level = np.int64(0)
        if other:
            rest = index - (1 if index > centre else 0)
            level = rest - split + (1 if rest >= split else 0)
            negative = level < 0
            behind = _SIGN_BEFORE + _sign(before[0]) * 9 + _sign(before[1]) * 3 + _sign(before[2])
            over = _SIGN_ABOVE + _sign(above) * 3 + _sign(before[0])
            coder = _put_mixed(coder, words, model, weights, fast, slow, _SIGN, behind, over, negative)
            mean = _mean(across, down, quantiser, by_class)
            if depth:
                base = VALUES + ((2 * mean + negative) << depth)
                node = 1
                for height in range(depth - 1, -1, -1):
                    bit = ((abs(level) - 1) >> height) & 1 != 0
                    coder = _put(coder, words, model, fast, slow, base + node, bit)
                    node = 2 * node + (1 if bit else 0)
            else:
                neighbours = _LENGTH_BY_NEIGHBOURS + near // 5 * MAX_BITS
                coder = _put_size(
                    coder, words, model, weights, fast, slow, VALUES + mean * MAX_BITS, neighbours, abs(level)
                )
        column, before, row = _follow(columns, column, before, row, level, window)
        state = following[state, index & 1]
    return words[: coder[2]], coder[0], coder[1]


@kernel()
def decode(words, count, centre, split, depth, by_class, window, model, weights, fast, slow, columns, following, out):  # type: ignore[no-untyped-def] # compiled by numba
    """Fill `out` (uint16 or uint32) with indices in an alphabet of `count` integers.

    Other arguments are as in `encode`. Terminates on any words, since no bin asks for more than there are.

    Returns:
        How many words were read, or -1 where an index is not below `count`.
    """
    code = np.uint64(0)
    for i in range(2):
        code <<= np.uint64(32)
        if i < words.size:
            code |= np.uint64(words[i])
    coder = (code, np.uint64(0xFFFFFFFFFFFFFFFF), np.int64(2))
    row = np.int64(0)
    column = 0
    state = np.int64(0)
    before = (np.int64(0), np.int64(0), np.int64(0))
    for i in range(out.size):
        across, down, above, near = _contexts(columns, column, before, row)
        if i % BLOCK == 0:
            state = np.int64(0)
        quantiser = state >> 1 & 1
        averages = _BY_AVERAGES + (quantiser * CLASSES + across) * CLASSES + down
        other, coder = _get_mixed(
            coder, words, model, weights, fast, slow, _SIGNIFICANCE, averages, _BY_NEIGHBOURS + near
        )
        level = np.int64(0)
        index = np.int64(centre)
        if other:
            behind = _SIGN_BEFORE + _sign(before[0]) * 9 + _sign(before[1]) * 3 + _sign(before[2])
            over = _SIGN_ABOVE + _sign(above) * 3 + _sign(before[0])
            negative, coder = _get_mixed(coder, words, model, weights, fast, slow, _SIGN, behind, over)
            mean = _mean(across, down, quantiser, by_class)
            if depth:
                base = VALUES + ((2 * mean + negative) << depth)
                node = np.int64(1)
                for _ in range(depth):
                    bit, coder = _get(coder, words, model, fast, slow, base + node)
                    node = 2 * node + (1 if bit else 0)
                size = node - (1 << depth) + 1
            else:
                neighbours = _LENGTH_BY_NEIGHBOURS + near // 5 * MAX_BITS
                size, coder = _get_size(coder, words, model, weights, fast, slow, VALUES + mean * MAX_BITS, neighbours)
            level = -size if negative else size
            rest = split + level - (0 if negative else 1)
            if rest < 0 or rest >= count - 1:
                return -1
            index = rest + (1 if rest >= centre else 0)
        out[i] = index
        column, before, row = _follow(columns, column, before, row, level, window)
        state = following[state, index & 1]
    return coder[2]
