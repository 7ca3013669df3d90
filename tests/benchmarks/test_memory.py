from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import httpx

from benchmarks import common, memory

SIZE = 3_000_000


def test_a_file_that_is_read_is_told_from_one_that_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"x" * SIZE)
    reading, mapping = memory.Watch(path), memory.Watch(path)
    read = f"import time; open({str(path)!r}, 'rb').read(); time.sleep(0.2)"
    common.run([sys.executable, "-c", read], sample=reading)
    assert reading.looks > 0
    assert not reading.mapped
    assert reading.read_bytes >= SIZE
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        mapping(os.getpid())
    assert mapping.mapped


def test_sizes_of_a_process_are_read() -> None:
    resident, peak = (memory.status_bytes(os.getpid(), key) for key in ("VmRSS", "VmHWM"))
    assert 1e6 < resident <= peak < 1e11


def test_the_api_answers_while_it_runs_and_ends_afterwards(tmp_path: Path) -> None:
    with memory.api(tmp_path) as (url, pid):
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert memory.status_bytes(pid, "VmRSS") > 1e6
    assert not Path(f"/proc/{pid}").exists()
