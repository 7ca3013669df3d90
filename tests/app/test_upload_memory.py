"""How much the API process grows by an upload: seen from outside, in `/proc`."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.settings import Settings

ROOT = Path(__file__).parents[2]
MB = 1 << 20
GROWTH_BYTES = 64 * MB
#: Of each file: several times what the process may grow by; ten times as much makes no difference.
UPLOAD_MB = 256
DISTILL = {"steps": [{"method": "distill", "student": "uploaded"}]}


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def upload(block: bytes) -> Iterator[bytes]:
    yield b'--b\r\nContent-Disposition: form-data; name="spec"\r\n\r\n' + json.dumps(DISTILL).encode()
    for name in ("model", "dataset", "student"):
        yield f'\r\n--b\r\nContent-Disposition: form-data; name="{name}"; filename="big"\r\n\r\n'.encode()
        for _ in range(UPLOAD_MB):
            yield block
    yield b"\r\n--b--\r\n"


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_large_upload_does_not_pass_through_memory(settings: Settings) -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", "0"]
    environment = {"SQUEEZER_DATA_DIR": str(settings.data_dir), "PATH": ""}
    block = bytes(range(256)) * (MB // 256)
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            url = next(line for line in process.stderr if "running on" in line).split(" on ")[1].split()[0]
            headers = {"Content-Type": "multipart/form-data; boundary=b"}
            small = b"".join(upload(block[:10]))
            assert httpx.post(f"{url}/jobs", content=small, headers=headers).status_code == 202
            before = peak_bytes(process.pid)
            response = httpx.post(f"{url}/jobs", content=upload(block), headers=headers, timeout=120)
            assert response.status_code == 202, response.text
            assert peak_bytes(process.pid) - before < GROWTH_BYTES
        finally:
            process.terminate()
            process.communicate(timeout=20)
    job = response.json()
    assert job["input_bytes"] == job["dataset"]["bytes"] == job["student"]["bytes"] == UPLOAD_MB * MB
    expected = hashlib.sha256()
    for _ in range(UPLOAD_MB):
        expected.update(block)
    assert job["input_sha256"] == job["dataset"]["sha256"] == job["student"]["sha256"] == expected.hexdigest()
