"""The convolutions and linear layers of a graph: their weights, their geometry, and the batch norm behind them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from squeezer.graph.ir import Value
from squeezer.graph.modes import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from squeezer.graph.ir import Argument, Graph, Node

    #: The extents of every value, by its name, as one run of the network has shown them.
    Shapes = Mapping[str, tuple[int, ...]]

_LINEAR = "aten.linear.default"
_BATCH_NORM = "aten.batch_norm.default"
#: Convolutions: spatial axes (None: by the input), and where stride, padding, dilation and groups stand.
_CONVOLUTIONS: dict[str, tuple[int, int, int, int]] = {
    **{f"aten.conv{n}d.{overload}": (3, 4, 5, 6) for n in (1, 2, 3) for overload in ("default", "padding")},
    "aten.convolution.default": (3, 4, 5, 8),
}
_TRANSPOSED = Place(6, "transposed")


@dataclass(frozen=True)
class Geometry:
    """How a convolution goes over its input: one number for each spatial axis; `padding` before and behind."""

    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1


@dataclass(frozen=True)
class Norm:
    """A batch norm with statistics, gain and bias of its own: the names of its tensors."""

    position: int  # among the graph's nodes
    output: str  # the value
    gain: str
    bias: str
    mean: str
    variance: str
    eps: float


@dataclass(frozen=True)
class Layer:
    """A linear map with a stored weight (outputs, inputs / groups, *kernel) that no other node uses.

    `norm` is the batch norm that alone uses the layer's result. `bias` is None where there is none.
    """

    position: int
    weight: str
    bias: str | None
    input: str  # the values
    output: str
    axis: int  # of the outputs, in the result
    geometry: Geometry | None  # None: linear
    norm: Norm | None

    @property
    def corrected(self) -> str | None:
        """The tensor that shifts each output as a whole: the norm's bias, or else the layer's own, or else None."""
        return self.norm.bias if self.norm else self.bias

    @property
    def shown(self) -> tuple[int, str]:
        """The node and the value in which that shift appears."""
        return (self.norm.position, self.norm.output) if self.norm else (self.position, self.output)


def layers(graph: Graph, shapes: Shapes) -> list[Layer]:
    """All layers whose tensors are theirs alone, in the order of the network.

    Args:
        graph: the network.
        shapes: of inputs, stored tensors and results. What has none is passed over.
    """
    found = _Uses(graph)
    return [layer for i, node in enumerate(graph.nodes) if (layer := _layer(graph, i, node, shapes, found)) is not None]


class _Uses:
    """Who uses values and stored tensors."""

    def __init__(self, graph: Graph) -> None:
        self._stored = graph.tensors
        self._values: Counter[str] = Counter()
        self._tensors: Counter[str] = Counter()
        self._nodes: dict[str, int] = {}
        for i, node in enumerate(graph.nodes):
            for value in node.values():
                self._count(value)
                self._nodes[value.name] = i
        for value in graph.outputs:
            self._count(value)

    def _count(self, value: Value) -> None:
        self._values[value.name] += 1
        if value.name in self._stored:
            self._tensors[self._stored[value.name]] += 1

    def only(self, value: str) -> int | None:
        """The one node that uses a value; None where several do, or the caller of the network."""
        return self._nodes.get(value) if self._values[value] == 1 else None

    def own(self, argument: Argument) -> str | None:
        """The name of a stored tensor that is used once; None for anything else."""
        name = self._stored.get(argument.name) if isinstance(argument, Value) else None
        return name if name is not None and self._tensors[name] == 1 else None


def _layer(graph: Graph, position: int, node: Node, shapes: Shapes, uses: _Uses) -> Layer | None:
    if node.target != _LINEAR and (node.target not in _CONVOLUTIONS or _TRANSPOSED.get(node) is True):
        return None
    source, weight, bias = (Place(i, name).get(node) for i, name in enumerate(("input", "weight", "bias")))
    output = node.outputs[0]
    own, own_bias = uses.own(weight), uses.own(bias)
    if not isinstance(source, Value) or not isinstance(weight, Value) or own is None or output is None:
        return None
    kernel, before, after = (shapes.get(name) for name in (weight.name, source.name, output))
    if kernel is None or before is None or after is None or (bias is not None and own_bias is None):
        return None
    axis, geometry = len(after) - 1, None
    if node.target != _LINEAR:
        axis, geometry = 1, _geometry(node, kernel[2:])
        if len(before) != len(kernel) or geometry is None:  # a convolution of one example, without a batch
            return None
    norm = _norm(graph, output, axis, uses)
    return Layer(position, own, own_bias, source.name, output, axis, geometry, norm)


def _geometry(node: Node, kernel: Sequence[int]) -> Geometry | None:
    stride, padding, dilation, groups = (
        Place(at, name).get(node)
        for at, name in zip(_CONVOLUTIONS[node.target], ("stride", "padding", "dilation", "groups"), strict=True)
    )
    count = len(kernel)
    steps, spread = _numbers(stride, count, 1), _numbers(dilation, count, 1)
    if steps is None or spread is None:
        return None
    around = _padding(padding, kernel, spread)
    return None if around is None else Geometry(steps, around, spread, groups if isinstance(groups, int) else 1)


def _padding(padding: Argument, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    if padding == "same":
        widths = [spread * (size - 1) for size, spread in zip(kernel, dilation, strict=True)]
        return tuple((width // 2, width - width // 2) for width in widths)
    sizes = _numbers(None if padding == "valid" else padding, len(kernel), 0)
    return None if sizes is None else tuple((size, size) for size in sizes)


def _numbers(argument: Argument, count: int, default: int) -> tuple[int, ...] | None:
    """An argument that is one number for all axes, or one for each; None where it is neither."""
    if argument is None or argument == ():
        return (default,) * count
    if isinstance(argument, int):
        return (argument,) * count
    if not isinstance(argument, tuple):
        return None
    numbers = tuple(part for part in argument if isinstance(part, int))
    if len(numbers) != len(argument):  # one is computed as the network runs
        return None
    if len(numbers) == 1:
        return numbers * count
    return numbers if len(numbers) == count else None


def _norm(graph: Graph, value: str, axis: int, uses: _Uses) -> Norm | None:
    """The batch norm that alone uses a value, whose channels are its axis 1."""
    position = uses.only(value)
    if position is None or axis != 1 or graph.nodes[position].target != _BATCH_NORM:
        return None
    node = graph.nodes[position]
    first = Place(0, "input").get(node)
    names = ("weight", "bias", "running_mean", "running_var")
    gain, bias, mean, variance = (uses.own(Place(1 + i, name).get(node)) for i, name in enumerate(names))
    eps, output = Place(7, "eps").get(node), node.outputs[0]
    if not isinstance(first, Value) or first.name != value or output is None or not isinstance(eps, int | float):
        return None
    if gain is None or bias is None or mean is None or variance is None:
        return None
    return Norm(position, output, gain, bias, mean, variance, float(eps))
