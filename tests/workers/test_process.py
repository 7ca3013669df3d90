from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from squeezer.errors import Code
from workers import process
from workers.process import Ending, Lines, Progress


def child(body: str) -> list[str]:
    return [sys.executable, "-c", "import json, os, signal, sys, time\n" + textwrap.dedent(body)]


def assert_dies(pid: int) -> None:
    """Gone within a moment: the kernel takes one to carry out a SIGKILL, and init one to reap an orphan."""
    deadline = time.monotonic() + 3
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not psutil.pid_exists(pid)


def run(body: str, tmp_path: Path, **options: object) -> tuple[process.Outcome, list[Progress]]:
    seen: list[Progress] = []
    outcome = process.run(
        child(body),
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        on_progress=seen.append,
        **options,  # type: ignore[arg-type] # a test's shorthand
    )
    return outcome, seen


def test_events_become_progress_and_done(tmp_path: Path) -> None:
    outcome, seen = run(
        """
        print(json.dumps({"event": "progress", "stage": "a", "progress": 0.5, "eta_seconds": 2, "layer": "f"}))
        print(json.dumps({"event": "progress", "stage": "b", "progress": 7}))
        print(json.dumps({"event": "done"}))
        """,
        tmp_path,
    )
    assert outcome.ending is Ending.DONE
    assert seen == [Progress("a", 0.5, 2.0, "f"), Progress("b", 1.0, None, None)]


def test_an_error_event_keeps_its_code(tmp_path: Path) -> None:
    outcome, _ = run(
        'print(json.dumps({"event": "error", "code": "truncated_file", "detail": "x"})); sys.exit(1)',
        tmp_path,
    )
    assert outcome == process.Outcome(Ending.ERROR, Code.TRUNCATED_FILE, "x")


def test_an_unknown_code_is_internal_and_long_texts_are_cut(tmp_path: Path) -> None:
    outcome, _ = run(
        'print(json.dumps({"event": "error", "code": "new", "detail": "x" * 50_000})); sys.exit(1)', tmp_path
    )
    assert (outcome.code, len(outcome.detail)) == (Code.INTERNAL, process.MAX_TEXT)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "ran out of memory"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("sys.exit(0)", "status 0 without saying"),
        ("raise RuntimeError('a cause')", "RuntimeError: a cause"),
        ("print(json.dumps({'event': 'done'})); sys.exit(3)", "status 3"),
        ("print(json.dumps({'event': 'error', 'code': 'internal'})); sys.exit(0)", "status 0"),
    ],
)
def test_any_other_end_is_a_death_with_its_cause(body: str, words: str, tmp_path: Path) -> None:
    outcome, _ = run(body, tmp_path)
    assert outcome.ending is Ending.DIED
    assert words in outcome.detail


def test_what_is_not_an_event_is_dropped(tmp_path: Path) -> None:
    outcome, seen = run(
        r"""
        out = sys.stdout.buffer
        out.write(b"\xff\xfe\n[]\n3\nnull\n" + b"[" * 60_000 + b"\n")
        out.write(b'{"event": "progress", "stage": "a", "progress": NaN}\n')
        out.write(b'{"event": "progress", "stage": "a", "progress": "1"}\n')
        out.write(b"x" * 5_000_000 + b"\n")
        out.write(b'{"event": "done"}\n')
        """,
        tmp_path,
    )
    assert (outcome.ending, seen) == (Ending.DONE, [])


def test_a_flood_on_stderr_neither_blocks_nor_fills_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    outcome, _ = run("sys.stderr.write('words ' * 9 + '\\n'); sys.stderr.write('y' * 80 + '\\n')\n"
                     "for _ in range(20_000): sys.stderr.write('y' * 80 + '\\n')\n"
                     "print(json.dumps({'event': 'done'}))", tmp_path)  # fmt: skip
    assert outcome.ending is Ending.DONE
    assert "words" in caplog.text
    assert len(caplog.text) < 2 * process.MAX_LOG
    assert "the rest of its log is dropped" in caplog.text


def test_a_stopped_child_and_its_descendants_are_gone(tmp_path: Path) -> None:
    started = time.monotonic()
    outcome, _ = run(
        """
        import subprocess
        deaf = ("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
                "open('deaf', 'w'); time.sleep(60)")
        grandchild = subprocess.Popen([sys.executable, "-c", deaf])
        open("pids", "w").write(f"{os.getpid()} {grandchild.pid}")
        time.sleep(60)
        """,
        tmp_path,
        stop=(tmp_path / "deaf").exists,
    )
    assert outcome.ending is Ending.STOPPED
    assert time.monotonic() - started < 5
    for pid in (tmp_path / "pids").read_text().split():
        assert_dies(int(pid))


def test_a_child_deaf_to_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    outcome, _ = run(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); open('deaf', 'w'); time.sleep(60)",
        tmp_path,
        stop=(tmp_path / "deaf").exists,
        grace=0.2,
    )
    assert outcome.ending is Ending.STOPPED


def test_descendants_end_with_a_child_that_is_done(tmp_path: Path) -> None:
    """One that still holds the pipe neither delays the end nor lives on."""
    started = time.monotonic()
    outcome, _ = run(
        """
        import subprocess
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        open("pids", "w").write(str(left.pid))
        print(json.dumps({"event": "done"}))
        """,
        tmp_path,
    )
    assert outcome.ending is Ending.DONE
    assert time.monotonic() - started < 5
    assert_dies(int((tmp_path / "pids").read_text()))


def test_the_environment_is_the_one_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEEZER_SECRET", "1")
    run("open('env', 'w').write(' '.join(os.environ)); print(json.dumps({'event': 'done'}))", tmp_path)
    assert "SQUEEZER_SECRET" not in (tmp_path / "env").read_text()


def test_stdin_ends_when_the_parent_is_killed(tmp_path: Path) -> None:
    """What a child without PR_SET_PDEATHSIG relies on."""
    body = "open('pid', 'w').write(str(os.getpid())); sys.stdin.buffer.read()"
    parent = f"""
        from pathlib import Path
        from workers import process
        process.run({child(body)!r}, env={{}}, cwd=Path({str(tmp_path)!r}))
    """
    repository = Path(__file__).parents[2]
    supervisor = subprocess.Popen([sys.executable, "-c", textwrap.dedent(parent)], cwd=repository)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.02)
    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()
    assert_dies(int((tmp_path / "pid").read_text()))


def test_lines_are_put_together_and_cut() -> None:
    lines = Lines(limit=5)
    assert list(lines.feed(b"ab")) == []
    assert list(lines.feed(b"c\n12345678")) == [b"abc"]
    assert list(lines.feed(b"9\n\n")) == [b"12345", b""]
