"""A pruned tensor: some weights are zero for good, the others are kept as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from squeezer.representations.base import Record, Role, entropy_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Masked:
    """`values` where `mask` is true, zero elsewhere. Both have the tensor's shape."""

    values: NDArray[Any]
    mask: NDArray[np.bool_]
    kind: ClassVar[str] = "masked"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values."""
        return self.values.dtype

    def decode(self) -> NDArray[Any]:
        """The values with the pruned ones set to (positive) zero."""
        return np.where(self.mask, self.values, np.zeros((), self.dtype))

    def piece(self, start: int, stop: int) -> Self:
        """The representation of some elements of the flattened tensor."""
        return replace(self, values=self.values.reshape(-1)[start:stop], mask=self.mask.reshape(-1)[start:stop])

    def records(self) -> tuple[Record, ...]:
        """Two records: the mask, and the kept values in row-major order."""
        return (Record(Role.MASK, self.mask), Record(Role.VALUES, self.values[self.mask]))

    def cost_bits(self) -> float:
        """The mask's entropy and the kept values uncoded."""
        kept = int(np.count_nonzero(self.mask))
        return entropy_bits(self.mask.view(np.uint8)) + 8.0 * self.dtype.itemsize * kept
