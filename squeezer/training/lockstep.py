"""Runs two networks of one graph side by side, operator by operator, over all rows at once.

So a step can change the second network's tensors as it goes along, and see at every layer what has become of its
inputs by then, in one pass over the network. What no later operator needs is let go at once.
"""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from squeezer.data.batches import order
from squeezer.data.dataset import Split
from squeezer.errors import Code, DataError
from squeezer.graph import in_mode
from squeezer.graph.memory import overwritten
from squeezer.graph.operators import CREATING
from squeezer.training.module import evaluated, resolve
from squeezer.training.probe import zeros
from squeezer.training.tensors import share, to_torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from squeezer.data.dataset import Dataset
    from squeezer.graph import Graph, Node
    from squeezer.training.workbench import State

    Values = ChainMap[str, Any]  # of a batch, and then the network's tensors, by the names of values

_BATCH = 64
#: The bytes that the values of both networks may take together.
_MEMORY = 1 << 30
#: An epoch that no training reaches, whose order of rows says which are taken.
_CHOICE = 2**32 + 1


class Pair(NamedTuple):
    """What both networks have computed so far of one batch."""

    first: Values
    second: Values


class Lockstep:
    """Two networks that run side by side, in evaluation mode.

    Args:
        graph: of both.
        first: stored tensors of one, by name.
        second: of the other; what is put into `second` later holds from then on.
        batches: inputs of each batch.
        device: "cpu" or "cuda".
    """

    def __init__(self, graph: Graph, first: State, second: State, batches: Sequence[Any], device: str) -> None:
        self._graph = in_mode(graph, training=False)
        self._last = _last_uses(self._graph)
        self._values = {name: value for value, name in reversed(graph.tensors.items())}
        self._tensors = [
            {value: to_torch(state.tensors[name].decode(), device) for value, name in graph.tensors.items()}
            for state in (first, second)
        ]
        self.pairs = [
            Pair(*(ChainMap(_inputs(self._graph, batch, tensors, device), tensors) for tensors in self._tensors))
            for batch in batches
        ]

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Give the second network another tensor."""
        self._tensors[1][self._values[name]] = tensor

    def get(self, name: str) -> torch.Tensor:
        """A stored tensor of the second network."""
        return self._tensors[1][self._values[name]]

    @torch.no_grad()
    def run(self, before: Callable[[int], None], after: Callable[[int], None]) -> None:
        """Run to the end; both functions are called with the place of every operator that either network comes to."""
        for position, node in enumerate(self._graph.nodes):
            before(position)
            for pair in self.pairs:
                for values in pair:
                    compute(node, values)
            after(position)
            for pair in self.pairs:
                for values in pair:
                    for name in self._last.get(position, ()):
                        values.maps[0].pop(name, None)


def compute(node: Node, values: Values) -> None:
    """Apply one operator, and add its results to the values."""
    kwargs = {name: evaluated(value, values) for name, value in node.kwargs.items()}
    if node.target in CREATING:
        kwargs["device"] = values["device of inputs"]
    args = tuple(evaluated(value, values) for value in node.args)
    result = resolve(node.target)(*args, **kwargs)
    results = (result,) if len(node.outputs) == 1 and not node.several else tuple(result)
    values.update({name: one for name, one in zip(node.outputs, results, strict=False) if name is not None})


def _inputs(graph: Graph, batch: Sequence[Any], tensors: Mapping[str, torch.Tensor], device: str) -> dict[str, Any]:
    given = {one.name: share(array, device) for one, array in zip(graph.inputs, batch, strict=True)}
    for name in overwritten(graph):
        given[name] = (given[name] if name in given else tensors[name]).clone()
    return given | {"device of inputs": torch.device(device)}  # no value has spaces in its name


def _last_uses(graph: Graph) -> dict[int, list[str]]:
    """What is used, or made in vain, for the last time by each node."""
    last = {value.name: i for i, node in enumerate(graph.nodes) for value in node.values()}
    for i, node in enumerate(graph.nodes):
        last |= {name: max(i, last.get(name, i)) for name in node.outputs if name is not None}
    found: dict[int, list[str]] = {}
    for name, i in last.items():
        found.setdefault(i, []).append(name)
    return found


@torch.no_grad()
def shapes(state: State) -> dict[str, tuple[int, ...]]:
    """The extents of stored tensors, inputs and results, by the names of values, where the network is given zeros.

    Where it does not run on these to its end, those of what it came to.
    """
    graph = in_mode(state.graph, training=False)
    tensors = {value: to_torch(state.tensors[name].decode()) for value, name in graph.tensors.items()}
    values = ChainMap(_inputs(graph, zeros(graph.inputs), tensors, "cpu"), tensors)
    found = {name: tuple(value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}
    last = _last_uses(graph)
    for position, node in enumerate(graph.nodes):
        try:
            compute(node, values)
        except (RuntimeError, IndexError, ValueError):
            break
        for name in node.outputs:
            if name is not None and isinstance(values[name], torch.Tensor):
                found[name] = tuple(values[name].shape)
        for name in last.get(position, ()):
            values.maps[0].pop(name, None)
    return found


def calibration(
    data: Dataset, graph: Graph, extents: Mapping[str, tuple[int, ...]], rows: int, seed: int
) -> Iterator[tuple[Any, ...]]:
    """Inputs of training rows in batches: `rows` of them, or as many as there are, or as memory allows.

    Raises:
        DataError: TOO_FEW_ROWS, where there are none, or fewer than a network of one size of batch takes.
    """
    fixed = next((given.shape[0] for given in graph.inputs if given.shape), None)
    size = data.size(Split.TRAIN)
    chosen = min(rows, size, max(fixed or 1, _MEMORY // max(1, _bytes_of_row(graph, extents))))
    if fixed is not None:
        chosen -= chosen % fixed
    if chosen == 0:
        raise DataError(
            Code.TOO_FEW_ROWS, f"there are {size} training rows, too few to look at what layers are given; send more"
        )
    picked = np.sort(order(size, seed, _CHOICE)[:chosen])
    for start in range(0, chosen, fixed or _BATCH):
        yield data.batch(Split.TRAIN, picked[start : start + (fixed or _BATCH)]).inputs


def _bytes_of_row(graph: Graph, extents: Mapping[str, tuple[int, ...]]) -> int:
    """The most that the values of one row take in both networks at any time."""
    last = _last_uses(graph)
    rows = next((extents[one.name][0] for one in graph.inputs if one.shape), 1)
    alive = {one.name: _numbers(extents, one.name) for one in graph.inputs}
    most = 0
    for position, node in enumerate(graph.nodes):
        alive |= {name: _numbers(extents, name) for name in node.outputs if name is not None}
        most = max(most, sum(alive.values()))
        for name in last.get(position, ()):
            alive.pop(name, None)
    return 2 * 4 * most // max(1, rows)


def _numbers(extents: Mapping[str, tuple[int, ...]], name: str) -> int:
    return int(np.prod(extents.get(name, ()), dtype=np.int64))
