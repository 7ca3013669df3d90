"""Part `lenet` of `benchmarks.codec`: the codes of a pruned LeNet-300-100 by every coder of integers."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import squeezer
from benchmarks.codec_coders import Coded, by_nncodec, module, named
from benchmarks.codec_data import lenet_recipe, levels_of, trained_lenet
from benchmarks.codec_files import compressed, has_data
from benchmarks.codec_rows import row
from benchmarks.common import Goal, at_most, data_folder
from squeezer.codecs import SYMBOL_CODECS
from squeezer.codecs.symbols import histogram
from squeezer.representations import Shared

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

_SMALLER = 0.95  # than gaps + Huffman
_BEST = "best of ours, max"


def lenet(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """LeNet-300-100, trained and pruned here: the codes of its three matrices."""
    if not has_data(given) or module("torch") is None:
        outcome.notes.append("LeNet-300-100 needs --data with mnist.npz, and torch; it is left out.")
        return
    tensors, accuracy = trained_lenet(data_folder(given.data), given.epochs)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lenet.sqz"
        compressed(tensors, {**lenet_recipe(), "encoding": {"level": "max"}}, out)
        file_bytes = out.stat().st_size
        with squeezer.open(out) as artifact:
            found = {name: artifact.representation(name) for name in artifact.names}
    shared = {name: tensor for name, tensor in found.items() if isinstance(tensor, Shared)}
    integers = {name: levels_of(tensor.codebook)[tensor.codes] for name, tensor in shared.items()}
    outcome.notes.append(
        f"LeNet-300-100 ({accuracy:.2f} % on MNIST before pruning) is a .sqz file of {file_bytes:,} bytes at level "
        "max; its rows are of the codes of three matrices alone, without codebooks."
    )
    group = integer_coders(integers)
    if nncodec:
        group.append(by_nncodec("nncodec", group[0].count, nncodec.integers(integers)))
    outcome.rows += [row("LeNet-300-100", coded, bytes_before=4 * coded.count) for coded in group]
    outcome.goals += lenet_goals(group)


def integer_coders(arrays: Mapping[str, NDArray[Any]]) -> list[Coded]:
    """The bytes of all arrays by each of our coders of integers, and by the best for each array."""
    sizes: dict[str, list[int]] = {}
    for array in arrays.values():
        flat = np.ascontiguousarray(array).reshape(-1)
        counted = histogram(flat)
        if counted is None:
            raise RuntimeError("a range of integers that no coder takes")
        for codec in SYMBOL_CODECS.values():
            sizes.setdefault(codec.name, []).append(codec.plan(flat, counted).size)
    sizes[_BEST] = [min(of_one) for of_one in zip(*sizes.values(), strict=True)]
    count = sum(array.size for array in arrays.values())
    return [Coded(name, count, sum(of_all), None, None, None) for name, of_all in sizes.items()]


def lenet_goals(group: list[Coded]) -> list[Goal]:
    """The best of ours beside gaps + Huffman, and beside nncodec where it was run."""
    best, gaps, nncodec = (named(group, name) for name in (_BEST, "gaps", "nncodec"))
    return [
        at_most(f"LeNet-300-100, {_BEST}, beside {name}", best.nbytes / rival.nbytes, bound, "of its bytes")
        for name, rival, bound in (("gaps + Huffman", gaps, _SMALLER), ("nncodec, lossless", nncodec, 1.0))
        if best and rival
    ]
