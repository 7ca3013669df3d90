"""Known networks beside the papers' rows: how many times smaller, and the error. `python -m benchmarks.paper_table`.

LeNets on MNIST and ResNets on CIFAR-10: float32 bytes of all tensors over the whole `.sqz` file, written without its
graph section, whose bytes stand beside. Some two hours on two cores; `--networks` takes a part.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from benchmarks import lenet, resnet_rows
from benchmarks.common import Goal, Outcome, add_data, at_least, at_most, data_folder, end_cleanly, finish, parser
from benchmarks.lenet import PAPER, PUSHED
from benchmarks.nnc import Nncodec, add_nncodec

if TYPE_CHECKING:
    import argparse

    from benchmarks.lenet import Published, Row

#: The layers of each ResNet.
RESNETS = {"resnet20": 20, "resnet56": 56}
_LENET_GOALS = {
    ("lenet-300-100", PAPER): (43, 0.1),
    ("lenet-300-100", PUSHED): (140, 0.1),
    ("lenet5", PAPER): (40, 0.0),
    ("lenet5", PUSHED): (120, 0.1),
}
#: Least ratio, and most points of accuracy that may be lost, by network and kind of file.
GOALS = _LENET_GOALS | {
    (name, case.name): case.goals[layers]
    for name, layers in RESNETS.items()
    for case in resnet_rows.CASES
    if layers in case.goals
}
_MEAN = "mean"


@dataclass(frozen=True)
class Work:
    """Where the data is, and a folder for files."""

    data: Path
    folder: Path
    nncodec: Nncodec | None


def main() -> int:
    """Run the benchmark."""
    end_cleanly()
    arguments = parser(__doc__)
    add_data(arguments)
    add_nncodec(arguments)
    arguments.add_argument("--seeds", type=int, default=3, metavar="N", help="train each LeNet with so many seeds")
    known = [*lenet.SUBJECTS, *RESNETS]
    arguments.add_argument("--networks", nargs="+", choices=known, default=known, metavar="NAME", help="which")
    arguments.add_argument("--cache", type=Path, metavar="DIR", help="keep the ResNets' files, and make none twice")
    given = arguments.parse_args()
    if given.seeds < 1:
        arguments.error("--seeds must be 1 or more")
    return finish(measured(given), given)


def measured(given: argparse.Namespace) -> Outcome:
    """Train and compress each network, one process on each core."""
    outcome = Outcome("LeNets on MNIST and ResNets on CIFAR-10, all 10,000 test images")
    # Fresh processes: one that has run threads cannot be forked safely.
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as temporary,
        ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool,
    ):
        folder = given.cache or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        work = Work(data_folder(given.data), folder, Nncodec.found(given.nncodec))
        if set(given.networks) & RESNETS.keys():
            resnet_rows.prepare(work.data, work.folder)
        tasks = {name: _submit(pool, name, given.seeds, work) for name in given.networks}
        for name in given.networks:
            add_network(outcome, name, [row for task in tasks[name] for row in task.result()])
    outcome.notes += [
        "lost: points of accuracy on the test images beside the uncompressed network; of the LeNets' "
        f"{PUSHED}, beside that one or the same trained for as many more epochs, whichever is better.",
        "No choice was made by the test images, but for nncodec's.",
    ]
    return outcome


def _submit(pool: ProcessPoolExecutor, name: str, seeds: int, work: Work) -> list[Future[list[Row]]]:
    if name in lenet.SUBJECTS:
        return [pool.submit(lenet.rows_of, name, seed, work.data / "mnist.npz") for seed in range(seeds)]
    layers = RESNETS[name]
    files = [
        (place, run)
        for place, case in enumerate(resnet_rows.CASES)
        if layers in case.numbers
        for run in range(resnet_rows.RUNS)
    ]
    # Training takes longest and begins first, so that no core idles at the end.
    tasks = [pool.submit(_one, layers, place, run, work) for place, run in reversed(files)]
    rivals = [] if work.nncodec is None else [pool.submit(_rival, layers, work.nncodec, work)]
    return [*reversed(tasks), *rivals]


def _one(layers: int, place: int, run: int, work: Work) -> list[Row]:
    return [resnet_rows.row_of(layers, place, run, work.data, work.folder)]


def _rival(layers: int, nncodec: Nncodec, work: Work) -> list[Row]:
    return [resnet_rows.nncodec_row(layers, nncodec, work.data, work.folder)]


def add_network(outcome: Outcome, name: str, found: list[Row]) -> None:
    """Add a network's rows, its means, the papers' rows, and its goals."""
    for what in dict.fromkeys(row.what for row in found):
        rows = [_row(name, row) for row in found if row.what == what]
        outcome.rows += rows
        if len(rows) > 1:
            outcome.rows.append(_mean(rows))
        outcome.goals += goals_of(name, what, outcome.rows[-1])
    if name in lenet.SUBJECTS:
        outcome.rows += [_published(name, paper) for paper in lenet.SUBJECTS[name].published]


def goals_of(name: str, what: str, average: dict[str, Any]) -> list[Goal]:
    """The goals of a mean row."""
    if (name, what) not in GOALS:
        return []
    ratio, lost = GOALS[name, what]
    return [
        at_least(f"{name}, {what}, ratio", average["ratio"], ratio, "times"),
        # Rounded, since a sum of errors in float64 is no whole number of images.
        at_most(f"{name}, {what}, accuracy lost", round(average["lost"], 6), lost, "points"),
    ]


def _row(name: str, row: Row) -> dict[str, Any]:
    return {
        "network": name,
        "what": row.what,
        "run": str(row.run),
        "ratio": row.tensor_bytes / row.file_bytes,
        "bytes": row.file_bytes,
        "graph bytes": row.graph_bytes,
        "error before, %": row.before,
        "error after, %": row.after,
        "lost": row.after - row.reference,
    }


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of each figure: of the ratio too, which is not the ratio of means."""
    words = ("network", "what", "run")
    figures = {key: mean(row[key] for row in rows) for key in rows[0] if key not in words}
    whole = {key: round(figures[key]) for key in ("bytes", "graph bytes")}
    return {"network": rows[0]["network"], "what": rows[0]["what"], "run": _MEAN, **figures, **whole}


def _published(name: str, paper: Published) -> dict[str, Any]:
    lost = None if paper.after is None or paper.before is None else paper.after - paper.before
    return {
        "network": name,
        "what": paper.source,
        "run": None,
        "ratio": float(paper.ratio),
        "bytes": paper.nbytes,
        "graph bytes": None,
        "error before, %": paper.before,
        "error after, %": paper.after,
        "lost": lost,
    }


if __name__ == "__main__":
    raise SystemExit(main())
