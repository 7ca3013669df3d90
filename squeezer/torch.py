"""For those who have PyTorch: a module becomes a file that Squeezer takes, and a `.sqz` file becomes a module again."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from squeezer.artifact import Artifact
from squeezer.errors import ArtifactError, Code, ModelError
from squeezer.formats.pt2 import Pt2Model
from squeezer.graph.checks import check_names

try:
    import torch
except ImportError as error:
    raise ModelError(
        Code.MISSING_DEPENDENCY, "Modules need PyTorch. Run pip install 'squeezer[torch]', or use squeezer.load."
    ) from error
from torch.utils import _pytree as pytree

from squeezer.training.export import forget_origin
from squeezer.training.module import NetworkModule, build, put
from squeezer.training.network import Network
from squeezer.training.tensors import to_torch

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from squeezer.artifact.reader import Origin
    from squeezer.graph import Graph

#: How far the exported network may be from the module, in units of the largest output: sums in another order.
_TOLERANCE = 1e-4


def export(
    module: nn.Module,
    example_inputs: torch.Tensor | Sequence[Any],
    path: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
) -> Path:
    """Write the .pt2 file of a module, for any size of batch, and make sure that it gives what the module gives.

    It holds the network and its weights, and not the examples. The module itself stays as it is.

    Args:
        module: any network whose `forward` `torch.export` can trace.
        example_inputs: what `forward` is called with: a tensor, or several. The first dimension of the first tensor is
            the batch, and so is that of every other one with as many rows.
        path: the file to write; it appears when it is whole.
        kwargs: named arguments of `forward`.

    Returns:
        The path.

    Raises:
        ModelError: EXPORT_FAILED where the module cannot be traced, or works for one size of batch alone;
            UNSUPPORTED_OPERATOR.
    """
    target = Path(path)
    # Named so, since the archive's folder gets the file's name.
    with tempfile.TemporaryDirectory(prefix=".squeezer-", dir=target.parent) as folder:
        whole = Path(folder) / "model.pt2"
        _write_checked(module, example_inputs, kwargs or {}, whole)
        whole.replace(target)
    return target


def graph_of(
    module: nn.Module, example_inputs: torch.Tensor | Sequence[Any], *, kwargs: Mapping[str, Any] | None = None
) -> tuple[Graph, dict[str, NDArray[Any]]]:
    """A module's graph, and its tensors by their stored names, as from the file that `export` writes."""
    with tempfile.TemporaryDirectory(prefix="squeezer-") as folder:
        path = export(module, example_inputs, Path(folder) / "model.pt2", kwargs=kwargs)
        model = Pt2Model(path)
        try:
            return model.graph, {info.name: model.read(info.name) for info in model.tensors}
        finally:
            model.close()


def load_module(origin: Origin, *, max_bytes: int | None = None) -> NetworkModule:
    """The network in a `.sqz` file as a module with its decoded weights, in evaluation mode.

    It needs no code of whoever trained it, and runs none from the file: operators of a list alone. Its inputs come in
    the order of the original's tensors, dicts flattened; its outputs as a tensor or a tuple. Tied weights are tied.

    Loading is bounded by `max_bytes`. What the network computes is not: a stranger's may ask for more memory and time
    than there are, so limit those of the process (`ulimit -v`, a container) in which it runs.

    Args:
        origin: a path, the file's bytes, or an http(s) URL.
        max_bytes: how large all tensors together may be when decoded: see `squeezer.open`.

    Raises:
        ArtifactError: NO_GRAPH where the file holds weights alone; or it is damaged, or not a `.sqz` file.
    """
    with Artifact(origin, max_bytes=max_bytes) as artifact:
        artifact.check_head()
        graph = artifact.graph()
        if graph is None:
            raise ArtifactError(
                "the file holds tensors alone; load them into your own module with squeezer.load",
                "graph",
                Code.NO_GRAPH,
            )
        try:
            module = _filled(graph, artifact)
        except ModelError as error:  # a name that no module can give to a tensor
            raise ArtifactError(error.detail, "graph", error.code) from None
    return module.eval()


def _filled(graph: Graph, artifact: Artifact) -> NetworkModule:
    check_names(artifact)
    module = build(graph)
    for name, array in artifact.weights():
        put(module, name, to_torch(array), buffer=name in graph.buffers)
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    for alias, name in artifact.aliases.items():
        put(module, alias, tensors[name], buffer=name in graph.buffers)
    return module


# -- exporting ---------------------------------------------------------------------------------------------


def _write_checked(
    module: nn.Module, inputs: torch.Tensor | Sequence[Any], kwargs: Mapping[str, Any], out: Path
) -> None:
    """Export in training mode, which says most about a network; or else, where that differs, in evaluation mode.

    In training mode the dropout within attention and the counters of batch norm are part of the graph. But a
    `forward` may do something else altogether in training, and that must not be what is measured.
    """
    args = (inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs)
    examples = _Examples(args, dict(kwargs))
    with _as_it_was(module):
        try:
            _write(module.train(), examples, out)
            _compare(module.eval(), examples, out)
        except ModelError:
            _write(module.eval(), examples, out)
            _compare(module, examples, out)


class _Examples:
    """Example inputs with a batch of two or more, since `torch.export` takes a size of one for a constant."""

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        leaves, self._spec = pytree.tree_flatten((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not tensors or tensors[0].ndim == 0 or not len(tensors[0]):
            raise ModelError(
                Code.EXPORT_FAILED, "Give an example input that is a tensor whose first dimension is the batch."
            )
        self._batch = len(tensors[0])
        self._leaves = leaves

    def of_size(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of `forward` with so many rows, which repeat."""
        leaves = [_rows(leaf, batch) if self._is_batched(leaf) else leaf for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs

    @property
    def sizes(self) -> tuple[int, int]:
        """Two sizes of batch: that of the trace, and another one."""
        size = max(2, self._batch)
        return size, size + 1

    def shapes(self) -> tuple[Any, Any]:
        """Which dimensions may have any size, in the structure of the arguments."""
        leaves = [{0: torch.export.Dim.DYNAMIC} if self._is_batched(leaf) else None for leaf in self._leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        return args, kwargs

    def _is_batched(self, leaf: Any) -> bool:
        return isinstance(leaf, torch.Tensor) and leaf.ndim > 0 and len(leaf) == self._batch


def _rows(tensor: torch.Tensor, count: int) -> torch.Tensor:
    return tensor[torch.arange(count, device=tensor.device) % len(tensor)]


def _write(module: nn.Module, examples: _Examples, out: Path) -> None:
    args, kwargs = examples.of_size(examples.sizes[0])
    shapes, named_shapes = examples.shapes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what the user's module does, which torch can trace all the same
            by_argument = inspect.signature(module.forward).bind(*shapes, **named_shapes).arguments
            with torch.enable_grad():  # without gradients some layers take shortcuts that cannot be trained
                program = torch.export.export(module, args, kwargs, dynamic_shapes=dict(by_argument))
            forget_origin(program)
            torch.export.save(program, out)
    except Exception as error:  # whatever the module and torch's tracer meet
        raise _failure(error) from error


def _failure(error: Exception) -> ModelError:
    text = str(error).strip()
    if "pecializ" in text or "not all values of" in text:
        return ModelError(
            Code.EXPORT_FAILED,
            "The module works for one size of batch alone: somewhere it takes the number of rows for a constant, as in "
            f"x.view(8, -1). Write x.view(x.shape[0], -1) there. PyTorch says: {text[:600]}",
        )
    return ModelError(
        Code.EXPORT_FAILED,
        f"PyTorch cannot trace the module ({type(error).__name__}: {text[:600]}). "
        "https://pytorch.org/docs/stable/export.html tells what it can trace.",
    )


def _compare(module: nn.Module, examples: _Examples, path: Path) -> None:
    """Make sure that the file gives what the module gives in evaluation mode, for two sizes of batch."""
    model = Pt2Model(path)
    try:
        tensors = {info.name: to_torch(model.read(info.name)) for info in model.tensors}
        network = Network(model.graph)
    finally:
        model.close()
    for size in examples.sizes:
        args, kwargs = examples.of_size(size)
        inputs = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        placed = {name: tensor.to(inputs[0].device) for name, tensor in tensors.items()}
        with torch.no_grad():
            expected = [leaf for leaf in pytree.tree_leaves(module(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
            found = network(placed, inputs)
        outputs = (found,) if isinstance(found, torch.Tensor) else found
        if len(outputs) != len(expected) or not all(map(_are_close, expected, outputs)):
            raise ModelError(
                Code.EXPORT_FAILED,
                "The exported network gives something else than the module does in evaluation mode. Perhaps its "
                "forward() draws random numbers, or keeps something from one call to the next; take that out.",
            )


def _are_close(expected: torch.Tensor, found: torch.Tensor) -> bool:
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return False
    if not (expected.is_floating_point() or expected.is_complex()):
        return torch.equal(expected, found)
    largest = float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
    return torch.allclose(expected, found, rtol=0, atol=_TOLERANCE * max(largest, 1e-6), equal_nan=True)


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Give each part of the module its mode back."""
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
