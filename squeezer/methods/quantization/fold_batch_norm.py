"""Batch norm folded into the layer before it: its scale goes into the weights, and its tensors cost next to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from squeezer.methods.network_step import NetworkStep
from squeezer.representations import Dense, Masked

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from numpy.typing import NDArray

    from squeezer.graph.layers import Layer, Norm
    from squeezer.representations import Representation
    from squeezer.training.workbench import State, Workbench

    Tensors = Mapping[str, Representation]

_HALF = np.finfo(np.float16)


class FoldBatchNorm(NetworkStep):
    """Multiply each output's weights by what batch norm would (Jacob et al., CVPR 2018, section 3.2).

    The tensors of the norm stay, with mean 0, variance 1 and one gain for all channels, so that the network is the
    same function of tensors as before. The gain keeps the root mean square of the layer's weights.
    """

    method: Literal["fold_batch_norm"] = "fold_batch_norm"

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked"})
    produces: ClassVar[str] = "same"
    summary: ClassVar[str] = "move batch norm's scales into the weights before it"

    @property
    def effort(self) -> float:
        """Next to nothing."""
        return 0.02

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The network with every norm folded that alone follows a selected layer; how many, goes into the findings."""
        from squeezer.graph import in_mode
        from squeezer.graph.layers import layers
        from squeezer.training.lockstep import shapes
        from squeezer.training.workbench import State

        tensors = dict(state.tensors)
        folded = 0
        for layer in layers(in_mode(state.graph, training=False), shapes(state)):
            if layer.norm is not None and layer.weight in names:
                changed = fold(layer, layer.norm, tensors)
                tensors |= changed
                folded += bool(changed)
        bench.findings["fold_batch_norm"] = {"folded": folded}
        bench.tell(1.0, f"{folded} folded")
        return State(state.graph, tensors)


def scales(norm: Norm, tensors: Tensors) -> NDArray[np.float64]:
    """What a norm multiplies each channel by: gain / sqrt(variance + eps)."""
    gain, variance = (tensors[name].decode().astype(np.float64) for name in (norm.gain, norm.variance))
    return np.asarray(gain / np.sqrt(variance + norm.eps))


def fold(layer: Layer, norm: Norm, tensors: Tensors) -> dict[str, Representation]:
    """The tensors that change; none, where a number is not finite, or the layer much smaller or larger than its norm.

    With a = gain / sqrt(variance + eps) for each output, the weights become a * weights * sqrt(1 + eps) / g and the
    norm's bias becomes bias + a * (the layer's bias - mean), the layer's own bias 0. The number g makes the sum of
    the squared weights what it was; it is rounded to float16, so that the file can hold it exactly.
    """
    weight = tensors[layer.weight]
    if not isinstance(weight, Dense | Masked):
        raise TypeError(f"cannot fold into {weight.kind} weights")
    factors = scales(norm, tensors)
    values = weight.decode().astype(np.float64)
    products = values * factors.reshape(-1, *(1,) * (values.ndim - 1))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        common = np.float64(np.float16(np.sqrt(np.square(products).sum() / np.square(values).sum())))
        fresh = (products * np.sqrt(1 + norm.eps) / common).astype(weight.dtype)
        bias, mean = (tensors[name].decode().astype(np.float64) for name in (norm.bias, norm.mean))
        own = 0.0 if layer.bias is None else tensors[layer.bias].decode().astype(np.float64)
        shift = (bias + factors * (own - mean)).astype(tensors[norm.bias].dtype)
    usable = float(_HALF.smallest_normal) <= common <= float(_HALF.max)
    if not (usable and np.isfinite(fresh).all() and np.isfinite(shift).all()):
        return {}
    found: dict[str, Representation] = {layer.weight: _with_values(weight, fresh)}
    constants = {norm.gain: common, norm.mean: 0.0, norm.variance: 1.0} | ({layer.bias: 0.0} if layer.bias else {})
    for name, number in constants.items():
        found[name] = like(tensors[name], np.full(tensors[name].shape, number))
    return found | {norm.bias: like(tensors[norm.bias], shift)}


def like(tensor: Representation, values: NDArray[Any]) -> Dense:
    """Other values for a tensor of the same type."""
    return Dense(values.astype(tensor.dtype), tensor.dtype)


def _with_values(weight: Dense | Masked, values: NDArray[Any]) -> Dense | Masked:
    return Masked(values, weight.mask) if isinstance(weight, Masked) else Dense(values, weight.dtype)
