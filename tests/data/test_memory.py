"""Large files are streamed: what a fresh process needs for one, by the kernel's own count."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

ROOT = Path(__file__).parents[2]
ROWS, COLUMNS = 4800, 16384  # 300 MiB of float32, which is more than is held

PROLOGUE = """
import sys
from pathlib import Path
import numpy as np
from squeezer.data.batches import order
from squeezer.data.dataset import Split
from squeezer.data.open import open_dataset
from squeezer.data.spec import DataSpec
from squeezer.graph import Input
path = Path(sys.argv[1])
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) >> 10
before = peak()
"""
STREAM = """
dataset = open_dataset(path, DataSpec(), [Input("x", (None, 16384), "F32")], scratch=path.parent)
seen = 0
for split in Split:
    rows = order(dataset.size(split), 0, 0)
    for start in range(0, len(rows), 64):
        (inputs,), _ = dataset.batch(split, rows[start : start + 64])
        seen += int(inputs[:, 0].sum())
dataset.close()
print(peak() - before, seen)
"""
LOAD = """
with np.load(path) as archive:
    x = archive["x"]
print(peak() - before, int(x[:, 0].sum()))
"""


class Sparse(io.FileIO):
    """A file in which zeros are holes."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        if len(view) >= 4096 and not np.frombuffer(view, np.uint8).any():
            self.seek(len(view), io.SEEK_CUR)
            return len(view)
        return super().write(view) or 0


def row_pieces() -> Iterator[bytes]:
    """The array piece by piece: a row is its number and zeros."""
    zeros = bytes(4 * COLUMNS - 4096)
    for row in range(ROWS):
        yield np.float32(row).tobytes() + bytes(4092)
        yield zeros


def stored(path: Path) -> None:
    with Sparse(path, "w") as file, zipfile.ZipFile(file, "w") as archive, archive.open("x.npy", "w") as member:
        npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, COLUMNS)})
        for piece in row_pieces():
            member.write(piece)


def safetensors(path: Path) -> None:
    size = 4 * ROWS * COLUMNS
    header = json.dumps({"x": {"dtype": "F32", "shape": [ROWS, COLUMNS], "data_offsets": [0, size]}}).encode()
    with Sparse(path, "w") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        for piece in row_pieces():
            file.write(piece)
        file.truncate(8 + len(header) + size)


def deflated(path: Path) -> None:
    """With some noise, since a file that deflates to a hundredth is refused."""
    noise = np.random.default_rng(0).random(COLUMNS // 16).astype(np.float32)
    values = np.zeros(COLUMNS, np.float32)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as member,
    ):
        npy.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (ROWS, COLUMNS)})
        for row in range(ROWS):
            values[1 : 1 + len(noise)] = noise * (row % 2)
            values[0] = row
            member.write(values.tobytes())


def run(script: str, path: Path) -> tuple[int, int]:
    """The growth of the peak in MiB, and the sum of all rows' numbers."""
    command = [sys.executable, "-c", PROLOGUE + script, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    growth, seen = done.stdout.split()
    return int(growth), int(seen)


@pytest.mark.parametrize("make", [stored, safetensors, deflated])
def test_a_large_file_is_streamed(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "data")
    growth, seen = run(STREAM, tmp_path / "data")
    assert seen == ROWS * (ROWS - 1) // 2
    assert growth < 64
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_negative_control_numpy_loads_it(tmp_path: Path) -> None:
    stored(tmp_path / "data")
    growth, _ = run(LOAD, tmp_path / "data")
    assert growth > 250
