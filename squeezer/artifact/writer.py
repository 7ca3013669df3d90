"""Writing a `.sqz` file, one tensor at a time."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Self

from squeezer.artifact.layout import (
    CHECK_BYTES,
    DTYPE_ORDER,
    KIND_ORDER,
    MAGIC,
    VERSION,
    Entry,
    FileEntry,
    write_name,
)
from squeezer.artifact.tensor import write_tensor
from squeezer.codecs import ByteWriter, Category
from squeezer.model import DTYPE_NAMES

if TYPE_CHECKING:
    from types import TracebackType

    from squeezer.representations import Representation


@dataclass(frozen=True)
class EncodedTensor:
    """A representation as bytes, and what they are for."""

    data: bytes
    kind: str
    coder: str
    tally: Counter[str]


def encode_tensor(tensor: Representation, coder: str = "auto", level: str = "balanced") -> EncodedTensor:
    """Encode one representation. Independent of any file, so that threads may do it."""
    out = ByteWriter()
    name = write_tensor(out, tensor, coder, level)
    return EncodedTensor(out.getvalue(), tensor.kind, name, out.tally)


class ArtifactWriter:
    """Writes to a temporary file beside `path`; `path` appears, whole, when the context ends without an error.

    Payloads come first and the index last, so that memory is bounded by the largest tensor.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: list[Entry] = []
        self._aliases: list[tuple[str, str]] = []
        self._files: list[FileEntry] = []
        self._tally: Counter[str] = Counter()
        # Opened here and renamed in __exit__: the class is the context manager.
        self._file = NamedTemporaryFile(  # noqa: SIM115 # see above
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        )
        self._put(MAGIC + bytes([VERSION]), Category.HEADER)

    def add(self, name: str, tensor: Representation, encoded: EncodedTensor) -> None:
        """Append a tensor that `encode_tensor` encoded."""
        offset = self._file.tell()
        self._file.write(encoded.data)
        self._tally.update(encoded.tally)
        check = zlib.crc32(encoded.data)
        self._entries.append(Entry(name, tensor.shape, tensor.dtype, encoded.kind, offset, len(encoded.data), check))

    def add_alias(self, name: str, target: str) -> None:
        """Give a tensor that was added a further name."""
        self._aliases.append((name, target))

    def add_file(self, path: str, content: bytes) -> None:
        """Append a file that came with the model."""
        packed = zlib.compress(content, 9)
        offset = self._file.tell()
        self._put(packed, Category.FILES)
        self._files.append(FileEntry(path, len(content), offset, len(packed), zlib.crc32(packed)))

    @property
    def ledger(self) -> dict[str, int]:
        """Bytes written so far, by category; after the context has ended, they sum to the file's size."""
        return {category.value: self._tally[category] for category in Category}

    def _put(self, data: bytes, category: Category) -> None:
        self._file.write(data)
        self._tally[category] += len(data)

    def _finish(self) -> None:
        index = self._index()
        data = index.getvalue()
        length = len(data).to_bytes(4, "little")
        check = zlib.crc32(MAGIC + bytes([VERSION]) + data + length)
        self._file.write(data + length + check.to_bytes(CHECK_BYTES, "little"))
        self._tally.update(index.tally)
        self._tally[Category.HEADER] += len(length)
        self._tally[Category.CHECKS] += CHECK_BYTES
        self._file.flush()
        os.fsync(self._file.fileno())

    def _index(self) -> ByteWriter:
        out = ByteWriter()
        previous = ""
        out.varint(len(self._entries))
        for entry in self._entries:
            write_name(out, entry.name, previous)
            previous = entry.name
            dtype = DTYPE_ORDER.index(DTYPE_NAMES[entry.dtype])
            out.put(bytes([dtype | KIND_ORDER.index(entry.kind) << 4]), Category.HEADER)
            out.varint(len(entry.shape))
            for extent in entry.shape:
                out.varint(extent)
            out.varint(entry.length)
            out.put(entry.check.to_bytes(CHECK_BYTES, "little"), Category.CHECKS)
        positions = {entry.name: i for i, entry in enumerate(self._entries)}
        out.varint(len(self._aliases))
        for name, target in self._aliases:
            write_name(out, name, previous)
            previous = name
            out.varint(positions[target])
        out.varint(len(self._files))
        for file in self._files:
            write_name(out, file.path, previous)
            previous = file.path
            out.varint(file.size)
            out.varint(file.length)
            out.put(file.check.to_bytes(CHECK_BYTES, "little"), Category.CHECKS)
        return out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._file.close()
                # A temporary file is private; the result gets the rights of any new file.
                mask = os.umask(0)
                os.umask(mask)
                Path(self._file.name).chmod(0o666 & ~mask)
                os.replace(self._file.name, self._path)  # noqa: PTH105 # atomic by contract
        finally:
            self._file.close()
            with suppress(FileNotFoundError):
                os.unlink(self._file.name)  # noqa: PTH108 # a name, not a Path
