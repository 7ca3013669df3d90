"""What an operator that works in place would write over, though it is not the network's to change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.graph.ir import Value
from squeezer.graph.modes import MODES
from squeezer.graph.operators import MAY_SHARE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from squeezer.graph.ir import Graph, Node


def overwritten(graph: Graph) -> list[str]:
    """Values of inputs, which are the caller's, and of weights, that must be copied before the network runs.

    A result in place may be a view of them, or a view of a view. Weights are looked for along operators whose results
    may share memory; inputs are all copied as soon as anything is written that is no buffer, since they are small.
    """
    buffers = {value for value, name in graph.tensors.items() if name in graph.buffers}
    reached: set[str] = set()
    for node in reversed(graph.nodes):
        reached.update(value.name for value in _written(node))
        if node.target in MAY_SHARE and not reached.isdisjoint(node.outputs):
            reached.update(value.name for value in node.values())
    if reached <= buffers:
        return []
    return [value for value in graph.tensors if value in reached - buffers] + [given.name for given in graph.inputs]


def _written(node: Node) -> Iterator[Value]:
    """What a node writes over: its first argument where it works in place, and the statistics of a norm in training."""
    if node.written is not None:
        yield node.written
    mode = MODES.get(node.target)
    if mode is not None and mode.statistics is not None:
        first = mode.statistics.position
        arguments = (*node.args[first : first + 2], node.kwargs.get("running_mean"), node.kwargs.get("running_var"))
        yield from (argument for argument in arguments if isinstance(argument, Value))
