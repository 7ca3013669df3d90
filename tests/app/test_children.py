from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app import children as module
from app.children import ROOT, Children, Program


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.02)


def program(code: str, name: str = "part", **environment: str) -> Program:
    return Program(name, [sys.executable, "-c", code], {"PATH": os.environ["PATH"], **environment})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def children(tmp_path: Path, said: list[str]) -> Iterator[Children]:
    children = Children(tmp_path, said.append)
    yield children
    children.stop(["part", "other"], 0)


def test_output_goes_to_the_log(children: Children) -> None:
    children.start(program("import sys; print('out'); sys.stdout.flush(); print('err', file=sys.stderr)"))
    eventually(lambda: children.log("part").read_text() == "out\nerr\n")


def test_a_program_gets_the_environment_given(children: Children) -> None:
    children.start(program("import os; print(sorted(os.environ))", ONE="1"))
    eventually(lambda: "ONE" in children.log("part").read_text())
    assert "HOME" not in children.log("part").read_text()


def test_what_dies_is_started_again_at_growing_intervals(children: Children, said: list[str]) -> None:
    children.start(program("import time; print(time.time(), flush=True); raise SystemExit(3)"))

    def starts() -> list[float]:
        children.look_after()
        return [float(line) for line in children.log("part").read_text().split()]

    eventually(lambda: len(starts()) >= 3)
    first, second, third = starts()[:3]
    assert second - first >= 0.5
    assert third - second >= 1.0
    assert children.dead() in {"part", None}
    assert "part ended with status 3 and is started again" in said[0]
    assert str(children.log("part")) in said[0]


def test_what_lives_is_left_alone(children: Children, said: list[str]) -> None:
    children.start(program("import time; time.sleep(60)"))
    time.sleep(0.2)
    children.look_after()
    assert (children.dead(), said) == (None, [])


def test_stop_asks_first_and_kills_what_does_not_listen(children: Children, tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    polite = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('bye')));"
        "print('up', flush=True); time.sleep(60)"
    )
    others = psutil.Process().children()  # of the test session
    children.start(program(deaf))
    children.start(program(polite, "other"))
    eventually(lambda: children.log("part").read_text() and children.log("other").read_text())
    pids = [child.pid for child in psutil.Process().children() if child not in others]
    children.stop(["part", "other"], 0.5)
    assert children.log("other").read_text() == "up\nbye\n"
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_large_log_is_set_aside(children: Children, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LOG_BYTES", 10)
    children.log("part").write_text("x" * 11)
    children.start(program("print('new')"))
    eventually(lambda: children.log("part").read_text() == "new\n")
    assert children.log("part").with_suffix(".log.1").read_text() == "x" * 11


def test_children_die_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from app.children import Children, Program\n"
        "children = Children(Path(sys.argv[1]), print)\n"
        "children.start(Program('part', [sys.executable, '-c',"
        " 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'], {}))\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    log = tmp_path / "part.log"
    eventually(lambda: log.exists() and log.read_text())
    child = psutil.Process(int(log.read_text()))
    assert child.is_running()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, seconds=3)
