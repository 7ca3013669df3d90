"""Error feedback: the rounding error of a weight is made good by the weights of its row that are rounded after it.

Rounding changes an output by the sum of errors times inputs, e . x, whose mean square is e' H e with H = E[x x'].
Without data H is unknown, but what inputs of layers have in common is not: behind a ReLU they have a positive
mean, and neighbouring pixels resemble each other. For I inputs and a kernel of T taps we take

    H = m 1 1' + (1 - m) I (x) S,        S(t, u) = r ** (sum of distances between the taps t and u)

with a share m of the mean in the mean square, and a correlation r of neighbouring pixels. Rounding goes along a row,
and each weight is first moved by what the errors so far call for: to where e' H e would be least if all later
weights could take any value (Frantar et al., "GPTQ", ICLR 2023, which has H from data; Hassibi & Stork 1993).

Read e as Gaussian with precision H. Then that place is the conditional mean of an error, given the errors before
it. Under (1 - m) I (x) S kernels are independent, so that a mean needs the errors of its own kernel alone; the term
m 1 1' is an observation "the sum of all errors is 0", of variance 1 / m. Conditioning on it takes the running sum and
one gain (the formula of the Kalman filter), so that a weight costs O(T) operations, and no matrix larger than T x T
occurs.
"""

from __future__ import annotations

from functools import cache
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The share of the squared mean in the mean square of an input, and the correlation of neighbouring pixels.
MEAN_SHARE = 0.5
CORRELATION = 0.6
#: Kernels of more taps are taken as so many inputs of one tap.
_MOST_TAPS = 128


class Shaping(NamedTuple):
    """What moves a weight of input i and tap t, where e are the errors of the taps before it in its kernel.

    It is own[t] . e - gain[i, t] * (sum of all errors of the row so far + rest[t] . e).
    """

    own: NDArray[np.float64]  # (taps, taps): the mean of a tap's error
    rest: NDArray[np.float64]  # (taps, taps): the mean of the sum of errors from this tap to the kernel's last
    gain: NDArray[np.float64]  # (inputs, taps)
    #: e' H e is the sum over all weights of metric * (what the weight's error is off that place)**2, but for a factor
    #: that makes the metric's mean 1.
    metric: NDArray[np.float64]  # (inputs, taps)

    @property
    def row(self) -> int:
        """How many weights a row has."""
        return self.gain.size


def shaping_of(shape: tuple[int, ...]) -> Shaping:
    """The feedback of a tensor of shape (outputs, inputs, *kernel), kernel of any number of axes."""
    inputs, kernel = shape[1], tuple(shape[2:])
    if prod(kernel) > _MOST_TAPS:
        inputs, kernel = inputs * prod(kernel), ()
    own, rest, deviation, spread = _of_kernel(kernel)
    later = np.arange(inputs - 1, -1, -1, dtype=np.float64)[:, None]  # kernels that follow
    gain = deviation.with_rest / (deviation.variance_of_rest + later * spread + 1 / MEAN_SHARE)
    metric = 1 / (deviation.variance - gain * deviation.with_rest)
    return Shaping(own, rest, gain, metric / metric.mean() if metric.size else metric)


class _Deviation(NamedTuple):
    """Second moments of what the errors before a tap leave open: (taps,) each."""

    variance: NDArray[np.float64]  # of the tap's error
    with_rest: NDArray[np.float64]  # its covariance with the sum from it to the last
    variance_of_rest: NDArray[np.float64]


@cache
def _of_kernel(kernel: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64], _Deviation, float]:
    """Means and deviations within one kernel, and the variance of its sum of errors."""
    taps = np.array(list(product(*map(range, kernel))), np.float64).reshape(prod(kernel), len(kernel))
    distances = np.abs(taps[:, None] - taps[None]).sum(axis=2)
    covariance = np.linalg.inv((1 - MEAN_SHARE) * CORRELATION**distances)
    # covariance = C C'; given the errors before t, those from t on have the mean C[t:, :t] C[:t, :t]^-1 e.
    root = np.linalg.cholesky(covariance)
    innovations = np.linalg.inv(root)
    count = len(taps)
    own, rest = np.zeros((count, count)), np.zeros((count, count))
    with_rest, variance = np.zeros(count), np.zeros(count)
    for t in range(count):
        means = root[t:, :t] @ innovations[:t, :t]
        own[t, :t], rest[t, :t] = means[0], means.sum(axis=0)
        sums = root[t:, t:].sum(axis=0)  # weights of the innovations in the sum from t to the last
        with_rest[t], variance[t] = root[t, t] * sums[0], sums @ sums
    return own, rest, _Deviation(root.diagonal() ** 2, with_rest, variance), float(covariance.sum())
