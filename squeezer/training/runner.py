"""Runs networks on batches: numpy in, the judged output out."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import torch

from squeezer.data.batches import augment, generator
from squeezer.data.dataset import Batch
from squeezer.data.spec import IGNORED
from squeezer.errors import Code, DataError
from squeezer.graph import Value
from squeezer.graph.head import gives_probabilities
from squeezer.training.losses import logits
from squeezer.training.network import Network
from squeezer.training.parametrisation import Constant, Statistic
from squeezer.training.predictions import OF_CLASSES
from squeezer.training.tensors import share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from squeezer.data.spec import Loss
    from squeezer.graph import Graph
    from squeezer.training.parametrisation import Parametrisation
    from squeezer.training.settings import Settings
    from squeezer.training.workbench import State

_VIEWS = frozenset({"aten.view.default", "aten._unsafe_view.default"})
_CONVOLUTIONS = frozenset({"aten.conv2d.default", "aten.conv2d.padding", "aten.convolution.default"})


class Runner:
    """A network on a device, whose outputs are logits where the loss is one of classes.

    On a CPU, convolutions are several times faster with the channels last in memory. Results differ by rounding alone.
    """

    def __init__(self, graph: Graph, loss: Loss, device: str, *, frozen: bool = False) -> None:
        self._filters = _filters(graph) if device == "cpu" and not _writes_views(graph) else frozenset()
        self._network = Network(_without_views(graph) if self._filters else graph, frozen=frozen)
        self._device, self._loss = device, loss
        self._names = tuple(dict.fromkeys(graph.tensors.values()))
        self._probabilities = loss in OF_CLASSES and gives_probabilities(graph)
        #: The one size of batch that the network takes, where it takes one alone.
        self.fixed = next((given.shape[0] for given in graph.inputs if given.shape), None)

    def __call__(
        self,
        parametrisations: Mapping[str, Parametrisation],
        inputs: Sequence[torch.Tensor],
        *,
        training: bool = False,
        half: bool = False,
    ) -> torch.Tensor:
        """The first output for a batch.

        Args:
            parametrisations: of every stored tensor.
            inputs: of the batch, on the device.
            training: whether the network is in training mode, and updates the statistics among the parametrisations.
            half: whether products are taken in bfloat16.
        """
        tensors = {}
        for name in self._names:
            one = parametrisations[name]
            tensor = one.value if training and isinstance(one, Statistic) else one.weights()
            tensors[name] = _last(tensor) if name in self._filters else tensor
        with torch.autocast(self._device, torch.bfloat16, enabled=half):
            outputs = self._network(tensors, self._placed(inputs), training=training)
        first = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        return logits(first, self._loss) if self._probabilities else first

    def _placed(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [_last(tensor) if self._filters and tensor.ndim == 4 else tensor for tensor in inputs]


class Teacher:
    """A network that stays as it is, in evaluation mode, with tensors of its own."""

    def __init__(self, state: State, loss: Loss, device: str) -> None:
        self._runner = Runner(state.graph, loss, device)
        self._tensors = {name: Constant(state.tensors[name], device) for name in state.graph.tensors.values()}
        self.inputs, self.fixed = state.graph.inputs, self._runner.fixed

    @torch.no_grad()
    def __call__(self, inputs: Sequence[torch.Tensor], *, half: bool = False) -> torch.Tensor:
        """Its first output for a batch."""
        return self._runner(self._tensors, inputs, half=half)


def on_device(batch: Batch, device: str) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
    """Inputs and targets of a batch as tensors."""
    targets = None if batch.targets is None else share(batch.targets, device)
    return tuple(share(array, device) for array in batch.inputs), targets


def _last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def _writes_views(graph: Graph) -> bool:
    """Whether anything is written into a view, which a copy in its place would hide."""
    views = {name for node in graph.nodes if node.target in _VIEWS for name in node.outputs}
    return any(node.written is not None and node.written.name in views for node in graph.nodes)


def _without_views(graph: Graph) -> Graph:
    """The same network, whose tensors may lie in memory in any order."""
    nodes = (replace(node, target="aten.reshape.default") if node.target in _VIEWS else node for node in graph.nodes)
    return replace(graph, nodes=tuple(nodes))


def _filters(graph: Graph) -> frozenset[str]:
    """The stored tensors that are weights of two-dimensional convolutions."""
    weights = (node.args[1] for node in graph.nodes if node.target in _CONVOLUTIONS and len(node.args) > 1)
    names = (graph.tensors.get(weight.name) for weight in weights if isinstance(weight, Value))
    return frozenset(name for name in names if name is not None)


def moved(batch: Batch, settings: Settings, black: Sequence[NDArray[Any] | float], key: tuple[int, ...]) -> Batch:
    """A batch whose images are shifted and mirrored as the settings say; labels of their pixels move with them.

    Args:
        batch: as the data set gives it.
        settings: `shift` and `flip`.
        black: `Dataset.black`.
        key: of the random numbers; all inputs that are images move alike.

    Raises:
        DataError: INVALID_DATA, where there are no images, or where targets cannot move with them.
    """
    if not settings.shift and not settings.flip:
        return batch
    images = [array.ndim == 4 for array in batch.inputs]
    if not any(images):
        images[0] = True  # for the error that `augment` raises
    inputs = tuple(
        augment(array, generator(*key), settings.shift, settings.flip, outside) if image else array
        for array, image, outside in zip(batch.inputs, images, black, strict=True)
    )
    targets, extent = batch.targets, inputs[images.index(True)].shape[2:]
    if targets is not None and (targets.ndim >= 3 or targets.shape[1:] == (prod(extent),)):
        if targets.shape[1:] != extent or targets.dtype.kind != "i":
            raise DataError(
                Code.INVALID_DATA,
                f"shift and flip would move images away from their targets of the shape {targets.shape}; set shift to "
                "0 and flip to false",
            )
        targets = augment(targets[:, None], generator(*key), settings.shift, settings.flip, IGNORED)[:, 0]
    return Batch(inputs, targets)
