"""What a process can and cannot do once it has entered. Each test enters in a process of its own: it is for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from squeezer import sandbox
from squeezer.sandbox import kernel, landlock, seccomp
from squeezer.sandbox.paths import allowed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "job"
    for name in ("input", "output", "checkpoints", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "input" / "model").write_bytes(b"model")
    (tmp_path / "stored").mkdir()
    for name in ("blob", "another"):
        (tmp_path / "stored" / name).write_bytes(name.encode())
    (folder / "input" / "dataset").symlink_to(tmp_path / "stored" / "blob")
    return folder


def run(code: str, folder: Path, before: str = "", enter: str = "sandbox.enter(folder)") -> str:
    """What a fresh process prints that enters and then does this."""
    program = f"""
import os, sys, threading, time
from pathlib import Path
from squeezer import sandbox
from squeezer.sandbox import kernel, landlock, seccomp
from squeezer.sandbox.paths import allowed
folder = Path({str(folder)!r})
def attempt(action):
    try:
        action()
        print("done")
    except OSError as error:
        print(error.strerror)
{before}
{enter}
{code}
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], "HOME": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


REFUSED = {"Operation not permitted", "Permission denied"}


@pytest.mark.parametrize(
    "action",
    [
        "(folder / 'input' / 'model').write_bytes(b'')",
        "(folder / 'input' / 'new').touch()",
        "(folder / 'input' / 'model').unlink()",
        "(folder / 'input' / 'model').rename(folder / 'output' / 'model')",
        "os.open(folder / 'input' / 'model', os.O_RDONLY | os.O_TRUNC)",
        "os.truncate(folder / 'input' / 'model', 0)",
        "(folder / 'input' / 'model').chmod(0)",
        "os.utime(folder / 'input' / 'model')",
        "(folder / 'output' / 'link').symlink_to('/')",
        "os.link(folder / 'input' / 'model', folder / 'output' / 'link')",
        "os.mkfifo(folder / 'output' / 'fifo')",
        "(folder / 'new').mkdir()",
        "os.listdir(folder)",
        "(folder.parent / 'stored' / 'another').read_bytes()",
        "os.listdir(folder.parent / 'stored')",
        "os.listdir('/')",
        f"Path({str(ROOT / 'pyproject.toml')!r}).read_text()",
        f"Path({str(ROOT / 'app' / 'settings.py')!r}).read_text()",
        f"Path({str(ROOT / 'squeezer' / 'child.py')!r}).open('a')",
        "Path(f'/proc/{os.getppid()}/environ').read_bytes()",
        "Path('/proc/1/cmdline').read_bytes()",
        "os.setsid()",
        "os.nice(-1)",
        "os.sched_setaffinity(os.getppid(), {0})",
        "os.memfd_create('x')",
        "os.posix_spawn('/bin/true', ['true'], {})",
    ],
)
def test_what_is_refused(folder: Path, action: str) -> None:
    assert run(f"attempt(lambda: {action})", folder) in REFUSED
    assert (folder / "input" / "model").read_bytes() == b"model"


def test_what_a_job_needs_works(folder: Path) -> None:
    code = """
assert (folder / 'input' / 'model').read_bytes() == b'model'
assert (folder / 'input' / 'dataset').read_bytes() == b'blob'
for name in ('output', 'checkpoints', 'tmp'):
    inner = folder / name / 'deep'
    inner.mkdir()
    (inner / 'a').write_bytes(b'x')
    (inner / 'a').replace(folder / name / 'b')
    inner.rmdir()
    os.truncate(os.open(folder / name / 'b', os.O_RDWR), 0)
threads = [threading.Thread(target=print, args=('thread',)) for _ in range(3)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
import ctypes, decimal, hashlib, mmap, numpy, ssl, uuid, zoneinfo
numpy.ones((300, 300)) @ numpy.ones((300, 300))
from squeezer.compiled import kernel as compiled
print(compiled()(eval('lambda x: x + 1'))(1))
sandbox.prove()
"""
    assert run(code, folder).split() == ["thread"] * 3 + ["2"]


def test_nothing_is_refused_before_it_enters(folder: Path) -> None:
    """The negative control of the others."""
    code = """
attempt(lambda: (folder.parent / 'stored' / 'another').read_bytes())
attempt(lambda: os.symlink('/', folder / 'output' / 'link'))
try: sandbox.prove()
except sandbox.SandboxError as error: print(error)
"""
    said = run(code, folder, enter="")
    assert said.startswith("done\ndone\n")
    for what in ("read files", "see other", "signal other", "start processes", "open sockets"):
        assert what in said


def test_threads_are_confined_and_one_that_runs_already_is_refused(folder: Path) -> None:
    code = "thread = threading.Thread(target=attempt, args=(lambda: os.listdir('/'),)); thread.start(); thread.join()"
    assert run(code, folder) in REFUSED
    late = """
try: sandbox.enter(folder)
except sandbox.SandboxError as error: print(error)
"""
    assert "thread" in run("", folder, "threading.Thread(target=time.sleep, args=(1,)).start()", late)


@pytest.mark.parametrize("abi", range(2, landlock.version() + 1))
def test_older_versions_of_landlock_close_files_too(folder: Path, abi: int) -> None:
    enter = f"kernel.forbid_new_privileges(); landlock.restrict(allowed(folder), {abi})"
    code = "attempt(lambda: os.listdir('/')); (folder / 'output' / 'a').write_bytes(b'x')"
    assert run(code, folder, enter=enter) == "Permission denied"


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    assert sandbox.missing() == []
    monkeypatch.setattr(landlock, "version", lambda: 0)
    (reason,) = sandbox.missing()
    assert "Landlock" in reason
    monkeypatch.setattr(seccomp, "available", lambda machine: False)
    assert len(sandbox.missing()) == 2
    monkeypatch.setattr(kernel, "architecture", lambda: "riscv64")
    assert "riscv64" in sandbox.missing()[0]
    with pytest.raises(sandbox.SandboxError, match=r"riscv64.*Landlock.*SQUEEZER_SANDBOX=best_effort"):
        sandbox.enter(folder)


def test_best_effort_enters_what_there_is(folder: Path) -> None:
    enter = "landlock.version = lambda: 0\nsandbox.enter(folder, required=False)"
    code = """
attempt(lambda: os.listdir('/'))
attempt(lambda: os.fork())
try: sandbox.prove()
except sandbox.SandboxError as error: print(error)
"""
    listed, forked, proof = run(code, folder, enter=enter).splitlines()
    assert (listed, forked) == ("done", "Operation not permitted")
    assert "read files" in proof
    assert "open sockets" not in proof


def test_the_checkout_and_the_home_folder_are_not_among_the_paths(folder: Path) -> None:
    paths = {path.resolve() for path in allowed(folder)}
    for closed in (ROOT, Path.home(), folder, Path("/"), Path("/etc"), Path("/tmp"), Path("/proc"), Path("/dev")):  # noqa: S108
        assert closed.resolve() not in paths
