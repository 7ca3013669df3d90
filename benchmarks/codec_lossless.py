"""Part `lossless` of `benchmarks.codec`: real networks bit for bit, beside zstd and ZipNN."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import zstandard

from benchmarks.codec_coders import Coded, module, seconds, timed, zipnn
from benchmarks.codec_data import floats
from benchmarks.codec_files import at_level, networks, whole_file
from benchmarks.codec_rows import row
from benchmarks.common import Goal, at_most

if TYPE_CHECKING:
    import argparse

    from benchmarks.codec_files import Tensors
    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

_LEVEL = "balanced"
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def lossless(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:  # noqa: ARG001 # as all parts
    """Whole networks as they are, and their floating-point tensors cast to three types."""
    package = module("zipnn")
    for name, tensors in networks(given, outcome):
        with tempfile.TemporaryDirectory() as folder:
            _beside_zstd(name, tensors, Path(folder), given.runs, outcome)
            for word, dtype in _DTYPES.items() if package else ():
                cast = {tensor: array.astype(dtype) for tensor, array in floats(tensors).items()}
                _beside_zipnn(f"{name}, {word}", cast, package, word, Path(folder), given.runs, outcome)


def _beside_zstd(name: str, tensors: Tensors, folder: Path, runs: int, outcome: Outcome) -> None:
    ours = _ours(name, tensors, folder, runs, outcome)
    raw = _bytes(tensors)
    encode, packed = timed(partial(zstandard.ZstdCompressor(level=19).compress, raw))
    decode = partial(zstandard.ZstdDecompressor().decompress, packed)
    theirs = Coded("zstd -19", ours.count, len(packed), encode, seconds(decode, runs), None)
    outcome.rows += [row(name, coded, bytes_before=len(raw)) for coded in (ours, theirs)]


def _beside_zipnn(
    name: str, tensors: Tensors, package: Any, word: str, folder: Path, runs: int, outcome: Outcome
) -> None:
    """Our whole file, names and checksums and all, beside ZipNN's bytes for all tensors in one."""
    ours = _ours(name, tensors, folder, runs, outcome)
    raw = _bytes(tensors)
    theirs = zipnn(package, raw, word, runs)
    outcome.rows += [row(name, coded, bytes_before=len(raw)) for coded in (ours, theirs)]
    beside = at_most(f"{name}, {ours.coder} beside zipnn", ours.nbytes / theirs.nbytes, 1.0, "of its bytes")
    outcome.goals.append(beside)


def _ours(name: str, tensors: Tensors, folder: Path, runs: int, outcome: Outcome) -> Coded:
    ours, decoded = whole_file(f"lossless, {_LEVEL}", tensors, at_level("lossless", _LEVEL), folder, runs)
    outcome.goals.append(bit_for_bit(f"{name}, {ours.coder}", tensors, decoded))
    return ours


def _bytes(tensors: Tensors) -> bytes:
    return b"".join(array.tobytes() for array in tensors.values())


def bit_for_bit(name: str, before: Tensors, after: Tensors) -> Goal:
    """The goal that every tensor has come back with its type, shape and bytes."""
    equal = before.keys() == after.keys() and all(
        (array.dtype, array.shape, array.tobytes())
        == (after[tensor].dtype, after[tensor].shape, after[tensor].tobytes())
        for tensor, array in before.items()
    )
    return Goal(f"{name} is bit for bit", equal, "every tensor compared")
