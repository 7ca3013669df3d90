"""The zoo's networks as graphs: for weights that were uploaded, and as students. It needs torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from squeezer.graph.modes import in_mode
from squeezer.representations import Dense
from squeezer.torch import graph_of
from squeezer.training.tensors import torch_dtype
from squeezer.training.workbench import State
from squeezer.zoo.catalogue import family_of
from squeezer.zoo.match import compare, element_type, prefix_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from squeezer.graph import Graph
    from squeezer.model import TensorInfo
    from squeezer.zoo.catalogue import Architecture
    from squeezer.zoo.shapes import Shape

_BATCH = 2


def traced_for(listed: Architecture, tensors: Mapping[str, TensorInfo], input_shape: Shape | None) -> Graph:
    """See `squeezer.zoo.graph_for`."""
    prefix = prefix_of(tensors)
    found = {name.removeprefix(prefix): info.shape for name, info in tensors.items()}
    family = family_of(listed)
    classes, inferred = family.infer(listed.name, found)
    shape = inferred if input_shape is None else input_shape
    with torch.device("meta"):  # nothing is allocated before all shapes are those of the file's tensors
        expected = family.build(listed.name, classes, shape).state_dict()
    compare(listed.name, {name: tuple(tensor.shape) for name, tensor in expected.items()}, found)
    module = family.build(listed.name, classes, shape).to(torch_dtype(element_type(listed.name, tensors)))
    graph, _ = graph_of(module.eval(), _example(module, shape))
    if expected.keys() - found.keys():  # an old checkpoint, without the counters of batch norm, which nothing reads
        graph = in_mode(graph, training=False)
    used = {value: name for value, name in graph.tensors.items() if name in found}
    renamed: Graph = replace(
        graph,
        tensors={value: prefix + name for value, name in used.items()},
        buffers=frozenset(prefix + name for name in graph.buffers if name in found),
    )
    return renamed


def untrained(listed: Architecture, classes: int, input_shape: Shape, seed: int) -> State:
    """See `squeezer.zoo.initial_state`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = family_of(listed).build(listed.name, classes, input_shape)
    graph, tensors = graph_of(module.eval(), _example(module, input_shape))
    return State(graph, {name: Dense(array, array.dtype) for name, array in tensors.items()})


def _example(module: nn.Module, shape: Shape) -> tuple[torch.Tensor]:
    """Inputs of the weights' type."""
    return (torch.zeros(_BATCH, *shape, dtype=next(module.parameters()).dtype),)
