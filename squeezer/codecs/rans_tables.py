"""Tables of the rANS coder: which contexts share one, and how frequencies are written in a few bytes.

A frequency is written as a *depth*, the negative logarithm of its share in steps of 1/fineness bit. Distributions of
weights fall off smoothly, so a depth is predicted by the line through the two before it, and the difference, mostly
0, takes one bit or a few. The encoder chooses depths that cost least together with the integers: an exact share is
not worth its bits where an integer is rare.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from squeezer.codecs.base import CorruptStreamError
from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Depths end at so many bits; the last one means that a symbol does not occur.
_DEEPEST = 16
#: 2^(30 - k/16), rounded.
POWERS = np.array([round(2 ** (30 - k / 16)) for k in range(16)], np.int64)
#: How many half-written tables the encoder pursues at a time, for alphabets of up to so many symbols.
_BEAM, _NARROW_BEAM, _WIDE = 12, 4, 128
#: Differences from the prediction that are tried.
_REACH = 6
#: About how many bits a table takes, and each of its symbols.
_TABLE_BITS, _SYMBOL_BITS = 24.0, 1.8
#: n log2 n of small numbers.
_SMALL = np.array([0.0] + [n * math.log2(n) for n in range(1, 4096)])


@dataclass
class BitWriter:
    """Bits, filled into bytes from the lowest bit up."""

    value: int = 0
    count: int = 0

    def put(self, number: int, bits: int) -> None:
        """Append the lowest bits of a number, the lowest first."""
        self.value |= number << self.count
        self.count += bits

    def put_unsigned(self, number: int) -> None:
        """Append a number of b bits, when 1 is added, as b - 1 zeros, a one, and its b - 1 lower bits (Elias 1975)."""
        more = (number + 1).bit_length() - 1
        self.put(1 << more, more + 1)
        self.put(number + 1 - (1 << more), more)

    def getvalue(self) -> bytes:
        """All bits; those that fill up the last byte are 0."""
        return self.value.to_bytes((self.count + 7) // 8, "little")


def write_runs(out: BitWriter, lengths: list[int]) -> None:
    """Append the lengths of runs, which add up to a known number."""
    for length in lengths:
        out.put_unsigned(length - 1)


def write_depths(out: BitWriter, depths: NDArray[np.int64], fineness: int) -> None:
    """Append the depths of one table."""
    deepest = _DEEPEST * fineness - 1
    before = int(depths[0])
    out.put(before, deepest.bit_length())
    slope = 0
    for depth in depths[1:].tolist():
        difference = depth - min(max(before + slope, 0), deepest)
        out.put_unsigned(2 * difference - 1 if difference > 0 else -2 * difference)
        before, slope = depth, depth - before


class BitReader:
    """Reads runs and depths from bytes."""

    def __init__(self, data: memoryview) -> None:
        self._data = np.frombuffer(data, np.uint8)
        self.at = 0

    def runs(self, total: int) -> list[int]:
        """Lengths of runs that add up to `total`.

        Raises:
            CorruptStreamError: where they do not.
        """
        lengths: list[int] = []
        left = total
        while left:
            number, self.at = _read_unsigned(self._data, self.at)
            if not 0 <= number < left:
                raise CorruptStreamError("classes of contexts that do not add up")
            lengths.append(number + 1)
            left -= number + 1
        return lengths

    def depths(self, tables: int, symbols: int, fineness: int) -> NDArray[np.int64]:
        """So many tables, (tables, symbols).

        Raises:
            CorruptStreamError: where a depth is out of its range, or the bytes are too few.
        """
        found = np.empty((tables, symbols), np.int64)
        self.at = int(_read_depths(self._data, self.at, _DEEPEST * fineness - 1, found))
        if self.at < 0:
            raise CorruptStreamError("a table that is not complete")
        return found

    def finish(self) -> None:
        """Raise CorruptStreamError unless the last byte was reached, and its bits beyond are 0."""
        if (self.at + 7) // 8 != self._data.size or (self.at % 8 and self._data[-1] >> self.at % 8):
            raise CorruptStreamError("bytes beyond the tables")


def frequencies(depths: NDArray[np.int64], fineness: int, bits: int, most: int) -> NDArray[np.int64]:
    """Integers that add up to 2^bits for each table, about as the depths say; (tables, symbols).

    Raises:
        CorruptStreamError: where no symbol occurs, or more than 2^bits do, or one occurs more often than `most`.
    """
    found = np.empty_like(depths)
    if not _frequencies(depths, fineness, bits, most, found):
        raise CorruptStreamError("a table without frequencies that add up")
    return found


def codes(frequencies: NDArray[np.int64]) -> NDArray[np.uint32]:
    """What an encoder needs of each symbol, in the shape of `frequencies`: f and, above bit 16, start."""
    starts = np.cumsum(frequencies, axis=-1) - frequencies
    found: NDArray[np.uint32] = (frequencies | starts << 16).astype(np.uint32)
    return found


def chosen_depths(counts: NDArray[np.int64], fineness: int) -> NDArray[np.int64]:
    """The depths of a table that cost least together with symbols that occur so often."""
    beam = _BEAM if counts.size <= _WIDE else _NARROW_BEAM
    depths: NDArray[np.int64] = _chosen_depths(counts, fineness, beam)
    return depths


@kernel()
def _bit(data, at):  # type: ignore[no-untyped-def] # compiled by numba
    return (data[at >> 3] >> (at & 7)) & 1


@kernel()
def _read_unsigned(data, at):  # type: ignore[no-untyped-def] # compiled by numba
    """A number as `put_unsigned` writes it, below 2^16, and the position after it; or -1."""
    end = 8 * data.size
    more = 0
    while at < end and not _bit(data, at):
        more += 1
        at += 1
    if at + 1 + more > end or more > 15:
        return -1, at
    number = np.int64(1) << more
    at += 1
    for k in range(more):
        number |= np.int64(_bit(data, at + k)) << k
    return number - 1, at + more


@kernel()
def _read_depths(data, at, deepest, out):  # type: ignore[no-untyped-def] # compiled by numba
    width = 0
    while deepest >> width:
        width += 1
    for table in range(out.shape[0]):
        if at + width > 8 * data.size:
            return -1
        before = np.int64(0)
        for k in range(width):
            before |= np.int64(_bit(data, at + k)) << k
        at += width
        out[table, 0] = before
        slope = np.int64(0)
        for symbol in range(1, out.shape[1]):
            number, at = _read_unsigned(data, at)
            if number < 0:
                return -1
            difference = (number + 1) // 2 if number % 2 else -(number // 2)
            depth = min(max(before + slope, 0), deepest) + difference
            if depth < 0 or depth > deepest:
                return -1
            out[table, symbol] = depth
            slope = depth - before
            before = depth
    return at


@kernel()
def _frequencies(depths, fineness, bits, most, out):  # type: ignore[no-untyped-def] # compiled by numba
    deepest = _DEEPEST * fineness - 1
    weights = np.empty(depths.shape[1], np.int64)
    for table in range(depths.shape[0]):
        total, shared = np.int64(0), np.int64(1) << bits
        for symbol in range(weights.size):
            depth = depths[table, symbol]
            whole, part = depth // fineness, depth % fineness
            weights[symbol] = 0 if depth == deepest else POWERS[part * (16 // fineness)] >> whole
            total += weights[symbol]
            # Each symbol that occurs has 1 for sure.
            shared -= depth < deepest
        if total == 0 or shared < 0:
            return False
        left = np.int64(1) << bits
        largest = 0
        for symbol in range(weights.size):
            frequency = 1 + weights[symbol] * shared // total if weights[symbol] else np.int64(0)
            out[table, symbol] = frequency
            left -= frequency
            if frequency > out[table, largest]:
                largest = symbol
        out[table, largest] += left
        if out[table, largest] > most:
            return False
    return True


@kernel()
def _length(difference):  # type: ignore[no-untyped-def] # compiled by numba
    """How many bits a difference takes."""
    number = 2 * abs(difference) + (0 if difference > 0 else 1)
    length = 1
    while number >> 1:
        number >>= 1
        length += 2
    return length


@kernel()
def _chosen_depths(counts, fineness, beam):  # type: ignore[no-untyped-def] # compiled by numba
    """Beam search. The cost of the integers at depth d is at most that of count * d + total * 2^-d / ln 2 bits.

    (That is the cost with shares that do not quite add up to 1, linearised; Gibbs.)
    """
    size, total = counts.size, max(1.0, float(counts.sum()))
    deepest = _DEEPEST * fineness - 1
    paths, slopes = np.zeros((size, beam), np.int64), np.zeros((size, beam), np.int64)
    parents = np.zeros((size, beam), np.int64)
    costs, new_costs = np.zeros(beam), np.zeros(beam)
    shares = np.zeros(deepest + 1)
    for step in range(deepest):
        shares[step] = total * 2.0 ** (-step / fineness) / math.log(2.0)
    kept = 1
    for symbol in range(size):
        count = float(counts[symbol])
        best = np.int64(deepest)
        if count > 0:
            best = np.int64(min(math.floor(math.log2(total / count) * fineness + 0.5), deepest - 1))
        found = 0
        for parent in range(kept):
            last = paths[symbol - 1, parent] if symbol else best
            rise = slopes[symbol - 1, parent] if symbol else np.int64(0)
            predicted = min(max(last + rise, 0), deepest)
            # The last one is the depth that fits best.
            for trial in range(-_REACH, _REACH + 2):
                depth = predicted + trial if trial <= _REACH else best
                if depth < 0 or depth > deepest or (depth == deepest and count > 0):
                    continue
                price = costs[parent] + (_length(depth - predicted) if symbol else 0)
                price += count * depth / fineness + shares[depth]
                slope = depth - last if symbol else 0
                found = _inserted(
                    new_costs, paths[symbol], slopes[symbol], parents[symbol], found, price, depth, slope, parent
                )
        costs[:] = new_costs
        kept = found
    depths = np.empty(size, np.int64)
    k = np.int64(0)
    for symbol in range(size - 1, -1, -1):
        depths[symbol] = paths[symbol, k]
        k = parents[symbol, k]
    return depths


@kernel()
def _inserted(costs, depths, slopes, parents, found, cost, depth, slope, parent):  # type: ignore[no-untyped-def] # compiled by numba
    """Put a path at its place among the cheapest ones, of which there are `found`; returns how many there are then."""
    place = found
    for k in range(found):
        if depths[k] == depth and slopes[k] == slope:
            if costs[k] <= cost:
                return found
            # The same with a dearer past gives way.
            place = k
            break
    if place == found:
        if found == costs.size:
            if costs[found - 1] <= cost:
                return found
            place = found - 1
        else:
            found += 1
    while place and costs[place - 1] > cost:
        costs[place], depths[place] = costs[place - 1], depths[place - 1]
        slopes[place], parents[place] = slopes[place - 1], parents[place - 1]
        place -= 1
    costs[place], depths[place], slopes[place], parents[place] = cost, depth, slope, parent
    return found


@kernel()
def _entropy(counts, total, scale):  # type: ignore[no-untyped-def] # compiled by numba
    """Bits that symbols of these frequencies take, with a part of those of a table of their own."""
    bits = _product(total)
    used = 0
    for count in counts:
        if count:
            used += 1
            bits -= _product(count)
    return bits + (scale * (_TABLE_BITS + _SYMBOL_BITS * used) if total else 0.0)


@kernel(inline="always")
def _product(count):  # type: ignore[no-untyped-def] # compiled by numba
    return _SMALL[count] if count < _SMALL.size else count * math.log2(float(count))


@kernel()
def partition(counts, price, scale, ends):  # type: ignore[no-untyped-def] # compiled by numba
    """Split classes into runs that share a table, each group of classes by itself, at the least cost.

    Args:
        counts: int64, (groups, classes, symbols).
        price: bits that a further table must save beyond those that it takes.
        scale: what part of the bits that a table takes counts.
        ends: int64, (groups, classes): receives, for each class that begins a run, where it ends; others 0.

    Returns:
        About how many bits integers and tables take.
    """
    groups, classes, symbols = counts.shape
    costs = np.empty(classes + 1)
    following = np.empty(classes, np.int64)
    together = np.empty(symbols, np.int64)
    bits = 0.0
    for group in range(groups):
        costs[classes] = 0.0
        for begin in range(classes - 1, -1, -1):
            together[:] = 0
            total = np.int64(0)
            costs[begin] = np.inf
            for end in range(begin + 1, classes + 1):
                for symbol in range(symbols):
                    count = counts[group, end - 1, symbol]
                    together[symbol] += count
                    total += count
                cost = _entropy(together, total, scale) + price + costs[end]
                # Where both are alike, the longer run.
                if cost <= costs[begin]:
                    costs[begin] = cost
                    following[begin] = end
        bits += costs[0]
        at = np.int64(0)
        ends[group] = 0
        while at < classes:
            ends[group, at] = following[at]
            at = following[at]
    return bits
