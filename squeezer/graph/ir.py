"""The parts of a graph. It is what `torch.export` calls the training IR, less everything that could run code."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from squeezer.graph.operators import IN_PLACE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True)
class Value:
    """What an earlier node, an input or a stored tensor has given, by its name within the graph."""

    name: str


@dataclass(frozen=True)
class ElementType:
    """An element type as an argument (`dtype=float16`), by the name of `squeezer.model.DTYPES`."""

    name: str


@dataclass(frozen=True)
class MemoryFormat:
    """The order of elements in memory as an argument: `contiguous_format`, `channels_last`, and the like."""

    name: str


Argument = None | bool | int | float | str | Value | ElementType | MemoryFormat | tuple["Argument", ...]


@dataclass(frozen=True)
class Node:
    """One operator applied. `target` is its name in the list of known ones, such as `aten.conv2d.default`.

    `outputs` are the names that its results get. An operator that returns several values has several (None for one
    that nobody uses), or one and `several`, where it returns a list of one.
    """

    target: str
    args: tuple[Argument, ...]
    outputs: tuple[str | None, ...]
    kwargs: dict[str, Argument] = field(default_factory=dict)
    several: bool = False

    def values(self) -> Iterator[Value]:
        """All values among the arguments."""
        for argument in (*self.args, *self.kwargs.values()):
            yield from _values(argument)

    def renamed(self, names: Mapping[str, str]) -> Node:
        """The node with other names for some of the values that it is given."""
        args = tuple(_renamed(argument, names) for argument in self.args)
        return replace(self, args=args, kwargs={key: _renamed(value, names) for key, value in self.kwargs.items()})

    @property
    def written(self) -> Value | None:
        """What an operator writes over that works in place (`add_`): its first argument. Else None."""
        first = self.args[0] if self.args and self.target in IN_PLACE else None
        return first if isinstance(first, Value) else None


def _values(argument: Argument) -> Iterator[Value]:
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, tuple):
        for part in argument:
            yield from _values(part)


def _renamed(argument: Argument, names: Mapping[str, str]) -> Argument:
    if isinstance(argument, Value):
        return Value(names.get(argument.name, argument.name))
    return tuple(_renamed(part, names) for part in argument) if isinstance(argument, tuple) else argument


@dataclass(frozen=True)
class Input:
    """An input of the network. `shape` has None where any extent will do, as a dynamic batch has."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str  # by the names of `squeezer.model.DTYPES`


@dataclass(frozen=True)
class Graph:
    """A network: `tensors` says which stored tensor stands under which name of a value.

    `buffers` are the stored tensors that no optimiser changes (the statistics of batch norm), by their own names.
    """

    inputs: tuple[Input, ...]
    tensors: dict[str, str]  # value name: name of a stored tensor
    buffers: frozenset[str]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    single: bool = True  # whether the network returns its one output, not a tuple of them
