"""The tensors of a .pt2 file: raw records, and JSON that says which view of which record each tensor is."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.errors import Code, ModelError
from squeezer.formats.pt2_json import dtype_of, entry, items, malformed, text, union
from squeezer.model import DTYPES, TensorInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.formats.zipped import Archive

_STRIDED = 7
_MAX_DIMENSIONS = 64
#: What JSON in the archive may take: a network of ten thousand operators has 25 MB of it.
MAX_JSON_BYTES = 64 << 20
_MAX_READ = 1 << 30


@dataclass(frozen=True)
class Stored:
    """A tensor as a view of a record: strides and where it begins are in elements."""

    info: TensorInfo
    record: str
    strides: tuple[int, ...]
    begin: int

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for tensors that are the same elements, and so are tied."""
        return self.record, self.info.shape, self.info.dtype, self.strides, self.begin

    @property
    def span(self) -> int:
        """How many elements lie from the first to the last one."""
        if not self.info.size:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.info.shape, self.strides, strict=True))


def read_json(archive: Archive, member: str) -> Any:
    """The parsed JSON of a member.

    Raises:
        ModelError: INVALID_ARCHIVE, INVALID_GRAPH (it is not JSON) or ARCHIVE_TOO_LARGE.
    """
    if archive.members[member].file_size > MAX_JSON_BYTES:
        raise ModelError(
            Code.ARCHIVE_TOO_LARGE, f"{member!r} is larger than {MAX_JSON_BYTES >> 20} MiB; export a smaller network."
        )
    try:
        return json.loads(b"".join(archive.blocks(member)))
    except (ValueError, RecursionError) as error:
        raise malformed(f"{member!r} is not JSON ({str(error)[:100]})") from error


def read_config(archive: Archive, config: str, folder: str) -> dict[str, Stored]:
    """Which tensors there are, by name: checked against the records that there are.

    Raises:
        ModelError: UNSAFE_PICKLE where one is a pickle, INVALID_GRAPH, UNSUPPORTED_DTYPE.
    """
    listed = entry(read_json(archive, config), "config", dict)
    return {name: _stored(archive, name, payload, folder) for name, payload in listed.items()}


def _stored(archive: Archive, name: str, payload: Any, folder: str) -> Stored:
    if entry(payload, "use_pickle", bool):
        raise ModelError(
            Code.UNSAFE_PICKLE,
            f"{name[:200]!r} is kept as a pickle, which can run any code when it is loaded, so it was not opened. "
            "Give the network plain tensors alone, no subclasses of them and no objects, and export it again.",
        )
    record = folder + text(payload, "path_name")
    if record not in archive.members:
        raise malformed(f"the record of {name[:100]!r} is missing")
    meta = entry(payload, "tensor_meta", dict)
    if entry(meta, "layout", int) != _STRIDED:
        raise ModelError(Code.UNSUPPORTED_DTYPE, f"Tensor {name[:200]!r} is sparse; convert it with .to_dense().")
    sizes, strides = (tuple(_number(item, name) for item in items(meta, key)) for key in ("sizes", "strides"))
    if len(sizes) != len(strides) or len(sizes) > _MAX_DIMENSIONS:
        raise malformed(f"the shape of {name[:100]!r} is none")
    dtype = DTYPES[dtype_of(meta, f"tensor {name!r}")]
    stored = Stored(TensorInfo(_name(name), sizes, dtype), record, strides, _number(meta.get("storage_offset"), name))
    available = archive.members[record].file_size
    if (stored.begin + stored.span) * dtype.itemsize > available:
        raise malformed(f"{name[:100]!r} lies beyond the {available} bytes of its record")
    return stored


def _number(item: Any, name: str) -> int:
    kind, value = union(item)
    if kind != "as_int" or type(value) is not int or not 0 <= value < 2**63:
        raise malformed(f"the shape of {name[:100]!r} is none")
    return value


def _name(name: str) -> str:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise malformed(f"the name {name[:100]!r} is not Unicode") from None
    return name


def read(archive: Archive, stored: Stored) -> NDArray[Any]:
    """A fresh C-contiguous array of a tensor.

    Raises:
        ModelError: the record is damaged.
    """
    dtype, shape = stored.info.dtype, stored.info.shape
    raw = np.empty(stored.span * dtype.itemsize, np.uint8)
    member = archive.members[stored.record]
    if raw.nbytes != member.file_size:
        archive.verify(stored.record)
    _fill(archive, stored, raw)
    if raw.nbytes == member.file_size and zlib.crc32(raw.data) != member.CRC:
        raise ModelError(
            Code.INVALID_ARCHIVE, f"The record of {stored.info.name!r} does not match its checksum; upload it again."
        )
    if dtype == np.bool_ and raw.size and raw.max() > 1:
        raise malformed(f"the boolean tensor {stored.info.name!r} holds other bytes than 0 and 1")
    if stored.info.size == 0:
        return np.zeros(shape, dtype)
    flat = raw.view(dtype)
    if flat.size == prod(shape) and stored.strides == _contiguous(shape):
        return flat.reshape(shape)
    steps = tuple(stride * dtype.itemsize for stride in stored.strides)
    return np.array(np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False), order="C")


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of an array in row-major order."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))


def _fill(archive: Archive, stored: Stored, raw: NDArray[np.uint8]) -> None:
    """The bytes from a tensor's first element to its last, which lie in the archive as they are."""
    position = archive.offset(stored.record) + stored.begin * stored.info.dtype.itemsize
    fd = os.open(archive.path, os.O_RDONLY)
    try:
        buffer = raw.data
        while buffer:
            count = os.preadv(fd, [buffer[:_MAX_READ]], position)
            if count == 0:
                raise ModelError(Code.TRUNCATED_FILE, "The file ends in the middle of a tensor; upload it again.")
            buffer, position = buffer[count:], position + count
    finally:
        os.close(fd)
