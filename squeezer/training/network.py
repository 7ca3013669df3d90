"""A graph that runs: `torch` module and tensors kept apart, so that every tensor can be replaced for one call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.func import functional_call

from squeezer.training.module import build

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from squeezer.graph import Graph

Outputs = torch.Tensor | tuple[torch.Tensor, ...]


class Network:
    """The function that a graph is. It holds no tensors of its own."""

    def __init__(self, graph: Graph, *, frozen: bool = False) -> None:
        self._module = build(graph, frozen=frozen)
        self._names = dict.fromkeys(graph.tensors.values())

    def __call__(
        self, tensors: Mapping[str, torch.Tensor], inputs: Sequence[torch.Tensor], *, training: bool = False
    ) -> Outputs:
        """What the network gives for a batch.

        Args:
            tensors: every stored tensor by its name, on one device; others are ignored. In training the buffers among
                them are changed in place (the running statistics of batch norm), so hand copies over.
            inputs: in the graph's order.
            training: whether batch norm uses the batch's statistics, unless it is frozen, and dropout drops.
        """
        given = {name: tensors[name] for name in self._names}
        self._module.training = training
        result: Outputs = functional_call(self._module, given, tuple(inputs), strict=True)
        return result
