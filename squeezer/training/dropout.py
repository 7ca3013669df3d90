"""Less dropout for layers that have fewer weights. No torch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from squeezer.graph import scaled_dropout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from squeezer.graph import Graph, Node
    from squeezer.training.workbench import State


def adjusted(state: State, original: State) -> Graph:
    """The graph with its dropout adjusted to what pruning has left (Han et al., NIPS 2015, section 3.2, eq. 2).

        D_r = D_o sqrt(C_ir / C_io)

    C_io is the number of connections of layer i in the original network, and C_ir those that are left. The layers of a
    dropout are the next ones with stored weights that its result reaches, which lose their inputs to it; where there
    are none, the last ones before it.
    """
    layers = _Layers(state)

    def factor(node: Node) -> float:
        weights = layers.of(node)
        left, all_of_them = (sum(_connections(one, name) for name in weights) for one in (state, original))
        return math.sqrt(left / all_of_them) if all_of_them else 1.0

    return scaled_dropout(state.graph, factor)


def _connections(state: State, name: str) -> int:
    tensor = state.tensors.get(name)
    return 0 if tensor is None else int(np.count_nonzero(tensor.decode()))


class _Layers:
    """Which weights stand before and behind a node."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._makers = {name: node for node in state.graph.nodes for name in node.outputs if name is not None}
        self._users: dict[str, list[Node]] = {}
        for node in state.graph.nodes:
            for value in node.values():
                self._users.setdefault(value.name, []).append(node)

    def of(self, node: Node) -> set[str]:
        """The names of the weights whose inputs or outputs a node drops."""
        behind = self._own(node) or self._reached(self._next(node), forwards=True)
        return behind or self._reached([node], forwards=False)

    def _reached(self, nodes: Iterable[Node], *, forwards: bool) -> set[str]:
        found: set[str] = set()
        waiting, seen = list(nodes), set()
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            own = self._own(node)
            found |= own
            if not own:
                waiting.extend(self._next(node) if forwards else self._before(node))
        return found

    def _own(self, node: Node) -> set[str]:
        names = (self._state.graph.tensors.get(value.name) for value in node.values())
        return {name for name in names if name is not None and len(self._state.tensors[name].shape) >= 2}

    def _next(self, node: Node) -> list[Node]:
        return [user for name in node.outputs if name is not None for user in self._users.get(name, [])]

    def _before(self, node: Node) -> list[Node]:
        return [self._makers[value.name] for value in node.values() if value.name in self._makers]
