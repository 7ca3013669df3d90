"""The interface of a representation, and what its records are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Role(StrEnum):
    """What the numbers of a record mean; the coder chooses by it."""

    VALUES = "values"  # floating-point (or any) numbers, kept bit for bit
    CODES = "codes"  # small integers: indices into a codebook, or levels of a uniform grid
    CODEBOOK = "codebook"  # the few floating-point numbers that codes refer to
    MASK = "mask"  # which weights are kept


@dataclass(frozen=True)
class Record:
    """One array that must be written to bring a representation back."""

    role: Role
    array: NDArray[Any]


class Representation(Protocol):
    """What is stored for one tensor of shape `shape`; `decode` gives an array of type `dtype`. A dataclass."""

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the tensor that `decode` returns."""
        ...

    def decode(self) -> NDArray[Any]:
        """The weights that this stands for: a writable array of `shape` and `dtype`."""
        ...

    def piece(self, start: int, stop: int) -> Self:
        """What is stored for the elements start .. stop - 1 of the flattened tensor, which share its memory."""
        ...

    def records(self) -> tuple[Record, ...]:
        """The arrays to be written, in a fixed order."""
        ...

    def cost_bits(self) -> float:
        """About how many bits the records take, entropy-coded (order-0 entropy)."""
        ...


def digest(representation: Representation) -> str:
    """SHA-256 over kind, shape, type, every setting and all records, as hexadecimal digits.

    Two representations with equal digests decode to the same tensor, bit for bit.
    """
    values = {field.name: getattr(representation, field.name) for field in fields(representation)}
    settings = {name: str(value) for name, value in values.items() if not isinstance(value, np.ndarray)}
    shape, dtype = representation.shape, representation.dtype.name
    state = hashlib.sha256(f"{representation.kind} {shape} {dtype} {settings}".encode())
    for record in representation.records():
        array = np.ascontiguousarray(record.array)
        state.update(f"|{record.role} {array.dtype.name} {array.shape}|".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.hexdigest()


def entropy_bits(symbols: NDArray[Any]) -> float:
    """Order-0 entropy of all symbols together, in bits: n H, with H = -sum p log2 p (Shannon 1948)."""
    if symbols.size == 0:
        return 0.0
    low = int(symbols.min())
    if int(symbols.max()) - low < 1 << 20:
        counts = np.bincount(symbols.reshape(-1).astype(np.int64) - low)
        counts = counts[counts > 0]
    else:
        counts = np.unique(symbols, return_counts=True)[1]
    shares = counts / symbols.size
    return float(-(counts * np.log2(shares)).sum())
