"""Networks that can be measured, whatever runs them: a graph by PyTorch, an ONNX file by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from squeezer.errors import Code, ModelError
from squeezer.model import DTYPES
from squeezer.representations import Dense
from squeezer.training.losses import logits
from squeezer.training.predictions import OF_CLASSES
from squeezer.training.runner import Teacher
from squeezer.training.tensors import share, to_numpy
from squeezer.training.workbench import State

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray

    from squeezer.data.spec import Loss
    from squeezer.graph import Graph, Input

    Arrays = Mapping[str, NDArray[Any]]


class Runnable(Protocol):
    """A network with its tensors, in evaluation mode."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What it wants to be given."""
        ...

    @property
    def fixed(self) -> int | None:
        """The one size of batch that it takes, where it takes one alone."""
        ...

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Its first output for a batch; logits, where the loss is one of classes and it gives probabilities."""
        ...


def of_graph(graph: Graph, tensors: Arrays, loss: Loss, device: str) -> Runnable:
    """A graph with these tensors, run by PyTorch on a device."""
    return Teacher(State(graph, {name: Dense(array, array.dtype) for name, array in tensors.items()}), loss, device)


class OfOnnx:
    """An ONNX network, run by ONNX Runtime on the processor. It is a `Runnable`.

    Raises:
        ModelError: INVALID_ONNX, where ONNX Runtime refuses the network; MISSING_DEPENDENCY.
    """

    def __init__(self, skeleton: bytes, tensors: Arrays, loss: Loss) -> None:
        """Args are the network without its weights, the weights by name, and the task's loss."""
        from squeezer.training.onnx_runtime import OnnxNetwork  # which not everybody has

        self._network = OnnxNetwork(skeleton, tensors)
        self._loss = loss
        self.inputs, self.fixed = self._network.inputs, self._network.fixed

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Its first output for a batch.

        Raises:
            ModelError: INVALID_ONNX, where it does not run; UNSUPPORTED_FORMAT, where it gives no tensor of numbers.
        """
        given = [to_numpy(tensor, DTYPES[one.dtype]) for one, tensor in zip(self.inputs, inputs, strict=True)]
        outputs = self._network(given)
        first: object = outputs[0] if isinstance(outputs, tuple) else outputs
        if not isinstance(first, np.ndarray) or first.dtype.kind not in "biuf":
            raise ModelError(
                Code.UNSUPPORTED_FORMAT,
                "The first output of the ONNX network is no tensor of numbers, so accuracy cannot be measured. Export "
                "it so that its scores come first.",
            )
        found = share(first)
        return logits(found, self._loss) if self._network.probabilities and self._loss in OF_CLASSES else found
