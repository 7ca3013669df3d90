"""The zoo: built-in networks, for state dicts that come with a name, and as students. Its listing needs no torch.

    squeezer.zoo.build("lenet5", classes=26)

is an ordinary `torch.nn.Module`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from squeezer.zoo.catalogue import ARCHITECTURES, Architecture, family_of, find

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from squeezer.graph import Graph
    from squeezer.model import TensorInfo
    from squeezer.training.workbench import State
    from squeezer.zoo.shapes import Shape

__all__ = ["ARCHITECTURES", "Architecture", "build", "find", "graph_for", "initial_state"]


def build(name: str, classes: int | None = None, input_shape: Shape | None = None) -> nn.Module:
    """A network with random weights; by default for as many classes, and inputs, as it was published for.

    Args:
        name: one of `ARCHITECTURES`.
        classes: how many logits it gives for each input.
        input_shape: without the batch.

    Raises:
        RecipeError: there is no network of that name.
        ModelError: MISMATCHED_ARCHITECTURE, where it takes no inputs of that shape.
    """
    listed = find(name)
    shape = listed.input_shape if input_shape is None else tuple(input_shape)
    return family_of(listed).build(name, listed.classes if classes is None else classes, shape)


def graph_for(name: str, tensors: Mapping[str, TensorInfo], input_shape: Shape | None = None) -> Graph:
    """The network that a state dict belongs to, with the state dict's names for its tensors.

    Args:
        name: one of `ARCHITECTURES`.
        tensors: all of the state dict; every name may begin with `module.`.
        input_shape: without the batch; by default the one that the tensors' shapes tell, else the published one.

    Raises:
        RecipeError: there is no network of that name.
        ModelError: MISMATCHED_ARCHITECTURE, where a tensor is missing, superfluous or of another shape.
    """
    from squeezer.zoo.tracing import traced_for

    return traced_for(find(name), tensors, input_shape)


def initial_state(name: str, classes: int, input_shape: Shape, seed: int) -> State:
    """An untrained network, as a student: its graph, and random weights in float32.

    Args:
        name: one of `ARCHITECTURES`.
        classes: how many logits it gives for each input.
        input_shape: without the batch.
        seed: equal seeds give equal weights.

    Raises:
        RecipeError: there is no network of that name.
        ModelError: MISMATCHED_ARCHITECTURE, where it takes no inputs of that shape.
    """
    from squeezer.zoo.tracing import untrained

    return untrained(find(name), classes, input_shape, seed)
