"""Opens what was uploaded; where the recipe names an architecture of the zoo, its graph comes with the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from squeezer.errors import RecipeError
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
