"""Children that take what they can get: each is ended by its own limit, and nothing beside it suffers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from app.storage import LocalStorage
from squeezer import child
from squeezer.errors import Code
from tests.workers.conftest import GOOD, GetJob, Submit, left_in_scratch
from workers import limits, process
from workers.limits import Limits
from workers.process import Ending
from workers.supervisor import Supervisor

CONFINED_CHILD = (sys.executable, "-P", str(Path(__file__).with_name("confined_child.py")))
MEMORY, SCRATCH = 256 << 20, 32 << 20


@pytest.fixture
def confined(settings: Settings, sessions: sessionmaker[Session], storage: LocalStorage) -> Supervisor:
    little = settings.model_copy(update={"job_memory_bytes": MEMORY, "job_scratch_bytes": SCRATCH})
    return Supervisor(little, sessions, storage, child=CONFINED_CHILD)


@pytest.fixture
def beside() -> Iterator[None]:
    """Another process at work in small pieces, which goes on without a long halt."""
    code = """
import select, sys, time
slowest, last = 0.0, time.monotonic()
while not select.select([sys.stdin], [], [], 0.05)[0]:
    now = time.monotonic()
    slowest, last = max(slowest, now - last), now
print(slowest)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        yield
        said, _ = other.communicate("end\n", timeout=20)
        assert other.returncode == 0
        assert float(said) < 3


BOMBS = {
    "memory": ("blocks = []\nwhile True: blocks.append(b'x' * (8 << 20))", Code.OUT_OF_MEMORY, "SQUEEZER_JOB_MEMORY"),
    "shared memory": (
        "import mmap\nblocks = []\nwhile True:\n"
        "    blocks.append(mmap.mmap(-1, 8 << 20)); blocks[-1].write(b'x' * (8 << 20))\n",
        Code.OUT_OF_MEMORY,
        "SQUEEZER_JOB_MEMORY",
    ),
    "many files": (
        "for i in range(10**6): (FOLDER / 'tmp' / str(i)).write_bytes(b'x' * (1 << 20))",
        Code.DISK_FULL,
        "SQUEEZER_JOB_SCRATCH",
    ),
    "files without a name": (
        "import tempfile\nfiles = []\n"
        "while True: files.append(tempfile.TemporaryFile(dir=OUTPUT)); files[-1].write(b'x' * (1 << 20))\n",
        Code.DISK_FULL,
        "SQUEEZER_JOB_SCRATCH",
    ),
    "time": ("while True: pass", Code.DEADLINE_EXCEEDED, "max_seconds"),
    "deaf": (
        "[signal.signal(each, signal.SIG_IGN) for each in set(signal.Signals) - {9, 19}]\nwhile True: time.sleep(1)",
        Code.DEADLINE_EXCEEDED,
        "max_seconds",
    ),
    "processes": (
        "try:\n    while True: os.fork()\nexcept OSError as e: error('crashed', f'fork: {e.strerror}')",
        Code.CRASHED,
        "fork: Operation not permitted",
    ),
    "programs": (
        "try: os.execv('/bin/true', ['true'])\nexcept OSError as e: error('crashed', f'exec: {e.strerror}')",
        Code.CRASHED,
        "exec: Operation not permitted",
    ),
    "a session of its own": (
        "try: os.setpgid(0, 0)\nexcept OSError as e: error('crashed', f'setpgid: {e.strerror}')",
        Code.CRASHED,
        "setpgid: Operation not permitted",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_its_job_with_a_code_and_no_other(
    confined: Supervisor, submit: Submit, job: GetJob, settings: Settings, beside: None, name: str
) -> None:
    script, code, words = BOMBS[name]
    bomb, next_one = submit(script, max_seconds=3), submit(GOOD)
    started = time.monotonic()
    assert confined.work("cpu") == 2  # one attempt for each: another one would end in the same way
    assert time.monotonic() - started < 20
    failed = job(bomb)
    assert (failed.state, failed.error_code, failed.crashed_attempts) == ("failed", code, 0)
    assert words in (failed.error_detail or "")
    assert job(next_one).state == "succeeded"
    assert left_in_scratch(settings) == []


def run(code: str, folder: Path, **changes: int) -> process.Outcome:
    given = Limits(**{"memory": MEMORY, "scratch": SCRATCH, "cpu": 60} | changes)
    command = [sys.executable, "-c", f"import os, resource, sys, time\n{code}"]
    return process.run(command, env={"PATH": os.environ["PATH"]}, cwd=folder, limits=given)


def test_processor_time_counts_over_all_threads(tmp_path: Path) -> None:
    outcome = run("while True: pass", tmp_path, cpu=1)
    assert (outcome.ending, outcome.code) == (Ending.ERROR, Code.DEADLINE_EXCEEDED)


def test_the_kernel_holds_one_file_and_one_request_for_memory(tmp_path: Path) -> None:
    code = f"""
time.sleep(0.2)
found = []
try: open('large', 'wb').truncate({SCRATCH + 1})
except OSError as e: found.append(e.errno)
try: bytearray({MEMORY + limits.HEADROOM})
except MemoryError: found.append('memory')
found.append(resource.getrlimit(resource.RLIMIT_CORE)[1])
found.append(resource.getrlimit(resource.RLIMIT_NOFILE)[1] <= {limits.OPEN_FILES})
sys.exit(str(found))
"""
    outcome = run(code, tmp_path)
    expected = [errno.EFBIG, *([] if limits.has_gpu() else ["memory"]), 0, True]
    assert str(expected) in outcome.detail


def test_within_its_limits_a_child_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    code = (
        f"x = b'x' * {MEMORY // 2}; open('tmp/file', 'wb').write(x[:{SCRATCH // 2}])\n"
        'time.sleep(1)\nprint(\'{"event": "done"}\')'
    )
    assert run(code, tmp_path).ending is Ending.DONE


def test_a_link_is_not_followed_when_scratch_is_measured(tmp_path: Path) -> None:
    for name in ("elsewhere", "output"):
        (tmp_path / name).mkdir()
    (tmp_path / "elsewhere" / "large").write_bytes(b"x" * (1 << 20))
    (tmp_path / "output" / "link").symlink_to(tmp_path / "elsewhere")
    assert limits.scratch_used(tmp_path) == 0
    (tmp_path / "output" / "own").write_bytes(b"x" * (1 << 20))
    assert limits.scratch_used(tmp_path) == 1 << 20


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), Code.OUT_OF_MEMORY),
        (OSError(errno.ENOMEM, "x"), Code.OUT_OF_MEMORY),
        (RuntimeError("[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried"), Code.OUT_OF_MEMORY),
        (RuntimeError("CUDA out of memory. Tried to allocate"), Code.OUT_OF_MEMORY),
        (OSError(errno.ENOSPC, "x"), Code.DISK_FULL),
        (OSError(errno.EFBIG, "x"), Code.DISK_FULL),
        (OSError(errno.EACCES, "x"), Code.INTERNAL),
        (RuntimeError("x"), Code.INTERNAL),
    ],
)
def test_what_a_child_meets_at_its_limits_has_a_code(error: Exception, code: Code) -> None:
    assert child._describe(error)["code"] == code
