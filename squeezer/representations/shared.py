"""Weight sharing: every weight is one of a few shared values (Han, Mao, Dally, ICLR 2016, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from squeezer.representations.base import Record, Role, entropy_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray


_PIECE = 1 << 16


@dataclass(frozen=True, eq=False)
class Shared:
    """Indices into a codebook.

    `codes` (uint8 or uint16) has the tensor's shape. In a dense tensor code c stands for `codebook[c]`; where
    `sparse` is true, code 0 stands for a pruned weight and code c > 0 for `codebook[c - 1]`, so that zeros
    cost no entry. `codebook` is one-dimensional, in the precision in which it is stored.
    """

    codebook: NDArray[Any]
    codes: NDArray[Any]
    sparse: bool
    dtype: np.dtype[Any]
    kind: ClassVar[str] = "shared"

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return self.codes.shape

    def table(self) -> NDArray[Any]:
        """The value of every code, as `dtype`."""
        values = self.codebook.astype(self.dtype)
        return np.concatenate([np.zeros(1, self.dtype), values]) if self.sparse else values

    def decode(self) -> NDArray[Any]:
        """The look-up of every code."""
        table, codes = self.table(), self.codes.reshape(-1)
        weights = np.empty(codes.size, self.dtype)
        # In pieces, since numpy widens indices to eight bytes before it uses them.
        for start in range(0, codes.size, _PIECE):
            weights[start : start + _PIECE] = table.take(codes[start : start + _PIECE])
        return weights.reshape(self.shape)

    def piece(self, start: int, stop: int) -> Self:
        """The representation of some elements of the flattened tensor."""
        return replace(self, codes=self.codes.reshape(-1)[start:stop])

    def records(self) -> tuple[Record, ...]:
        """Two records: the codebook and the codes."""
        return (Record(Role.CODEBOOK, self.codebook), Record(Role.CODES, self.codes))

    def cost_bits(self) -> float:
        """The codebook uncoded and the entropy of the codes."""
        return 8.0 * self.codebook.nbytes + entropy_bits(self.codes)
