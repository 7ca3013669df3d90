"""The bytes as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from squeezer.codecs.base import ByteReader, ByteWriter, Category, as_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.codecs.base import Level


@dataclass(frozen=True)
class _RawPlan:
    array: NDArray[Any]

    @property
    def size(self) -> int:
        return self.array.nbytes

    def write(self, out: ByteWriter) -> None:
        out.put(as_bits(self.array), Category.VALUES)


class Raw:
    """Little-endian numbers, uncoded: for anything that nothing else makes smaller."""

    number: ClassVar[int] = 0
    name: ClassVar[str] = "raw"

    def plan(self, array: NDArray[Any], level: Level) -> _RawPlan:
        """Every array can be written."""
        del level
        return _RawPlan(array)

    def read(self, data: ByteReader, out: NDArray[Any]) -> None:
        """Fill `out` with the numbers."""
        bits = as_bits(out)
        bits[:] = np.frombuffer(data.take(out.nbytes, Category.VALUES), bits.dtype)
