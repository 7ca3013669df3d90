"""What an import loads, and how long the first answer takes: seen from fresh processes."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[1]
#: Goals, in seconds.
IMPORT_SECONDS, HELP_SECONDS = 0.3, 0.5


def modules_after(statement: str) -> set[str]:
    """Top-level names in `sys.modules` of a fresh interpreter after a statement."""
    command = [sys.executable, "-c", f"{statement}\nimport sys\nprint(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in done.stdout.split()}


def seconds(command: Sequence[str], runs: int = 3) -> float:
    """The least processor time of some runs: what a machine with nothing else to do would take, on a busy one too."""
    times = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(times)


@pytest.mark.parametrize(
    ("statement", "forbidden"),
    [
        ("import squeezer", {"torch", "numba", "pydantic", "typer", "rich", "httpx", "fastapi"}),
        ("import squeezer.recipe", {"torch", "numba", "scipy"}),
        ("import squeezer.methods", {"torch", "numba", "scipy"}),
        ("import squeezer.cli", {"torch", "numba", "scipy", "fastapi", "sqlalchemy", "celery"}),
        ("import squeezer.child", {"torch", "fastapi", "sqlalchemy", "celery", "httpx"}),
        ("import app.main", {"torch", "numba", "workers"}),
        ("import workers.celery_app", {"torch", "numba", "uvicorn"}),
        ("import workers.sweeper", {"torch", "numba", "uvicorn"}),
    ],
)
def test_import_leaves_alone_what_it_does_not_need(statement: str, forbidden: set[str]) -> None:
    assert not modules_after(statement) & forbidden


def test_negative_control_the_probe_sees_what_is_loaded() -> None:
    assert "numba" in modules_after("import numba")


def test_import_is_quick() -> None:
    assert seconds([sys.executable, "-c", "import squeezer"]) <= IMPORT_SECONDS


def test_help_is_quick() -> None:
    assert seconds([str(Path(sys.executable).with_name("squeezer")), "--help"]) <= HELP_SECONDS


def test_negative_control_time_is_measured() -> None:
    assert seconds([sys.executable, "-c", "import numba"], runs=1) > seconds([sys.executable, "-c", ""])
