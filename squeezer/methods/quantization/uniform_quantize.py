"""Uniform quantisation: every weight becomes a whole multiple of a step, or a level of a trellis of two such grids."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from squeezer.errors import Code, ModelError
from squeezer.methods.base import Step
from squeezer.representations import Trellis, Uniform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from squeezer.methods.quantization.shaping import Shaping
    from squeezer.representations import Representation


#: A global relative step is at most so many times what the tensor's own root mean square would give. Where layers
#: differ by orders of magnitude (an embedding beside linear layers), one step would round the smaller ones to zero.
MOST_ABOVE_OWN = 2.0


class Spread(NamedTuple):
    """How far weights reach: their largest magnitude and their root mean square."""

    largest: float
    root_mean_square: float


class UniformQuantize(Step):
    """Round every weight to a multiple of a step, zero included: the nearest, or one near it that is cheaper to store.

    Pruned weights stay zero, and do not count towards the root mean square.
    """

    method: Literal["uniform_quantize"] = "uniform_quantize"
    bits: int | None = Field(None, ge=2, le=16, description="step = largest magnitude / (2**(bits-1) - 1)")
    step: float | None = Field(None, gt=0, le=1e38, description="the step, in the units of the weights")
    relative_step: float | None = Field(None, gt=0, le=1e6, description="the step, over the weights' root mean square")
    scope: Literal["tensor", "global"] = Field(
        "tensor",
        description="take magnitude or root mean square of each tensor, or of all selected tensors together",
    )
    rate_weight: float = Field(
        0.0, ge=0, le=10, description="the price of a bit of code length, in squared steps; 0 rounds to the nearest"
    )
    error_feedback: bool = Field(
        False, description="let the weights of a row make good the rounding errors of those before them"
    )
    trellis: bool = Field(
        False,
        description="the codes before a weight pick one of two interleaved grids: a fifth less squared error at "
        "equal size",
    )

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "uniform"
    alternatives: ClassVar[frozenset[str]] = frozenset({"bits", "step", "relative_step"})
    summary: ClassVar[str] = "round to multiples of a step"

    @property
    def survey_passes(self) -> int:
        """One where the step depends on all tensors; a step given in the weights' units never does."""
        settings = [self, *self.overridden.values()]
        return int(self.scope == "global" and any(one.step is None for one in settings))

    def survey(self, tensors: Callable[[], Iterable[tuple[str, Representation]]]) -> Spread:
        """Largest magnitude and root mean square of all weights together, in one pass.

        Raises:
            ModelError: where a weight is not finite.
        """
        from squeezer.methods.kernels import finite_range, kept_weights
        from squeezer.methods.quantization.grid import square_sum

        largest, squares, number = 0.0, 0.0, 0
        for name, tensor in tensors():
            weights = kept_weights(tensor)
            low, high = finite_range(name, weights)
            largest = max(largest, -low, high)
            squares += square_sum(weights)
            number += weights.size
        return Spread(largest, (squares / max(number, 1)) ** 0.5)

    def apply(self, name: str, tensor: Representation, surveyed: Any, seed: int) -> Uniform | Trellis:
        """The tensor's step and codes.

        Raises:
            ModelError: where a weight is not finite, or the step so small that codes exceed 32 bits.
        """
        del seed
        from squeezer.methods.kernels import finite_range, kept_weights
        from squeezer.methods.quantization.grid import most_code

        weights = kept_weights(tensor)
        low, high = finite_range(name, weights)
        largest = max(-low, high)
        step = self._step(weights, largest, surveyed)
        if self.trellis:
            return self._dependent(name, tensor, step, largest)
        most = most_code(largest, step, tensor.dtype)
        if most is None:
            raise _too_fine(name, largest, largest / 2**30)
        if self.rate_weight or self.error_feedback:
            codes = self._weighed(tensor, step, most)
        else:
            codes = _nearest(tensor, weights, low, high, step, most)
        return Uniform(step, codes.reshape(tensor.shape), tensor.dtype)

    def _weighed(self, tensor: Representation, step: np.float32, most: int) -> NDArray[np.signedinteger]:
        """Codes chosen with a view to their length, to the errors before them, or to both."""
        from squeezer.methods.quantization.grid import narrowest
        from squeezer.methods.quantization.rate import Rounding

        rows, kept = _rows(tensor)
        codes = np.empty(rows.shape, narrowest(-most, most))
        Rounding(step, most, self.rate_weight, self._shaping(tensor))(rows, kept, codes)
        return codes

    def _dependent(self, name: str, tensor: Representation, step: np.float32, largest: float) -> Trellis:
        """Codes of two grids of that step, which lie half a step apart."""
        from squeezer.methods.quantization.grid import most_code, narrowest
        from squeezer.methods.quantization.trellis import LIMIT, Search

        spacing = step / np.float32(2)
        if 2 * spacing < step:  # subnormal
            spacing = np.nextafter(spacing, np.float32(np.inf))
        # Without `bits` codes may go half a step further, to the level above the largest weight in either grid.
        reach = largest if self.bits is not None else largest + float(spacing)
        most = most_code(reach, 2 * spacing, tensor.dtype)
        if most is None or most > LIMIT:
            raise _too_fine(name, largest, largest / 2**28)
        rows, kept = _rows(tensor)
        # The price of a bit is in squared steps.
        codes = Search(spacing, most, 4 * self.rate_weight, self._shaping(tensor))(rows, kept).reshape(tensor.shape)
        ends = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
        return Trellis(spacing, codes.astype(narrowest(*ends)), tensor.dtype)

    def _shaping(self, tensor: Representation) -> Shaping | None:
        from squeezer.methods.quantization.shaping import shaping_of

        return shaping_of(tensor.shape) if self.error_feedback and len(tensor.shape) > 1 else None

    def _step(self, weights: NDArray[np.float32], largest: float, surveyed: Spread | None) -> np.float32:
        from squeezer.methods.quantization.grid import square_sum, step_for_bits

        if self.step is not None:
            return np.float32(self.step)
        if surveyed is not None:
            largest = surveyed.largest
        if largest == 0:
            return np.float32(1)  # all weights are zero: any step will do
        if self.bits is not None:
            return step_for_bits(largest, self.bits)
        assert self.relative_step is not None  # noqa: S101 # the validator has seen to it; this tells mypy
        mean = (square_sum(weights) / weights.size) ** 0.5
        if surveyed is not None:
            mean = min(surveyed.root_mean_square, MOST_ABOVE_OWN * mean)
        limits = np.finfo(np.float32)
        return np.float32(min(max(self.relative_step * mean, float(limits.smallest_subnormal)), float(limits.max)))


def _rows(tensor: Representation) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """The weights in rows, as `shaping_of` understands rows, and which of them are kept; empty for all."""
    from squeezer.methods.kernels import mask_of

    with np.errstate(over="ignore"):  # only pruned weights may be so large
        values = np.ascontiguousarray(tensor.values, np.float32)  # type: ignore[attr-defined] # Dense and Masked alone are accepted
    rows = values.reshape(tensor.shape[0], -1) if values.ndim > 1 and values.size else values.reshape(1, -1)
    mask = mask_of(tensor)
    return rows, np.empty((0, 0), np.uint8) if mask is None else mask.view(np.uint8).reshape(rows.shape)


def _nearest(
    tensor: Representation, weights: NDArray[np.float32], low: float, high: float, step: np.float32, most: int
) -> NDArray[np.signedinteger]:
    """Codes of the nearest multiples; `weights` are the tensor's kept ones."""
    from squeezer.methods.kernels import mask_of, spread
    from squeezer.methods.quantization.grid import round_to

    codes = round_to(weights, low, high, step, most)
    mask = mask_of(tensor)
    return codes if mask is None else spread(codes, mask)


def _too_fine(name: str, largest: float, least: float) -> ModelError:
    return ModelError(
        Code.INVALID_RECIPE,
        f"the step is too small for tensor {name!r}, whose weights reach {largest:.3g}: "
        f"codes would exceed 32 bits; make the step {least:.3g} or more, or set bits instead",
    )
