"""How small and how fast every coder is, beside what one would take instead. `python -m benchmarks.codec`.

Speeds are per second of processor time on one core, so that other programs on the machine disturb them less.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.codec_coders import module
from benchmarks.codec_files import MINILM_VARIABLE
from benchmarks.codec_lenet import lenet
from benchmarks.codec_load import load
from benchmarks.codec_lossless import lossless
from benchmarks.codec_lossy import lossy
from benchmarks.codec_overhead import overhead
from benchmarks.codec_symbols import symbols
from benchmarks.common import Outcome, add_data, console, end_cleanly, finish, parser, show, use_one_core
from benchmarks.nnc import Nncodec, add_nncodec
from squeezer.warm import warm_up

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

PARTS: dict[str, Callable[[argparse.Namespace, Nncodec | None, Outcome], None]] = {
    "symbols": symbols,
    "load": load,
    "lossless": lossless,
    "lossy": lossy,
    "lenet": lenet,
    "overhead": overhead,
}


def tables(outcome: Outcome) -> list[Outcome]:
    """One narrower table for each thing that was coded, without the columns that are empty for it."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for line in outcome.rows:
        grouped.setdefault(line["data"], []).append(line)
    result = []
    for name, lines in grouped.items():
        used = [key for key in lines[0] if key != "data" and any(line[key] is not None for line in lines)]
        result.append(Outcome(name, [{key: line[key] for key in used} for line in lines]))
    return result


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    result = parser("Size and speed of every coder, beside others.")
    add_data(result)
    add_nncodec(result)
    result.add_argument("--small", action="store_true", help="a million symbols in place of 25 million")
    result.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    result.add_argument("--runs", type=int, default=5, help="runs of which the median counts (default: 5)")
    result.add_argument("--epochs", type=int, default=2, help="epochs that LeNet-300-100 is trained for (default: 2)")
    result.add_argument("--minilm", metavar="FILE", help=f"MiniLM's safetensors file; by default ${MINILM_VARIABLE}")
    result.add_argument("--plot", type=Path, metavar="FILE", help="draw ratio against decode speed (.svg or .png)")
    return result


def main() -> int:
    """Measure, print, and give the exit status."""
    given = arguments().parse_args()
    end_cleanly()
    use_one_core()
    nncodec = Nncodec.found(given.nncodec)
    outcome = Outcome("Coders on one core (M/s: million weights a second of processor time)")
    missing = [name for name in ("zipnn", "constriction") if module(name) is None]
    if nncodec is None:
        missing.append("nncodec")
    outcome.notes += [f"{name} is not installed, and is left out." for name in missing]
    warm_up()
    for part in given.parts:
        PARTS[part](given, nncodec, outcome)
    if given.json:
        return finish(outcome, given)
    for table in tables(outcome):
        show(table, console())
    return finish(replace(outcome, rows=[]), given)


if __name__ == "__main__":
    raise SystemExit(main())
