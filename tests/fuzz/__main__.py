"""`python -m tests.fuzz`: damage files and coded arrays, decode them between guard pages, and see what happens.

    python -m tests.fuzz --seconds 600            files and codecs, for ten minutes
    python -m tests.fuzz --mutations 100000       files alone, every other one with its checksums made right again
    python -m tests.fuzz --seed 7 --replay files:123

Ends with status 1 where a mutant crashes, hangs, takes too much memory, leaves a buffer, or raises what it should not;
the mutant is kept then.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.fuzz.campaign import TARGETS, Finding, Result, bounds_checked, run
from tests.fuzz.child import Order
from tests.fuzz.corpus import Corpus
from tests.fuzz.targets import mutant

_SECONDS_BETWEEN_LINES = 10.0


def main() -> int:
    """Run the command; returns the exit status."""
    options = _options()
    if options.replay:
        return _replay(options)
    print(f"seed {options.seed}, {options.jobs} processes", flush=True)
    environment = bounds_checked(options.out / "bounds-check") if options.bounds_check else None
    result = run(_order(options), jobs=options.jobs, progress=_printer(), environment=environment)
    print(result.line())
    if result.findings:
        _keep(result.findings, options)
    return 1 if result.findings else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--seconds", type=float, default=60.0, help="how long (%(default)s)")
    end.add_argument("--mutations", type=int, help="how many, of whole files alone")
    end.add_argument("--replay", metavar="TARGET:NUMBER", help="decode one mutant in this process, unguarded")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, help="what is damaged")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the same one gives the same mutants")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes (one for each core)")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where mutants are kept (%(default)s)")
    parser.add_argument(
        "--bounds-check",
        action="store_true",
        help="check every index, in place of guard pages; sees arrays inside kernels too, and is slow",
    )
    return parser.parse_args()


def _order(options: argparse.Namespace) -> Order:
    targets = options.targets or (TARGETS[:1] if options.mutations else TARGETS)
    seconds = None if options.mutations else options.seconds
    guarded = not options.bounds_check
    return Order(options.seed, list(targets), last=options.mutations, seconds=seconds, guarded=guarded)


def _printer():  # type: ignore[no-untyped-def] # a closure over when it last printed
    last = 0.0

    def show(result: Result) -> None:
        nonlocal last
        if result.seconds - last > _SECONDS_BETWEEN_LINES:
            last = result.seconds
            print(result.line(), flush=True)

    return show


def _keep(findings: list[Finding], options: argparse.Namespace) -> None:
    options.out.mkdir(parents=True, exist_ok=True)
    corpus = Corpus.made()
    for finding in findings:
        kept = mutant(corpus, options.seed, finding.target, finding.number)
        path = options.out / f"{options.seed}-{finding.target}-{finding.number}"
        path.with_suffix(".sqz" if finding.target == "files" else ".bin").write_bytes(kept.data)
        print(f"\n{finding.kind}: {kept.story}\n{finding.detail}\nkept as {path}.*; again by:")
        print(f"python -m tests.fuzz --seed {options.seed} --replay {finding.target}:{finding.number}")


def _replay(options: argparse.Namespace) -> int:
    target, _, number = options.replay.partition(":")
    again = mutant(Corpus.made(), options.seed, target, int(number))
    print(again.story)
    print(again.run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
