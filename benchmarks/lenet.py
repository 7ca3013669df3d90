"""The networks of `benchmarks.paper_table`: how each is trained, and the recipes that compress it.

Everything goes through `squeezer.compress`, dense training too: it is `finetune` of a network with random weights.
Nothing is chosen on the test images. Recipes were settled on the validation split, a tenth of the training images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import squeezer
from squeezer import zoo
from squeezer.formats import open_model
from squeezer.graph.encoding import to_bytes

if TYPE_CHECKING:
    from squeezer.report import Report

Steps = list[dict[str, Any]]
PAPER, PUSHED = "deep compression", "entropy_train"
_DATA = {"transform": {"scale": 1 / 255}}


@dataclass(frozen=True)
class Published:
    """What papers report of a network: float32 bytes over theirs, and the error in per cent before and after."""

    source: str
    ratio: float
    nbytes: int | None = None
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Subject:
    """A network, and what is done to it.

    Attributes:
        name: of the zoo.
        dense: steps that train it from random weights.
        longer: further training, as long and with the same augmentation as `pushed`, and no compression.
        paper: Deep Compression at the paper's sparsities.
        pushed: what gives the smallest file.
        published: rows of papers.
    """

    name: str
    dense: Steps
    longer: Steps
    paper: Steps
    pushed: Steps
    published: tuple[Published, ...]


class Row(NamedTuple):
    """One file."""

    what: str
    run: int  # the seed, or which of several steps
    tensor_bytes: int
    file_bytes: int  # without its graph section
    graph_bytes: int
    before: float  # error on the test images, in per cent
    after: float
    reference: float  # the error that `after` is compared with


def _train(epochs: float, **settings: Any) -> dict[str, Any]:
    return {"method": "finetune", "epochs": epochs, "alpha": 0.0} | settings


def _prune(kept: dict[str, float], epochs: float) -> dict[str, Any]:
    """To the shares of weights that the paper keeps, by tensor."""
    shares = {f"{name}.weight": {"sparsity": 1 - share} for name, share in kept.items()}
    return {"method": "gradual_prune", "sparsity": 0.9, "overrides": shares, "epochs": epochs, "alpha": 0.0}


LENET_300 = Subject(
    "lenet-300-100",
    dense=[_train(20)],
    longer=[_train(30)],
    # Shares kept: Han et al. 2016, table 2.
    paper=[
        _prune({"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}, 20),
        {"method": "kmeans_share", "bits": 4, "overrides": {"fc3.weight": {"bits": 5}}},
        _train(5, lr=1e-4),
    ],
    pushed=[{"method": "entropy_train", "rate_weight": 0.12, "epochs": 30, "lr": 0.002, "alpha": 0.0}],
    published=(
        Published("Han et al. 2016, table 1", 40, 27_000, 1.64, 1.58),
        Published("NeST (Dai et al. 2019), of parameters", 70),
    ),
)
LENET_5 = Subject(
    "lenet5",
    dense=[_train(8)],
    longer=[_train(8)],
    # Shares kept: Han et al. 2016, table 3.
    paper=[
        _prune({"conv1": 0.66, "conv2": 0.12, "fc1": 0.08, "fc2": 0.19}, 6),
        {"method": "kmeans_share", "bits": 4},
        _train(2, lr=1e-4),
    ],
    pushed=[{"method": "entropy_train", "rate_weight": 0.05, "epochs": 8, "lr": 0.002, "alpha": 0.0}],
    published=(
        Published("Han et al. 2016, table 1", 39, 44_000, 0.80, 0.74),
        Published("NeST (Dai et al. 2019), of parameters", 74),
    ),
)
SUBJECTS = {subject.name: subject for subject in (LENET_300, LENET_5)}


def rows_of(name: str, seed: int, data: Path) -> list[Row]:
    """Train a network with a seed and compress it both ways. Runs on one thread, so that it is reproducible.

    Args:
        name: of `SUBJECTS`.
        seed: of the first weights and of all training.
        data: the data set, with test arrays of its own.
    """
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        return _Trial(SUBJECTS[name], seed, data, Path(folder)).rows()


class _Trial:
    def __init__(self, subject: Subject, seed: int, data: Path, folder: Path) -> None:
        self._subject, self._seed, self._data, self._folder = subject, seed, data, folder

    def rows(self) -> list[Row]:
        """Of `paper` and `pushed`."""
        torch.manual_seed(self._seed)
        shape = zoo.find(self._subject.name).input_shape
        start = squeezer.export(zoo.build(self._subject.name), torch.zeros(2, *shape), self._folder / "random.pt2")
        dense = self._trained(start, self._subject.dense)
        longer = self._compressed(dense, self._subject.longer)
        before, after_longer = (_error(longer, which) for which in ("original", "result"))
        with_graph = open_model(dense)
        try:
            assert with_graph.graph is not None  # noqa: S101 # a .pt2 has one; this tells mypy
            graph = len(to_bytes(with_graph.graph))
        finally:
            with_graph.close()
        found = []
        # The paper's row is compared with the network that it begins with; the other one also with that network
        # trained for as many more epochs, whichever is better.
        for what, steps, beside in (
            (PAPER, self._subject.paper, before),
            (PUSHED, self._subject.pushed, min(before, after_longer)),
        ):
            report = self._compressed(dense, steps)
            found.append(
                Row(
                    what,
                    self._seed,
                    report.tensor_bytes,
                    report.output_bytes,
                    graph,
                    before,
                    _error(report, "result"),
                    beside,
                )
            )
        return found

    def _trained(self, start: Path, steps: Steps) -> Path:
        """The .pt2 of a network after training, every weight exact."""
        stored = self._folder / "dense.sqz"
        self._run(start, steps, {"small_tensors": "exact"}, stored)
        path = self._folder / "dense.pt2"
        squeezer.decompress(stored, path)
        return path

    def _compressed(self, path: Path, steps: Steps) -> Report:
        return self._run(path, steps, {"level": "max", "graph": False}, self._folder / "result.sqz")

    def _run(self, path: Path, steps: Steps, encoding: dict[str, Any], out: Path) -> Report:
        recipe = {"steps": steps, "encoding": encoding, "data": _DATA, "seed": self._seed, "device": "cpu"}
        return squeezer.compress(path, recipe, out, data=self._data, threads=1)


def _error(report: Report, which: str) -> float:
    """The share of wrong predictions on the test images, in per cent, of `original` or `result`."""
    assert report.evaluation is not None  # noqa: S101 # there was data and a graph; this tells mypy
    return 100 * (1 - float(report.evaluation[which]["value"]))
