"""Opens what was uploaded; where the recipe names an architecture of the zoo, its graph comes with the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squeezer.errors import Code, ModelError, RecipeError
from squeezer.formats import open_model

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from squeezer.graph import Graph
    from squeezer.model import Dropped, Model, TensorInfo


def open_upload(path: Path, architecture: str | None) -> Model:
    """The model at `path`; the caller closes it.

    Raises:
        ModelError: it cannot be read, or its tensors are not those of the architecture.
        RecipeError: there is no such architecture, or the model brings its own graph.
    """
    model = open_model(path)
    if architecture is None:
        return model
    try:
        if model.graph is not None:
            raise RecipeError("architecture is for weights alone, and this upload brings its own network; leave it out")
        from squeezer.zoo import graph_for

        return _Named(model, graph_for(architecture, {info.name: info for info in model.tensors}))
    except BaseException:
        model.close()
        raise


def open_student(path: Path) -> Model:
    """The network at `path` that came as a student, with its graph; the caller closes it.

    Raises:
        ModelError: it cannot be read, with the code that a model would get; UNSUPPORTED_FORMAT where it has no graph.
    """
    try:
        model = open_model(path)
    except ModelError as error:
        raise ModelError(error.code, f"The student: {error.detail}") from error
    if model.graph is None:
        model.close()
        raise ModelError(
            Code.UNSUPPORTED_FORMAT,
            f"The student must be a network, and this file ({model.format}) is none that can be trained. Send a .pt2, "
            "which squeezer.export(module, example_inputs, 'student.pt2') writes.",
        )
    return model


@dataclass(frozen=True)
class _Named:
    """Weights with the graph of their architecture."""

    weights: Model
    graph: Graph

    @property
    def format(self) -> str:
        return self.weights.format

    @property
    def input_bytes(self) -> int:
        return self.weights.input_bytes

    @property
    def tensors(self) -> Sequence[TensorInfo]:
        return self.weights.tensors

    @property
    def aliases(self) -> Mapping[str, str]:
        return self.weights.aliases

    @property
    def dropped(self) -> Sequence[Dropped]:
        return self.weights.dropped

    @property
    def files(self) -> Mapping[str, int]:
        return self.weights.files

    def read(self, name: str) -> NDArray[Any]:
        return self.weights.read(name)

    def read_file(self, path: str) -> bytes:
        return self.weights.read_file(path)

    def close(self) -> None:
        self.weights.close()
