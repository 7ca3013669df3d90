"""Trellis codes with the error feedback that the inputs call for. Importing this module loads numba.

With errors e in the weights of an output, the output is off by e . x, and the mean square of that is e' H e with the
second moments of the inputs, H = E[x x']. Weights are gone through in the order in which they are stored. With

    H = M D M',       M upper triangular with ones on its diagonal, D diagonal

e' H e is the sum over all weights j of D_j * (e_j + sum over k < j of M_kj e_k)**2, so that each weight is first moved
by the second term, to where later weights can leave no error of it (Frantar et al., "GPTQ", ICLR 2023; Babai 1986),
and D_j is what the rest counts. Every survivor of the trellis has errors of its own, and is moved by these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.methods.quantization.feedback_kernels import search

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Feedback:
    """What moves the weights of a row.

    Args:
        moments: H of every group of inputs, (groups, row, row), symmetric.
        damping: added to the diagonal, as a share of its mean.
    """

    def __init__(self, moments: NDArray[np.float64], damping: float) -> None:
        self._shares, self._metric = (
            np.stack(parts) for parts in zip(*(shares_of(h, damping) for h in moments), strict=True)
        )

    def codes(
        self, weights: NDArray[np.float32], mask: NDArray[np.uint8], spacing: np.float32, most: int
    ) -> NDArray[np.int32]:
        """The codes of finite weights of shape (rows, row).

        Args:
            weights: rows are in the order of the groups, as many of each.
            mask: of that shape too, or empty; where it is 0 the code is 0, and what that leaves is made good.
            spacing: of the grid.
            most: the largest code allowed.
        """
        codes = np.empty(weights.shape, np.int32)
        inner = (weights.astype(np.float64) / float(spacing)).astype(np.float32)
        search(inner, mask, self._shares, self._metric, most, codes)
        return codes


def shares_of(moments: NDArray[np.float64], damping: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """M with zeros on and below its diagonal, (row, row), and the diagonal of D over its mean, (row,)."""
    size = len(moments)
    mean = float(np.trace(moments)) / size
    if not mean > 0:  # inputs that are always zero: errors do not matter
        return np.zeros((size, size), np.float32), np.ones(size, np.float32)
    # Cholesky's factor is lower triangular; turned round at both ends, it is an upper one of the matrix itself.
    damped = moments / mean + damping * np.eye(size)
    root = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    diagonal = root.diagonal()
    metric = np.square(diagonal)
    return np.triu(root / diagonal, 1).astype(np.float32), (metric / metric.mean()).astype(np.float32)
