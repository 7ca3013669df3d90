"""What the fuzzer knows of a `.sqz` file, from docs/format.md: enough to forge one whose checksums are right.

Nothing of the library's is used, so that a mistake there is not repeated here.
"""

from __future__ import annotations

import zlib
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests import reference
from tests.fuzz.mutate import any_varint, mutated, varint

if TYPE_CHECKING:
    from random import Random

_HEAD = 4
_TRAILER = 8
_CHECK = 4
_RAW_DEFLATE = -15
_DICTIONARY = reference.dictionary()
_END = b"\xff"

_PARTS = TENSOR, ALIAS, FILE, SECTION = range(4)
#: Which numbers the table holds of which items, column by column. All are varints, but for the bytes.
_COLUMNS = (
    ("type", (TENSOR,)),
    ("stored", (TENSOR,)),
    ("dimensions", (TENSOR,)),
    ("extents", (TENSOR,)),
    ("target", (ALIAS,)),
    ("size", (FILE,)),
    ("kind", (SECTION,)),
    ("length", (TENSOR, FILE, SECTION)),
)
_BYTES = ("type", "stored")


class UnreadableError(ValueError):
    """No index can be made out."""


@dataclass
class Item:
    """A tensor, an alias, a file or a section: its numbers as they are written, by column."""

    part: int
    name: bytes = b""
    fields: dict[str, list[bytes]] = field(default_factory=dict)
    payload: bytes = b""

    def number(self, column: str) -> int:
        """The first number of a column."""
        return number(self.fields[column][0])

    def set(self, column: str, *numbers: int) -> None:
        """Write other numbers."""
        self.fields[column] = [bytes([n]) if column in _BYTES else varint(n) for n in numbers]


@dataclass
class Container:
    """A file taken apart: put together again, its checksums are right."""

    head: bytes
    #: How many tensors, aliases, files and sections there are.
    counts: list[bytes]
    items: list[Item]

    @classmethod
    def of(cls, data: bytes) -> Container:
        """Take a file apart. Its checksums may be wrong.

        Raises:
            UnreadableError: where its index cannot be made out.
        """
        index = _index(data)
        packed, at = _sized(index, 0)
        counts, items = _parsed(_inflated(packed, b""))
        names, _ = _sized(index, at)
        _name([item for item in items if item.part != SECTION], _inflated(names, _DICTIONARY))
        offset = _HEAD
        whole = cls(data[:_HEAD], counts, items)
        for item in whole.with_payloads:
            item.payload = data[offset : offset + item.number("length")]
            offset += item.number("length")
        return whole

    def of_part(self, *parts: int) -> list[Item]:
        """Tensors, aliases, files or sections."""
        return [item for part in parts for item in self.items if item.part == part]

    @property
    def with_payloads(self) -> list[Item]:
        """The items that have one, in the payloads' order."""
        return self.of_part(TENSOR, FILE, SECTION)

    def fit(self) -> None:
        """Make lengths and counts right."""
        self.counts = [varint(len(self.of_part(part))) for part in _PARTS]
        for item in self.with_payloads:
            item.set("length", len(item.payload))

    def table(self) -> bytes:
        """The numbers of the index."""
        columns = (item.fields.get(name, ()) for name, parts in _COLUMNS for item in self.of_part(*parts))
        return b"".join(self.counts) + b"".join(value for column in columns for value in column)

    def names(self) -> bytes:
        """The names, each in full."""
        out, before = [], 0
        for item in self.of_part(TENSOR, ALIAS, FILE):
            out.append(varint(before) + item.name + _END)
            before = item.name.count(b".") + 1
        return b"".join(out)

    def pack(self, table: bytes | None = None, names: bytes | None = None) -> bytes:
        """The file; with another table, or other names, where given."""
        payloads = [item.payload for item in self.with_payloads]
        index = (
            _deflated(self.table() if table is None else table, b"")
            + _deflated(self.names() if names is None else names, _DICTIONARY)
            + b"".join(zlib.crc32(payload).to_bytes(_CHECK, "little") for payload in payloads)
        )
        return sealed(self.head + b"".join(payloads) + index + len(index).to_bytes(4, "little") + bytes(4))


def recheck(data: bytes) -> bytes:
    """The same bytes with all checksums right, as far as an index can be made out."""
    try:
        items = Container.of(data).with_payloads
    except UnreadableError:
        return sealed(data)
    checks = b"".join(zlib.crc32(item.payload).to_bytes(_CHECK, "little") for item in items)
    # They end the index.
    return sealed(data[: -_TRAILER - len(checks)] + checks + data[-_TRAILER:])


def sealed(data: bytes) -> bytes:
    """The same bytes with the checksum of the index right, where there is room for one."""
    if len(data) < _HEAD + _TRAILER:
        return data
    length = int.from_bytes(data[-_TRAILER:-4], "little")
    index = data[max(0, len(data) - _TRAILER - length) : -_TRAILER]
    return data[:-4] + zlib.crc32(data[:_HEAD] + index + data[-_TRAILER:-4]).to_bytes(4, "little")


def _index(data: bytes) -> bytes:
    length = int.from_bytes(data[-_TRAILER:-4], "little")
    if len(data) < _HEAD + _TRAILER + length:
        raise UnreadableError
    return data[len(data) - _TRAILER - length : -_TRAILER]


def number(coded: bytes) -> int:
    """What a varint stands for."""
    return sum((byte & 0x7F) << 7 * i for i, byte in enumerate(coded))


def _varint_end(data: bytes, at: int) -> int:
    while at < len(data) and data[at] & 0x80:
        at += 1
    if at >= len(data):
        raise UnreadableError
    return at + 1


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    """What a varint says how long it is, and where it ends."""
    begin = _varint_end(data, at)
    end = begin + number(data[at:begin])
    if end > len(data):
        raise UnreadableError
    return data[begin:end], end


def _inflated(packed: bytes, dictionary: bytes) -> bytes:
    try:
        return zlib.decompressobj(_RAW_DEFLATE, zdict=dictionary).decompress(packed, 1 << 20)
    except zlib.error:
        raise UnreadableError from None


def _deflated(data: bytes, dictionary: bytes) -> bytes:
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, zdict=dictionary)
    packed = deflater.compress(data) + deflater.flush()
    return varint(len(packed)) + packed


def _parsed(table: bytes) -> tuple[list[bytes], list[Item]]:
    """The counts, and the items without their names."""
    at = 0

    def values(many: int, *, single: bool = False) -> list[bytes]:
        nonlocal at
        # Each takes at least a byte.
        if many > len(table) - at:
            raise UnreadableError
        found = []
        for _ in range(many):
            end = at + 1 if single else _varint_end(table, at)
            found.append(table[at:end])
            at = end
        return found

    counts = values(len(_PARTS))
    items = []
    for part, count in zip(_PARTS, counts, strict=True):
        if number(count) > len(table):
            raise UnreadableError
        items += [Item(part) for _ in range(number(count))]
    for column, parts in _COLUMNS:
        for item in items:
            if item.part in parts:
                many = item.number("dimensions") if column == "extents" else 1
                item.fields[column] = values(many, single=column in _BYTES)
    return counts, items


def _name(items: list[Item], names: bytes) -> None:
    """Give items their names, in the order in which the index lists them."""
    before: list[bytes] = []
    at = 0
    for item in sorted(items, key=lambda item: item.part):
        begin = _varint_end(names, at)
        end = names.find(_END, begin)
        before = before[: max(0, len(before) - number(names[at:begin]))] + names[begin:end].split(b".")
        item.name, at = b".".join(before), end + 1


def section(kind: int, payload: bytes) -> Item:
    """What a later version may add."""
    added = Item(SECTION, payload=payload)
    added.set("kind", kind)
    added.set("length", len(payload))
    return added


# -- forging ---------------------------------------------------------------------------------------------------------


def forged(data: bytes, other: bytes, random: Random) -> tuple[bytes, list[str]]:
    """A valid file with one to three changes to its parts, and their names. Checksums are right, lengths mostly."""
    ours, theirs = Container.of(data), Container.of(other)
    done = []
    for _ in range(random.choice((1, 1, 2, 3))):
        change, careful = random.choices(_CHANGES, [weight for _, _, weight in _CHANGES])[0][:2]
        done += [f"{change.__name__}: {name}" for name in change(ours, theirs, random)]
        if careful and random.random() < 0.9:
            ours.fit()
    table, names = ours.table(), ours.names()
    match random.randrange(12):
        case 0:
            table, how = mutated(table, theirs.table(), random)
            done += [f"table: {name}" for name in how]
        case 1:
            names, how = mutated(names, theirs.names(), random)
            done += [f"names: {name}" for name in how]
    return ours.pack(table, names), done


def payload(ours: Container, theirs: Container, random: Random) -> list[str]:
    """What is stored for a tensor, a file or a section."""
    if not ours.with_payloads:
        return []
    item, other = random.choice(ours.with_payloads), random.choice(theirs.with_payloads or [Item(FILE)])
    item.payload, names = mutated(item.payload, other.payload, random)
    return names


def place(ours: Container, theirs: Container, random: Random) -> list[str]:
    """A payload in another one's place: of the wrong shape, type or representation."""
    if ours.with_payloads:
        others = random.choice((ours, theirs)).with_payloads or [Item(FILE)]
        random.choice(ours.with_payloads).payload = random.choice(others).payload
    return ["moved"]


def entry(ours: Container, theirs: Container, random: Random) -> list[str]:
    """A number of the index: of a tensor, say, or how many there are."""
    lists = [(column, values) for item in ours.items for column, values in item.fields.items() if values]
    column, values = random.choice([*lists, ("counts", ours.counts)])
    at = random.randrange(len(values))
    if column in _BYTES:
        values[at] = bytes([random.choice((values[at][0] ^ 1 << random.randrange(8), random.randrange(256)))])
    else:
        near = number(values[at]) + random.choice((-2, -1, 1, 2))
        values[at] = random.choice((varint(max(0, near)), any_varint(random)))
    return [column]


def name(ours: Container, theirs: Container, random: Random) -> list[str]:
    """A name, which may become that of another item."""
    if ours.items:
        item, other = random.choice(ours.items), random.choice(ours.items)
        item.name = random.choice((other.name, mutated(item.name, b"a/../b\0\xff", random)[0]))
    return ["name"]


def items(ours: Container, theirs: Container, random: Random) -> list[str]:
    """An item twice, or missing, or moved, or another file's; or a section of a later version."""
    at = random.randrange(len(ours.items)) if ours.items else 0
    match random.randrange(4):
        case 3:
            ours.items.append(section(random.choice((0, 1, 2, 3, 2**40)), random.randbytes(random.randrange(20))))
            return ["section"]
        case 0:
            del ours.items[at : at + 1]
            return ["missing"]
        case 1:
            ours.items.insert(at, deepcopy(random.choice(random.choice((ours, theirs)).items or [Item(ALIAS)])))
            return ["more"]
        case _:
            ours.items[at : at + 2] = ours.items[at : at + 2][::-1]
            return ["swapped"]


#: Changes; whether lengths and counts are mostly made right after them; and how often they are made.
_CHANGES = ((payload, True, 6), (place, True, 1), (entry, False, 3), (name, False, 1), (items, True, 1))
