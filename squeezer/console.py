"""What the command line shows: tables on standard output, progress and messages on standard error."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from functools import cache
from typing import IO, TYPE_CHECKING, Any, Protocol

from rich.bar import Bar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from squeezer import wording
from squeezer.training.sentences import SIGNIFICANT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class Update(Protocol):
    """Moves a progress bar."""

    def __call__(self, stage: str, share: float | None, eta: float | None, detail: str) -> None:
        """Show the stage, how far all is (0 to 1), the seconds that are left (None: unknown), and what is worked on."""
        ...


#: Columns where the output is no terminal, so that a pipe gets whole lines.
_PIPE_COLUMNS = 160
#: Where standard error is no terminal: seconds between two lines about the same stage.
_SECONDS_BETWEEN_LINES = 5.0
_LARGEST = 12
_UNITS = ("kB", "MB", "GB")
#: Before this much is done, an estimate of the time that is left is a guess.
_ETA_FROM = 0.02

#: What each entry of the ledger is.
LEDGER = {
    "header": "format, shapes and lengths",
    "names": "names of the tensors",
    "values": "the weights themselves, coded",
    "codebooks": "shared values that codes point to",
    "gaps": "where the non-zero weights are",
    "tables": "tables of the entropy coders",
    "padding": "bits that fill up bytes",
    "checks": "checksums",
    "files": "files that came with the model",
    "graph": "the network: which operators it has",
}


@cache
def out() -> Console:
    """Standard output."""
    return _console(sys.stdout)


@cache
def err() -> Console:
    """Standard error."""
    return _console(sys.stderr)


def _console(file: IO[str]) -> Console:
    # Names of tensors may look like markup or emoji codes. A terminal's width is its own business.
    narrow = file.isatty() or "COLUMNS" in os.environ
    return Console(file=file, width=None if narrow else _PIPE_COLUMNS, markup=False, emoji=False, highlight=False)


def size_text(size: float) -> str:
    """Bytes for people, in powers of 1000: `18.8 MB`."""
    if size < 1000:
        return f"{size:.0f} bytes"
    power = 1
    # What would round to 1000 belongs to the next unit.
    while power < len(_UNITS) and size >= 999.5 * 1000**power:
        power += 1
    number = size / 1000**power
    return f"{number:.3g} {_UNITS[power - 1]}" if number < 999.5 else f"{number:.0f} {_UNITS[power - 1]}"


def time_text(seconds: float) -> str:
    """A duration for people: `0.42 s`, `12 s`, `3 min 20 s`."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# Progress -------------------------------------------------------------------------------------------------


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """A progress bar on standard error for as long as the block lasts; plain lines where it is no terminal.

    Yields the function that moves it.
    """
    if not err().is_terminal:
        yield _Lines(title)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[eta]}", style="cyan"),
        TextColumn("{task.fields[detail]}", style="dim"),
    )
    with Progress(*columns, console=err(), transient=True) as bars:
        task = bars.add_task(title, total=None, eta="", detail="")

        def update(stage: str, share: float | None, eta: float | None, detail: str) -> None:
            bars.update(
                task,
                description=f"{title}: {stage}" if stage else title,
                total=None if share is None else 1.0,
                completed=share or 0.0,
                eta=_eta_text(share, eta),
                detail=detail,
            )

        yield update


class _Lines:
    """Progress as plain lines: one for each new stage, and then one every few seconds."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._stage: str | None = None
        self._last = time.monotonic()

    def __call__(self, stage: str, share: float | None, eta: float | None, detail: str) -> None:
        now = time.monotonic()
        if stage == self._stage and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._stage, self._last = stage, now
        parts = [
            stage,
            "" if share is None else f"{share:.0%}",
            _eta_text(share, eta),
            detail,
        ]
        say(f"{self._title}: {', '.join(part for part in parts if part)}")


def _eta_text(share: float | None, eta: float | None) -> str:
    return "" if eta is None or (share or 0.0) < _ETA_FROM else f"{time_text(eta)} left"


def say(text: str, style: str | None = None) -> None:
    """One message on standard error."""
    err().print(text, style=style, soft_wrap=True)


# Tables ---------------------------------------------------------------------------------------------------


def show_report(report: Mapping[str, Any], file: str) -> None:
    """What was done to a model: the headline first, then the figures and the largest tensors.

    Args:
        report: `Report.to_json()`, or the same keys of a job.
        file: the name of the `.sqz` file.
    """
    out().print(report["headline"], style=_headline_style(report), soft_wrap=True)
    out().print()
    out().print(_pairs(_figures(report, file)))
    if evaluation := report.get("evaluation"):
        out().print()
        show_evaluation(evaluation)
    if sensitivity := report.get("findings", {}).get("sensitivity"):
        out().print()
        show_sensitivity(sensitivity)
    layers = sorted(report["layers"], key=lambda layer: -int(layer["tensor_bytes"]))
    if layers:
        out().print()
        out().print(_layer_table(layers[:_LARGEST]))
    if len(layers) > _LARGEST:
        out().print(f"and {len(layers) - _LARGEST} smaller tensors: squeezer inspect {file}", style="dim")


def show_evaluation(evaluation: Mapping[str, Any]) -> None:
    """The original and the decoded file on the same rows: the document of `docs/evaluation.md`."""
    out().print(_pairs(wording.evaluation_lines(evaluation)))


def show_sensitivity(findings: Mapping[str, Any]) -> None:
    """How much each tensor matters: the findings of the step `sensitivity`, with a curve for each."""
    columns, rows = wording.sensitivity_table(findings)
    show_rows(columns, rows, frozenset({1, *range(3, len(columns))}))
    for line in wording.sensitivity_lines(findings):
        out().print(line, soft_wrap=True)


def _headline_style(report: Mapping[str, Any]) -> str:
    headline, evaluation = report["headline"], report.get("evaluation")
    if "likely lost" in headline or "not a finite number" in headline:
        return "bold red"
    worse = False
    if evaluation and evaluation["labelled"]:
        drop, p = evaluation["drop"]["value"], evaluation["test"]["p"]
        worse = drop is None or (drop > 0 and p is not None and p < SIGNIFICANT)
    return "bold yellow" if worse or "not measured" in headline or "unknown" in headline else "bold green"


def _figures(report: Mapping[str, Any], file: str) -> Iterator[tuple[str, str]]:
    yield "model", f"{size_text(report['tensor_bytes'])} of tensors (upload: {size_text(report['input_bytes'])})"
    yield "compressed", f"{size_text(report['output_bytes'])} in {file}"
    yield "ratio", f"{report['ratio']:.2f} times smaller"
    yield "time", time_text(report["seconds"])
    for i, step in enumerate(report["steps"]):
        detail = f"{step['method']} on {_count(step['tensors'], 'tensor')}, {time_text(step['seconds'])}"
        yield ("" if i else "steps"), detail
    yield from _limited("left out", [f"{item['method']}: {item['reason']}" for item in report["left_out"]])
    yield from _limited("dropped", [f"{item['name']}: {item['reason']}" for item in report["dropped"]])
    yield from _limited("other files", [f"{path}, {size_text(n)}" for path, n in report["files"].items()])
    yield from _limited("events", [wording.event_line(event) for event in report.get("events", [])])
    for i, warning in enumerate(report["warnings"]):
        yield ("" if i else "warnings"), warning


def _limited(title: str, lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i, line in enumerate(lines[:_LARGEST]):
        yield ("" if i else title), line
    if len(lines) > _LARGEST:
        yield "", f"and {len(lines) - _LARGEST} more"


def _layer_table(layers: Iterable[Mapping[str, Any]]) -> Table:
    columns = ("largest tensors", "shape", "type", "before", "after", "bits/weight", "zeros", "error", "stored as")
    table = _table(*columns, right={3, 4, 5, 6, 7})
    for layer in layers:
        table.add_row(
            layer["name"],
            shape_text(layer["shape"]),
            layer["dtype"],
            size_text(layer["tensor_bytes"]),
            size_text(layer["stored_bytes"]),
            f"{layer['bits_per_weight']:.2f}",
            f"{layer['sparsity']:.0%}",
            _error_text(layer["relative_error"]),
            f"{layer['kind']}, {layer['coder']}",
        )
    return table


def _error_text(error: float | None) -> str:
    """A step may have made a tensor anew, which then has no original to differ from."""
    return "new" if error is None else f"{error:.2%}" if error else "none"


def show_contents(contents: Mapping[str, Any], file: str) -> None:
    """What is inside a `.sqz` file: its tensors, and what its bytes are for.

    Args:
        contents: the document of `squeezer inspect --json`.
        file: the name of the file.
    """
    tensors = contents["tensors"]
    before = f"{_count(len(tensors), 'tensor')} of {size_text(contents['tensor_bytes'])}"
    after = f"{size_text(contents['size'])}, {contents['ratio']:.2f} times smaller"
    out().print(f"{file}: {before} in {after}", style="bold", soft_wrap=True)
    out().print()
    table = _table("tensor", "shape", "type", "before", "after", "bits/weight", "stored as", right={3, 4, 5})
    for tensor in sorted(tensors, key=lambda tensor: -int(tensor["bytes"])):
        table.add_row(
            tensor["name"],
            shape_text(tensor["shape"]),
            tensor["dtype"],
            size_text(tensor["tensor_bytes"]),
            size_text(tensor["bytes"]),
            f"{tensor['bits_per_weight']:.2f}",
            tensor["kind"],
        )
    out().print(table)
    for alias, target in contents["aliases"].items():
        out().print(f"{alias} is {target} (tied)", soft_wrap=True)
    for path, size in contents["files"].items():
        out().print(f"file {path}, {size_text(size)}", soft_wrap=True)
    out().print()
    out().print(_ledger_table(contents["ledger"]))


def _ledger_table(ledger: Mapping[str, int]) -> Table:
    total, most = sum(ledger.values()), max(ledger.values())
    table = _table("the file's bytes", "size", "share", "", "what it is", right={1, 2})
    for name, size in sorted(ledger.items(), key=lambda item: -item[1]):
        if size:
            bar = Bar(most, 0, size, width=24, color="cyan")
            table.add_row(name, size_text(size), f"{size / total:.1%}", bar, LEDGER.get(name, ""))
    table.add_section()
    table.add_row("all", size_text(total), "100.0%", "", f"{total:,} bytes")
    return table


def show_rows(columns: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
    """A plain table on standard output; `right` are the positions of columns of figures."""
    table = _table(*columns, right=right)
    for row in rows:
        table.add_row(*row)
    out().print(table)


def shape_text(shape: Sequence[int]) -> str:
    """A tensor's shape: `64x3x3x3`, `scalar`."""
    return "x".join(str(extent) for extent in shape) or "scalar"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _table(*columns: str, right: Iterable[int] = ()) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i in right else "left", overflow="fold")
    return table


def _pairs(pairs: Iterable[tuple[str, str]]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    return table
