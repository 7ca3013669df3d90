"""Each channel's mean, and its variance, put back to what it was before quantisation, by way of biases and gains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from squeezer.errors import RecipeError
from squeezer.methods.network_step import NetworkStep
from squeezer.methods.quantization.fold_batch_norm import like, scales

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from numpy.typing import NDArray

    from squeezer.graph.channels import Moments
    from squeezer.graph.layers import Layer
    from squeezer.representations import Representation
    from squeezer.training.workbench import State, Workbench

    Tensors = Mapping[str, Representation]


class CorrectChannels(NetworkStep):
    """Shift each output of the selected layers so that its mean is the uploaded network's (Nagel et al., ICCV 2019).

    With data, means are measured on training rows, layer after layer, and so are variances, which the gain of a batch
    norm puts right; labels are not needed. Without data, means are predicted from the parameters of batch norm.
    """

    method: Literal["correct_channels"] = "correct_channels"
    rows: int = Field(512, ge=1, le=1 << 20, description="how many training rows are looked at, where there is data")

    accepts: ClassVar[frozenset[str]] = frozenset({"dense", "masked", "shared", "uniform", "trellis"})
    produces: ClassVar[str] = "same"
    summary: ClassVar[str] = "put means and variances of channels back to what they were"

    def run(self, state: State, names: Set[str], bench: Workbench) -> State:
        """The network with other biases; how many layers were corrected, and how, goes into the findings.

        Raises:
            RecipeError: another network has taken the uploaded one's place.
            DataError: there are no training rows.
        """
        from squeezer.graph import in_mode
        from squeezer.graph.layers import layers
        from squeezer.training.lockstep import shapes
        from squeezer.training.workbench import State

        if state.graph != bench.original.graph:
            raise RecipeError(
                "correct_channels compares layers with those of the uploaded network, and a step has put another "
                "network in its place; leave correct_channels out"
            )
        graph, extents = in_mode(state.graph, training=False), shapes(state)
        chosen = [one for one in layers(graph, extents) if one.weight in names and one.corrected is not None]
        if bench.data is not None:
            from squeezer.training.corrections import measured

            changed = measured(chosen, state, extents, bench, self.rows)
        else:
            from squeezer.graph.channels import channels

            before = bench.original.tensors
            vectors = {name: _values(before, name) for name, tensor in before.items() if len(tensor.shape) == 1}
            changed = predicted(chosen, state.tensors, before, channels(graph, extents, vectors))
        corrected = sum(one.corrected in changed for one in chosen)
        bench.findings["correct_channels"] = {"corrected": corrected, "measured": bench.data is not None}
        bench.tell(1.0, f"{corrected} layers corrected")
        return State(state.graph, state.tensors | changed)


def _values(tensors: Tensors, name: str) -> NDArray[np.float64]:
    """A tensor's values."""
    return np.asarray(tensors[name].decode().astype(np.float64))


def predicted(
    layers: list[Layer], tensors: Tensors, original: Tensors, known: Mapping[str, Moments]
) -> dict[str, Representation]:
    """The biases that make up for what the errors of the weights do to the means.

    What a layer gives is, with batch norm, weights * x + shift, and its mean over the data is weights * E[x] + shift,
    but for the borders of images. So the shift becomes shift + (original weights - weights) * E[x].
    """
    changed: dict[str, Representation] = {}
    for layer in layers:
        given = known.get(layer.input)
        if given is None or layer.corrected is None:
            continue
        before, after = _map(layer, original), _map(layer, tensors)
        if after[0].shape[1] * (layer.geometry.groups if layer.geometry else 1) != len(given.mean):
            continue
        lost = _by_groups(before[0] - after[0], given.mean) + before[1] - after[1]
        bias = tensors[layer.corrected]
        changed[layer.corrected] = like(bias, bias.decode().astype(np.float64) + lost)
    return changed


def _map(layer: Layer, tensors: Tensors) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The layer and its norm as one map: weights (outputs, inputs / groups), summed over the kernel, and shift."""
    weights = _values(tensors, layer.weight)
    sums = weights.reshape(*weights.shape[:2], -1).sum(axis=2)
    shift = _values(tensors, layer.bias) if layer.bias else np.zeros(len(sums))
    if layer.norm is None:
        return sums, shift
    by = scales(layer.norm, tensors)
    bias, mean = (_values(tensors, name) for name in (layer.norm.bias, layer.norm.mean))
    return sums * by[:, None], by * (shift - mean) + bias


def _by_groups(weights: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """The products of weights (outputs, inputs / groups) and means (inputs,), each output with those of its group."""
    groups = len(mean) // weights.shape[1]
    parts = weights.reshape(groups, -1, weights.shape[1])
    return np.asarray(np.einsum("goi,gi->go", parts, mean.reshape(groups, -1)).reshape(-1))
