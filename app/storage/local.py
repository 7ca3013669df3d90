"""Storage in a folder, which may be shared by several machines."""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, BinaryIO, Self

from app.storage.base import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

_KEY = re.compile(r"[0-9a-f]{32}")
_COPY_BYTES = 4 << 20


class LocalStorage:
    """A folder with two levels of subfolders, named by the first characters of the random keys.

    Objects are written to `tmp/`, synced, and renamed into place, so that a reader never sees half of one and
    a power cut loses none that was committed.
    """

    def __init__(self, folder: Path) -> None:
        self._objects = folder / "objects"
        self._temporary = folder / "tmp"
        self._objects.mkdir(parents=True, exist_ok=True)
        self._temporary.mkdir(exist_ok=True)

    def writer(self, key: str) -> LocalWriter:
        """A writer of a new object."""
        return LocalWriter(self._temporary / token_hex(16), self._path(key))

    def put_file(self, key: str, path: Path) -> None:
        """Store a copy of a local file."""
        with path.open("rb") as source, self.writer(key) as writer:
            shutil.copyfileobj(source, writer, _COPY_BYTES)
            writer.commit()

    def open(self, key: str) -> BinaryIO:
        """The object's bytes as a seekable file."""
        return self._path(key).open("rb")

    def path(self, key: str) -> Path:
        """The object's own path, to be read and not changed."""
        return self._path(key)

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        return self._path(key).stat().st_size

    def delete(self, key: str) -> None:
        """Remove the object, if it is there."""
        self._path(key).unlink(missing_ok=True)

    def list(self) -> Iterator[Stored]:
        """All committed objects."""
        for path in self._objects.glob("*/*/*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # deleted since the folder was read
                continue
            yield Stored(path.name, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def sweep_temporary(self, older_than: datetime) -> int:
        """Remove temporary files that nobody has written to since that time."""
        swept = 0
        for path in self._temporary.iterdir():
            try:
                if path.stat().st_mtime < older_than.timestamp():
                    path.unlink()
                    swept += 1
            except FileNotFoundError:  # its writer has just finished
                continue
        return swept

    def check(self) -> None:
        """Raise OSError where the folder cannot be written to."""
        probe = self._temporary / token_hex(16)
        try:
            probe.write_bytes(b"x")
        finally:
            probe.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"not a storage key: {key!r}")
        return self._objects / key[:2] / key[2:4] / key


class LocalWriter:
    """Writes a temporary file and renames it on `commit`."""

    def __init__(self, temporary: Path, target: Path) -> None:
        self._temporary = temporary
        self._target = target
        self._file = temporary.open("xb")
        self._committed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del kind, error, trace
        if not self._committed:
            try:
                self._file.close()
            finally:  # closing flushes, which fails on a full disk
                self._temporary.unlink(missing_ok=True)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes."""
        self._file.write(data)

    def commit(self) -> None:
        """Sync the file, rename it into place, and sync the folders that name it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        folder = self._target.parent
        folder.mkdir(parents=True, exist_ok=True)
        self._temporary.replace(self._target)
        self._committed = True
        for changed in (folder, folder.parent, folder.parent.parent):
            _sync_folder(changed)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
