"""What a network's output is: scores, or probabilities that it has made of them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.graph.ir import Value

if TYPE_CHECKING:
    from squeezer.graph.ir import Graph

_PROBABILITIES = frozenset({"softmax", "_softmax", "_safe_softmax", "sigmoid", "sigmoid_"})
#: What changes the shape or the type alone.
_PASSING = frozenset(
    {
        "view",
        "reshape",
        "flatten",
        "squeeze",
        "unsqueeze",
        "permute",
        "transpose",
        "to",
        "_to_copy",
        "clone",
        "contiguous",
    }
)


def gives_probabilities(graph: Graph) -> bool:
    """Whether the first output comes out of a softmax or a sigmoid, so that it must not go through another."""
    makers = {name: node for node in graph.nodes for name in node.outputs if name is not None}
    name = graph.outputs[0].name
    while node := makers.get(name):
        operator = node.target.removeprefix("aten.").partition(".")[0]
        if operator in _PROBABILITIES:
            return True
        source = node.args[0] if node.args else None
        if operator not in _PASSING or not isinstance(source, Value):
            return False
        name = source.name
    return False
