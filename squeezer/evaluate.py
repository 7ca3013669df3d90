"""Measures an uploaded model and the file that was made of it, as their users would load them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from squeezer.artifact import Artifact
from squeezer.formats.onnx_parts import SKELETON
from squeezer.progress import Stretches
from squeezer.upload import open_upload

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from squeezer.artifact.reader import Origin
    from squeezer.data.dataset import Dataset
    from squeezer.model import Model
    from squeezer.progress import Progress
    from squeezer.recipe import Recipe
    from squeezer.training.runnable import Runnable


def evaluate_files(
    path: Path, origin: Origin, recipe: Recipe, data: Path, progress: Callable[[Progress], None], threads: int
) -> dict[str, Any] | None:
    """Original and decoded artifact on the test rows; None where the model is weights alone."""
    stretches = Stretches([1.0], progress)
    with closing(open_upload(path, recipe.architecture)) as model, Artifact(origin, max_bytes=1 << 62) as artifact:
        if not _runs(model):
            return None
        from squeezer.training.device import torch_threads
        from squeezer.training.evaluation import evaluate

        original, device = _original(model, recipe)
        result = _result(model, artifact, recipe, device)
        with torch_threads(threads), closing(_open(data, recipe, original, device)) as dataset:
            return evaluate(
                original,
                result,
                dataset,
                recipe.data,
                device=device,
                tell=lambda share, note="": stretches.tell(0, "evaluate", share, note),
            )


def check_data(model: Model, recipe: Recipe, data: Path) -> None:
    """See before any work that the result can be measured.

    Raises:
        DataError: the data set cannot be read, or does not fit the model.
    """
    if _runs(model):
        _open(data, recipe, *_original(model, recipe)).close()


def _runs(model: Model) -> bool:
    """Whether it is more than weights."""
    return model.graph is not None or model.format == "onnx"


def _open(data: Path, recipe: Recipe, original: Runnable, device: str) -> Dataset:
    from squeezer.training.probe import open_data

    return open_data(data, recipe.data, recipe.accept, original, device)


def _original(model: Model, recipe: Recipe) -> tuple[Runnable, str]:
    """The uploaded network, and the device that it runs on."""
    from squeezer.training.device import choose
    from squeezer.training.runnable import OfOnnx, of_graph

    tensors = {info.name: model.read(info.name) for info in model.tensors}
    if model.graph is None:
        return OfOnnx(model.read_file(SKELETON), tensors, recipe.data.loss), "cpu"
    device = choose(recipe.device)
    return of_graph(model.graph, tensors, recipe.data.loss, device), device


def _result(model: Model, artifact: Artifact, recipe: Recipe, device: str) -> Runnable:
    """The decoded network; where the file has no graph, it is the upload's."""
    from squeezer.training.runnable import OfOnnx, of_graph

    tensors = {name: artifact[name] for name in artifact.names}
    if model.graph is None:
        return OfOnnx(artifact.read_file(SKELETON), tensors, recipe.data.loss)
    return of_graph(artifact.graph() or model.graph, tensors, recipe.data.loss, device)
