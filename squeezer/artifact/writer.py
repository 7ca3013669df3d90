"""Writing a `.sqz` file, one tensor at a time."""

from __future__ import annotations

import os
import secrets
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from squeezer.artifact.layout import CHECK_BYTES, GRAPH_SECTION, HEAD, Entry, FileEntry, Index, Section, ledger_of
from squeezer.artifact.tensor import chunks_of, stored_dtype, write_chunk, write_head
from squeezer.codecs import ByteWriter, Category

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    import numpy as np

    from squeezer.representations import Representation

    Each = Callable[[Callable[[Representation], "_Chunk"], Iterable[Representation]], Iterable["_Chunk"]]
    _Chunk = tuple[bytes, str, Counter[str]]


@dataclass(frozen=True)
class EncodedTensor:
    """A representation as bytes, and what they are for.

    `stored` is the element type of what is written; `coder` names the codecs of the weights, all that were chosen.
    """

    data: bytes
    kind: str
    stored: np.dtype[Any]
    coder: str
    tally: Counter[str]


def encode_tensor(
    tensor: Representation, coder: str = "auto", level: str = "balanced", each: Each = map
) -> EncodedTensor:
    """Encode one representation. Independent of any file, so that threads may do it.

    Args:
        tensor: what to encode.
        coder: `auto` or the name of a codec.
        level: `fast`, `balanced` or `max`.
        each: applies a function to every chunk; a pool's `map` does so side by side.
    """
    out = ByteWriter()
    write_head(out, tensor)
    chunks = chunks_of(tensor)

    def encode(chunk: Representation) -> _Chunk:
        part = ByteWriter()
        name = write_chunk(part, chunk, coder, level)
        return part.getvalue(), name, part.tally

    names: dict[str, None] = {}
    for data, name, tally in each(encode, chunks):
        if len(chunks) > 1:
            out.varint(len(data))
        out.parts.append(data)
        out.tally.update(tally)
        names[name] = None
    return EncodedTensor(out.getvalue(), tensor.kind, stored_dtype(tensor), "+".join(names) or "raw", out.tally)


class ArtifactWriter:
    """Writes to a temporary file beside `path`; `path` appears, whole, when the context ends without an error.

    Payloads come first and the index last, so that memory is bounded by the largest tensor.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index = Index()
        self._tally: Counter[str] = Counter()
        # Opened here and renamed in __exit__: the class is the context manager.
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._file = self._temporary.open("xb")
        self._put(HEAD, Category.HEADER)

    def add(self, name: str, tensor: Representation, encoded: EncodedTensor) -> None:
        """Append a tensor that `encode_tensor` encoded."""
        offset = self._file.tell()
        self._file.write(encoded.data)
        self._tally.update(encoded.tally)
        check = zlib.crc32(encoded.data)
        span = (offset, len(encoded.data), check)
        self._index.entries.append(Entry(*span, name, tensor.shape, tensor.dtype, encoded.kind, encoded.stored))

    def add_alias(self, name: str, target: str) -> None:
        """Give a tensor that was added a further name."""
        self._index.aliases.append((name, target))

    def add_file(self, path: str, content: bytes) -> None:
        """Append a file that came with the model."""
        packed = zlib.compress(content, 9)
        offset = self._file.tell()
        self._put(packed, Category.FILES)
        self._index.files.append(FileEntry(offset, len(packed), zlib.crc32(packed), path, len(content)))

    def add_graph(self, data: bytes) -> None:
        """Append the network as `squeezer.graph.encoding.to_bytes` encodes it; the last thing to add."""
        offset = self._file.tell()
        self._put(data, Category.GRAPH)
        self._index.sections.append(Section(offset, len(data), zlib.crc32(data), GRAPH_SECTION, required=False))

    @property
    def ledger(self) -> dict[str, int]:
        """Bytes written so far, by category; after the context has ended, they sum to the file's size."""
        return ledger_of(self._tally)

    def _put(self, data: bytes, category: Category) -> None:
        self._file.write(data)
        self._tally[category] += len(data)

    def _finish(self) -> None:
        index = ByteWriter()
        self._index.write(index)
        data = index.getvalue()
        length = len(data).to_bytes(4, "little")
        check = zlib.crc32(HEAD + data + length)
        self._file.write(data + length + check.to_bytes(CHECK_BYTES, "little"))
        self._tally.update(index.tally)
        self._tally[Category.HEADER] += len(length)
        self._tally[Category.CHECKS] += CHECK_BYTES
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._file.close()
                self._temporary.replace(self._path)
        finally:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
