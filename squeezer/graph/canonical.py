"""One form for all graphs that differ in the names of values, or in the order of tensors, alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from squeezer.graph.ir import Graph, Input, Value

if TYPE_CHECKING:
    from collections.abc import Iterator


def canonical(graph: Graph) -> Graph:
    """The same network with its tensors in the order of their first use, and values named by the order of all.

    A tensor has one value. Tensors that nothing uses come last, by name. Inputs keep their names; other values are
    called v0, v1... Named arguments are sorted.
    """
    graph = with_one_value_each(graph)
    nodes = [replace(node, kwargs=dict(sorted(node.kwargs.items()))) for node in graph.nodes]
    by_use: dict[str, None] = {}
    for value in [*(value for node in nodes for value in node.values()), *graph.outputs]:
        if value.name in graph.tensors:
            by_use[value.name] = None
    by_use |= dict.fromkeys(sorted(graph.tensors, key=lambda value: graph.tensors[value]))
    computed = [name for node in nodes for name in node.outputs if name is not None]
    fresh = fresh_names(graph.inputs)
    names = {name: next(fresh) for name in [*by_use, *computed]}
    return replace(
        graph,
        tensors={names[value]: graph.tensors[value] for value in by_use},
        nodes=tuple(
            replace(node.renamed(names), outputs=tuple(name and names[name] for name in node.outputs)) for node in nodes
        ),
        outputs=tuple(Value(names.get(value.name, value.name)) for value in graph.outputs),
    )


def with_one_value_each(graph: Graph) -> Graph:
    """The graph without second values of a tensor, as tied ones have."""
    values: dict[str, str] = {}
    for value, name in graph.tensors.items():
        values.setdefault(name, value)
    first = {value: values[name] for value, name in graph.tensors.items()}
    return replace(
        graph,
        tensors={value: name for name, value in values.items()},
        nodes=tuple(node.renamed(first) for node in graph.nodes),
        outputs=tuple(Value(first.get(value.name, value.name)) for value in graph.outputs),
    )


def fresh_names(inputs: tuple[Input, ...]) -> Iterator[str]:
    """v0, v1... without those that are inputs."""
    taken = {given.name for given in inputs}
    number = 0
    while True:
        if (name := f"v{number}") not in taken:
            yield name
        number += 1
