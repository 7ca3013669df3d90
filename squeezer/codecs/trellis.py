"""Dependent (trellis-coded) scalar quantisation with 8 states: which weight an integer code stands for.

There are two quantisers on one grid of spacing `step`: Q0 has the even multiples of the step, Q1 the odd ones and zero.
Code k stands for the level 2 k in Q0 and 2 k - sign(k) in Q1, and which of the two holds for an element follows
from the parities of the codes before it. So a level costs about as much as one of a grid twice as coarse, and the
sequences of levels that can occur still lie nearly as densely as spheres can be packed (Marcellin & Fischer, "Trellis
coded quantization", IEEE Trans. Communications 1990; for video Schwarz et al., DCC 2019; for networks Haase et al.,
"Dependent scalar quantization for neural network compression", ICIP 2020).

The machine is that of ISO/IEC 15938-17 with its states renumbered, so that a state is the last three bits of a
recursion modulo 2. With p(n) the parity of code n, and bits before the first one 0,

    b(n) = p(n) + b(n-1) + b(n-2) + b(n-3)          the state before element n is 4 b(n-3) + 2 b(n-2) + b(n-1)
    q(n) = b(n-2)                                   element n is quantised by Q0 where q(n) is 0, by Q1 where it is 1

1 + x + x^2 + x^3 divides 1 + x^4 modulo 2, with the quotient 1 + x, so that also b(n) = b(n-4) + p(n) + p(n-1): four
chains of one addition each, which is what makes decoding fast. Note that q(n) does not depend on code n-1.

The machine begins anew, with state 0, at every element whose number in the flattened tensor is a multiple of `BLOCK`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.compiled import kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The machine is in state 0 before every element whose number is a multiple of this.
BLOCK = 1024
STATES = 8
#: The state after an element, by the state before it and the parity of its code. The state's middle bit is q.
NEXT = np.array([[0, 1], [3, 2], [5, 4], [6, 7], [1, 0], [2, 3], [4, 5], [7, 6]], np.uint8)


def following(low: int) -> NDArray[np.uint8]:
    """The state after an element, as `NEXT`, by the parity of its code less `low`; shape (STATES, 2)."""
    return NEXT[:, ::-1] if low % 2 else NEXT


def quantisers(codes: NDArray[np.signedinteger[Any]]) -> NDArray[np.uint8]:
    """q of every code: 0 where Q0 holds, 1 where Q1 does; shape (n,), as `codes`, which begin at a block's start."""
    out = np.empty(codes.size, np.uint8)
    _quantisers(codes, out)
    return out


@kernel()
def reconstruct(codes: NDArray[np.signedinteger[Any]], step: np.float32, out: NDArray[np.float32]) -> None:
    """Fill `out` with the weights of the codes, both (n,); the first code is the first of a block.

    The level is exact; it is rounded to float32, and its product with the step is rounded once more.
    """
    q = np.empty(BLOCK, np.uint8)
    for start in range(0, codes.size, BLOCK):
        block, weights = codes[start : start + BLOCK], out[start : start + BLOCK]
        _walk(block, q)
        for i in range(block.size):
            sign = np.int32(block[i] > 0) - np.int32(block[i] < 0)
            # Twice a 32-bit code is exact in a double.
            weights[i] = np.float32(2 * np.float64(block[i]) - np.float64(np.int32(q[i]) * sign)) * step


@kernel()
def _quantisers(codes: NDArray[np.signedinteger[Any]], out: NDArray[np.uint8]) -> None:
    for start in range(0, codes.size, BLOCK):
        _walk(codes[start : start + BLOCK], out[start : start + BLOCK])


@kernel(inline="always")
def _walk(block, out):  # type: ignore[no-untyped-def] # compiled by numba
    """q of the codes of one block into the beginning of `out`."""
    a, b, c, d, before = np.uint8(0), np.uint8(0), np.uint8(0), np.uint8(0), np.uint8(0)
    for i in range(block.size):
        parity = np.uint8(block[i] & 1)
        out[i] = c
        a, b, c, d, before = b, c, d, np.uint8(a ^ before ^ parity), parity
