"""Part `overhead` of `benchmarks.codec`: what a file holds beside coded weights, from its ledger."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.codec_files import at_level
from benchmarks.common import Goal, at_most
from squeezer import pipeline
from squeezer.codecs import Category
from squeezer.model import InMemoryModel
from squeezer.recipe import parse_recipe

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

_LEVEL = "balanced"
_SHAPES = (300, 784), (100, 300), (50, 100), (10, 50)
_PAYLOAD = frozenset({Category.VALUES, Category.GAPS, Category.TABLES, Category.CODEBOOKS})
_MOST = 160


def overhead(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:  # noqa: ARG001 # as all parts
    """A network of eight tensors, four matrices and their biases, by `safe`."""
    random = np.random.default_rng(0)
    tensors = {}
    for i, (outputs, inputs) in enumerate(_SHAPES, 1):
        tensors[f"fc{i}.weight"] = random.standard_normal((outputs, inputs), np.float32) * np.float32(0.05)
        tensors[f"fc{i}.bias"] = random.standard_normal(outputs, np.float32) * np.float32(0.05)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.sqz"
        report = pipeline.run(InMemoryModel(tensors), parse_recipe(at_level("safe", _LEVEL)), out)
    name = f"{len(tensors)} tensors, safe, {_LEVEL}"
    outcome.rows += [{"data": name, "what": what, "bytes": count} for what, count in report.ledger.items() if count]
    outcome.goals += overhead_goals(name, report.ledger, report.output_bytes)


def overhead_goals(name: str, ledger: Mapping[str, int], file_bytes: int) -> list[Goal]:
    """That the ledger holds every byte of the file, and that few of them are neither coded weights nor codes."""
    total = sum(ledger.values())
    beside = sum(count for what, count in ledger.items() if what not in _PAYLOAD)
    return [
        Goal(f"{name}, ledger", total == file_bytes, f"{total:,} bytes of {file_bytes:,}"),
        at_most(f"{name}, overhead", beside, _MOST, "bytes"),
    ]
