"""Bytes out and bytes in, with every byte attributed to a category of the ledger."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Category(StrEnum):
    """What a byte of a `.sqz` file is for; the ledger counts them all."""

    HEADER = "header"  # magic, version, types, shapes, counts, lengths
    NAMES = "names"  # names of tensors, aliases and files
    VALUES = "values"  # coded weights: symbols, planes, raw numbers
    CODEBOOKS = "codebooks"  # shared values and steps
    GAPS = "gaps"  # coded distances between weights that are not zero
    TABLES = "tables"  # Huffman code lengths
    PADDING = "padding"  # bytes that carry nothing
    CHECKS = "checks"  # checksums
    FILES = "files"  # files that came with the model
    GRAPH = "graph"  # the network that the tensors belong to, where the file has it


class Level(StrEnum):
    """How much time may be spent for a smaller file; each level allows what the ones before it allow, and more."""

    FAST = "fast"
    BALANCED = "balanced"
    MAX = "max"

    def allows(self, other: Level) -> bool:
        """Whether what needs the other level may be used at this one."""
        levels = list(Level)
        return levels.index(other) <= levels.index(self)


class CorruptStreamError(ValueError):
    """Coded bytes that no encoder could have written."""


@dataclass
class ByteWriter:
    """Collects sections of bytes and tallies them by category."""

    parts: list[bytes] = field(default_factory=list)
    tally: Counter[str] = field(default_factory=Counter)

    def put(self, data: bytes | memoryview | NDArray[Any], category: Category) -> None:
        """Append bytes."""
        section = bytes(data)
        self.parts.append(section)
        self.tally[category] += len(section)

    def varint(self, value: int, category: Category = Category.HEADER) -> None:
        """Append an unsigned integer, 7 bits a byte, low bits first (LEB128)."""
        self.put(varint(value), category)

    def signed(self, value: int, category: Category = Category.HEADER) -> None:
        """Append a signed integer, zigzag-mapped to an unsigned one."""
        self.varint(zigzag(value), category)

    def getvalue(self) -> bytes:
        """All bytes so far."""
        return b"".join(self.parts)


class ByteReader:
    """Takes sections off a buffer, never past its end, and tallies them by category."""

    def __init__(self, data: bytes | bytearray | memoryview, tally: Counter[str] | None = None) -> None:
        self._view = memoryview(data).cast("B")
        self._at = 0
        self.tally: Counter[str] = Counter() if tally is None else tally

    @property
    def remaining(self) -> int:
        """Bytes not yet taken."""
        return len(self._view) - self._at

    @property
    def ahead(self) -> memoryview:
        """All bytes not yet taken, for those who do not know yet how many they need; they stay so."""
        return self._view[self._at :]

    def take(self, count: int, category: Category) -> memoryview:
        """The next `count` bytes.

        Raises:
            CorruptStreamError: where fewer are left.
        """
        section = self._advance(count)
        self.tally[category] += count
        return section

    def rest(self, category: Category) -> memoryview:
        """All bytes not yet taken: what ends a record needs no length."""
        return self.take(self.remaining, category)

    def part(self, count: int, tally: Counter[str] | None = None) -> ByteReader:
        """A reader of the next `count` bytes, which tallies them in `tally`, or else here.

        Raises:
            CorruptStreamError: where fewer are left.
        """
        return ByteReader(self._advance(count), self.tally if tally is None else tally)

    def _advance(self, count: int) -> memoryview:
        if count > self.remaining:
            raise CorruptStreamError(f"{count} bytes are announced where {self.remaining} are left")
        self._at += count
        return self._view[self._at - count : self._at]

    def byte(self, category: Category = Category.HEADER) -> int:
        """The next byte."""
        return self.take(1, category)[0]

    def varint(self, category: Category = Category.HEADER, limit: int = 2**63 - 1) -> int:
        """The next unsigned LEB128 integer, at most `limit`."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.byte(category)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value > limit:
                    raise CorruptStreamError(f"a number of {value} where at most {limit} makes sense")
                return value
        raise CorruptStreamError("a number that does not end")

    def signed(self, category: Category = Category.HEADER) -> int:
        """The next zigzag-mapped signed integer."""
        value = self.varint(category)
        return value // 2 if value % 2 == 0 else -(value + 1) // 2

    def finish(self) -> None:
        """Raise CorruptStreamError unless everything was taken."""
        if self.remaining:
            raise CorruptStreamError(f"{self.remaining} bytes too many")


def zigzag(value: int) -> int:
    """A signed integer as an unsigned one: 0, -1, 1, -2, 2 become 0, 1, 2, 3, 4."""
    return 2 * value if value >= 0 else -2 * value - 1


def varint(value: int) -> bytes:
    """An unsigned integer in LEB128: 7 bits a byte, low bits first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


_NO_ENTRY = "a code that its codebook does not have"


class Plan(Protocol):
    """An array analysed by a codec: its exact coded size is known before it is written."""

    @property
    def size(self) -> int:
        """How many bytes `write` appends."""
        ...

    def write(self, out: ByteWriter) -> None:
        """Append exactly `size` bytes."""
        ...


class ArrayCodec(Protocol):
    """Writes any array bit for bit; the reader knows its length and element type from elsewhere."""

    #: The number that stands for the codec in a file.
    number: ClassVar[int]
    name: ClassVar[str]

    def plan(self, array: NDArray[Any], level: Level) -> Plan:
        """Analyse a C-contiguous one-dimensional array of at least one element."""
        ...

    def read(self, data: ByteReader, out: NDArray[Any]) -> None:
        """Fill `out`, one-dimensional, with what `Plan.write` wrote.

        Raises:
            CorruptStreamError: where the bytes are not what an encoder writes.
        """
        ...


class SymbolCodec(Protocol):
    """Writes integers of a narrow range, and reads straight into the values that they stand for."""

    number: ClassVar[int]
    name: ClassVar[str]
    #: How many integers there may be from the lowest to the highest.
    widest: ClassVar[int]

    def plan(self, integers: NDArray[Any], counted: Histogram, *, trellis: bool = False) -> Plan:
        """Analyse a C-contiguous one-dimensional array of at least one integer, and its histogram.

        `trellis` says that these are codes of a trellis, of which a codec may make use.
        """
        ...

    def read(self, data: ByteReader, out: NDArray[Any], meaning: Meaning) -> None:
        """Fill `out`, one-dimensional, with what is meant by each integer that `Plan.write` wrote.

        Raises:
            CorruptStreamError: where the bytes are not what an encoder writes.
        """
        ...


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` elements are equal to `low + i`; the first and the last count are not zero."""

    low: int
    counts: NDArray[np.int64]

    @property
    def alphabet(self) -> int:
        """How many integers lie from the lowest to the highest."""
        return self.counts.size


class Meaning(Protocol):
    """What the integers of a record stand for."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        ...

    def check(self, low: int, count: int) -> None:
        """Make sure that all of the integers low .. low + count - 1 stand for something, used or not.

        Raises:
            CorruptStreamError: where one does not.
        """
        ...

    def of_range(self, low: int, count: int) -> NDArray[Any]:
        """The values of the integers low .. low + count - 1, which are checked."""
        ...

    def of(self, integers: NDArray[Any]) -> NDArray[Any]:
        """The value of each integer, all of which are checked."""
        ...


@dataclass(frozen=True)
class Itself:
    """Every integer that the type can hold stands for itself; only those below `limit`, where there is one."""

    dtype: np.dtype[Any]
    limit: int | None = None

    def check(self, low: int, count: int) -> None:
        """Compare the range with the type's, and with the limit."""
        least, most = (0, 1) if self.dtype.kind == "b" else (np.iinfo(self.dtype).min, np.iinfo(self.dtype).max)
        if low < least or low + count - 1 > most:
            raise CorruptStreamError(f"integers {low} to {low + count - 1}, which {self.dtype} cannot hold")
        if self.limit is not None and (low < 0 or low + count > self.limit):
            raise CorruptStreamError(_NO_ENTRY)

    def of_range(self, low: int, count: int) -> NDArray[Any]:
        """The integers of the range."""
        self.check(low, count)
        return np.arange(low, low + count).astype(self.dtype)

    def of(self, integers: NDArray[Any]) -> NDArray[Any]:
        """The integers."""
        if self.limit is not None and integers.size and int(integers.max()) >= self.limit:
            raise CorruptStreamError(_NO_ENTRY)
        return integers


@dataclass(frozen=True)
class Codebook:
    """Integer i stands for `values[i]`."""

    values: NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return self.values.dtype

    def check(self, low: int, count: int) -> None:
        """Compare the range with the codebook's."""
        if low < 0 or low + count > self.values.size:
            raise CorruptStreamError(_NO_ENTRY)

    def of_range(self, low: int, count: int) -> NDArray[Any]:
        """A part of the codebook."""
        self.check(low, count)
        return self.values[low : low + count]

    def of(self, integers: NDArray[Any]) -> NDArray[Any]:
        """The look-up of each integer."""
        if integers.size:
            low = int(integers.min())
            self.check(low, int(integers.max()) - low + 1)
        values: NDArray[Any] = self.values[integers]
        return values


def as_bits(array: NDArray[Any]) -> NDArray[Any]:
    """The array seen as unsigned integers of the same width, so that one compiled kernel serves every type."""
    bits: NDArray[Any] = array.view(np.dtype(f"<u{array.dtype.itemsize}"))
    return bits
