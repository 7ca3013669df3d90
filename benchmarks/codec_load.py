"""Part `load` of `benchmarks.codec`: `safe` on a large model, written and loaded, beside nncodec."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

import squeezer
from benchmarks.codec_files import at_equal_error, at_level, squared_error, whole_file
from benchmarks.codec_rows import beside_nncodec, row, speed
from benchmarks.codec_symbols import COUNT, SMALL
from benchmarks.common import Goal, at_least, on_cores, time_calls

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from benchmarks.codec_files import Tensors
    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

LEVELS = "fast", "balanced"
_NAME = "Gaussian model"
_TENSORS = 5
_LOAD_WEIGHTS = 250.0  # M float32 weights/s are 1 GB/s
_ENCODE_LEAD = 15.0
#: How many times as fast two threads should be, and must be at zstd's decoding to show that there are two free cores.
_THREADS_LEAD, _FREE_LEAD = 1.6, 1.7


def load(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """Whole files of both levels, with one and with two threads; and at equal squared error, what nncodec makes."""
    tensors = gaussian_model(SMALL if given.small else COUNT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for level in LEVELS:
            _at_level(level, tensors, folder, given.runs, outcome)
        if nncodec:
            ours, theirs = at_equal_error(tensors, nncodec, LEVELS[-1], folder, given.runs, parts=_TENSORS)
            outcome.rows += [row(_NAME, coded, bytes_before=4 * ours.count) for coded in (ours, theirs)]
            outcome.goals += beside_nncodec(_NAME, ours, theirs, _ENCODE_LEAD)


def gaussian_model(count: int) -> Tensors:
    """Five square float32 tensors of about `count` weights in all, normally distributed, from a fixed seed."""
    random = np.random.default_rng(0)
    side = int((count // _TENSORS) ** 0.5)
    return {
        f"layers.{i}.weight": random.standard_normal((side, side), np.float32) * np.float32(0.02)
        for i in range(_TENSORS)
    }


def _at_level(level: str, tensors: Tensors, folder: Path, runs: int, outcome: Outcome) -> None:
    ours, decoded = whole_file(f"safe, {level}", tensors, at_level("safe", level), folder, runs)
    path = folder / "model.sqz"
    yardstick = Yardstick(path)
    rival = yardstick.count / time_calls(yardstick.decode, runs).processor
    _, relative = squared_error(tensors, decoded)
    coded = replace(ours, relative_error=relative)
    outcome.rows.append(row(_NAME, coded, bytes_before=4 * ours.count, rival=rival))
    outcome.goals.append(speed(f"{_NAME}, load at {ours.coder}", ours.fresh, ours.count, _LOAD_WEIGHTS, rival))
    one, two, machine = side_by_side(path, yardstick, runs)
    for threads, taken in ((1, one), (2, two)):
        outcome.rows.append(thread_row(level, threads, taken, ours.count))
    lead = thread_goal(level, one / two, machine)
    if lead:
        outcome.goals.append(lead)
    else:
        outcome.notes.append(
            f"At {level}, two threads load {one / two:.2f} times as fast as one. That is not held against a goal: "
            f"decoding by zstd, they are {machine:.2f} times as fast, so the machine has no two free cores."
        )


class Yardstick:
    """A file's codes, one byte each, as zstd -1 packs them."""

    def __init__(self, path: Path) -> None:
        with squeezer.open(path) as artifact:
            found = [artifact.representation(name) for name in artifact.names]
        codes = b"".join(getattr(tensor, "codes", np.empty(0)).astype(np.int8).tobytes() for tensor in found)
        self.count = len(codes)
        self._packed = zstandard.ZstdCompressor(level=1).compress(codes)

    def decode(self, times: int = 1) -> None:
        """Unpack them, so many times at once, each on a thread of its own."""
        # A decompressor serves one thread.
        works = [partial(zstandard.ZstdDecompressor().decompress, self._packed) for _ in range(times)]
        if times == 1:
            works[0]()
            return
        with ThreadPoolExecutor(times) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()


def side_by_side(path: Path, yardstick: Yardstick, runs: int) -> tuple[float, float, float]:
    """Least seconds of loading with one thread and with two, in turns; and how much two threads gain at zstd."""
    works: tuple[Callable[[], object], ...] = (
        partial(squeezer.load, path, threads=1),
        partial(squeezer.load, path, threads=2),
        yardstick.decode,
        partial(yardstick.decode, 2),
    )
    with on_cores(2):
        taken = [[time_calls(work, 1).wall for work in works] for _ in range(2 * runs)]
    one, two, alone, both = np.min(taken, axis=0).tolist()
    return one, two, 2 * alone / both


def thread_row(level: str, threads: int, taken: float, count: int) -> dict[str, Any]:
    """A row of the table of threads, by the clock on the wall."""
    return {
        "data": f"{_NAME}, threads",
        "load at": level,
        "threads": threads,
        "seconds": taken,
        "GB/s of float32": 4 * count / taken / 1e9,
    }


def thread_goal(level: str, lead: float, machine: float) -> Goal | None:
    """The goal of two threads; none where the machine itself does not give two cores."""
    if machine < _FREE_LEAD:
        return None
    return at_least(f"{_NAME}, 2 threads load at {level}", lead, _THREADS_LEAD, "times as fast as one")
