"""The process that a mutant may bring down: `python -m tests.fuzz.child`, with its order as JSON on standard input.

Before each mutant its number and the counts so far go into the journal, where the parent finds them when this process
has died: of a guard page (SIGSEGV), or of the alarm (SIGALRM), which ends compiled loops too, since no handler of the
interpreter's stands in between.
On standard output: one JSON object a line, progress or a finding.
"""

from __future__ import annotations

import faulthandler
import json
import mmap
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from squeezer.child import _die_with_parent
from tests.fuzz.corpus import Corpus
from tests.fuzz.targets import DECODED, CodedMutant, FileMutant, Mutant, mutant
from tests.guard import Guard, OutsideBufferError

if TYPE_CHECKING:
    from typing import NoReturn

_SECONDS_BETWEEN_LINES = 0.5
#: The journal's size: a JSON document and a zero.
JOURNAL_BYTES = 4096


@dataclass(frozen=True)
class Order:
    """What one child does: mutants first, first + step... of each target in turn, until `last` or the deadline."""

    seed: int
    targets: list[str]
    journal: str = ""
    first: int = 0
    step: int = 1
    last: int | None = None
    #: After warming up.
    seconds: float | None = None
    #: For one mutant, by the clock.
    seconds_each: float = 30.0
    #: Address space beyond what is used after warming up.
    memory: int = 512 << 20
    guarded: bool = True
    #: A module that is imported first: the fuzzer's own tests break something there.
    prepare: str = ""

    def place(self, number: int) -> tuple[str, int]:
        """Which mutant of which target a number stands for: the targets take turns."""
        return self.targets[number % len(self.targets)], number // len(self.targets)

    def is_over(self, number: int, seconds: float) -> bool:
        """Whether all is done, before that mutant."""
        return (self.last is not None and number >= self.last) or (self.seconds is not None and seconds > self.seconds)


def main() -> NoReturn:
    """Carry the order out; the status is 0, whatever was found, unless the process dies of it."""
    order = Order(**json.loads(sys.stdin.readline()))
    _die_with_parent()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A cast that overflows is no error of the decoder's.
    warnings.simplefilter("ignore", RuntimeWarning)
    guard = Guard()
    if order.prepare:
        import_module(order.prepare)
    with guard.installed() if order.guarded else nullcontext():
        corpus = Corpus.made()
        for valid in [*map(CodedMutant.without_damage, corpus.coded), *map(FileMutant.without_damage, corpus.files)]:
            outcome = valid.run()
            assert outcome == DECODED, f"{valid.story} is {outcome} as it is"
        _limit_memory(order.memory)
        _run(order, corpus, guard)
    # At once: threads and caches need no burial.
    sys.stdout.flush()
    os._exit(0)


def _run(order: Order, corpus: Corpus, guard: Guard) -> None:
    counts: Counter[str] = Counter()
    begin = reported = time.monotonic()
    number = order.first
    _say(ready=True)
    with Path(order.journal).open("r+b") as file, mmap.mmap(file.fileno(), JOURNAL_BYTES) as journal:
        while not order.is_over(number, time.monotonic() - begin):
            journal.seek(0)
            journal.write(json.dumps({"number": number, "counts": counts}).encode() + b"\0")
            target, place = order.place(number)
            guard.side = "after" if place % 4 < 2 else "before"
            signal.setitimer(signal.ITIMER_REAL, order.seconds_each)
            outcome, detail = _outcome(mutant(corpus, order.seed, target, place))
            signal.setitimer(signal.ITIMER_REAL, 0)
            if detail:
                _say(finding=outcome, number=number, detail=detail)
            counts[f"{target} {outcome}"] += 1
            number += order.step
            if time.monotonic() - reported > _SECONDS_BETWEEN_LINES:
                reported = time.monotonic()
                _say(counts=counts)
    _say(counts=counts, kernels=sorted(guard.calls))


def _outcome(damaged: Mutant) -> tuple[str, str]:
    """How a mutant ended, and, where it should not have ended so, the details."""
    try:
        return damaged.run(), ""
    except OutsideBufferError:
        return "outside its buffer", traceback.format_exc()
    except MemoryError:
        return "memory", traceback.format_exc()
    except Exception:
        return "exception", traceback.format_exc()


def _limit_memory(beyond: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + beyond
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _say(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
