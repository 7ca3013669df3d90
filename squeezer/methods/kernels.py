"""Compiled loops that several steps share. Importing this module loads numba: import it inside `apply`.

All kernels take contiguous one-dimensional arrays of few types, so that little has to be compiled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from squeezer.compiled import kernel
from squeezer.errors import Code, ModelError
from squeezer.representations import Masked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.representations import Representation

_T = TypeVar("_T", bound=np.generic)


def mask_of(tensor: Representation) -> NDArray[np.bool_] | None:
    """The mask of a pruned tensor, flat; None for a dense one."""
    return np.ascontiguousarray(tensor.mask).reshape(-1) if isinstance(tensor, Masked) else None


def kept_weights(tensor: Representation) -> NDArray[np.float32]:
    """The weights that are not pruned, in row-major order, as contiguous float32 of shape (kept,).

    A dense float32 tensor is not copied. float64 is rounded; what is too large for float32 becomes infinite.
    """
    with np.errstate(over="ignore"):
        flat = np.ascontiguousarray(tensor.values, np.float32).reshape(-1)  # type: ignore[attr-defined] # Dense and Masked alone are accepted
    mask = mask_of(tensor)
    return flat if mask is None else compact(flat, mask.view(np.uint8), int(np.count_nonzero(mask)))


def spread(kept: NDArray[_T], mask: NDArray[np.bool_]) -> NDArray[_T]:
    """Undo `kept_weights`: shape (mask.size,), `kept` where the mask is true and zero elsewhere."""
    unsigned = np.dtype(f"u{kept.dtype.itemsize}")
    # one element more, so that the loop may read ahead without a branch
    padded = np.zeros(kept.size + 1, unsigned)
    padded[:-1] = kept.view(unsigned)
    everything: NDArray[_T] = _spread(padded, mask.view(np.uint8)).view(kept.dtype)
    return everything


def non_finite(name: str, count: int) -> ModelError:
    """The error for a tensor that holds `count` weights that are NaN or infinite."""
    weights = "1 weight that is" if count == 1 else f"{count} weights that are"
    return ModelError(
        Code.NON_FINITE_WEIGHTS,
        f"tensor {name!r} holds {weights} not finite in float32 (NaN, infinite or too large); "
        "repair the model, or leave this tensor out with exclude",
    )


def finite_range(name: str, weights: NDArray[np.float32]) -> tuple[float, float]:
    """Least and largest of some weights; (0, 0) where there are none.

    Raises:
        ModelError: where a weight is not finite.
    """
    if weights.size == 0:
        return 0.0, 0.0
    low, high = float(weights.min()), float(weights.max())  # NaN propagates
    if not (np.isfinite(low) and np.isfinite(high)):
        raise non_finite(name, int(np.count_nonzero(~np.isfinite(weights))))
    return low, high


@kernel()
def compact(values: NDArray[np.float32], mask: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """The `count` values whose mask is 1, in order."""
    out = np.empty(count + 1, np.float32)  # one more: a pruned value is written too, and overwritten by the next
    at = 0
    for i in range(values.size):
        out[at] = values[i]
        at += mask[i]
    return out[:count]


@kernel()
def _spread(padded: NDArray[np.unsignedinteger], mask: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    out = np.empty(mask.size, padded.dtype)
    at = 0
    for i in range(mask.size):
        out[i] = padded[at] * mask[i]
        at += mask[i]
    return out
