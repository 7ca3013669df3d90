"""The ResNets of `benchmarks.paper_table`: quantised with the graph, without and with data, and trained; and nncodec.

Step sizes were chosen by the sizes of files, and methods by training images.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import squeezer
from benchmarks import cifar, resnet
from benchmarks.lenet import Row
from benchmarks.presets import CHECKPOINTS, checkpoint
from benchmarks.rate import nncodec_ladder
from benchmarks.rate_points import Judge, Rival, curve
from squeezer import pipeline
from squeezer.formats import open_model
from squeezer.graph.encoding import to_bytes
from squeezer.recipe import parse_recipe
from squeezer.zoo.resnet import CifarResNet

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.nnc import Nncodec

    Step = dict[str, Any]

#: Files of each row: at steps that are a twelfth of an octave apart, or, where training decides, of other seeds.
RUNS = 3
#: Of training.
EPOCHS = 4
#: Rows of the data set without labels, which is made of the training set's first images.
UNLABELLED = 512
NNCODEC = "nncodec"
#: Most points that its file may lose.
NNCODEC_LOSS = 0.5
_SAFE = {"method": "uniform_quantize", "scope": "global", "error_feedback": True, "trellis": True}
_FOLD = {"method": "fold_batch_norm"}
_CORRECT = {"method": "correct_channels"}
_PIXELS = {"scale": 1 / 255, "mean": resnet.MEAN, "std": resnet.DEVIATION, "channels": "last"}


@dataclass(frozen=True)
class Case:
    """A kind of recipe: `steps` gives its steps for a number that decides about the size of the file.

    Attributes:
        name: in the table.
        steps: of the recipe.
        data: the data set, by its name in the folder of `prepare`; None for none.
        numbers: by the layers of the network.
        goals: least ratio, and most points of accuracy lost, by the layers of the network.
    """

    name: str
    steps: Callable[[float], list[Step]]
    data: str | None
    numbers: dict[int, float]
    goals: dict[int, tuple[float, float]]

    def recipe(self, layers: int, run: int) -> dict[str, Any]:
        """The recipe document of one of the `RUNS` files."""
        number = self.numbers[layers] * (1 if self.trains else 2 ** ((run - RUNS // 2) / 12))
        return {
            "steps": self.steps(number),
            "encoding": {"level": "max", "graph": False},
            "data": {"rows": {"inputs": ["x"]}, "images": {"transform": _PIXELS}}.get(self.data or "", {}),
            "seed": run if self.trains else 0,
            "device": "cpu",
        }

    @property
    def trains(self) -> bool:
        """Whether the number is a ratio, and the files are of several seeds."""
        return self.data == "images"


def _trained(ratio: float) -> list[Step]:
    """Training towards a ratio. The step at first is one that comes near to it."""
    step = {
        "method": "entropy_train",
        "target_ratio": ratio,
        "relative_step": 1.6,
        "scope": "global",
        "epochs": EPOCHS,
        "lr": 5e-4,
        "shift": 4,
        "flip": True,
        "freeze_batch_norm": True,
    }
    return [_FOLD, step]


_GRAPH = {20: 0.68, 56: 0.93}
CASES = (
    Case("weights alone (safe)", lambda step: [_SAFE | {"relative_step": step}], None, {20: 0.5, 56: 0.5}, {}),
    Case(
        "graph, no data",
        lambda step: [_FOLD, _SAFE | {"relative_step": step}, _CORRECT],
        None,
        _GRAPH,
        {20: (12.0, 0.5), 56: (14.5, 0.5)},
    ),
    Case(
        "the same without correction",
        lambda step: [_FOLD, _SAFE | {"relative_step": step}],
        None,
        _GRAPH,
        {},
    ),
    Case(
        "512 images",
        lambda step: [_FOLD, {"method": "calibrated_quantize", "relative_step": step}],
        "rows",
        {20: 0.85, 56: 1.2},
        {20: (13.7, 0.5)},
    ),
    Case(f"{EPOCHS} epochs", _trained, "images", {20: 22.0}, {20: (17.0, 0.5)}),
    Case(f"{EPOCHS} epochs, smaller", _trained, "images", {20: 24.2}, {20: (22.0, 1.0)}),
)


def prepare(data: Path, folder: Path) -> None:
    """Write what the cases need into a folder: networks as `.pt2`, unlabelled rows, and CIFAR-10 with its labels."""
    for layers, name in CHECKPOINTS.items():
        weights = checkpoint(data / "models" / name)
        network = CifarResNet(layers)
        network.load_state_dict(
            {name.removeprefix("module."): torch.from_numpy(array) for name, array in weights.items()}
        )
        for part in network.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.num_batches_tracked = None  # the checkpoints have no counters
        squeezer.export(network.eval(), torch.zeros(2, 3, 32, 32), folder / f"resnet{layers}.pt2")
    pixels, labels = cifar.train_images(data)
    np.savez(folder / "rows.npz", x=resnet.images(pixels[:UNLABELLED]).contiguous().numpy())
    test_pixels, test_labels = cifar.test_images(data)
    np.savez(
        folder / "images.npz",
        x_train=pixels,
        y_train=labels.astype(np.int64),
        x_test=test_pixels,
        y_test=test_labels.astype(np.int64),
    )


def row_of(layers: int, place: int, run: int, data: Path, folder: Path) -> Row:
    """Make a file, unless there is one of that recipe, and measure it on all test images.

    Runs on one thread, so that it is reproducible.

    Args:
        layers: of the network.
        place: of the case among `CASES`.
        run: which of the `RUNS` files.
        data: the folder of real data.
        folder: that `prepare` has filled.
    """
    torch.set_num_threads(1)
    case = CASES[place]
    recipe = parse_recipe(case.recipe(layers, run))
    out = folder / f"{layers}-{hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()[:32]}.sqz"
    with closing(open_model(folder / f"resnet{layers}.pt2")) as model:
        assert model.graph is not None  # noqa: S101 # a .pt2 has one; this tells mypy
        if not out.is_file():
            rows = folder / f"{case.data}.npz" if case.data else None
            pipeline.run(model, recipe, out, threads=1, data=rows)
        graph_bytes = len(to_bytes(model.graph))
    weights = checkpoint(data / "models" / CHECKPOINTS[layers])
    decoded = {name: array for name, array in squeezer.load(out, threads=1).items() if array.dtype.kind == "f"}
    before, after = (_error(layers, one, data) for one in (weights, decoded))
    return Row(case.name, run, _nbytes(weights), out.stat().st_size, graph_bytes, before, after, before)


def nncodec_row(layers: int, nncodec: Nncodec, data: Path, folder: Path) -> Row:
    """nncodec's smallest file that loses at most `NNCODEC_LOSS`; chosen on these very images, in its favour."""
    weights = checkpoint(data / "models" / CHECKPOINTS[layers])
    pixels, labels = cifar.test_images(data)
    judge = Judge(layers, weights, resnet.images(pixels), labels, folder)
    points = curve(nncodec_ladder(2), Rival(nncodec, weights, (0, {}), folder).alone, judge, 1.5)
    best = min((point for point in points if point.lost <= NNCODEC_LOSS), key=lambda point: point.nbytes)
    before = _error(layers, weights, data)
    return Row(NNCODEC, 0, _nbytes(weights), round(best.nbytes), 0, before, before + best.lost, before)


def _nbytes(weights: dict[str, NDArray[Any]]) -> int:
    return sum(array.nbytes for array in weights.values())


def _error(layers: int, weights: dict[str, NDArray[Any]], data: Path) -> float:
    """In per cent, on all test images."""
    pixels, labels = cifar.test_images(data)
    return 100 - resnet.accuracy(layers, weights, resnet.images(pixels), labels)
