"""The page on data sets keeps up with the code; opening one loads no more than it needs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from squeezer.data.names import SUFFIXES, TARGETS
from squeezer.data.sources import MEMORY_BYTES
from squeezer.data.spec import METRICS, DataSpec, Transform

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "data.md").read_text("utf-8")


def test_every_key_and_its_default_is_there() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", PAGE, re.MULTILINE))
    assert DataSpec.model_fields.keys() | Transform.model_fields.keys() <= rows.keys() | {"loss", "metric"}
    assert rows["validation"] == str(DataSpec().validation)
    assert rows["test"] == str(DataSpec().test)
    assert rows["loss"] == f"`{DataSpec().loss}`"


def test_every_loss_lists_its_metrics() -> None:
    for loss, metrics in METRICS.items():
        (row,) = (line for line in PAGE.splitlines() if line.startswith("|") and f"`{loss}`" in line.split("|")[1])
        assert re.findall(r"`(\w+)`", row.split("|")[3]) == list(metrics)


def test_names_and_the_limit_are_those_of_the_code() -> None:
    for name in (*TARGETS, *(f"x{suffix}" for suffixes in SUFFIXES.values() for suffix in suffixes)):
        assert f"`{name}`" in PAGE
    assert f"{MEMORY_BYTES >> 20} MiB" in PAGE


def test_opening_loads_neither_torch_nor_numba_nor_pillow() -> None:
    script = "import sys, squeezer.data.open; print(*{'torch', 'numba', 'PIL', 'scipy'} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == []
