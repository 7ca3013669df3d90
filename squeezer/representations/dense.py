"""Every number as it is, or rounded to a narrower floating-point type."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from squeezer.representations.base import Record, Role

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Dense:
    """All values, stored in `values.dtype` and given back as `dtype` (float16 for a float32 tensor, say)."""

    values: NDArray[Any]
    dtype: np.dtype[Any]
    kind: ClassVar[str] = "dense"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.values.shape

    def decode(self) -> NDArray[Any]:
        """The values, cast to `dtype`."""
        return self.values.astype(self.dtype)

    def piece(self, start: int, stop: int) -> Self:
        """The representation of some elements of the flattened tensor."""
        return replace(self, values=self.values.reshape(-1)[start:stop])

    def records(self) -> tuple[Record, ...]:
        """One record: the values."""
        return (Record(Role.VALUES, self.values),)

    def cost_bits(self) -> float:
        """The uncoded size; what a lossless coder saves on floating-point noise is little."""
        return 8.0 * self.values.nbytes
