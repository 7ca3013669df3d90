"""Training and evaluation: which arguments of which operators differ, and the graph of either mode.

An exported network has the mode in which it was exported written into its operators. Rewriting these arguments is what
`.train()` and `.eval()` do to a module.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from squeezer.graph.ir import Argument, Graph, Node


@dataclass(frozen=True)
class Place:
    """Where an argument stands in an operator's signature."""

    position: int
    name: str

    def get(self, node: Node) -> Argument:
        """The argument, or None where the node leaves it out."""
        if self.name in node.kwargs:
            return node.kwargs[self.name]
        return node.args[self.position] if self.position < len(node.args) else None

    def put(self, node: Node, argument: Argument) -> Node:
        """The node with another argument."""
        if self.name not in node.kwargs and self.position < len(node.args):
            args = (*node.args[: self.position], argument, *node.args[self.position + 1 :])
            return replace(node, args=args)
        return replace(node, kwargs=node.kwargs | {self.name: argument})


@dataclass(frozen=True)
class Mode:
    """The arguments of an operator that depend on the mode.

    `flag` is true in training. Where an operator has `statistics` (the running mean) and is given none, its flag is
    always true. `dropout` is a probability; without a flag it is the mode itself, and 0 in evaluation.
    """

    flag: Place | None = None
    dropout: Place | None = None
    statistics: Place | None = None


_DROPOUT = Mode(Place(2, "train"), Place(1, "p"))
_RECURRENT = Mode(Place(6, "train"), Place(5, "dropout"))
_STATISTICS = Place(3, "running_mean")

MODES: dict[str, Mode] = {
    "aten.batch_norm.default": Mode(Place(5, "training"), statistics=_STATISTICS),
    "aten.instance_norm.default": Mode(Place(5, "use_input_stats"), statistics=_STATISTICS),
    **{
        f"aten.{name}.default": _DROPOUT
        for kind in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
        for name in (kind, f"{kind}_")
    },
    "aten.native_dropout.default": _DROPOUT,
    "aten.rrelu.default": Mode(Place(3, "training")),
    "aten.rrelu_.default": Mode(Place(3, "training")),
    "aten.scaled_dot_product_attention.default": Mode(dropout=Place(4, "dropout_p")),
    **{f"aten.{name}.input": _RECURRENT for name in ("gru", "lstm", "rnn_tanh", "rnn_relu")},
}


def in_mode(graph: Graph, *, training: bool, frozen: bool = False) -> Graph:
    """The graph as it is in training, or in evaluation; where `frozen`, with running statistics as in evaluation.

    In evaluation, and where frozen, what is only counted is not counted (`num_batches_tracked`). A network that was
    exported in evaluation says nothing of the dropout within attention, so that there is none in training.
    """
    nodes = tuple(_in_mode(node, training and not (frozen and _has_statistics(node))) for node in graph.nodes)
    if not training or frozen:
        idle = _counters(graph)
        nodes = tuple(node for i, node in enumerate(nodes) if i not in idle)
    return replace(graph, nodes=nodes)


def _has_statistics(node: Node) -> bool:
    mode = MODES.get(node.target)
    return mode is not None and mode.statistics is not None


def _in_mode(node: Node, training: bool) -> Node:
    mode = MODES.get(node.target)
    if mode is None:
        return node
    if mode.flag is None:
        return node if training or not mode.dropout or not mode.dropout.get(node) else mode.dropout.put(node, 0.0)
    return mode.flag.put(node, training or (mode.statistics is not None and mode.statistics.get(node) is None))


def _counters(graph: Graph) -> set[int]:
    """Positions of nodes that change a buffer in place, which nothing else reads."""
    buffers = {value for value, name in graph.tensors.items() if name in graph.buffers}
    uses = Counter(value.name for node in graph.nodes for value in node.values())
    uses.update(value.name for value in graph.outputs)
    return {
        i
        for i, node in enumerate(graph.nodes)
        if (written := node.written) is not None
        and written.name in buffers
        and uses[written.name] == 1
        and not any(uses[name] for name in node.outputs if name is not None)
    }


def dropout_of(node: Node) -> float | None:
    """The probability with which a node drops in training; None where it is not one that can drop."""
    mode = MODES.get(node.target)
    if mode is None or mode.dropout is None:
        return None
    probability = mode.dropout.get(node)
    return float(probability) if isinstance(probability, int | float) else 0.0


def scaled_dropout(graph: Graph, factor: Callable[[Node], float]) -> Graph:
    """The graph with each probability of dropout multiplied by what `factor` says of its node.

    Pruned layers overfit less, and want less of it (Han et al. 2015, section 3.2). The result is limited to 0 .. 1.
    """

    def scaled(node: Node) -> Node:
        probability = dropout_of(node)
        if not probability:
            return node
        place = MODES[node.target].dropout
        return node if place is None else place.put(node, min(max(probability * factor(node), 0.0), 1.0))

    return replace(graph, nodes=tuple(scaled(node) for node in graph.nodes))
