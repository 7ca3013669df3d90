"""Which weights stand or fall together: those on one branch between a fork and the addition that joins it again.

Where a network adds what a branch makes to what it had before (a residual block), the branch is dead as soon as one of
its layers gives zeros, and the network may hardly notice. So the layers of a branch are one decision, not several.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.graph.ir import Value

if TYPE_CHECKING:
    from collections.abc import Set

    from squeezer.graph.ir import Graph, Node

_ADDITIONS = frozenset({"aten.add.Tensor", "aten.add_.Tensor"})
#: Operators whose result does not change smoothly with their inputs, such as masks, positions and shapes. What is
#: added to scores by way of them is no branch.
_CUTTING = """
    eq ne lt le gt ge logical_and logical_or logical_xor logical_not isnan isinf isfinite isclose argmax argmin argsort
    any all count_nonzero zeros_like ones_like full_like new_zeros new_ones new_full rand_like randn_like bernoulli
    sym_size sym_numel one_hot embedding bucketize searchsorted sign signbit round floor ceil trunc
"""
_CUT = frozenset(_CUTTING.split())


def branches(graph: Graph, names: Set[str]) -> list[tuple[str, ...]]:
    """Groups of stored tensors that are judged together: two or more of one branch, used nowhere else.

    Of branches within branches, the innermost ones with two weights or more are given.

    Args:
        graph: the network.
        names: the stored tensors to look at.

    Returns:
        Groups in the order of the network, none of which holds all of another; the names of each in the same order.
    """
    reach = _Reach(graph)
    uses = _uses(graph, names)
    groups: dict[tuple[str, ...], None] = {}
    for one, other in reach.joined:
        if not one & other:
            continue  # two networks that meet, and no fork
        for branch in (one & ~other, other & ~one):
            group = tuple(name for name, nodes in uses.items() if nodes and not nodes & ~branch)
            if len(group) > 1:
                groups[group] = None
    sets = [frozenset(group) for group in groups]
    return [group for group in groups if not any(inner < frozenset(group) for inner in sets)]


class _Reach:
    """For every value the nodes and inputs that it comes from, as bits of an integer; nodes first."""

    def __init__(self, graph: Graph) -> None:
        self._of: dict[str, int] = {}
        self.joined: list[tuple[int, int]] = []  # the two operands of every addition
        for i, given in enumerate(graph.inputs):
            self._of[given.name] = 1 << (len(graph.nodes) + i)
        for i, node in enumerate(graph.nodes):
            self._add(i, node)

    def _add(self, position: int, node: Node) -> None:
        from_where = 0
        for value in node.values():
            from_where |= self._of.get(value.name, 0)
        if node.target in _ADDITIONS:
            operands = [self._of.get(x.name, 0) for x in node.args[:2] if isinstance(x, Value)]
            if len(operands) == 2:
                self.joined.append((operands[0], operands[1]))
        if _operator(node) in _CUT:
            from_where = 0
        for name in (*node.outputs, node.written.name if node.written else None):
            if name is not None:
                self._of[name] = from_where | 1 << position


def _operator(node: Node) -> str:
    return node.target.split(".")[1]


def _uses(graph: Graph, names: Set[str]) -> dict[str, int]:
    """The nodes that take each stored tensor, as bits; in the order of the network."""
    uses: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for value in node.values():
            stored = graph.tensors.get(value.name)
            if stored in names and stored is not None:
                uses[stored] = uses.get(stored, 0) | 1 << i
    return uses
