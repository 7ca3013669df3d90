"""Compiled functions where nothing can be cached, and where it can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "squeezer"
_PROGRAM = """
import squeezer.codecs.symbols, numpy, pathlib
assert pathlib.Path(squeezer.__file__).is_relative_to({root!r}), squeezer.__file__
print(squeezer.codecs.symbols.histogram(numpy.array([3, 3, 5])).counts)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package alone, without compiled code."""
    shutil.copytree(PACKAGE, tmp_path / "squeezer", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(root: Path, home: Path) -> str:
    """What the program prints, with that home folder."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(root=str(root))],
        env={"HOME": str(home), "PYTHONPATH": os.pathsep.join([str(root), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=root,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_machine_code_is_kept_beside_the_source(copy: Path) -> None:
    assert run(copy, Path(os.devnull)) == "[2 0 1]"
    assert list((copy / "squeezer" / "codecs" / "__pycache__").glob("*.nbi"))


def test_where_nothing_can_be_written_every_process_compiles_anew(copy: Path) -> None:
    for folder in [path for path in copy.rglob("*") if path.is_dir()]:
        (folder / "__pycache__").touch()  # no folder can be made there, not even by root
    assert run(copy, Path(os.devnull)) == "[2 0 1]"
    assert not list(copy.rglob("*.nbi"))
