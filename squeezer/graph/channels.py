"""What the channels of values are like, on average, without any data: batch norm knows it.

Behind a batch norm each channel has the norm's bias as its mean and the gain's square as its variance, for the data
that the norm's statistics are of. From there on, mean and variance are followed through the graph as if channels were
normally distributed (Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV
2019, section 4.2): through ReLU and other functions of one number by the moments of the clipped or bent normal
distribution, through additions as if the terms were independent. What an operator does to them that is not known here
leaves nothing known.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from squeezer.graph.ir import Value
from squeezer.graph.modes import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from squeezer.graph.ir import Argument, Graph, Node
    from squeezer.graph.layers import Shapes

Numbers = NDArray[np.float64]
_NODES = 129  # of the quadrature, for functions without a formula
_INPUT = Place(0, "input")


class Moments(NamedTuple):
    """Mean and variance of each channel, (channels,): along axis 1."""

    mean: Numbers
    variance: Numbers | None  # None where it is not known


def channels(graph: Graph, shapes: Shapes, tensors: Mapping[str, Numbers]) -> dict[str, Moments]:
    """What is known of the channels of values, by the names of values.

    Args:
        graph: the network, in evaluation mode.
        shapes: of all values, as far as known.
        tensors: gains and biases of batch norms, by the stored names.
    """
    known: dict[str, Moments] = {}
    for node in graph.nodes:
        found = _after(node, known, shapes, graph.tensors, tensors)
        for name in (node.outputs[0], node.written.name if node.written else None):
            if name is None:
                continue
            known.pop(name, None)
            if found is not None:
                known[name] = found
    return known


def _after(
    node: Node, known: dict[str, Moments], shapes: Shapes, stored: Mapping[str, str], tensors: Mapping[str, Numbers]
) -> Moments | None:
    operator = node.target.split(".")[1].removesuffix("_")
    if operator == "batch_norm":
        gain, bias = (_stored(Place(i, name).get(node), stored) for i, name in ((1, "weight"), (2, "bias")))
        if gain not in tensors or bias not in tensors or gain is None or bias is None:
            return None
        return Moments(tensors[bias], tensors[gain] ** 2)
    if operator in ("add", "cat", "concat", "concatenate"):
        return _joined(node, operator, known, shapes)
    first = _INPUT.get(node)
    given = known.get(first.name) if isinstance(first, Value) else None
    if given is None or not isinstance(first, Value):
        return None
    if bounds := _bounds(operator, node):
        return None if given.variance is None else Moments(*clipped(given.mean, given.variance, *bounds))
    if operator in _CURVES:
        return None if given.variance is None else Moments(*bent(given.mean, given.variance, _CURVES[operator]))
    return _moved(operator, node, given, shapes.get(first.name), shapes.get(node.outputs[0] or ""))


def _stored(argument: Argument, stored: Mapping[str, str]) -> str | None:
    return stored.get(argument.name) if isinstance(argument, Value) else None


def _joined(node: Node, operator: str, known: dict[str, Moments], shapes: Shapes) -> Moments | None:
    """Of a sum, and of values that are put behind one another along axis 1."""
    parts = node.args[:2] if operator == "add" else node.args[0]
    values = [part for part in parts if isinstance(part, Value)] if isinstance(parts, tuple) else []
    moments = [known[value.name] for value in values if value.name in known]
    if not moments or len(moments) != len(parts if isinstance(parts, tuple) else ()):
        return None
    every = [given.variance for given in moments if given.variance is not None]
    if operator != "add":
        rank = len(shapes.get(values[0].name, ()))
        dim = Place(1, "dim").get(node) or 0
        if not isinstance(dim, int) or rank < 2 or dim % rank != 1:
            return None
        mean = np.concatenate([given.mean for given in moments])
        return Moments(mean, np.concatenate(every) if len(every) == len(moments) else None)
    if Place(2, "alpha").get(node) not in (None, 1) or len({given.mean.shape for given in moments}) != 1:
        return None
    if len({shapes.get(value.name) for value in values}) != 1:
        return None
    return Moments(moments[0].mean + moments[1].mean, every[0] + every[1] if len(every) == 2 else None)


def _bounds(operator: str, node: Node) -> tuple[float, float] | None:
    """Between which numbers an operator clips, if that is what it does."""
    match operator:
        case "relu":
            return 0.0, np.inf
        case "relu6":
            return 0.0, 6.0
        case "hardtanh" | "clamp" | "clip":
            names, ends = (
                (("min_val", "max_val"), (-1.0, 1.0)) if operator == "hardtanh" else (("min", "max"), (-np.inf, np.inf))
            )
            found = [Place(1 + i, name).get(node) for i, name in enumerate(names)]
            low, high = (float(x) if isinstance(x, int | float) else end for x, end in zip(found, ends, strict=True))
            return low, high
    return None


_SAME = frozenset({"dropout", "feature_dropout", "alpha_dropout", "clone", "contiguous", "detach", "alias", "to"})
_POOLS = frozenset({"avg_pool1d", "avg_pool2d", "avg_pool3d"} | {f"adaptive_avg_pool{n}d" for n in (1, 2, 3)})
_VIEWS = frozenset({"flatten", "view", "reshape", "_unsafe_view", "squeeze", "mean"})


def _moved(
    operator: str, node: Node, given: Moments, before: tuple[int, ...] | None, after: tuple[int, ...] | None
) -> Moments | None:
    """Of operators that take numbers elsewhere, or average those of a channel, whose variance is then not known."""
    if before is None or after is None or len(before) < 2 or len(after) < 2:
        return None
    count = len(given.mean)
    if operator in _SAME and before == after:
        return given
    if operator in _POOLS and before[:2] == after[:2]:
        return Moments(given.mean, None)
    if operator == "slice":
        dim = Place(1, "dim").get(node) or 0
        return given if isinstance(dim, int) and dim % len(before) != 1 else None
    if operator in ("pad", "constant_pad_nd"):
        return _padded(node, given, before)
    if operator in _VIEWS and before[0] == after[0] and before[1] == count:
        if operator == "mean":
            return Moments(given.mean, None) if _averages_places(node, len(before)) else None
        # All places of a channel become features of their own, or vanish where there is one.
        if after[1:] == (prod(before[1:]),):
            times = prod(before[2:])
            return Moments(
                np.repeat(given.mean, times), None if given.variance is None else np.repeat(given.variance, times)
            )
        return given if after[1] == count and prod(after) == prod(before) else None
    return None


def _averages_places(node: Node, rank: int) -> bool:
    """Whether a mean goes over axes from 2 on alone."""
    dims = Place(1, "dim").get(node)
    axes = dims if isinstance(dims, tuple) else (dims,)
    return all(isinstance(axis, int) and axis % rank >= 2 for axis in axes)


def _padded(node: Node, given: Moments, before: tuple[int, ...]) -> Moments | None:
    """Zeros as further channels; zeros around the places of a channel are taken for few."""
    pad, mode = Place(1, "pad").get(node), Place(2, "mode").get(node)
    value = Place(3, "value").get(node) if "constant_pad" not in node.target else Place(2, "value").get(node)
    if not isinstance(pad, tuple) or (isinstance(mode, str) and mode != "constant") or value not in (None, 0, 0.0):
        return None
    widths = [width for width in pad if isinstance(width, int)]
    at = 2 * (len(before) - 2)
    more = (*widths[at : at + 2], 0, 0)[:2]
    if min(more) < 0 or any(widths[at + 2 :]):
        return None
    return Moments(np.pad(given.mean, more), None if given.variance is None else np.pad(given.variance, more))


# -- the normal distribution ---------------------------------------------------------------------------------


def clipped(mean: Numbers, variance: Numbers, low: float, high: float) -> tuple[Numbers, Numbers]:
    """Mean and variance of min(max(x, low), high) for normally distributed x.

    With z = (end - mean) / deviation, the part of x within the ends has the moments of the truncated normal
    distribution (Nagel et al. 2019, appendix), and the rest lies at the ends.
    """
    deviation = np.sqrt(np.maximum(variance, 1e-30))
    z = [(end - mean) / deviation for end in (low, high)]
    below, above = _cumulative(z[0]), _cumulative(-z[1])
    inside = 1 - below - above
    density = [_density(one) for one in z]
    tail = [np.where(np.isfinite(one), one, 0.0) * by for one, by in zip(z, density, strict=True)]
    # Of the standardised number within the ends: its part of the mean, and of the mean square.
    slope, square = density[0] - density[1], inside + tail[0] - tail[1]
    first = mean * inside + deviation * slope
    second = mean**2 * inside + 2 * mean * deviation * slope + deviation**2 * square
    for end, share in ((low, below), (high, above)):
        if np.isfinite(end):
            first, second = first + end * share, second + end**2 * share
    return first, np.maximum(second - first**2, 0.0)


def bent(mean: Numbers, variance: Numbers, curve: Callable[[Numbers], Numbers]) -> tuple[Numbers, Numbers]:
    """Mean and variance of curve(x) for normally distributed x, by Gauss and Hermite's quadrature."""
    places, weights = _quadrature()
    values = curve(mean[:, None] + np.sqrt(variance)[:, None] * places)
    first = values @ weights
    return first, np.maximum(values**2 @ weights - first**2, 0.0)


@cache
def _quadrature() -> tuple[Numbers, Numbers]:
    places, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return places, weights / weights.sum()


def _density(z: Numbers) -> Numbers:
    return np.asarray(np.exp(-0.5 * np.square(z)) / np.sqrt(2 * np.pi))


def _cumulative(z: Numbers) -> Numbers:
    return 0.5 * _erfc(-z / np.sqrt(2))


def _erfc(x: Numbers) -> Numbers:
    from math import erfc  # numpy has none

    return np.array([erfc(one) for one in x.reshape(-1).tolist()]).reshape(x.shape)


def _sigmoid(x: Numbers) -> Numbers:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


#: Functions of one number without settings, as PyTorch has them by default.
_CURVES: dict[str, Callable[[Numbers], Numbers]] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * _sigmoid(x),
    "gelu": lambda x: x * _cumulative(x),
    "hardswish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hardsigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
}
