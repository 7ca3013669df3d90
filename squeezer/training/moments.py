"""What layers are given, as second moments: of the second of two networks, and of what it lacks beside the first."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from squeezer.graph.layers import Geometry, Layer
    from squeezer.training.lockstep import Lockstep

#: About so many patches of all rows are looked at, spread over the places of images.
_PATCHES = 1 << 15


@dataclass(frozen=True)
class Gathered:
    """Second moments over patches, by groups of inputs.

    `inputs` is E[x x'], (groups, row, row), for the inputs x of the second network. `missing` is E[r x'],
    (outputs, row), with r = weights * (x of the first network - x): what the outputs lack for what has become of the
    inputs. Both are taken about the means, where `centred`.
    """

    inputs: NDArray[np.float64]
    missing: NDArray[np.float64]
    patches: int


class _Sums(NamedTuple):
    squares: torch.Tensor  # (groups, row, row)
    inputs: torch.Tensor  # (groups, row)
    products: torch.Tensor  # (groups, outputs / groups, row)
    missing: torch.Tensor  # (groups, outputs / groups)


def gather(both: Lockstep, layer: Layer, weights: torch.Tensor, seed: int, *, centred: bool) -> Gathered:
    """The moments of what a layer is given in both networks, over all batches.

    Args:
        both: the networks, as far as the layer.
        layer: which.
        weights: of the layer, (outputs, inputs / groups, *kernel), as they were before quantisation.
        seed: of the places that are looked at.
        centred: whether means are taken off, as a bias can make them good.
    """
    random = np.random.default_rng(seed)
    geometry = layer.geometry
    groups = geometry.groups if geometry else 1
    rows = weights.float().reshape(groups, weights.shape[0] // groups, -1)
    row = rows.shape[2]
    device = weights.device
    sums = _Sums(
        *(
            torch.zeros(shape, dtype=torch.float64, device=device)
            for shape in ((groups, row, row), (groups, row), rows.shape, rows.shape[:2])
        )
    )
    count = 0
    examples = sum(len(pair.second[layer.input]) for pair in both.pairs)
    for pair in both.pairs:
        found = (pair.first[layer.input], pair.second[layer.input])
        first, second = patches(found, weights.shape[2:], geometry, max(1, _PATCHES // examples), random)
        lacking = (first - second) @ rows.mT
        sums.squares.add_((second.mT @ second).double())
        sums.inputs.add_(second.double().sum(1))
        sums.products.add_((lacking.mT @ second).double())
        sums.missing.add_(lacking.double().sum(1))
        count += second.shape[1]
    squares, products = sums.squares / count, sums.products / count
    if centred:
        means, lack = sums.inputs / count, sums.missing / count
        squares -= means[:, :, None] * means[:, None]
        products -= lack[:, :, None] * means[:, None]
    return Gathered(squares.cpu().numpy(), products.reshape(-1, row).cpu().numpy(), count)


def patches(
    inputs: Sequence[torch.Tensor],
    kernel: Sequence[int],
    geometry: Geometry | None,
    places: int,
    random: np.random.Generator,
) -> Iterator[torch.Tensor]:
    """What single outputs are made of, (groups, patches, row) as float32, for inputs of equal shape at equal places.

    Args:
        inputs: (rows, channels, *extents), or (..., features) of a linear layer.
        kernel: extents of the kernel.
        geometry: of the convolution; None for a linear layer.
        places: about how many of each row are taken: from a grid as wide as that takes.
        random: where the grid begins.
    """
    if geometry is None:
        every = max(1, prod(inputs[0].shape[1:-1]) // places)
        start = int(random.integers(every))
        for given in inputs:
            yield given.float().reshape(-1, given.shape[-1])[start::every][None]
        return
    extents = [
        (size + sum(around) - spread * (taps - 1) - 1) // step + 1
        for size, around, spread, taps, step in zip(
            inputs[0].shape[2:], geometry.padding, geometry.dilation, kernel, geometry.stride, strict=True
        )
    ]
    grid = max(1, int((prod(extents) / places) ** (1 / len(extents)) + 0.5))
    steps = [min(grid, extent) for extent in extents]
    starts = [int(random.integers(step)) for step in steps]
    around = [size for pair in reversed(geometry.padding) for size in pair]
    for given in inputs:
        padded = functional.pad(given.float(), around)
        parts = []
        for taps in product(*map(range, kernel)):
            part = padded
            for axis, tap in enumerate(taps):
                stride = geometry.stride[axis]
                begin = starts[axis] * stride + tap * geometry.dilation[axis]
                number = (extents[axis] - 1 - starts[axis]) // steps[axis] + 1
                end = begin + (number - 1) * steps[axis] * stride + 1
                part = part.narrow(axis + 2, begin, end - begin)[
                    (slice(None),) * (axis + 2) + (slice(None, None, steps[axis] * stride),)
                ]
            parts.append(part.flatten(2))  # rows, channels, places
        stacked = torch.stack(parts, -1)
        rows, channels, found, count = stacked.shape
        grouped = stacked.reshape(rows, geometry.groups, channels // geometry.groups, found, count)
        yield grouped.permute(1, 0, 3, 2, 4).reshape(geometry.groups, rows * found, -1)
