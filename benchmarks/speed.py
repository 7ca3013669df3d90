"""How fast one core compresses, loads and starts. `python -m benchmarks.speed`."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

import squeezer
from benchmarks.common import (
    SQUEEZER,
    Goal,
    Outcome,
    Timing,
    at_least,
    at_most,
    either,
    end_cleanly,
    finish,
    median_timing,
    parser,
    run,
    time_calls,
    use_one_core,
    write_gaussian,
)
from squeezer.representations import Shared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TENSORS, _SHAPE = 5, (2000, 2500)
_WEIGHTS = _TENSORS * _SHAPE[0] * _SHAPE[1]
_MEGABYTE = 1e6
#: Goals in MB/s of float32, and as shares of the symbols that zstd -1 decodes in a second.
_COMPRESS, _LOAD = 60.0, 600.0
_COMPRESS_SHARE, _LOAD_SHARE = 0.12, 0.25
_IMPORT_SECONDS, _HELP_SECONDS = 0.3, 0.5
_HEAVY = "torch", "numba"


def shared_codes(path: Path) -> bytes:
    """The codes of all tensors that share weights, one byte each."""
    with squeezer.open(path) as artifact:
        tensors = [artifact.representation(name) for name in artifact.names]
    return b"".join(tensor.codes.astype(np.uint8).tobytes() for tensor in tensors if isinstance(tensor, Shared))


def speed_row(what: str, timing: Timing, weights: int, rival: float) -> dict[str, Any]:
    """A row of throughputs. `rival` is the number of symbols that zstd -1 decodes in a second; a weight is a symbol."""
    return {
        "what": what,
        "seconds": timing.wall,
        "processor seconds": timing.processor,
        "MB/s of float32": 4 * weights / timing.wall / _MEGABYTE,
        "M weights/s": weights / timing.wall / 1e6,
        "share of zstd -1 decode": weights / timing.wall / rival,
    }


def _speed_goal(row: dict[str, Any], bound: float, share: float) -> Goal:
    return either(
        at_least(row["what"], row["MB/s of float32"], bound, "MB/s of float32"),
        at_least("share of zstd -1 decode, in symbols/s", row["share of zstd -1 decode"], share, "of it"),
    )


def _compress(model: Path, out: Path, environment: dict[str, str] | None = None) -> Timing:
    options = ["--recipe", "deep-compression", "--threads", "1", "--json"]
    return run([*SQUEEZER, "compress", str(model), "-o", str(out), *options], environment=environment).timing


def _throughput(folder: Path, runs: int, outcome: Outcome) -> None:
    model, out = folder / "model.safetensors", folder / "model.sqz"
    write_gaussian(model, _TENSORS, _SHAPE, seed=0)
    with tempfile.TemporaryDirectory() as cache:
        cold = _compress(model, out, {"NUMBA_CACHE_DIR": cache})
    _compress(model, out)  # fills the usual cache, where it is empty
    warm = median_timing(_compress(model, out) for _ in range(runs))
    squeezer.load(out, threads=1)
    load = time_calls(partial(squeezer.load, out, threads=1), runs)

    codes = shared_codes(out)
    compressor = zstandard.ZstdCompressor(level=1)
    packed = compressor.compress(codes)
    decode = time_calls(partial(zstandard.ZstdDecompressor().decompress, packed), runs)
    encode = time_calls(partial(compressor.compress, codes), runs)
    row = partial(speed_row, weights=_WEIGHTS, rival=len(codes) / decode.wall)
    compressing, loading = row("squeezer compress, whole process", warm), row("squeezer.load, warm process", load)
    outcome.rows += [
        compressing,
        row("squeezer compress, nothing compiled yet", cold),
        loading,
        row("baseline: zstd -1 decodes the same symbols", decode),
        row("baseline: zstd -1 encodes the same symbols", encode),
    ]
    outcome.goals += [
        _speed_goal(compressing, _COMPRESS, _COMPRESS_SHARE),
        _speed_goal(loading, _LOAD, _LOAD_SHARE),
    ]
    outcome.notes.append(
        f"The codes take {out.stat().st_size:,} bytes as .sqz, and {len(packed):,} bytes from zstd -1. "
        "Shares compare symbols a second: one weight is one symbol. Where seconds exceed processor seconds by much, "
        "other programs had the core."
    )


def _start(command: Sequence[str], runs: int) -> Timing:
    run(command)  # compiled to bytecode, and in the page cache
    return median_timing(run(command).timing for _ in range(runs))


def _starts(runs: int, outcome: Outcome) -> None:
    python: Callable[[str], list[str]] = lambda code: [sys.executable, "-c", code]  # noqa: E731
    bare = _start(python("pass"), runs)
    imported = _start(python("import squeezer"), runs)
    helped = _start([*SQUEEZER, "--help"], runs)
    loaded = run(python(f"import squeezer, sys; print({set(_HEAVY)} & sys.modules.keys() or 'neither')")).output
    for what, timing in (("import squeezer", imported), ("squeezer --help", helped), ("baseline: python", bare)):
        row = {"what": what, "seconds": timing.wall, "processor seconds": timing.processor}
        outcome.rows.append(dict.fromkeys(outcome.rows[0]) | row)
    outcome.goals += [
        at_most("import squeezer, whole process", imported.wall, _IMPORT_SECONDS, "s"),
        Goal("import squeezer loads neither torch nor numba", loaded.strip() == "neither", loaded.strip()),
        at_most("squeezer --help, whole process", helped.wall, _HELP_SECONDS, "s"),
    ]


def main() -> int:
    """Measure, print, and give the exit status."""
    arguments = parser("Speed on one core, with a float32 model of 25 million weights.")
    arguments.add_argument("--runs", type=int, default=5, help="runs of which the median counts (default: 5)")
    given = arguments.parse_args()
    end_cleanly()
    use_one_core()
    outcome = Outcome(f"Speed on one core: {_WEIGHTS:,} float32 weights by deep-compression")
    with tempfile.TemporaryDirectory() as folder:
        _throughput(Path(folder), given.runs, outcome)
    _starts(given.runs, outcome)
    return finish(outcome, given)


if __name__ == "__main__":
    raise SystemExit(main())
