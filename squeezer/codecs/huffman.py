"""Length-limited canonical Huffman codes (Huffman 1952; Larmore and Hirschberg 1990; Schwartz and Kallick 1964).

A code is given by the length of each symbol's codeword. Codewords are numbered in order of (length, symbol) and are
written with their first bit lowest, into 32-bit little-endian words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError, as_bits
from squeezer.codecs.bitstream import bits_at, bits_at_end, check_end, to_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Longest codeword that a file may hold: a length fits in four bits.
MAX_LENGTH = 15
#: Largest alphabet that is Huffman-coded; anything wider is split into byte planes.
MAX_ALPHABET = 4096
#: A long stream is decoded in so many parts at once.
LANES = 4
#: Look-ups between two loads of 64 bits; each may take MAX_LENGTH bits and give two symbols.
_LOOKUPS = 4
_ROUND_BITS, _ROUND_SYMBOLS = np.uint64(_LOOKUPS * MAX_LENGTH), np.uint64(2 * _LOOKUPS)
#: Look-up tables are at least so many bits wide: two short codewords often fit.
_MIN_WIDTH = 11
#: Values of more bytes are looked up after the symbols are decoded.
MAX_PATTERN = 4
#: Alphabets up to this size are encoded two symbols at a time; their table of pairs fits into a cache.
_PAIRED = 64
_2, _32 = np.uint64(2), np.uint64(32)
_1, _LOW_32 = np.uint64(1), np.uint64(0xFFFFFFFF)


@dataclass(frozen=True)
class HuffmanCode:
    """A complete prefix code over the alphabet 0 .. len(lengths)-1.

    `lengths` (uint8) holds 0 for symbols that do not occur. An alphabet in which only one symbol occurs has length 1
    for it, takes no bits at all, and is not a complete code: `is_constant`.
    """

    lengths: NDArray[np.uint8]

    @classmethod
    def from_counts(cls, counts: NDArray[np.int64]) -> HuffmanCode:
        """The shortest code, for these symbol frequencies, with no codeword longer than the limit."""
        limit = min(MAX_LENGTH, max(11, int(counts.size - 1).bit_length() + 3))
        used = np.flatnonzero(counts)
        lengths = np.zeros(counts.size, np.uint8)
        if used.size == 1:
            lengths[used] = 1
        elif used.size > 1:
            order = used[np.argsort(counts[used], kind="stable")]
            lengths[order] = _package_merge(counts[order], limit)
        return cls(lengths)

    @property
    def is_constant(self) -> bool:
        """Whether only one symbol occurs."""
        return int(np.count_nonzero(self.lengths)) == 1

    @property
    def max_length(self) -> int:
        """Length of the longest codeword."""
        return int(self.lengths.max(initial=0))

    def bits(self, counts: NDArray[np.int64]) -> int:
        """How many bits symbols of these frequencies take."""
        return 0 if self.is_constant else int(np.dot(self.lengths.astype(np.int64), counts))

    def codewords(self) -> NDArray[np.uint32]:
        """Each symbol's codeword, first bit lowest."""
        words = np.zeros(self.lengths.size, np.uint32)
        code = previous = 0
        for symbol in self._canonical_order():
            length = int(self.lengths[symbol])
            code <<= length - previous
            words[symbol] = int(f"{code:0{length}b}"[::-1], 2)
            code, previous = code + 1, length
        return words

    def _canonical_order(self) -> NDArray[np.intp]:
        used = np.flatnonzero(self.lengths)
        return used[np.argsort(self.lengths[used], kind="stable")]

    def write(self, out: ByteWriter) -> None:
        """Write the lengths: a nibble each, and for a run of 1 to 16 absent symbols a nibble 0 and one for the run."""
        nibbles = self._nibbles()
        if len(nibbles) % 2:
            nibbles.append(0)
        pairs = np.array(nibbles, np.uint8).reshape(-1, 2)
        out.put((pairs[:, 0] | pairs[:, 1] << 4).astype(np.uint8), Category.TABLES)

    def _nibbles(self) -> list[int]:
        nibbles: list[int] = []
        run = 0
        for length in [*self.lengths.tolist(), -1]:
            if length == 0 and run < 16:
                run += 1
                continue
            if run:
                nibbles += [0, run - 1]
            run = int(length == 0)
            if length > 0:
                nibbles.append(length)
        return nibbles

    @property
    def written_size(self) -> int:
        """How many bytes `write` appends."""
        return (len(self._nibbles()) + 1) // 2

    @classmethod
    def read(cls, data: ByteReader, alphabet: int) -> HuffmanCode:
        """Read what `write` wrote, for an alphabet of that many symbols.

        Raises:
            CorruptStreamError: where the lengths are not those of a complete code.
        """
        nibbles = _read_nibbles(data)
        lengths: list[int] = []
        while len(lengths) < alphabet:
            nibble = next(nibbles)
            lengths += [nibble] if nibble else [0] * (next(nibbles) + 1)
        if len(lengths) != alphabet:
            raise CorruptStreamError("a code table that overshoots its alphabet")
        code = cls(np.array(lengths, np.uint8))
        code._check()
        return code

    def _check(self) -> None:
        used = self.lengths[self.lengths > 0].astype(np.int64)
        if used.size == 0:
            raise CorruptStreamError("a code table without symbols")
        # Kraft (1949): a prefix code that wastes no codeword has sum 2^-length = 1.
        if used.size > 1 and int((1 << (MAX_LENGTH - used)).sum()) != 1 << MAX_LENGTH:
            raise CorruptStreamError("a code table that is no complete prefix code")


def _read_nibbles(data: ByteReader) -> Iterator[int]:
    while True:
        byte = data.byte(Category.TABLES)
        yield byte & 15
        yield byte >> 4


@dataclass(frozen=True)
class Lookup:
    """For each pattern of the next `width` bits, the one or two symbols that they begin with.

    `pairs` holds what the two mean, as bit patterns of up to 32 bits, the first one low; `steps` how many bits they
    take (low byte) and how many they are (high byte); `lengths` how many bits the first one takes.
    """

    width: int
    pairs: NDArray[np.uint64]
    steps: NDArray[np.uint16]
    lengths: NDArray[np.uint8]

    @classmethod
    def of(cls, code: HuffmanCode, values: NDArray[Any]) -> Lookup:
        """The table of a code, whose symbols mean `values`; wide enough that two short codewords fit."""
        width = max(_MIN_WIDTH, code.max_length)
        first = _first_symbols(code, width)
        lengths = np.zeros(1 << width, np.int64) if code.is_constant else code.lengths[first].astype(np.int64)
        rest = np.arange(1 << width) >> lengths
        two = lengths + lengths[rest] <= width
        steps = lengths + two * lengths[rest] | (1 + two) << 8
        patterns = as_bits(values).astype(np.uint64)
        pairs = patterns[first] | patterns[first[rest]] << _32
        return cls(width, pairs, steps.astype(np.uint16), lengths.astype(np.uint8))


def _first_symbols(code: HuffmanCode, width: int) -> NDArray[np.intp]:
    if code.is_constant:
        return np.full(1 << width, np.flatnonzero(code.lengths)[0])
    first = np.zeros(1 << width, np.intp)
    words = code.codewords()
    for symbol in np.flatnonzero(code.lengths):
        first[int(words[symbol]) :: 1 << int(code.lengths[symbol])] = symbol
    return first


def encode(
    code: HuffmanCode, integers: NDArray[Any], low: int, bits: int, begins: list[int]
) -> tuple[NDArray[np.uint8], list[int]]:
    """The codewords of all symbols `integers - low`, `bits` of them in all, as bytes.

    `begins` are rising indices of symbols; returned are also the positions, in bits, of their codewords.
    """
    if code.is_constant:
        return np.empty(0, np.uint8), [0] * len(begins)
    words = np.empty((bits + 31) // 32 + 1, np.uint32)
    positions = np.zeros(len(begins), np.int64)
    bounds = np.array([0, *begins, integers.size], np.int64)
    codes = code.codewords().astype(np.uint64) | code.lengths.astype(np.uint64) << _32
    pairs = _joined_pairs(codes) if codes.size <= _PAIRED else codes[:0]
    _encode(integers, low, codes, pairs, words, bounds, positions)
    return words.view(np.uint8)[: (bits + 7) // 8], positions.tolist()


def _joined_pairs(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The code of every two symbols, one after the other."""
    first, second = codes[:, None], codes[None, :]
    length = first >> _32
    words = (first & _LOW_32) | (second & _LOW_32) << length
    return (words | (length + (second >> _32)) << _32).reshape(-1)


def quarters(count: int) -> list[int]:
    """Where the lanes of a long stream begin, but for the first."""
    return [lane * (count // LANES) for lane in range(1, LANES)]


def decode(code: HuffmanCode, stream: memoryview, lanes: list[int], values: NDArray[Any], out: NDArray[Any]) -> None:
    """Fill `out` with the values that the symbols stand for (`values`, one for each of the alphabet).

    `lanes` are the positions that `encode` gave, or none.

    Raises:
        CorruptStreamError: where the stream does not end with the last symbol, or a lane not where the next begins.
    """
    if out.dtype.itemsize > MAX_PATTERN:
        symbols = np.empty(out.size, np.uint16)
        decode(code, stream, lanes, np.arange(values.size, dtype=np.uint16), symbols)
        out[:] = values[symbols]
        return
    lookup, words, bits = Lookup.of(code, np.ascontiguousarray(values)), to_words(stream), as_bits(out)
    if lanes:
        starts = np.array([0, *lanes], np.uint64)
        ends = np.zeros(LANES, np.uint64)
        _decode_lanes(
            words, starts, 8 * len(stream), lookup.width, lookup.pairs, lookup.steps, lookup.lengths, bits, ends
        )
        if not np.array_equal(ends[:-1], starts[1:]):
            raise CorruptStreamError("a part of a stream that does not end where the next one begins")
        used = int(ends[-1])
    else:
        used = int(_decode_part(words, 0, lookup.width, lookup.pairs, lookup.lengths, bits, 0, bits.size))
    check_end(used, len(stream))


@njit(cache=True, nogil=True)
def _package_merge(counts, limit):  # type: ignore[no-untyped-def] # compiled by numba
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


@njit(cache=True, nogil=True)
def _encode(integers, low, codes, pairs, words, bounds, positions):  # type: ignore[no-untyped-def] # compiled by numba
    """Codes are codewords with their lengths above bit 32; `pairs` has one for each two symbols, or is empty."""
    pending, held, at = np.uint64(0), np.uint64(0), np.uint64(0)
    alphabet = np.uint64(codes.size)
    for part in range(bounds.size - 1):
        if part > 0:
            positions[part - 1] = np.uint64(32) * at + held
        begin, end = np.uint64(bounds[part]), np.uint64(bounds[part + 1])
        for i in range(begin, begin + (end - begin) // _2 * _2, _2):
            first, second = np.uint64(integers[i] - low), np.uint64(integers[i + _1] - low)
            code = pairs[first * alphabet + second] if pairs.size else _joined(codes[first], codes[second])
            pending, held, at = _append(pending, held, at, words, code)
        if (end - begin) % _2:
            code = codes[np.uint64(integers[end - _1] - low)]
            pending, held, at = _append(pending, held, at, words, code)
    words[at] = np.uint32(pending)


@njit(cache=True, nogil=True)
def _joined(first, second):  # type: ignore[no-untyped-def] # compiled by numba
    length = first >> _32
    return ((first & _LOW_32) | (second & _LOW_32) << length) + ((length + (second >> _32)) << _32)


@njit(cache=True, nogil=True)
def _append(pending, held, at, words, code):  # type: ignore[no-untyped-def] # compiled by numba
    pending |= (code & _LOW_32) << held
    held += code >> _32
    # Always stored, and kept where it is full: a branch here would be guessed wrong every other time.
    words[at] = np.uint32(pending & _LOW_32)
    full = held >> np.uint64(5)
    return pending >> (full << np.uint64(5)), held & np.uint64(31), at + full


@njit(cache=True, nogil=True)
def _decode_lanes(words, starts, bits, width, pairs, steps, lengths, out, ends):  # type: ignore[no-untyped-def] # compiled
    """Decode the four quarters of `out` side by side, each from its start."""
    mask = np.uint64((1 << width) - 1)
    quarter, size, bits = np.uint64(out.size // LANES), np.uint64(out.size), np.uint64(bits)
    p0, p1, p2, p3 = starts[0], starts[1], starts[2], starts[3]
    o0, o1, o2, o3 = np.uint64(0), quarter, quarter + quarter, quarter + quarter + quarter
    e0, e1, e2, e3 = o1, o2, o3, size
    while True:
        furthest = max(max(p0, p1), max(p2, p3))
        if furthest + _ROUND_BITS > bits:
            break
        # So many rounds are surely within the stream and within each quarter, and need no test.
        rounds = min(
            min(min(e0 - o0, e1 - o1), min(e2 - o2, e3 - o3)) // _ROUND_SYMBOLS, (bits - furthest) // _ROUND_BITS
        )
        if rounds == 0:
            break
        for _ in range(rounds):
            w0, w1, w2, w3 = bits_at(words, p0), bits_at(words, p1), bits_at(words, p2), bits_at(words, p3)
            for _ in range(_LOOKUPS):
                w0, p0, o0 = _next(w0, p0, o0, mask, pairs, steps, out)
                w1, p1, o1 = _next(w1, p1, o1, mask, pairs, steps, out)
                w2, p2, o2 = _next(w2, p2, o2, mask, pairs, steps, out)
                w3, p3, o3 = _next(w3, p3, o3, mask, pairs, steps, out)
    ends[0] = _decode_part(words, p0, width, pairs, lengths, out, o0, e0)
    ends[1] = _decode_part(words, p1, width, pairs, lengths, out, o1, e1)
    ends[2] = _decode_part(words, p2, width, pairs, lengths, out, o2, e2)
    ends[3] = _decode_part(words, p3, width, pairs, lengths, out, o3, e3)


@njit(cache=True, nogil=True)
def _next(window, position, at, mask, pairs, steps, out):  # type: ignore[no-untyped-def] # compiled by numba
    """One look-up: writes two values, and moves on by as many as there were."""
    slot = window & mask
    step = np.uint64(steps[slot])
    pair = pairs[slot]
    out[at] = pair & _LOW_32
    out[at + _1] = pair >> _32
    length = step & np.uint64(63)
    return window >> length, position + length, at + (step >> np.uint64(8))


@njit(cache=True, nogil=True)
def _decode_part(words, position, width, pairs, lengths, out, at, end):  # type: ignore[no-untyped-def] # compiled
    """Decode out[at:end] symbol by symbol; returns the position after it."""
    mask = np.uint64((1 << width) - 1)
    position = np.uint64(position)
    for i in range(at, end):
        slot = bits_at_end(words, position) & mask
        out[i] = pairs[slot] & _LOW_32
        position += np.uint64(lengths[slot])
    return position
