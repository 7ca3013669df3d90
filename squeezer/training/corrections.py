"""Means and variances of channels, measured on two networks side by side, and put right layer after layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from squeezer.graph import in_mode
from squeezer.representations import Dense
from squeezer.training.lockstep import Lockstep, calibration
from squeezer.training.tensors import to_numpy, to_torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from squeezer.graph.layers import Layer
    from squeezer.representations import Representation
    from squeezer.training.workbench import State, Workbench

#: How much a gain is changed at most, either way.
_MOST = 2.0
#: A channel that has kept less than this share of its variance is left with it: what is there is mostly error.
_LEAST_SHARE = 0.01


class _Spread(NamedTuple):
    mean: torch.Tensor  # (channels,) of float64
    variance: torch.Tensor


def measured(
    layers: Sequence[Layer], state: State, extents: Mapping[str, tuple[int, ...]], bench: Workbench, rows: int
) -> dict[str, Representation]:
    """The biases, and gains of norms, with which channels are over training rows as in the uploaded network.

    A layer is measured with the layers before it corrected, so that what these have missed is made good as well.

    Args:
        layers: those to correct, each with a bias or a norm.
        state: the network to correct; its graph is the uploaded one's.
        extents: of all values.
        bench: the uploaded network and the data.
        rows: how many rows are looked at, at most.
    """
    graph = in_mode(state.graph, training=False)
    assert bench.data is not None  # noqa: S101 # the caller has looked; this tells mypy
    batches = list(calibration(bench.data, graph, extents, rows, bench.seed))
    both = Lockstep(graph, bench.original, state, batches, bench.device)
    places = {layer.shown[0]: layer for layer in layers}
    changed: dict[str, Representation] = {}

    def after(position: int) -> None:
        if (layer := places.get(position)) is not None:
            changed.update(correct(both, layer, state, gains=True))
            bench.tell(position / len(graph.nodes), layer.weight)

    both.run(lambda _: None, after)
    return changed


def correct(both: Lockstep, layer: Layer, state: State, *, gains: bool) -> dict[str, Representation]:
    """Give the second network the bias with which the layer's outputs have the first one's means.

    What it has computed of these outputs already is changed alike.

    Args:
        both: the networks, as far as the layer's outputs.
        layer: which; nothing is done where it has neither a bias nor a norm.
        state: of the second network, for element types.
        gains: whether variances are put right as well, by the gain of the norm, where there is one.

    Returns:
        The tensors that have changed.
    """
    if layer.corrected is None:
        return {}
    value = layer.shown[1]
    first, second = (_spread([pair[side][value] for pair in both.pairs], layer.axis) for side in (0, 1))
    factor = torch.ones_like(first.mean)
    fresh = {}
    if gains and layer.norm is not None:
        factor = _factor(first.variance, second.variance)
        fresh[layer.norm.gain] = both.get(layer.norm.gain).double() * factor
    fresh[layer.corrected] = first.mean - factor * (second.mean - both.get(layer.corrected).double())
    for pair in both.pairs:
        output = pair.second[value]
        around = [1] * output.ndim
        around[layer.axis] = -1
        moved = (output.double() - second.mean.reshape(around)) * factor.reshape(around) + first.mean.reshape(around)
        pair.second[value] = moved.to(output.dtype)
    changed: dict[str, Representation] = {}
    for name, tensor in fresh.items():
        dtype = state.tensors[name].dtype
        changed[name] = Dense(to_numpy(tensor, np.dtype(np.float64)).astype(dtype), dtype)
        both.put(name, to_torch(changed[name].decode(), tensor.device))
    return changed


def _factor(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """What multiplies each channel so that its variance is what it was."""
    usable = after > _LEAST_SHARE * before
    factor = torch.where(usable, before / torch.where(usable, after, torch.ones_like(after)), torch.ones_like(after))
    return factor.sqrt().clamp(1 / _MOST, _MOST)


def _spread(outputs: Sequence[torch.Tensor], axis: int) -> _Spread:
    """Mean and variance of each channel over all batches."""
    axes = [i for i in range(outputs[0].ndim) if i != axis]
    count = sum(output.numel() // output.shape[axis] for output in outputs)
    channels = outputs[0].shape[axis]
    around = [channels if i == axis else 1 for i in range(outputs[0].ndim)]
    mean = torch.stack([output.double().sum(axes) for output in outputs]).sum(0) / count
    squares = [(output.double() - mean.reshape(around)).square().sum(axes) for output in outputs]
    return _Spread(mean, torch.stack(squares).sum(0) / count)
