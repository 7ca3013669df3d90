"""Numbers and names that writer and reader share. `docs/format.md` is their description."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError
from squeezer.model import DTYPES
from squeezer.representations import REPRESENTATIONS

if TYPE_CHECKING:
    import numpy as np

#: The first three bytes of every file; the fourth is the format's version.
MAGIC = b"SQZ"
#: Format 0 may still change; format 1 will be decodable for ever.
VERSION = 0
#: At the end: the index's length and the checksum of magic, index and length, four bytes each.
TRAILER_BYTES = 8
CHECK_BYTES = 4

#: Element types in the order of their numbers in the file.
DTYPE_ORDER = tuple(DTYPES)
#: Representations in the order of their numbers in the file.
KIND_ORDER = tuple(REPRESENTATIONS)

MAX_DIMENSIONS = 64
MAX_TENSOR_BYTES = 1 << 46


@dataclass(frozen=True)
class Entry:
    """What the index says of one tensor; `offset` follows from the lengths of those before it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    offset: int
    length: int
    check: int

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class FileEntry:
    """What the index says of a file that came with the model."""

    path: str
    size: int
    offset: int
    length: int
    check: int


def write_name(out: ByteWriter, name: str, previous: str) -> None:
    """Write a name as the number of bytes it shares with the one before it, and the rest."""
    ours, theirs = encoded(name), encoded(previous)
    shared = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    out.varint(shared, Category.NAMES)
    out.varint(len(ours) - shared, Category.NAMES)
    out.put(ours[shared:], Category.NAMES)


def read_name(data: ByteReader, previous: str) -> str:
    """Read what `write_name` wrote.

    Raises:
        CorruptStreamError: where it is no name.
    """
    theirs = encoded(previous)
    shared = data.varint(Category.NAMES, limit=len(theirs))
    rest = data.take(data.varint(Category.NAMES), Category.NAMES)
    try:
        return (theirs[:shared] + bytes(rest)).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        raise CorruptStreamError("a name that is not UTF-8") from None


def encoded(name: str) -> bytes:
    """A name as bytes. A Python string may hold lone surrogates, and a checkpoint's name is any string."""
    return name.encode("utf-8", "surrogatepass")
