"""Files put together by hand from docs/format.md, so that they can be wrong."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

from tests import reference


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes([*out, value])


def deflated(data: bytes, dictionary: bytes = b"") -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=dictionary)
    packed = packer.compress(data) + packer.flush()
    return varint(len(packed)) + packed


@dataclass
class File:
    """Every part of a file; by default it has one tensor of four zero bytes (U8, raw)."""

    payloads: list[bytes] = field(default_factory=lambda: [b"\0" + bytes(4)])
    counts: tuple[int, ...] = (1, 0, 0, 0)
    types: bytes = b"\x0d"
    stored: bytes = b"\x0d"
    shapes: list[list[int]] = field(default_factory=lambda: [[4]])
    #: Aliases' targets, files' sizes, sections' numbers.
    numbers: list[int] = field(default_factory=list)
    names: bytes = b"\0t\xff"
    head: bytes = b"SQZ" + bytes([reference.VERSION])
    table: bytes | None = None

    def build(self) -> bytes:
        """The bytes, with right checks."""
        columns = [
            *self.counts,
            *self.types,
            *self.stored,
            *map(len, self.shapes),
            *(extent for shape in self.shapes for extent in shape),
            *self.numbers,
            *map(len, self.payloads),
        ]
        table = b"".join(map(varint, columns)) if self.table is None else self.table
        checks = b"".join(zlib.crc32(payload).to_bytes(4, "little") for payload in self.payloads)
        return self.with_index(deflated(table) + deflated(self.names, reference.dictionary()) + checks)

    def with_index(self, index: bytes) -> bytes:
        """The bytes with another index."""
        length = len(index).to_bytes(4, "little")
        check = zlib.crc32(self.head + index + length).to_bytes(4, "little")
        return self.head + b"".join(self.payloads) + index + length + check
