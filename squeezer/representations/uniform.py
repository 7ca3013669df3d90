"""A uniform grid: every weight is a whole multiple of one step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from squeezer.representations.base import Record, Role, entropy_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Uniform:
    """`step * codes`. `codes` (int8, int16 or int32, the narrowest that holds them) has the tensor's shape."""

    step: np.float32
    codes: NDArray[Any]
    dtype: np.dtype[Any]
    kind: ClassVar[str] = "uniform"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.codes.shape

    def decode(self) -> NDArray[Any]:
        """The products, taken in float32 and cast to `dtype`."""
        # The product of a scalar tensor would be no array.
        weights = np.asarray(self.codes.astype(np.float32) * self.step)
        return weights.astype(self.dtype, copy=False)

    def piece(self, start: int, stop: int) -> Self:
        """The representation of some elements of the flattened tensor."""
        return replace(self, codes=self.codes.reshape(-1)[start:stop])

    def records(self) -> tuple[Record, ...]:
        """Two records: the step, as a codebook of one, and the codes."""
        return (Record(Role.CODEBOOK, np.array([self.step], np.float32)), Record(Role.CODES, self.codes))

    def cost_bits(self) -> float:
        """The step and the entropy of the codes."""
        return 32.0 + entropy_bits(self.codes)
