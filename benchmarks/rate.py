"""How small at equal faithfulness, without data, beside nncodec. `python -m benchmarks.rate`."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from benchmarks import cifar, resnet
from benchmarks.common import Goal, Outcome, add_data, at_least, data_folder, end_cleanly, finish, parser
from benchmarks.nnc import Nncodec, add_nncodec
from benchmarks.presets import CHECKPOINTS, checkpoint
from benchmarks.rate_curves import Measure, Point, size_at, value_at_loss
from benchmarks.rate_points import Family, Judge, Rival, curve, small_tensors
from squeezer.codecs import Level

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

NETWORKS = {f"resnet{layers}": layers for layers in CHECKPOINTS}
IMAGES = 10_000
#: Points of accuracy lost, in per cent, at which sizes are compared.
LOST = 0.1, 0.2, 0.3, 0.5, 0.7, 1.0
#: A curve ends with the first rung that lost more points than this.
_ENOUGH = 1.5
#: A rung of a ladder is half an octave of steps, for both coders. Ours begins at this `relative_step`.
_FINEST, _RUNGS = 2**-2.5, 9
#: nncodec has four settings an octave, so two a rung; these are the first one's, of a rung about as fine as ours.
_QPS = range(-32, -4, 2)
#: How much smaller than nncodec, and than nncodec with our small tensors, a file should be; in per cent.
_ALONE, _HELPED = 10.0, 6.0
_MEASURES: tuple[Measure, ...] = get_args(Measure)


def ladder(offsets: int) -> list[list[float]]:
    """Steps, rung by rung, equal distances apart on a logarithmic scale."""
    return [[_FINEST * 2 ** ((rung + k / offsets) / 2) for k in range(offsets)] for rung in range(_RUNGS)]


def nncodec_ladder(offsets: int) -> list[list[float]]:
    """nncodec's settings, rung by rung, as many of a rung's two as there are offsets."""
    return [list(range(qp, qp + min(offsets, 2))) for qp in _QPS]


@dataclass(frozen=True)
class Curves:
    """The averaged points of one network, finest first: our files', nncodec's, and nncodec's with our small tensors."""

    ours: list[Point]
    alone: list[Point]
    helped: list[Point]

    @property
    def pooled(self) -> list[Point]:
        """All points; each tells what a distance from the original costs in accuracy."""
        return [*self.ours, *self.alone, *self.helped]


def rows(network: str, curves: Curves) -> list[dict[str, Any]]:
    """Sizes at equal distance from the original, a row for each measure and loss; None beyond a curve's ends."""
    return [_row(network, curves, measure, lost) for measure in _MEASURES for lost in LOST]


def _row(network: str, curves: Curves, measure: Measure, lost: float) -> dict[str, Any]:
    value = value_at_loss(curves.pooled, measure, lost)
    ours, alone, helped = (
        None if value is None else size_at(rungs, measure, value)
        for rungs in (curves.ours, curves.alone, curves.helped)
    )
    return {
        "network": network,
        "equal": measure,
        "points lost": lost,
        "value": value,
        "bytes": ours,
        "nncodec": alone,
        "of nncodec": _ratio(ours, alone),
        "nncodec + fp16": helped,
        "of nncodec + fp16": _ratio(ours, helped),
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None


def goals(network: str, found: Sequence[dict[str, Any]]) -> list[Goal]:
    """How much smaller our files are over the range of losses, at equal agreement."""
    return [
        _smaller(f"{network}, beside {rival}, equal agreement", smaller(found, "disagreement", rival), bound)
        for rival, bound in (("nncodec", _ALONE), ("nncodec + fp16", _HELPED))
    ]


def smaller(found: Sequence[dict[str, Any]], measure: Measure, rival: str) -> float | None:
    """By how many per cent ours are smaller, from the geometric mean over all losses; None where one is missing."""
    ratios = [row[f"of {rival}"] for row in found if row["equal"] == measure]
    return None if None in ratios else 100 * (1 - float(np.exp(np.mean(np.log(ratios)))))


def _smaller(name: str, value: float | None, bound: float) -> Goal:
    if value is None:
        return Goal(name, False, "a curve does not reach over the range of losses")
    return at_least(name, value, bound, "% smaller")


@dataclass(frozen=True)
class Setup:
    """What all networks are measured with."""

    inputs: torch.Tensor
    labels: NDArray[np.integer]
    family: Family
    offsets: int
    nncodec: Nncodec
    cache: Path


def measure(layers: int, path: Path, setup: Setup) -> Curves:
    """All curves of one network."""
    weights = checkpoint(path)
    judge = Judge(layers, weights, setup.inputs, setup.labels, setup.cache)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = small_tensors(weights, setup.family, _FINEST, folder)
        rival = Rival(setup.nncodec, weights, small, setup.cache)
        sample = partial(setup.family.sample, weights, folder=folder)
        theirs = nncodec_ladder(setup.offsets)
        return Curves(
            curve(ladder(setup.offsets), sample, judge, _ENOUGH),
            curve(theirs, rival.alone, judge, _ENOUGH),
            curve(theirs, rival.helped, judge, _ENOUGH),
        )


def images(data: Path, which: str) -> tuple[torch.Tensor, NDArray[np.integer]]:
    """Inputs and classes of 10,000 images: those of the test, or the first ones of the training set."""
    read: Callable[[Path], tuple[NDArray[np.uint8], NDArray[np.uint8]]]
    read = cifar.test_images if which == "test" else cifar.train_images
    pixels, labels = read(data)
    return resnet.images(pixels[:IMAGES]), labels[:IMAGES]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    result = parser("Size against faithfulness to the original network, without data, beside nncodec.")
    add_data(result)
    add_nncodec(result)
    names = ",".join(NETWORKS)
    result.add_argument("--networks", default=names, metavar="NAMES", help=f"which to measure (default: {names})")
    result.add_argument("--images", choices=("test", "train"), default="test", help="CIFAR-10's (default: test)")
    result.add_argument(
        "--level", choices=list(Level), default=Level.MAX, help="encoding level of our files (default: max)"
    )
    result.add_argument("--set", nargs="*", default=[], metavar="NAME=JSON", help="settings other than those of `safe`")
    result.add_argument(
        "--offsets", type=int, default=3, help="steps that a point averages, at most two of nncodec's (default: 3)"
    )
    result.add_argument("--cache", type=Path, metavar="DIR", help="keep what was measured, and do not measure it again")
    result.add_argument("--plot", type=Path, metavar="FILE", help="draw size against agreement (.svg or .png)")
    return result


def family(given: argparse.Namespace) -> Family:
    """The recipes that the arguments ask for."""
    pairs = (word.partition("=") for word in given.set)
    return Family(given.level, {name: json.loads(value) for name, _, value in pairs})


def main() -> int:
    """Measure, print, and give the exit status."""
    given = arguments().parse_args()
    end_cleanly()
    nncodec = Nncodec.found(given.nncodec)
    if nncodec is None:
        raise SystemExit("this benchmark compares with nncodec: name an interpreter that has it with --nncodec PYTHON")
    wanted = given.networks.split(",")
    if unknown := set(wanted) - NETWORKS.keys():
        raise SystemExit(f"no such network: {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    data = data_folder(given.data)
    inputs, labels = images(data, given.images)
    outcome = Outcome(f"Size at equal faithfulness on {IMAGES:,} {given.images} images, level {given.level}")
    with tempfile.TemporaryDirectory() as temporary:
        cache = given.cache or Path(temporary)
        cache.mkdir(parents=True, exist_ok=True)
        setup = Setup(inputs, labels, family(given), given.offsets, nncodec, cache)
        found = {name: measure(NETWORKS[name], data / "models" / CHECKPOINTS[NETWORKS[name]], setup) for name in wanted}
    for name, curves in found.items():
        lines = rows(name, curves)
        outcome.rows += lines
        outcome.goals += goals(name, lines)
        outcome.notes += notes(name, lines)
    if given.plot:
        from benchmarks.rate_plot import plot  # here, for the figures do without matplotlib

        plot(found, given.plot)
    return finish(outcome, given)


def notes(network: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """The means over the range of losses, of both measures."""
    return [
        f"{network}, equal {measure}, mean over the range: {value:.1f} % smaller than {rival}."
        for measure in _MEASURES
        for rival in ("nncodec", "nncodec + fp16")
        if (value := smaller(found, measure, rival)) is not None
    ]


if __name__ == "__main__":
    raise SystemExit(main())
