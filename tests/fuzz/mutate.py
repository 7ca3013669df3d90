"""Seeded damage to bytes: what falling bits, broken transfers and people with intent do to a file.

`mutated` knows nothing of a format; `tests/fuzz/container.py` makes the checksums of a `.sqz` file right again, and
changes the fields of its index. The same seed gives the same damage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: Numbers at which something overflows, wraps around or begins.
EXTREMES = (0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**20, 2**20 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32,
            2**40 - 1, 2**46, 2**60, 2**63 - 1, 2**63, 2**64 - 1, 2**69)  # fmt: skip
#: Longest stretch that is inserted, deleted, repeated or moved.
_LONGEST = 64


def varint(value: int, padding: int = 0) -> bytes:
    """LEB128, made longer than it needs to be by so many bytes of nothing."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    for _ in range(padding):
        out[-1] |= 0x80
        out.append(0)
    return bytes(out)


def any_varint(random: Random) -> bytes:
    """An extreme number, a small one, one in more bytes than it needs, or one that does not end."""
    if random.random() < 0.1:
        return b"\xff" * random.randint(9, 12)
    value = random.choice(EXTREMES) if random.random() < 0.7 else random.getrandbits(random.randint(1, 40))
    return varint(value, random.choice((0, 0, 0, 1, 2, 8)))


@dataclass
class Damage:
    """Bytes that are being changed, another valid input to take from, and the names of the changes so far."""

    data: bytearray
    other: bytes
    random: Random
    done: list[str] = field(default_factory=list)

    def place(self) -> int:
        """A position: anywhere, or near an end, where headers, tables and trailers are."""
        size = len(self.data)
        near = min(size, 48)
        match self.random.randrange(4):
            case 0:
                return self.random.randint(0, near)
            case 1:
                return self.random.randint(size - near, size)
            case _:
                return self.random.randint(0, size)

    def index(self) -> int:
        """The index of a byte."""
        return min(self.place(), len(self.data) - 1)

    def stretch(self) -> slice:
        """Some bytes; most often few."""
        begin = self.place()
        return slice(begin, min(len(self.data), begin + self.random.randint(1, self.random.choice((1, 4, _LONGEST)))))


def flip_bits(damage: Damage) -> None:
    """One to three bits."""
    for _ in range(damage.random.randint(1, 3)):
        damage.data[damage.index()] ^= 1 << damage.random.randrange(8)


def set_byte(damage: Damage) -> None:
    """A byte, to an extreme or to anything."""
    damage.data[damage.index()] = damage.random.choice((0, 1, 0x7F, 0x80, 0xFF, damage.random.randrange(256)))


def add_to_byte(damage: Damage) -> None:
    """A little more or less: one element too many, one byte too few."""
    at = damage.index()
    damage.data[at] = (damage.data[at] + damage.random.choice((-2, -1, 1, 2))) % 256


def fill(damage: Damage) -> None:
    """A stretch of equal bytes."""
    at = damage.stretch()
    damage.data[at] = bytes([damage.random.choice((0, 0xFF, damage.random.randrange(256)))]) * len(damage.data[at])


def insert(damage: Damage) -> None:
    """Bytes that were not there."""
    at = damage.place()
    damage.data[at:at] = damage.random.randbytes(damage.random.randint(1, 8))


def delete(damage: Damage) -> None:
    """A stretch is missing."""
    del damage.data[damage.stretch()]


def duplicate(damage: Damage) -> None:
    """A stretch occurs twice."""
    at = damage.stretch()
    damage.data[at.start : at.start] = damage.data[at]


def swap(damage: Damage) -> None:
    """Two stretches change places."""
    first, second = sorted((damage.stretch(), damage.stretch()), key=lambda at: at.start)
    if first.stop <= second.start:
        data = damage.data
        data[first.start : second.stop] = data[second] + data[first.stop : second.start] + data[first]


def splice(damage: Damage) -> None:
    """A stretch of another input, in addition or instead."""
    size = damage.random.randint(1, damage.random.choice((4, _LONGEST, len(damage.other) + 1)))
    begin = damage.random.randint(0, len(damage.other))
    at = damage.place()
    damage.data[at : at + damage.random.choice((0, size))] = damage.other[begin : begin + size]


def cross(damage: Damage) -> None:
    """The beginning of this and the end of the other."""
    damage.data[damage.place() :] = damage.other[damage.random.randint(0, len(damage.other)) :]


def truncate(damage: Damage) -> None:
    """The end is missing."""
    del damage.data[damage.place() :]


def extend(damage: Damage) -> None:
    """More follows."""
    damage.data += damage.random.choice((damage.random.randbytes(4), bytes(8), bytes(damage.data[-8:])))


def set_varint(damage: Damage) -> None:
    """What may be a varint becomes another."""
    begin = end = damage.place()
    while end < min(len(damage.data), begin + 10) and damage.data[end] & 0x80:
        end += 1
    damage.data[begin : end + 1] = any_varint(damage.random)


def set_fixed(damage: Damage) -> None:
    """What may be a number of 4, 5 or 8 bytes becomes an extreme."""
    at, width = damage.place(), damage.random.choice((4, 5, 8))
    value = damage.random.choice((*EXTREMES, 8 * len(damage.data), 8 * len(damage.data) + 1, len(damage.data)))
    damage.data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")


#: All kinds of damage.
KINDS: tuple[Callable[[Damage], None], ...] = (
    flip_bits, set_byte, add_to_byte, fill, insert, delete, duplicate, swap, splice, cross, truncate, extend,
    set_varint, set_fixed,
)  # fmt: skip


def mutated(data: bytes, other: bytes, random: Random) -> tuple[bytes, list[str]]:
    """The data with one to four changes, and their names."""
    damage = Damage(bytearray(data), other, random)
    for _ in range(random.choice((1, 1, 1, 2, 2, 3, 4))):
        kind = random.choice(KINDS) if damage.data else insert
        kind(damage)
        damage.done.append(kind.__name__)
    return bytes(damage.data), damage.done
