"""What one setting of a coder makes of a network: the bytes, and how far its predictions are from the original's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import squeezer
from benchmarks import resnet
from benchmarks.rate_curves import Point, average
from squeezer import pipeline
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe, presets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    import torch
    from numpy.typing import NDArray

    from benchmarks.nnc import Nncodec, Setting

    Weights = Mapping[str, NDArray[Any]]
    #: Bytes and decoded weights at one setting.
    Sample = tuple[int, Weights]


@dataclass(frozen=True)
class Verdict:
    """How a network's predictions differ from the original's, in the units of `Point`."""

    disagreement: float
    divergence: float
    lost: float


def compare(original: NDArray[Any], other: NDArray[Any], labels: NDArray[Any]) -> Verdict:
    """The verdict on logits (images, classes), from those of the original and the true classes."""
    before, after = (_log_softmax(logits.astype(np.float64)) for logits in (original, other))
    first, second = original.argmax(1), other.argmax(1)
    return Verdict(
        100 * float(np.mean(first != second)),
        float(np.mean(np.sum(np.exp(before) * (before - after), axis=1))),
        100 * float(np.mean(first == labels) - np.mean(second == labels)),
    )


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return normalised


class Judge:
    """Compares networks with the original on the same images.

    Args:
        layers: of the ResNet.
        weights: the original's.
        inputs: normalised images.
        labels: their classes.
        cache: a folder for the original's logits and for verdicts, by a digest of weights and images.
    """

    def __init__(
        self, layers: int, weights: Weights, inputs: torch.Tensor, labels: NDArray[np.integer], cache: Path
    ) -> None:
        self._layers, self._weights, self._inputs, self._labels = layers, weights, inputs, labels
        self._cache = cache
        self._key = digest(weights) + hashlib.sha256(inputs.numpy().tobytes()).hexdigest()

    def __call__(self, weights: Weights) -> Verdict:
        """The verdict on other weights of the same network."""
        key = hashlib.sha256((self._key + digest(weights)).encode()).hexdigest()
        path = self._cache / f"verdict-{key[:32]}.json"
        if path.is_file():
            return Verdict(**json.loads(path.read_text()))
        verdict = compare(self._original, resnet.logits(self._layers, weights, self._inputs), self._labels)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(verdict)))
        fresh.replace(path)
        return verdict

    @cached_property
    def _original(self) -> NDArray[np.float32]:
        path = self._cache / f"logits-{hashlib.sha256(self._key.encode()).hexdigest()[:32]}.npy"
        if not path.is_file():
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                np.save(file, resnet.logits(self._layers, self._weights, self._inputs))
            fresh.replace(path)
        logits: NDArray[np.float32] = np.load(path)
        return logits


def digest(weights: Weights) -> str:
    """A digest of names, types, shapes and values."""
    state = hashlib.sha256()
    for name, array in sorted(weights.items()):
        state.update(f"{name} {array.dtype} {array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


@dataclass(frozen=True)
class Family:
    """Recipes that differ in the step alone: those of the preset `safe`, with other settings where asked for."""

    level: str
    settings: Mapping[str, Any]

    def recipe(self, relative_step: float) -> dict[str, Any]:
        """The recipe document at a step."""
        recipe: dict[str, Any] = presets()["safe"]["recipe"]
        steps = [
            {**step, **self.settings, "relative_step": relative_step} if "relative_step" in step else step
            for step in recipe["steps"]
        ]
        return {**recipe, "steps": steps, "encoding": {**recipe["encoding"], "level": self.level}}

    def sample(self, weights: Weights, relative_step: float, folder: Path) -> Sample:
        """The bytes of the whole file, and what it decodes to."""
        out = folder / "model.sqz"
        pipeline.run(InMemoryModel(dict(weights)), parse_recipe(self.recipe(relative_step)), out)
        return out.stat().st_size, squeezer.load(out, threads=1)


def small_tensors(weights: Weights, family: Family, relative_step: float, folder: Path) -> Sample:
    """The tensors that no step touches, as our files hold them: the bytes that they add, and their values."""
    whole, decoded = family.sample(weights, relative_step, folder)
    alone, _ = family.sample(matrices(weights), relative_step, folder)
    return whole - alone, {name: array for name, array in decoded.items() if array.ndim < 2}


def matrices(weights: Weights) -> dict[str, NDArray[Any]]:
    """The tensors of two or more dimensions."""
    return {name: array for name, array in weights.items() if array.ndim >= 2}


class Rival:
    """nncodec on one network, each setting being coded once.

    Args:
        nncodec: the interpreter.
        weights: the network's. Tensors that are not of float32 are not coded, for nncodec does not take them.
        small: our small tensors, for those that are given to it.
        cache: a folder for what it makes.
    """

    def __init__(self, nncodec: Nncodec, weights: Weights, small: Sample, cache: Path) -> None:
        self._nncodec, self._weights, self._small = nncodec, weights, small
        self._folder = cache / f"nncodec-{digest(weights)[:16]}"
        self._folder.mkdir(parents=True, exist_ok=True)

    def alone(self, qp: float) -> Sample:
        """Everything by nncodec, as it does by default."""
        setting = self._setting(qp)
        return setting.nbytes, {**self._weights, **setting.decoded}

    def helped(self, qp: float) -> Sample:
        """Tensors of two or more dimensions by nncodec, the others as our files hold them."""
        setting = self._setting(qp)
        nbytes, values = self._small
        return setting.matrix_bytes + nbytes, {**self._weights, **setting.decoded, **values}

    def _setting(self, qp: float) -> Setting:
        floats = {name: array for name, array in self._weights.items() if array.dtype == np.float32 and array.ndim}
        return self._nncodec.settings(floats, [int(qp)], self._folder)[int(qp)]


def curve(
    ladder: Iterable[Sequence[float]],
    sample: Callable[[float], Sample],
    judge: Callable[[Weights], Verdict],
    enough: float,
) -> list[Point]:
    """The averaged points of a ladder of steps, finest first, as far as the first rung that lost more than `enough`."""
    rungs = []
    for rung in ladder:
        points = []
        for step in rung:
            nbytes, weights = sample(step)
            points.append(Point(nbytes, **asdict(judge(weights))))
        rungs.append(average(points))
        if rungs[-1].lost > enough:
            break
    return rungs
