"""Mutants by the thousand, in child processes that may die of them."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tests.fuzz.child import JOURNAL_BYTES, Order

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TARGETS = ("files", "codecs")
#: After so many findings a campaign ends.
ENOUGH = 10
_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.1
_ENDINGS = {
    signal.SIGSEGV: "outside its buffer",
    signal.SIGBUS: "outside its buffer",
    signal.SIGALRM: "hang",
    signal.SIGKILL: "killed, perhaps for its memory",
}


@dataclass(frozen=True)
class Finding:
    """A mutant, by target and number, that ended as none should."""

    kind: str
    target: str
    number: int
    detail: str


@dataclass
class Result:
    """What a campaign found; `counts` are mutants by target and outcome, `seconds` include warming up."""

    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    #: Those that ran between guard pages.
    kernels: set[str] = field(default_factory=set)
    seconds: float = 0.0

    def line(self) -> str:
        """Progress, on one line."""
        done, counts = (
            self.counts.total(),
            ", ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items())),
        )
        return f"{self.seconds:6.0f} s {done:11,} mutants {done / max(self.seconds, 0.1):8,.0f}/s   {counts}"


def bounds_checked(cache: Path) -> dict[str, str]:
    """The environment in which numba checks every index.

    It needs a cache of its own: numba does not see that what is in the usual one was compiled otherwise.
    """
    return {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(cache.resolve())}


def run(
    order: Order,
    *,
    jobs: int = 1,
    progress: Callable[[Result], None] = lambda result: None,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Carry an order out in so many processes at once.

    Raises:
        RuntimeError: where a child does not come as far as the first mutant: valid input is not decoded, say.
    """
    result, begin = Result(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        parts = [replace(order, first=order.first + job, step=jobs) for job in range(jobs)]
        children = [_Child(part, Path(folder) / str(job), environment) for job, part in enumerate(parts)]
        try:
            while any(child.runs for child in children) and len(result.findings) < ENOUGH:
                time.sleep(_POLL_SECONDS)
                for child in children:
                    child.follow(result)
                result.counts = sum((child.counts for child in children), Counter())
                result.seconds = time.monotonic() - begin
                progress(result)
        finally:
            for child in children:
                child.stop()
    return result


class _Child:
    """A process, and the next one where it dies."""

    def __init__(self, order: Order, folder: Path, environment: Mapping[str, str] | None) -> None:
        folder.mkdir()
        self._errors = folder / "errors"
        self._environment = {**os.environ, **(environment or {})}
        self._order = replace(order, journal=str(folder / "journal"))
        self._earlier: Counter[str] = Counter()
        self._ready: float | None = None
        self.counts: Counter[str] = Counter()
        self._start()

    def _start(self) -> None:
        Path(self._order.journal).write_bytes(bytes(JOURNAL_BYTES))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=_ROOT,
                env=self._environment,
            )
        # Left open: it ends when this is closed.
        self._process.stdin.write(json.dumps(asdict(self._order)).encode() + b"\n")
        self._process.stdin.flush()
        self._said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader = threading.Thread(target=_read, args=(self._process.stdout, self._said), daemon=True)
        self._reader.start()
        self._is_ready = False
        self.runs = True

    def stop(self) -> None:
        """End the process, if it has not ended."""
        self.runs = False
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdin.close()
        self._process.stdout.close()

    def follow(self, result: Result) -> None:
        """Take in what it said; where it has died, note of what, and go on behind the mutant that killed it."""
        if not self.runs:
            return
        status = self._process.poll()
        if status is not None:
            self.stop()
        while not self._said.empty():
            self._take(self._said.get(), result)
        if status:
            self._bury(status, result)

    def _take(self, event: dict[str, Any], result: Result) -> None:
        if event.get("ready"):
            self._is_ready = True
            self._ready = self._ready or time.monotonic()
        if "finding" in event:
            target, number = self._order.place(event["number"])
            result.findings.append(Finding(event["finding"], target, number, event["detail"]))
        if "counts" in event:
            self.counts = self._earlier + Counter(event["counts"])
        result.kernels.update(event.get("kernels", ()))

    def _bury(self, status: int, result: Result) -> None:
        errors = self._errors.read_text(errors="replace")
        if not self._is_ready or self._ready is None:
            raise RuntimeError(f"a child ended with status {status} before its first mutant:\n{errors}")
        journal = json.loads(Path(self._order.journal).read_bytes().partition(b"\0")[0])
        fatal = journal["number"]
        target, number = self._order.place(fatal)
        kind = _ENDINGS.get(-status, f"ended with status {status}")
        result.findings.append(Finding(kind, target, number, errors))
        self._earlier = self._earlier + Counter(journal["counts"]) + Counter([f"{target} {kind}"])
        self.counts = self._earlier.copy()
        left = self._order.seconds and max(0.0, self._order.seconds - (time.monotonic() - self._ready))
        self._order = replace(self._order, first=fatal + self._order.step, seconds=left)
        self._start()


def _read(lines: IO[bytes], said: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in lines:
        said.put(json.loads(line))
