"""Quantises layer by layer, each with what the layers before it have come to give it. It loads torch and numba."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from squeezer.graph import in_mode
from squeezer.graph.layers import layers
from squeezer.methods.kernels import mask_of
from squeezer.methods.quantization.feedback import Feedback
from squeezer.methods.quantization.grid import most_code, narrowest
from squeezer.methods.quantization.trellis import LIMIT
from squeezer.representations import Trellis
from squeezer.training.corrections import correct
from squeezer.training.lockstep import Lockstep, calibration, shapes
from squeezer.training.moments import gather
from squeezer.training.tensors import to_torch
from squeezer.training.workbench import State

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from squeezer.representations import Representation
    from squeezer.training.moments import Gathered
    from squeezer.training.workbench import Workbench

#: A layer with more inputs to each output keeps the codes that it was given: its moments would not fit into memory.
_MOST_INPUTS = 1 << 13


def calibrated(
    state: State, start: dict[str, Trellis], bench: Workbench, *, rows: int, damping: float
) -> dict[str, Representation]:
    """Codes of all layers that are reached, and the biases that go with them.

    Args:
        state: the network as it is to be.
        start: what its weights are quantised to without data.
        bench: has data.
        rows: how many are looked at.
        damping: of the moments.
    """
    graph, extents = in_mode(state.graph, training=False), shapes(state)
    assert bench.data is not None  # noqa: S101 # the step needs data; this tells mypy
    batches = list(calibration(bench.data, graph, extents, rows, bench.seed))
    quantised = State(state.graph, state.tensors | start)
    both = Lockstep(graph, state, quantised, batches, bench.device)
    chosen = [
        one for one in layers(graph, extents) if one.weight in start and _inputs(start[one.weight]) <= _MOST_INPUTS
    ]
    entered = {layer.position: layer for layer in chosen}
    shown = {layer.shown[0]: layer for layer in chosen}
    changed: dict[str, Representation] = {}

    def before(position: int) -> None:
        if (layer := entered.get(position)) is not None:
            old = state.tensors[layer.weight]
            weights = to_torch(old.decode(), bench.device)
            found = gather(both, layer, weights, bench.seed, centred=layer.corrected is not None)
            changed[layer.weight] = requantised(old, start[layer.weight], found, damping)
            both.put(layer.weight, to_torch(changed[layer.weight].decode(), bench.device))

    def after(position: int) -> None:
        if (layer := shown.get(position)) is not None:
            changed.update(correct(both, layer, state, gains=False))
        bench.tell((position + 1) / len(graph.nodes))

    both.run(before, after)
    bench.findings["calibrated_quantize"] = {
        "rows": sum(len(batch[0]) for batch in batches),
        "calibrated": [layer.weight for layer in chosen],
        "without_data": [name for name in start if name not in changed],
    }
    return changed


def _inputs(tensor: Trellis) -> int:
    return int(np.prod(tensor.shape[1:]))


def requantised(old: Representation, start: Trellis, found: Gathered, damping: float) -> Trellis:
    """The codes of a layer, on the grid of `start`.

    Args:
        old: the weights, dense or pruned.
        start: their codes without data, which are kept where others would be too large.
        found: moments of what the layer is given.
        damping: of the moments.
    """
    mask = mask_of(old)
    weights = nearest_weights(old.decode(), found, damping)
    spacing = start.step
    reach = float(np.abs(weights).max(initial=0)) + float(spacing)
    most = most_code(reach, 2 * spacing, old.dtype) if np.isfinite(reach) else None
    if most is None or most > LIMIT:
        return start
    kept = np.empty((0, 0), np.uint8) if mask is None else mask.view(np.uint8).reshape(weights.shape)
    codes = Feedback(found.inputs, damping).codes(weights, kept, spacing, most).reshape(old.shape)
    ends = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    return Trellis(spacing, codes.astype(narrowest(*ends)), old.dtype)


def nearest_weights(weights: NDArray[Any], found: Gathered, damping: float) -> NDArray[np.float32]:
    """Those with which the layer comes nearest to its old outputs, in the mean square over its new inputs.

    They are weights + E[r x'] (E[x x'] + d I)^-1 of `Gathered`, by least squares; rows of (outputs, row).
    """
    groups, row, _ = found.inputs.shape
    old = weights.astype(np.float64).reshape(len(weights), -1)
    missing = found.missing.reshape(groups, -1, row)
    for group, moments in enumerate(found.inputs):
        mean = float(np.trace(moments)) / row
        if mean > 0:
            solved = np.linalg.solve(moments + damping * mean * np.eye(row), missing[group].T).T
            old.reshape(groups, -1, row)[group] += solved
    return old.astype(np.float32)
