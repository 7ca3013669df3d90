"""One tensor's representation as bytes, and back."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.artifact.layout import DTYPE_ORDER
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
from squeezer.model import DTYPE_NAMES, DTYPES, is_float
from squeezer.representations import Dense, Masked, Representation, Shared, Uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_CODEBOOK = 1 << 16
_UINT8 = np.dtype(np.uint8)
_UINT16 = np.dtype(np.uint16)


def write_tensor(out: ByteWriter, tensor: Representation, coder: str, level: str) -> str:
    """Append a representation; returns the name of the codec of its weights."""
    match tensor:
        case Dense():
            _write_dtype(out, tensor.values.dtype)
            return write_array(out, tensor.values, coder)
        case Masked():
            mask = write_integers(out, tensor.mask, coder, level)
            write_array(out, tensor.values[tensor.mask], coder)
            return mask
        case Shared():
            _write_dtype(out, tensor.codebook.dtype)
            out.varint(2 * tensor.codebook.size + tensor.sparse)
            out.put(np.ascontiguousarray(tensor.codebook).view(np.uint8), Category.CODEBOOKS)
            return write_integers(out, tensor.codes, coder, level)
        case Uniform():
            out.put(np.float32(tensor.step).tobytes(), Category.CODEBOOKS)
            _write_dtype(out, tensor.codes.dtype)
            return write_integers(out, tensor.codes, coder, level)
        case _:
            raise TypeError(f"no layout for {type(tensor).__name__}")


def read_tensor(data: ByteReader, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Representation:
    """Read what `write_tensor` wrote.

    Raises:
        CorruptStreamError: where the bytes are not what it writes.
    """
    count = prod(shape)
    match kind:
        case "dense":
            stored = _read_dtype(data)
            if stored != dtype and not (is_float(stored) and is_float(dtype)):
                raise CorruptStreamError(f"{dtype} tensors are not stored as {stored}")
            return Dense(read_array(data, count, stored).reshape(shape), dtype)
        case "masked":
            mask = read_integers(data, count, np.dtype(np.bool_))
            values = np.zeros(count, dtype)
            values[mask] = read_array(data, int(np.count_nonzero(mask)), dtype)
            return Masked(values.reshape(shape), mask.reshape(shape))
        case "shared":
            codebook, sparse = _read_codebook(data)
            codes = read_integers(data, count, _code_dtype(codebook, sparse))
            if codes.size and int(codes.max()) >= codebook.size + sparse:
                raise CorruptStreamError("a code that its codebook does not have")
            return Shared(codebook, codes.reshape(shape), sparse, dtype)
        case _:
            step, width = _read_grid(data)
            return Uniform(step, read_integers(data, count, width).reshape(shape), dtype)


def read_weights(data: ByteReader, kind: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The weights themselves, equal to `read_tensor(...).decode()`, without going through codes where that is slower.

    Raises:
        CorruptStreamError: where the bytes are not what `write_tensor` writes.
    """
    count = prod(shape)
    if kind == "shared":
        codebook, sparse = _read_codebook(data)
        table = Shared(codebook, np.empty(0, _UINT8), sparse, dtype).table()
        return read_integers(data, count, _code_dtype(codebook, sparse), Codebook(table)).reshape(shape)
    if kind == "uniform":
        step, width = _read_grid(data)
        return read_integers(data, count, width, _Grid(step, width, dtype)).reshape(shape)
    return read_tensor(data, kind, shape, dtype).decode()


@dataclass(frozen=True)
class _Grid:
    """Integer i means i steps."""

    step: np.float32
    levels: np.dtype[Any]
    dtype: np.dtype[Any]

    def of_range(self, low: int, count: int) -> NDArray[Any]:
        return self.of(Itself(self.levels).of_range(low, count))

    def of(self, integers: NDArray[Any]) -> NDArray[Any]:
        return Uniform(self.step, integers, self.dtype).decode()


def _write_dtype(out: ByteWriter, dtype: np.dtype[Any]) -> None:
    out.put(bytes([DTYPE_ORDER.index(DTYPE_NAMES[dtype])]), Category.HEADER)


def _read_dtype(data: ByteReader) -> np.dtype[Any]:
    number = data.byte()
    if number >= len(DTYPE_ORDER):
        raise CorruptStreamError("an element type that this version does not know")
    return DTYPES[DTYPE_ORDER[number]]


def _read_codebook(data: ByteReader) -> tuple[NDArray[Any], bool]:
    dtype = _read_dtype(data)
    if not is_float(dtype):
        raise CorruptStreamError(f"a codebook of {dtype}")
    size, sparse = divmod(data.varint(limit=2 * _MAX_CODEBOOK), 2)
    return np.frombuffer(data.take(size * dtype.itemsize, Category.CODEBOOKS), dtype), bool(sparse)


def _code_dtype(codebook: NDArray[Any], sparse: bool) -> np.dtype[Any]:
    return _UINT8 if codebook.size + sparse <= 256 else _UINT16


def _read_grid(data: ByteReader) -> tuple[np.float32, np.dtype[Any]]:
    step = np.frombuffer(data.take(4, Category.CODEBOOKS), "<f4")[0]
    dtype = _read_dtype(data)
    if dtype.kind != "i" or dtype.itemsize > 4:
        raise CorruptStreamError("levels that are not small integers")
    return step, dtype
