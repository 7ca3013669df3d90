"""Trellis-coded weights: levels of two interleaved grids, which the codes before a weight choose between.

Importing `squeezer.codecs.trellis` loads numba, so that it is imported where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from squeezer.representations.base import Record, Role, entropy_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Trellis:
    """Codes of `squeezer.codecs.trellis`, in whose grid neighbours are one `step` apart.

    `codes` (int8, int16 or int32, the narrowest that holds them) has the tensor's shape.
    """

    step: np.float32
    codes: NDArray[Any]
    dtype: np.dtype[Any]
    kind: ClassVar[str] = "trellis"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.codes.shape

    def decode(self) -> NDArray[Any]:
        """The levels times the step, taken in float32 and cast to `dtype`."""
        from squeezer.codecs.trellis import reconstruct

        weights = np.empty(self.codes.size, np.float32)
        reconstruct(self._flat(), self.step, weights)
        return weights.reshape(self.shape).astype(self.dtype, copy=False)

    def piece(self, start: int, stop: int) -> Self:
        """The representation of some elements of the flattened tensor; `start` is a multiple of `BLOCK`."""
        from squeezer.codecs.trellis import BLOCK

        if start % BLOCK:
            raise ValueError(f"a piece of trellis codes that begins at {start}, which is no multiple of {BLOCK}")
        return replace(self, codes=self.codes.reshape(-1)[start:stop])

    def records(self) -> tuple[Record, ...]:
        """Two records: the step, as a codebook of one, and the codes."""
        return (Record(Role.CODEBOOK, np.array([self.step], np.float32)), Record(Role.CODES, self.codes))

    def cost_bits(self) -> float:
        """The step, and the entropy of the codes where it is known which grid each is of."""
        from squeezer.codecs.trellis import quantisers

        codes = self._flat()
        q = quantisers(codes)
        return 32.0 + entropy_bits(codes[q == 0]) + entropy_bits(codes[q == 1])

    def _flat(self) -> NDArray[Any]:
        return np.ascontiguousarray(self.codes).reshape(-1)
