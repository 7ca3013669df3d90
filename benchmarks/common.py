"""What the benchmarks share: arguments, goals, tables, timing, and child processes whose memory is measured."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

#: The command line as a program of its own.
SQUEEZER = (sys.executable, "-m", "squeezer.cli")
DATA_VARIABLE = "SQUEEZER_BENCH_DATA"
_ROOT = Path(__file__).resolve().parents[1]
#: Between two looks at a child; an end is noticed this late.
_SAMPLE_SECONDS = 0.005
_PIECE = 1 << 20
_FILE_COLUMNS = 200


@dataclass(frozen=True)
class Goal:
    """Something that a benchmark should show; `detail` holds the figure and the bound."""

    name: str
    met: bool
    detail: str


def at_least(name: str, value: float, bound: float, unit: str) -> Goal:
    """The goal that a figure reaches a bound."""
    return Goal(name, value >= bound, f"{value:.4g} {unit}, goal at least {bound:g}")


def at_most(name: str, value: float, bound: float, unit: str) -> Goal:
    """The goal that a figure stays within a bound."""
    return Goal(name, value <= bound, f"{value:.4g} {unit}, goal at most {bound:g}")


def either(first: Goal, second: Goal) -> Goal:
    """The goal that one of two holds; it bears the name of the first."""
    return Goal(first.name, first.met or second.met, f"{first.detail}; or {second.name}: {second.detail}")


@dataclass
class Outcome:
    """What a benchmark found: rows of a table (all with the same keys), remarks, and goals."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(asdict(self), indent=2)


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    result = argparse.ArgumentParser(description=description)
    result.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    result.add_argument("--check", action="store_true", help="exit with status 1 where a goal falls short")
    return result


def add_data(arguments: argparse.ArgumentParser) -> None:
    """Add `--data`, the folder of real data."""
    arguments.add_argument(
        "--data", type=Path, metavar="DIR", help=f"folder of real data and networks; by default ${DATA_VARIABLE}"
    )


def data_folder(given: Path | None) -> Path:
    """The folder of real data: the argument, else the environment's.

    Raises:
        SystemExit: where neither names a folder.
    """
    named = given or (Path(os.environ[DATA_VARIABLE]) if os.environ.get(DATA_VARIABLE) else None)
    if named is None:
        raise SystemExit(f"this benchmark needs real data: give its folder with --data DIR or {DATA_VARIABLE}")
    if not named.is_dir():
        raise SystemExit(f"there is no folder {named}")
    return named


def finish(outcome: Outcome, arguments: argparse.Namespace) -> int:
    """Print an outcome as the arguments ask; the exit status."""
    if arguments.json:
        print(outcome.to_json())
    else:
        show(outcome, console())
    missed = [goal for goal in outcome.goals if not goal.met]
    if not arguments.check:
        return 0
    for goal in missed:
        print(f"falls short: {goal.name}: {goal.detail}", file=sys.stderr)
    return 1 if missed else 0


def console() -> Console:
    """Standard output; in a file, wide enough for every table."""
    return Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS)


def show(outcome: Outcome, console: Console) -> None:
    """Print the table, the remarks and the goals."""
    table = Table(title=outcome.title, title_justify="left")
    for name in outcome.rows[0] if outcome.rows else []:
        table.add_column(name, justify="right" if _is_numeric(outcome.rows, name) else "left")
    for row in outcome.rows:
        table.add_row(*(_cell(value) for value in row.values()))
    console.print(table)
    for note in outcome.notes:
        console.print(note, highlight=False)
    for goal in outcome.goals:
        sign = "[green]met[/]        " if goal.met else "[red]falls short[/]"
        console.print(f"{sign} {goal.name}: {goal.detail}", highlight=False)


def _is_numeric(rows: list[dict[str, Any]], name: str) -> bool:
    return any(isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.4g}" if abs(value) < 100 else f"{value:,.0f}"
        case _:
            return str(value)


def end_cleanly() -> None:
    """Make SIGTERM end this process like an error would, so that files are removed and children stopped."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


#: The cores that this process was given.
_CORES = sorted(os.sched_getaffinity(0))


def use_one_core() -> None:
    """Keep this process, and all that it starts, on one core."""
    os.sched_setaffinity(0, _CORES[-1:])


@contextmanager
def on_cores(count: int) -> Iterator[None]:
    """For a while, let all threads of this process run on so many of the cores that it was given."""
    before = os.sched_getaffinity(0)
    _move(_CORES[-count:])
    try:
        yield
    finally:
        _move(before)


def _move(cores: Iterable[int]) -> None:
    for thread in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread.name), cores)


class Timing(NamedTuple):
    """Seconds that passed, and seconds that the processor worked; they differ where the machine is busy, or waits."""

    wall: float
    processor: float


def median_timing(timings: Iterable[Timing]) -> Timing:
    """The median of each kind of seconds."""
    walls, processors = zip(*timings, strict=True)
    return Timing(median(walls), median(processors))


def time_calls(work: Callable[[], object], runs: int) -> Timing:
    """The median of a few calls. What `work` returns is let go before the next one."""
    timings = []
    for _ in range(runs):
        started = Timing(time.perf_counter(), time.process_time())
        result = work()
        timings.append(Timing(time.perf_counter() - started.wall, time.process_time() - started.processor))
        del result
    return median_timing(timings)


@dataclass(frozen=True)
class Ended:
    """A child process that has ended well."""

    timing: Timing
    peak_bytes: int  # its largest resident size
    output: str  # what it wrote to stdout


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    sample: Callable[[int], None] = lambda _: None,
) -> Ended:
    """Run a program to its end.

    The kernel's `ru_maxrss` begins with the size of the process that starts the program, so a benchmark of memory
    must itself stay small.

    Args:
        command: program and arguments; it runs in the repository's folder, and what it says on stderr is only shown
            where it fails.
        environment: variables beside those of this process.
        sample: called with the process id again and again while it runs.

    Raises:
        RuntimeError: it failed.
    """
    # Files, not pipes: a full pipe would stop the child.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=_ROOT, env=os.environ | (environment or {}), stdout=output, stderr=errors
        )
        try:
            while not _has_ended(process.pid):
                sample(process.pid)
                time.sleep(_SAMPLE_SECONDS)
            seconds = time.perf_counter() - started
        except BaseException:
            process.kill()
            raise
        finally:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said = _content(errors)[-2000:]
            raise RuntimeError(f"{' '.join(command)} ended with status {process.returncode}: {said}")
        timing = Timing(seconds, usage.ru_utime + usage.ru_stime)
        return Ended(timing, usage.ru_maxrss * 1024, _content(output))


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def write_gaussian(path: Path, tensors: int, shape: tuple[int, int], seed: int) -> int:
    """Write a safetensors file of normally distributed float32 tensors of one shape, in pieces of 4 MB.

    Returns:
        The bytes of all tensors.
    """
    size = shape[0] * shape[1] * 4
    header = {
        f"layers.{i}.weight": {"dtype": "F32", "shape": shape, "data_offsets": [i * size, (i + 1) * size]}
        for i in range(tensors)
    }
    text = json.dumps(header).encode()
    random = np.random.default_rng(seed)
    left = tensors * size // 4
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while left:
            piece = random.standard_normal(min(left, _PIECE), np.float32)
            piece *= np.float32(0.02)
            file.write(piece.data)
            left -= piece.size
    return tensors * size
