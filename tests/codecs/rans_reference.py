"""The rANS decoder again, in plain Python, written from `docs/format.md`: all that one symbol after the other takes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from itertools import accumulate
from typing import Protocol

CLASSES = [0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80]


class Cursor(Protocol):
    left: int

    def take(self, n: int, category: str) -> bytes: ...
    def u8(self) -> int: ...
    def varint(self) -> int: ...
    def signed(self) -> int: ...


def power(j: int) -> int:
    with localcontext(prec=50):
        return round(Decimal(2) ** (30 - Decimal(j) / 16))


def clip(level: int) -> int:
    return max(-3, min(3, level))


@dataclass
class Head:
    """The fields before the tables."""

    contexts: int
    quantiser: int
    bits: int
    fineness: int
    signs: int
    low: int
    count: int
    centre: int = 0
    reach: int = 0
    lag: int = 1
    window: int = 1
    initial: int = 0

    @classmethod
    def read(cls, data: Cursor) -> Head:
        flags, low, count = data.u8(), data.signed(), data.varint() + 1
        head = cls(flags & 1, flags >> 1 & 1, (flags >> 2 & 3) + 11, 2 << (flags >> 4 & 3), flags >> 6, low, count)
        assert count <= (32768 if head.contexts else 4096)
        if head.contexts:
            head.centre, head.reach, ways, head.initial = data.varint(), data.u8(), data.u8(), data.u8()
            head.lag, head.window = (ways & 15) + 1, (ways >> 4) + 1
            assert head.centre < count
            assert head.window <= 4
            assert head.initial <= 120
            assert head.bits <= 12
        else:
            assert head.quantiser == head.signs == 0
        return head


class Lanes:
    """States and words."""

    def __init__(self, data: Cursor, lanes: int) -> None:
        self.states = [int.from_bytes(data.take(4, "values"), "little") for _ in range(lanes)]
        assert all(state >= 1 << 16 for state in self.states)
        stream = data.take(data.left, "values")
        assert len(stream) % 2 == 0
        self.words = iter([int.from_bytes(stream[i : i + 2], "little") for i in range(0, len(stream), 2)])

    def symbol(self, lane: int, ends: list[int]) -> int:
        """The symbol whose interval holds the slot; `ends` are the sums of the frequencies up to each symbol's."""
        slot = self.states[lane] % ends[-1]
        found = bisect_right(ends, slot)
        start = ends[found - 1] if found else 0
        self.states[lane] = (ends[found] - start) * (self.states[lane] // ends[-1]) + slot - start
        self._refill(lane)
        return found

    def raw(self, lane: int, bits: int) -> int:
        value = self.states[lane] % (1 << bits)
        self.states[lane] >>= bits
        self._refill(lane)
        return value

    def _refill(self, lane: int) -> None:
        if self.states[lane] < 1 << 16:
            self.states[lane] = self.states[lane] << 16 | next(self.words)

    def finish(self) -> None:
        assert next(self.words, None) is None
        assert all(state == 1 << 16 for state in self.states)


def decode(data: Cursor, n: int, allowed: range) -> list[int]:
    """The integers, all of which are allowed; an error of some kind where the bytes break a rule."""
    head = Head.read(data)
    assert head.low in allowed
    assert head.low + head.count - 1 in allowed
    reader = _bits(data.take(data.varint(), "tables"))
    symbols = _symbols(head) if head.contexts else [(level, 0, 1) for level in range(head.count)]
    groups = [_runs(reader) for _ in range((1 + head.quantiser) * (1 + head.signs))] if head.contexts else [[1]]
    assert sum(map(len, groups)) <= 64
    tables = [[list(accumulate(_table(reader, len(symbols), head))) for _ in group] for group in groups]
    rest = list(reader)
    assert len(rest) < 8
    assert not any(rest)
    lanes = Lanes(data, (4 if head.contexts else 8) if n >= 4096 else 1)
    if head.contexts:
        integers = _in_context(head, lanes, symbols, groups, tables, n)
    else:
        integers = [head.low + lanes.symbol(i % len(lanes.states), tables[0][0]) for i in range(n)]
    lanes.finish()
    return integers


@dataclass
class Block:
    """What is known of the elements before one in its block."""

    average: int
    levels: list[int] = field(default_factory=list)
    trellis: list[int] = field(default_factory=lambda: [0, 0, 0])

    def total(self, lag: int) -> int:
        near = self.levels[-1] if self.levels else 0
        far = self.levels[-lag] if len(self.levels) >= lag else 0
        return clip(near) + clip(far)

    def follow(self, level: int, integer: int, window: int) -> None:
        self.levels.append(level)
        self.average += (8 * min(abs(level), 15) - self.average) // (1 << window)
        self.trellis.append((integer + sum(self.trellis[-3:])) % 2)


def _in_context(
    head: Head,
    lanes: Lanes,
    symbols: list[tuple[int, int, int]],
    groups: list[list[int]],
    tables: list[list[list[int]]],
    n: int,
) -> list[int]:
    integers = [0] * n
    side_by_side = len(lanes.states)
    by_class = [
        [table for table, run in zip(some, runs, strict=True) for _ in range(run)]
        for some, runs in zip(tables, groups, strict=True)
    ]
    blocks = [Block(head.initial) for _ in range(0, n, 1024)]
    for i in sorted(range(n), key=lambda i: (i // (1024 * side_by_side), i % 1024, i // 1024)):
        block, lane = blocks[i // 1024], i // 1024 % side_by_side
        total = block.total(head.lag)
        group = block.trellis[-2] * head.quantiser * (head.signs + 1) + min(abs(total), head.signs)
        table = by_class[group][bisect_right(CLASSES, block.average) - 1]
        nearest, bits, away = symbols[lanes.symbol(lane, table)]
        level = nearest + away * lanes.raw(lane, bits)
        if head.signs and total < 0:
            level = -level
        assert 0 <= level + head.centre < head.count
        integers[i] = head.low + head.centre + level
        block.follow(level, integers[i], head.window)
    return integers


def _bits(data: bytes) -> Iterator[int]:
    return (byte >> i & 1 for byte in data for i in range(8))


def _number(reader: Iterator[int]) -> int:
    more = 0
    while next(reader) == 0:
        more += 1
    assert more <= 15
    return (1 << more) + sum(next(reader) << i for i in range(more)) - 1


def _runs(reader: Iterator[int]) -> list[int]:
    runs: list[int] = []
    while sum(runs) < len(CLASSES):
        runs.append(_number(reader) + 1)
    assert sum(runs) == len(CLASSES)
    return runs


def _table(reader: Iterator[int], symbols: int, head: Head) -> list[int]:
    fineness, bits = head.fineness, head.bits
    deepest = 16 * fineness - 1
    depths = [sum(next(reader) << i for i in range(deepest.bit_length()))]
    while len(depths) < symbols:
        slope = depths[-1] - depths[-2] if len(depths) > 1 else 0
        number = _number(reader)
        difference = (number + 1) // 2 if number % 2 else -number // 2
        depths.append(max(0, min(deepest, depths[-1] + slope)) + difference)
        assert 0 <= depths[-1] <= deepest
    weights = [
        0 if depth == deepest else power(depth % fineness * 16 // fineness) >> depth // fineness for depth in depths
    ]
    spread = (1 << bits) - sum(depth < deepest for depth in depths)
    assert spread >= 0
    total = sum(weights)
    table = [
        1 + weight * spread // total if depth < deepest else 0 for weight, depth in zip(weights, depths, strict=True)
    ]
    table[table.index(max(table))] += (1 << bits) - sum(table)
    assert max(table) <= (4095 if head.contexts else 1 << bits)
    assert sum(table) == 1 << bits
    return table


def _symbols(head: Head) -> list[tuple[int, int, int]]:
    """Of each symbol the level nearest to 0, the number of bits that follow, and the direction in which they count."""
    below, above = head.centre, head.count - 1 - head.centre
    if head.signs:
        below = above = max(below, above)
    down, up = min(head.reach, below), min(head.reach, above)
    symbols = [(level, 0, 1) for level in range(-down, up + 1)]
    bucket = 0
    while down < below:
        symbols.insert(0, (-down - 1, bucket + 1, -1))
        down += 2 << bucket
        bucket += 1
    bucket = 0
    while up < above:
        symbols.append((up + 1, bucket + 1, 1))
        up += 2 << bucket
        bucket += 1
    return symbols
