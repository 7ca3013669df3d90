"""Part `lossy` of `benchmarks.codec`: real networks by `safe`, beside nncodec at equal squared error."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.codec_files import at_equal_error, at_level, networks, squared_error, whole_file
from benchmarks.codec_rows import beside_nncodec, row

if TYPE_CHECKING:
    import argparse

    from benchmarks.common import Outcome
    from benchmarks.nnc import Nncodec

_LEVEL = "balanced"


def lossy(given: argparse.Namespace, nncodec: Nncodec | None, outcome: Outcome) -> None:
    """Whole files by `safe` as it is, and where nncodec is here, both coders at equal error."""
    for name, tensors in networks(given, outcome):
        add = partial(row, name, bytes_before=sum(array.nbytes for array in tensors.values()))
        with tempfile.TemporaryDirectory() as folder:
            recipe = at_level("safe", _LEVEL)
            ours, decoded = whole_file(f"safe, {_LEVEL}", tensors, recipe, Path(folder), given.runs)
            outcome.rows.append(add(replace(ours, relative_error=squared_error(tensors, decoded)[1])))
            if nncodec:
                equal, theirs = at_equal_error(tensors, nncodec, _LEVEL, Path(folder), given.runs)
                outcome.rows += [add(equal), add(theirs)]
                outcome.goals += beside_nncodec(name, equal, theirs)
