"""What is being compressed: named tensors, read one at a time, and what came along with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from squeezer.graph import Graph

#: The element types that a tensor may have, by the names that safetensors gives them.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
DTYPE_NAMES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}
_FLOATS = {DTYPES[name] for name in ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")}


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether elements of that type are real floating-point numbers."""
    return dtype in _FLOATS


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, shape and element type."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size(self) -> int:
        """The number of elements; 1 for a scalar."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The uncompressed size in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Whether the elements are real floating-point numbers."""
        return is_float(self.dtype)


@dataclass(frozen=True)
class Dropped:
    """Something in the upload that is not a model tensor and does not come back."""

    name: str
    reason: str


class Model(Protocol):
    """An opened upload. Reading is lazy: at most one tensor needs to be in memory."""

    @property
    def format(self) -> str:
        """What the file turned out to be: "safetensors", "pytorch", "huggingface"..."""
        ...

    @property
    def input_bytes(self) -> int:
        """The size of the upload."""
        ...

    @property
    def tensors(self) -> Sequence[TensorInfo]:
        """All tensors that are stored, in the file's order, without aliases."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names of stored tensors (tied weights): alias to stored name."""
        ...

    @property
    def dropped(self) -> Sequence[Dropped]:
        """What the upload held beside the model's tensors: optimizer state, counters of epochs..."""
        ...

    @property
    def files(self) -> Mapping[str, int]:
        """Files that came with the model (a Hugging Face folder's configuration): relative path to size."""
        ...

    @property
    def graph(self) -> Graph | None:
        """The network itself, where the upload says what it does with its tensors (.pt2)."""
        ...

    def read(self, name: str) -> NDArray[Any]:
        """The tensor of that stored name, a fresh C-contiguous array of its shape and dtype."""
        ...

    def read_file(self, path: str) -> bytes:
        """The content of one of `files`."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


@dataclass
class InMemoryModel:
    """A model whose tensors are already arrays: a state dict, or a test's."""

    arrays: dict[str, NDArray[Any]]
    format: str = "memory"
    input_bytes: int = 0
    aliases: dict[str, str] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    contents: dict[str, bytes] = field(default_factory=dict)
    graph: Graph | None = None

    @property
    def tensors(self) -> list[TensorInfo]:
        """All stored tensors."""
        return [TensorInfo(name, array.shape, array.dtype) for name, array in self.arrays.items()]

    @property
    def files(self) -> dict[str, int]:
        """Files beside the tensors."""
        return {path: len(content) for path, content in self.contents.items()}

    def read(self, name: str) -> NDArray[Any]:
        """A copy of the tensor of that name."""
        return np.array(self.arrays[name], order="C")

    def read_file(self, path: str) -> bytes:
        """The content of one of `files`."""
        return self.contents[path]

    def close(self) -> None:
        """Nothing to release."""


def tensor_bytes(model: Model) -> int:
    """Bytes of all tensors that come back, as uploaded: the numerator of every ratio.

    A tied tensor counts once: its second name is an alias, which no format stores twice.
    """
    return sum(info.nbytes for info in model.tensors)
