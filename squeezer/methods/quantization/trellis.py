"""The search for the codes of a trellis quantiser. Importing this module loads numba.

Which quantiser holds for a weight depends on the codes before it (`squeezer.codecs.trellis`), so that codes are not
chosen one by one: of all sequences the Viterbi algorithm finds the one with the least sum of

    metric * (x - level)**2 + price of the code,        x the weight, in units of the grid

(Forney, "The Viterbi algorithm", Proc. IEEE 1973; for this quantiser Haase et al., ICIP 2020). For every state it keeps
a *survivor*, the best sequence so far that leads there. A weight extends each by two codes, the cheapest even and the
cheapest odd one, and of the two extensions that arrive in a state the cheaper survives. With error feedback
(`shaping`) x is not the weight but the place that the errors before it call for. It differs from survivor to survivor,
and so each carries its own errors with it (predictive trellis-coded quantisation: Marcellin & Fischer, IEEE Trans.
Communications 1990).

Code lengths are those of an entropy coder that knows which quantiser holds: -log2 of the share of a code among the
codes of its quantiser, where a code and its negative have the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from squeezer.codecs.trellis import quantisers
from squeezer.methods.quantization.rate import MOST_PRICED, sample, settled
from squeezer.methods.quantization.trellis_kernels import NEVER, search

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.methods.quantization.shaping import Shaping

#: The largest code that the search can choose.
LIMIT = 1 << 29
#: float32 holds all integers up to this one, and up to `LIMIT` all multiples of `_COARSE`.
_EXACT, _COARSE = 1 << 24, 1 << 7


class Search:
    """Settings and tables of one tensor's search.

    Args:
        spacing: of the grid.
        most: the largest code allowed, from 0 to `LIMIT`.
        price: of a bit, in squares of the spacing; 0 or more.
        shaping: the error feedback; None for none.
    """

    def __init__(self, spacing: np.float32, most: int, price: float, shaping: Shaping | None) -> None:
        self._spacing, self._most = float(spacing), most
        self._price = price if most <= MOST_PRICED else 0.0
        self._feedback = _no_feedback() if shaping is None else _feedback(shaping)

    def __call__(self, weights: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.int32]:
        """The codes of finite weights of shape (rows, row), in the same shape.

        `mask` has that shape too, or is empty; where it is 0 the code is 0 and the error none.
        """
        prices = self._prices(*sample(weights, mask)) if self._price else None
        return self._find(weights, mask, prices)[0]

    def _prices(self, weights: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The price of every magnitude of a code in either quantiser, (2, most + 1)."""

        def attempt(prices: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
            codes, total = self._find(weights, mask, prices)
            lengths = _code_lengths(codes, self._most)
            return lengths, total + _sum_of(self._price * lengths - prices, codes, mask)

        return settled(attempt, np.zeros((2, self._most + 1)), self._price)

    def _find(
        self, weights: NDArray[np.float32], mask: NDArray[np.uint8], prices: NDArray[np.float64] | None
    ) -> tuple[NDArray[np.int32], float]:
        """The codes, and the sum that they minimise."""
        codes = np.empty(weights.shape, np.int32)
        flat, kept = weights.reshape(-1), mask.reshape(-1)
        priced = None if prices is None else prices.astype(np.float32)
        limits = _limits(self._most)
        total = search(flat, kept, self._spacing, limits, priced, *self._feedback, codes.reshape(-1))
        return codes, float(total)


def _no_feedback() -> tuple[NDArray[np.float32], ...]:
    """Rows of one weight, whose error matters to no other."""
    return np.zeros((1, 0), np.float32), np.zeros((1, 0), np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)


def _feedback(shaping: Shaping) -> tuple[NDArray[np.float32], ...]:
    """`own` and `rest` with errors by their age, (taps, taps - 1): column a - 1 is for the one a taps before, if any.

    And gain and metric of every place in a row, (row,).
    """
    taps = len(shaping.own)
    own, rest = np.zeros((2, taps, taps - 1), np.float32)
    for tap in range(taps):
        own[tap, :tap] = shaping.own[tap, :tap][::-1]
        rest[tap, :tap] = shaping.rest[tap, :tap][::-1]
    gain, metric = (np.ascontiguousarray(table, np.float32).reshape(-1) for table in (shaping.gain, shaping.metric))
    return own, rest, gain, metric


def _limits(most: int) -> tuple[np.float32, ...]:
    """The largest halves, rounded down, of even and odd codes; what either kind costs: a lot if there is none."""
    if most > _EXACT:
        even = most // _COARSE * (_COARSE // 2)
        odd = even - _COARSE // 2
    else:
        even, odd = max(most // 2, 1), max(most - 1, 0) // 2
    return np.float32(even), np.float32(odd), np.float32(0) if most > 1 else NEVER, np.float32(0) if most > 0 else NEVER


def _code_lengths(codes: NDArray[np.int32], most: int) -> NDArray[np.float64]:
    """-log2 of the share that each sign of every magnitude has in its quantiser's codes, (2, most + 1).

    Half a count is added to each code, so that one that no weight has is dear, not impossible.
    """
    flat = codes.reshape(-1)
    q = quantisers(flat)
    counts = np.stack([np.bincount(np.abs(flat[q == i]), minlength=most + 1) for i in range(2)]).astype(np.float64)
    counts[:, 1:] /= 2
    counts += 0.5
    totals = counts[:, :1] + 2 * counts[:, 1:].sum(axis=1, keepdims=True)
    lengths: NDArray[np.float64] = -np.log2(counts / totals)
    return lengths


def _sum_of(table: NDArray[np.float64], codes: NDArray[np.int32], mask: NDArray[np.uint8]) -> float:
    """The sum over the codes of all kept weights of a table (2, magnitudes)."""
    flat = codes.reshape(-1)
    found = table[quantisers(flat), np.abs(flat)]
    return float(found.sum() if mask.size == 0 else found[mask.reshape(-1) != 0].sum())
