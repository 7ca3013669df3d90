"""The docs keep up with the code, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from squeezer.errors import Code

ROOT = Path(__file__).parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def described(page: str) -> dict[str, list[str]]:
    """Rows of a page's tables by the name in their first cell, without the backquotes."""
    rows = re.findall(r"^\| `([^`]+)` \|(.*)\|$", page, re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def test_every_error_code_is_described_with_a_remedy() -> None:
    rows = described((ROOT / "docs" / "errors.md").read_text("utf-8"))
    assert rows.keys() == {code.value for code in Code}
    for name, cells in rows.items():
        assert len(cells) == 2, name
        assert all(cell.endswith(".") for cell in cells), name


def local_links(page: Path) -> list[Path]:
    """Where a page's relative links point."""
    targets = LINK.findall(page.read_text("utf-8"))
    return [page.parent / target for target in targets if "://" not in target]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert [str(target) for target in local_links(page) if not target.exists()] == []


def test_the_index_lists_every_page() -> None:
    listed = {target.resolve() for target in local_links(ROOT / "docs" / "README.md")}
    there = {page for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"}
    assert there <= listed


def block(heading: str) -> str:
    """The first indented block of the README under a heading."""
    section = (ROOT / "README.md").read_text("utf-8").split(f"\n## {heading}\n")[1]
    found = re.search(r"(?:^    .*\n|^\n)+", section.lstrip("\n"), re.MULTILINE)
    assert found
    return textwrap.dedent(found[0])


@pytest.fixture
def folder_with_model(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    safetensors.numpy.save_file({"layer.weight": weights}, tmp_path / "model.safetensors")
    return tmp_path


def test_the_readme_commands_work(folder_with_model: Path) -> None:
    script = "set -e\n" + block("Command line")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["sh", "-c", script]
    done = subprocess.run(command, cwd=folder_with_model, env=os.environ | {"PATH": path}, timeout=60, check=False)
    assert done.returncode == 0


def test_the_readme_python_works(folder_with_model: Path) -> None:
    subprocess.run([sys.executable, "-c", block("Python")], cwd=folder_with_model, timeout=60, check=True)


def test_make_targets_that_the_docs_name_exist() -> None:
    named = {
        target for page in PAGES for target in re.findall(r"(?:^    |`)make ([a-z]+)", page.read_text("utf-8"), re.M)
    }
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets
