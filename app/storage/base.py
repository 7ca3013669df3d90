"""What the service asks of a storage."""

from __future__ import annotations

from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path
    from types import TracebackType


@dataclass(frozen=True)
class Stored:
    """An object in the storage: its key, its size in bytes, and when it was last written (UTC)."""

    key: str
    bytes: int
    modified_at: datetime


def new_key() -> str:
    """A fresh random key. Keys are never derived from what users send."""
    return token_hex(16)


class Writer(Protocol):
    """An object that is being written. It exists from `commit` on; leaving without it discards it."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Discard what was not committed."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        ...

    def commit(self) -> None:
        """Make the object durable and visible."""
        ...


class Storage(Protocol):
    """Objects by key. Missing objects raise FileNotFoundError; a full disk raises OSError with ENOSPC."""

    def writer(self, key: str) -> Writer:
        """A writer of a new object."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Store a copy of a local file; the file itself is left alone."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The object's bytes as a seekable file."""
        ...

    def path(self, key: str) -> Path | None:
        """A local path that can be read in place, or None where the storage is elsewhere."""
        ...

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        ...

    def list(self) -> Iterator[Stored]:
        """All committed objects."""
        ...

    def sweep_temporary(self, older_than: datetime) -> int:
        """Remove what writers that died left behind before that time; how many there were."""
        ...

    def check(self) -> None:
        """Raise OSError where the storage cannot be written to."""
        ...
