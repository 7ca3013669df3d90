"""One tensor's representation as bytes, and back: a head, and then the elements in chunks, each coded by itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from squeezer.codecs import (
    ByteReader,
    ByteWriter,
    Category,
    Codebook,
    CorruptStreamError,
    Itself,
    read_array,
    read_integers,
    write_array,
    write_integers,
)
from squeezer.codecs.trellis import reconstruct
from squeezer.model import is_float
from squeezer.representations import Dense, Masked, Representation, Shared, Trellis, Uniform

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from squeezer.artifact.layout import Entry
    from squeezer.codecs import Meaning

_T = TypeVar("_T")
#: Elements that are coded together, so that threads can work on several parts of one tensor.
CHUNK = 1 << 20
_MAX_CODEBOOK = 1 << 16
_UINT8 = np.dtype(np.uint8)
_UINT16 = np.dtype(np.uint16)


# -- writing ---------------------------------------------------------------------------------------------------


def stored_dtype(tensor: Representation) -> np.dtype[Any]:
    """The element type that the payload is written in: of the values, of the codebook, or of a grid's codes."""
    match tensor:
        case Dense() | Masked():
            return tensor.values.dtype
        case Shared():
            return tensor.codebook.dtype
        case Uniform() | Trellis():
            return tensor.codes.dtype
        case _:
            raise TypeError(f"no layout for {type(tensor).__name__}")


def write_head(out: ByteWriter, tensor: Representation) -> None:
    """Append what all chunks have in common."""
    match tensor:
        case Shared():
            out.varint(2 * tensor.codebook.size + tensor.sparse)
            out.put(np.ascontiguousarray(tensor.codebook).view(np.uint8), Category.CODEBOOKS)
        case Uniform() | Trellis():
            out.put(np.float32(tensor.step).tobytes(), Category.CODEBOOKS)


def chunks_of(tensor: Representation) -> list[Representation]:
    """The parts of a tensor that are coded by themselves; none, where it has no elements."""
    count = prod(tensor.shape)
    return [tensor.piece(start, start + CHUNK) for start in range(0, count, CHUNK)]


def write_chunk(out: ByteWriter, chunk: Representation, coder: str, level: str) -> str:
    """Append one of `chunks_of`; returns the name of the codec of its weights."""
    match chunk:
        case Dense():
            return write_array(out, chunk.values, coder, level)
        case Masked():
            return _write_masked(out, chunk, coder, level)
        case Shared() | Uniform():
            return write_integers(out, chunk.codes, coder, level)
        case Trellis():
            return write_integers(out, chunk.codes, coder, level, trellis=True)
        case _:
            raise TypeError(f"no layout for {type(chunk).__name__}")


def _write_masked(out: ByteWriter, chunk: Masked, coder: str, level: str) -> str:
    mask = ByteWriter()
    name = write_integers(mask, chunk.mask, coder, level)
    written = mask.getvalue()
    out.varint(len(written))
    out.parts.append(written)
    out.tally.update(mask.tally)
    kept = chunk.values[chunk.mask]
    if kept.size:
        write_array(out, kept, coder, level)
    return name


# -- reading ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decoding(Generic[_T]):
    """A tensor whose chunks are decoded by tasks: in any order, and side by side.

    Each task returns the ledger of its bytes, or raises CorruptStreamError. When all have run, `result` gives the
    tensor. `tally` is the ledger of the bytes before the chunks.
    """

    tasks: list[Callable[[], Counter[str]]]
    result: Callable[[], _T]
    tally: Counter[str]


def decode_tensor(data: ByteReader, entry: Entry) -> Decoding[Representation]:
    """Read a payload as what is stored.

    Raises:
        CorruptStreamError: where the bytes are not what an encoder writes.
    """
    match entry.kind:
        case "dense":
            return _decode_dense(data, entry)
        case "masked":
            return _decode_masked(data, entry)
        case "shared":
            return _decode_shared(data, entry)
        case "trellis":
            return _decode_grid(data, entry, Trellis)
        case _:
            return _decode_grid(data, entry, Uniform)


def decode_weights(data: ByteReader, entry: Entry) -> Decoding[NDArray[Any]]:
    """Read a payload as weights, equal to `decode_tensor(...)`'s, without going through codes where that is slower.

    Raises:
        CorruptStreamError: where the bytes are not what an encoder writes.
    """
    fill: Callable[[ByteReader, NDArray[Any]], None]
    match entry.kind:
        case "dense":
            fill = partial(_fill_dense, _dense_dtype(entry))
        case "masked":
            _masked_dtype(entry)
            fill = _fill_masked
        case "shared":
            codebook, sparse = _read_codebook(data, entry)
            meaning = Codebook(Shared(codebook, np.empty(0, _UINT8), sparse, entry.dtype).table())
            fill = partial(_fill_meant, _code_dtype(codebook, sparse), meaning)
        case "trellis":
            fill = partial(_fill_trellis, _levels_dtype(entry), _read_step(data))
        case _:
            levels = _levels_dtype(entry)
            fill = partial(_fill_meant, levels, _Grid(_read_step(data), levels, entry.dtype))
    return _decoding(data, entry, [entry.dtype], fill, lambda weights: weights)


def _fill_dense(stored: np.dtype[Any], part: ByteReader, out: NDArray[Any]) -> None:
    if stored == out.dtype:
        read_array(part, out)
        return
    values = np.empty(out.size, stored)
    read_array(part, values)
    out[:] = values


def _fill_masked(part: ByteReader, out: NDArray[Any]) -> None:
    _read_masked(part, np.empty(out.size, np.bool_), out)


def _fill_meant(dtype: np.dtype[Any], meaning: Meaning, part: ByteReader, out: NDArray[Any]) -> None:
    read_integers(part, out, dtype, meaning)


def _fill_trellis(levels: np.dtype[Any], step: np.float32, part: ByteReader, out: NDArray[Any]) -> None:
    codes = np.empty(out.size, levels)
    _read_codes(part, codes)
    weights = out if out.dtype == np.float32 else np.empty(out.size, np.float32)
    reconstruct(codes, step, weights)
    if weights is not out:
        out[:] = weights


def _decode_dense(data: ByteReader, entry: Entry) -> Decoding[Representation]:
    return _decoding(data, entry, [_dense_dtype(entry)], read_array, lambda values: Dense(values, entry.dtype))


def _decode_masked(data: ByteReader, entry: Entry) -> Decoding[Representation]:
    kinds = [np.dtype(np.bool_), _masked_dtype(entry)]
    return _decoding(data, entry, kinds, _read_masked, lambda mask, values: Masked(values, mask))


def _decode_shared(data: ByteReader, entry: Entry) -> Decoding[Representation]:
    codebook, sparse = _read_codebook(data, entry)
    dtype = _code_dtype(codebook, sparse)
    fill = partial(_fill_meant, dtype, Itself(dtype, codebook.size + sparse))
    return _decoding(data, entry, [dtype], fill, lambda codes: Shared(codebook, codes, sparse, entry.dtype))


def _decode_grid(data: ByteReader, entry: Entry, kind: type[Uniform | Trellis]) -> Decoding[Representation]:
    step = _read_step(data)
    return _decoding(data, entry, [_levels_dtype(entry)], _read_codes, lambda codes: kind(step, codes, entry.dtype))


def _decoding(
    data: ByteReader,
    entry: Entry,
    dtypes: list[np.dtype[Any]],
    fill: Callable[..., None],
    result: Callable[..., _T],
) -> Decoding[_T]:
    """Tasks that fill arrays of the tensor's shape chunk by chunk, and what is made of the arrays."""
    parts = _parts(data, entry.size)
    arrays = [np.empty(entry.size, dtype) for dtype in dtypes]

    def task(number: int, part: ByteReader) -> Counter[str]:
        fill(part, *(array[number * CHUNK : (number + 1) * CHUNK] for array in arrays))
        part.finish()
        return part.tally

    return Decoding(
        [partial(task, number, part) for number, part in enumerate(parts)],
        lambda: result(*(array.reshape(entry.shape) for array in arrays)),
        data.tally,
    )


def _parts(data: ByteReader, count: int) -> list[ByteReader]:
    """A reader for each chunk. Where there is one, it is all that is left; else each one's length stands before it."""
    chunks = -(-count // CHUNK)
    parts = []
    for _ in range(chunks):
        length = data.varint() if chunks > 1 else data.remaining
        parts.append(data.part(length, Counter()))
    data.finish()
    return parts


def _read_codes(part: ByteReader, codes: NDArray[Any]) -> None:
    read_integers(part, codes, codes.dtype)


def _read_masked(part: ByteReader, mask: NDArray[np.bool_], values: NDArray[Any]) -> None:
    coded = part.part(part.varint())
    _read_codes(coded, mask)
    coded.finish()
    kept = np.empty(int(np.count_nonzero(mask)), values.dtype)
    if kept.size:
        read_array(part, kept)
    values[:] = 0
    values[mask] = kept


@dataclass(frozen=True)
class _Grid:
    """Integer i means i steps."""

    step: np.float32
    levels: np.dtype[Any]
    dtype: np.dtype[Any]

    def check(self, low: int, count: int) -> None:
        Itself(self.levels).check(low, count)

    def of_range(self, low: int, count: int) -> NDArray[Any]:
        return self.of(Itself(self.levels).of_range(low, count))

    def of(self, integers: NDArray[Any]) -> NDArray[Any]:
        return Uniform(self.step, integers, self.dtype).decode()


def _dense_dtype(entry: Entry) -> np.dtype[Any]:
    if entry.stored != entry.dtype and not (is_float(entry.stored) and is_float(entry.dtype)):
        raise CorruptStreamError(f"{entry.dtype} tensors are not stored as {entry.stored}")
    return entry.stored


def _masked_dtype(entry: Entry) -> np.dtype[Any]:
    if entry.stored != entry.dtype:
        raise CorruptStreamError(f"{entry.dtype} tensors with a mask are not stored as {entry.stored}")
    return entry.stored


def _read_codebook(data: ByteReader, entry: Entry) -> tuple[NDArray[Any], bool]:
    # A NaN, cast to an integer, gives a number that depends on the machine.
    if not is_float(entry.stored) or not is_float(entry.dtype):
        raise CorruptStreamError(f"a codebook of {entry.stored} for weights of {entry.dtype}")
    size, sparse = divmod(data.varint(limit=2 * _MAX_CODEBOOK), 2)
    return np.frombuffer(data.take(size * entry.stored.itemsize, Category.CODEBOOKS), entry.stored), bool(sparse)


def _code_dtype(codebook: NDArray[Any], sparse: bool) -> np.dtype[Any]:
    return _UINT8 if codebook.size + sparse <= 256 else _UINT16


def _read_step(data: ByteReader) -> np.float32:
    step = np.float32(np.frombuffer(data.take(4, Category.CODEBOOKS), "<f4")[0])
    if not 0 < step < np.inf:
        raise CorruptStreamError(f"a step of {step}")
    return step


def _levels_dtype(entry: Entry) -> np.dtype[Any]:
    if entry.stored.kind != "i" or entry.stored.itemsize > 4 or not is_float(entry.dtype):
        raise CorruptStreamError(f"levels of {entry.stored} for weights of {entry.dtype}")
    return entry.stored
