"""Reading a `.sqz` file: everything is checked before it is believed, and tensors are decoded one by one."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from squeezer.artifact.layout import (
    CHECK_BYTES,
    DTYPE_ORDER,
    KIND_ORDER,
    MAGIC,
    MAX_DIMENSIONS,
    MAX_TENSOR_BYTES,
    TRAILER_BYTES,
    VERSION,
    Entry,
    FileEntry,
    read_name,
)
from squeezer.artifact.tensor import read_tensor, read_weights
from squeezer.codecs import ByteReader, Category, CorruptStreamError
from squeezer.errors import ArtifactError, Code
from squeezer.model import DTYPES, TensorInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from squeezer.representations import Representation

_T = TypeVar("_T")
_HEAD = len(MAGIC) + 1


class Artifact(Mapping[str, "NDArray[Any]"]):
    """An opened `.sqz` file: a mapping from names to tensors, each decoded when it is asked for.

    Tied tensors appear under each of their names. The file is kept open; close it, or use `with`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a file and check its index.

        Raises:
            ArtifactError: where it is not a `.sqz` file, comes from a later version, or is damaged.
            FileNotFoundError: where there is none.
        """
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._size = os.fstat(self._descriptor).st_size
            self._tally: Counter[str] = Counter()
            self._read_index()
        except BaseException:
            self.close()
            raise

    # -- what is inside ------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """The whole file's size in bytes."""
        return self._size

    @property
    def names(self) -> list[str]:
        """Names of the stored tensors, in the file's order, without aliases."""
        return list(self._entries)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all stored tensors when decoded."""
        return sum(self.info(name).nbytes for name in self._entries)

    @property
    def aliases(self) -> dict[str, str]:
        """Further names of stored tensors: alias to stored name."""
        return dict(self._aliases)

    @property
    def files(self) -> dict[str, int]:
        """Files that came with the model: relative path to size."""
        return {path: entry.size for path, entry in self._files.items()}

    def info(self, name: str) -> TensorInfo:
        """Name, shape and type of a tensor."""
        entry = self._entry(name)
        return TensorInfo(name, entry.shape, entry.dtype)

    def entry(self, name: str) -> Entry:
        """What the index says of a tensor: its representation, its length in the file..."""
        return self._entry(name)

    def __iter__(self) -> Iterator[str]:
        yield from self._entries
        yield from self._aliases

    def __len__(self) -> int:
        return len(self._entries) + len(self._aliases)

    # -- decoding ------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The tensor of that name: a fresh, writable array.

        Raises:
            ArtifactError: where its bytes are damaged.
        """
        return self._decode(self._entry(name), read_weights)[0]

    def representation(self, name: str) -> Representation:
        """What is stored for a tensor."""
        return self._decode(self._entry(name), read_tensor)[0]

    def read_file(self, path: str) -> bytes:
        """The content of one of `files`."""
        entry = self._files[path]
        packed = self._checked(f"file {path!r}", entry.offset, entry.length, entry.check)
        unpacker = zlib.decompressobj()
        try:
            content = unpacker.decompress(packed, entry.size + 1)
        except zlib.error as error:
            raise ArtifactError(str(error), f"file {path!r}") from None
        if len(content) != entry.size:
            raise ArtifactError("its size is not the one announced", f"file {path!r}")
        return content

    def ledger(self) -> dict[str, int]:
        """Bytes by category, found by decoding every tensor; they sum to the file's size."""
        tally = Counter(self._tally)
        for entry in self._entries.values():
            tally.update(self._decode(entry, read_tensor)[1])
        tally[Category.FILES] += sum(entry.length for entry in self._files.values())
        return {category.value: tally[category] for category in Category}

    def close(self) -> None:
        """Release the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # -- bytes ---------------------------------------------------------------------------------------------

    def _entry(self, name: str) -> Entry:
        return self._entries[self._aliases.get(name, name)]

    def _decode(
        self,
        entry: Entry,
        decode: Callable[[ByteReader, str, tuple[int, ...], np.dtype[Any]], _T],
    ) -> tuple[_T, Counter[str]]:
        where = f"tensor {entry.name!r}"
        data = ByteReader(self._checked(where, entry.offset, entry.length, entry.check))
        try:
            tensor = decode(data, entry.kind, entry.shape, entry.dtype)
            data.finish()
        except CorruptStreamError as error:
            raise ArtifactError(str(error), where) from None
        except MemoryError:
            raise ArtifactError(f"its shape {entry.shape} does not fit into memory", where) from None
        return tensor, data.tally

    def _checked(self, where: str, offset: int, length: int, check: int) -> bytes:
        data = self._pread(offset, length)
        if len(data) != length:
            raise ArtifactError("the file is truncated", where)
        if zlib.crc32(data) != check:
            raise ArtifactError("its checksum does not match; the file is damaged, fetch it again", where)
        return data

    def _pread(self, offset: int, length: int) -> bytes:
        parts = []
        # One call returns at most 2 GiB on Linux.
        while length > 0 and (part := os.pread(self._descriptor, length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_index(self) -> None:
        head = self._pread(0, _HEAD)
        if head[: len(MAGIC)] != MAGIC:
            raise ArtifactError("this is not a .sqz file", "magic", Code.NOT_AN_ARTIFACT)
        if len(head) < _HEAD:
            raise ArtifactError("the file is truncated; fetch it again", "version")
        if head[-1] != VERSION:
            raise ArtifactError(
                f"format {head[-1]} where this version reads format {VERSION}; upgrade squeezer",
                "version",
                Code.NEWER_ARTIFACT,
            )
        trailer = self._pread(max(0, self._size - TRAILER_BYTES), TRAILER_BYTES)
        length = int.from_bytes(trailer[:4], "little")
        payload_end = self._size - TRAILER_BYTES - length
        if payload_end < _HEAD:
            raise ArtifactError("the file is truncated or damaged; fetch it again", "index")
        index = self._pread(payload_end, length)
        if zlib.crc32(head + index + trailer[:4]) != int.from_bytes(trailer[4:], "little"):
            raise ArtifactError("its checksum does not match; the file is truncated or damaged", "index")
        data = ByteReader(index)
        try:
            end = self._parse_index(data)
            data.finish()
        except CorruptStreamError as error:
            raise ArtifactError(str(error), "index") from None
        if end != payload_end:
            raise ArtifactError("its lengths do not add up to the file's size", "index")
        self._tally.update(data.tally)
        self._tally[Category.HEADER] += _HEAD + TRAILER_BYTES - CHECK_BYTES
        self._tally[Category.CHECKS] += CHECK_BYTES

    def _parse_index(self, data: ByteReader) -> int:
        offset, previous = _HEAD, ""
        self._entries: dict[str, Entry] = {}
        for _ in range(data.varint(limit=data.remaining)):
            entry = _read_entry(data, previous, offset)
            if entry.name in self._entries:
                raise CorruptStreamError(f"two tensors named {entry.name!r}")
            previous, offset = entry.name, offset + entry.length
            self._entries[entry.name] = entry
        stored = list(self._entries)
        self._aliases: dict[str, str] = {}
        for _ in range(data.varint(limit=data.remaining)):
            previous = read_name(data, previous)
            self._aliases[previous] = stored[data.varint(limit=len(stored) - 1)]
        self._files: dict[str, FileEntry] = {}
        for _ in range(data.varint(limit=data.remaining)):
            previous = read_name(data, previous)
            size, length = data.varint(), data.varint(limit=self._size)
            check = int.from_bytes(data.take(CHECK_BYTES, Category.CHECKS), "little")
            self._files[previous] = FileEntry(previous, size, offset, length, check)
            offset += length
        return offset


def _read_entry(data: ByteReader, previous: str, offset: int) -> Entry:
    name = read_name(data, previous)
    types = data.byte()
    if types & 15 >= len(DTYPE_ORDER) or types >> 4 >= len(KIND_ORDER):
        raise CorruptStreamError("a type that this version does not know")
    dtype = DTYPES[DTYPE_ORDER[types & 15]]
    shape = tuple(data.varint() for _ in range(data.varint(limit=MAX_DIMENSIONS)))
    length = data.varint()
    check = int.from_bytes(data.take(CHECK_BYTES, Category.CHECKS), "little")
    entry = Entry(name, shape, dtype, KIND_ORDER[types >> 4], offset, length, check)
    if entry.size * dtype.itemsize > MAX_TENSOR_BYTES:
        raise CorruptStreamError(f"tensor {name!r} of shape {shape} is larger than any memory")
    return entry
