"""Numbers, names and the index, which writer and reader share. `docs/format.md` is their description."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

from squeezer.artifact.names import DICTIONARY, join_names, split_names
from squeezer.codecs.base import ByteReader, ByteWriter, Category, CorruptStreamError
from squeezer.errors import Code, ModelError
from squeezer.model import DTYPE_NAMES, DTYPES
from squeezer.representations import REPRESENTATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

#: The first three bytes of every file; the fourth is the format's version.
MAGIC = b"SQZ"
#: Whatever reads this format reads it for ever.
VERSION = 1
HEAD = MAGIC + bytes([VERSION])
#: At the end: the index's length and the checksum of head, index and length, four bytes each.
TRAILER_BYTES = 8
CHECK_BYTES = 4

#: Element types in the order of their numbers in the file.
DTYPE_ORDER = tuple(DTYPES)
#: Representations in the order of their numbers in the file.
KIND_ORDER = tuple(REPRESENTATIONS)

MAX_DIMENSIONS = 64
#: More than any machine can address; a product of dimensions below it fits into 64 bits.
MAX_TENSOR_BYTES = 1 << 46
MAX_ALIASES = 1 << 16
#: The number of the section that holds the graph (`squeezer.graph.encoding`). It is never a required one.
GRAPH_SECTION = 1
#: Bytes of a part of the index when it is inflated.
_MAX_INFLATED = 1 << 26
#: zlib's window bits: no header and no checksum around the deflated data.
_RAW_DEFLATE = -15


@dataclass(frozen=True)
class Span:
    """Where a payload lies, and the checksum of its bytes."""

    offset: int
    length: int
    check: int


@dataclass(frozen=True)
class Entry(Span):
    """What the index says of one tensor; `stored` is the type of its values, codebook or codes in the payload."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str
    stored: np.dtype[Any]

    @property
    def size(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded tensor."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class FileEntry(Span):
    """What the index says of a file that came with the model."""

    path: str
    size: int


@dataclass(frozen=True)
class Section(Span):
    """Something beside the tensors and files; a file with `required` ones means something else without them."""

    number: int
    required: bool


@dataclass
class Index:
    """Everything but the payloads. `aliases` are further names of tensors: (name, name of the tensor)."""

    entries: list[Entry] = field(default_factory=list)
    aliases: list[tuple[str, str]] = field(default_factory=list)
    files: list[FileEntry] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        """All payloads in the order in which they lie in the file."""
        return [*self.entries, *self.files, *self.sections]

    def write(self, out: ByteWriter) -> None:
        """Append the index.

        Raises:
            ModelError: where it has more than a reader accepts.
        """
        if len(self.aliases) > MAX_ALIASES:
            raise ModelError(
                Code.UNSUPPORTED_NAMES, f"the model has more than {MAX_ALIASES} tied names; give one model"
            )
        _put_deflated(out, self._table(), b"", Category.HEADER)
        names = [entry.name for entry in self.entries] + [name for name, _ in self.aliases]
        _put_deflated(out, join_names(names + [file.path for file in self.files]), DICTIONARY, Category.NAMES)
        for span in self.spans:
            out.put(span.check.to_bytes(CHECK_BYTES, "little"), Category.CHECKS)

    def _table(self) -> bytes:
        """All numbers, column by column: equal ones stand together, which deflation makes use of."""
        table = ByteWriter()
        for part in (self.entries, self.aliases, self.files, self.sections):
            table.varint(len(part))
        types = [_number(entry.dtype) | KIND_ORDER.index(entry.kind) << 4 for entry in self.entries]
        table.put(bytes(types), Category.HEADER)
        table.put(bytes(_number(entry.stored) for entry in self.entries), Category.HEADER)
        positions = {entry.name: i for i, entry in enumerate(self.entries)}
        columns = [
            [len(entry.shape) for entry in self.entries],
            [extent for entry in self.entries for extent in entry.shape],
            [positions[target] for _, target in self.aliases],
            [file.size for file in self.files],
            [2 * section.number + section.required for section in self.sections],
            [span.length for span in self.spans],
        ]
        for number in (number for column in columns for number in column):
            table.varint(number)
        return table.getvalue()

    @classmethod
    def read(cls, data: ByteReader, start: int, limit: int) -> Index:
        """Read what `write` wrote.

        Args:
            data: the index and nothing else.
            start: where the first payload begins.
            limit: where the last one ends at most.

        Raises:
            CorruptStreamError: where it is no index, or payloads would lie outside.
        """
        table = ByteReader(_inflated(data, b"", Category.HEADER))
        # Every payload has a check of four bytes; an alias takes none, and deflated hardly a bit.
        most = [data.remaining // CHECK_BYTES, MAX_ALIASES, data.remaining, data.remaining]
        tensors, aliases, files, sections = (table.varint(limit=limit) for limit in most)
        names = split_names(_inflated(data, DICTIONARY, Category.NAMES), tensors + aliases + files)
        heads = _read_heads(table, tensors)
        targets = [table.varint(limit=tensors - 1) for _ in range(aliases)]
        sizes = [table.varint() for _ in range(files)]
        kinds = [table.varint() for _ in range(sections)]
        lengths = [table.varint(limit=limit) for _ in range(tensors + files + sections)]
        table.finish()
        checks = [int.from_bytes(data.take(CHECK_BYTES, Category.CHECKS), "little") for _ in lengths]
        data.finish()
        ends = list(accumulate(lengths, initial=start))
        spans = list(zip(ends[:-1], lengths, checks, strict=True))
        at = tensors + files  # of sections
        entries = [
            Entry(*span, name, shape, dtype, kind, stored)
            for span, name, (shape, dtype, kind, stored) in zip(spans[:tensors], names[:tensors], heads, strict=True)
        ]
        return cls(
            entries,
            [(names[tensors + i], names[target]) for i, target in enumerate(targets)],
            [
                FileEntry(*span, path, size)
                for span, path, size in zip(spans[tensors:at], names[tensors + aliases :], sizes, strict=True)
            ],
            [Section(*span, kind >> 1, bool(kind & 1)) for span, kind in zip(spans[at:], kinds, strict=True)],
        )


def ledger_of(tally: Mapping[str, int]) -> dict[str, int]:
    """Bytes by category. That of the graph, younger than the others, is named where there is one alone."""
    return {
        category.value: tally.get(category, 0)
        for category in Category
        if category is not Category.GRAPH or tally.get(category, 0)
    }


_Head = tuple[tuple[int, ...], "np.dtype[Any]", str, "np.dtype[Any]"]


def _read_heads(table: ByteReader, tensors: int) -> list[_Head]:
    """Shape, type, representation and stored type of each tensor."""
    types, stored = (bytes(table.take(tensors, Category.HEADER)) for _ in range(2))
    if any(number >> 4 >= len(KIND_ORDER) for number in types) or any(number >= len(DTYPE_ORDER) for number in stored):
        raise CorruptStreamError("a type that this version does not know")
    dimensions = [table.varint(limit=MAX_DIMENSIONS) for _ in range(tensors)]
    heads = []
    for count, number, other in zip(dimensions, types, stored, strict=True):
        shape = tuple(table.varint() for _ in range(count))
        dtype = DTYPES[DTYPE_ORDER[number & 15]]
        # Without zeros: numpy multiplies the others too.
        if prod(extent for extent in shape if extent) * dtype.itemsize > MAX_TENSOR_BYTES:
            raise CorruptStreamError(f"a tensor of shape {shape}, which is larger than any memory")
        heads.append((shape, dtype, KIND_ORDER[number >> 4], DTYPES[DTYPE_ORDER[other]]))
    return heads


def _number(dtype: np.dtype[Any]) -> int:
    return DTYPE_ORDER.index(DTYPE_NAMES[dtype])


def _put_deflated(out: ByteWriter, data: bytes, dictionary: bytes, category: Category) -> None:
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, zdict=dictionary)
    packed = deflater.compress(data) + deflater.flush()
    out.varint(len(packed), category)
    out.put(packed, category)


def _inflated(data: ByteReader, dictionary: bytes, category: Category) -> bytes:
    packed = data.take(data.varint(category), category)
    inflater = zlib.decompressobj(_RAW_DEFLATE, zdict=dictionary)
    try:
        content = inflater.decompress(packed, _MAX_INFLATED)
    except zlib.error as error:
        raise CorruptStreamError(str(error)) from None
    if not inflater.eof or inflater.unused_data:
        raise CorruptStreamError("deflated data that does not end where it should, or is too long")
    return content
