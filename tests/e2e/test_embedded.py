"""`serve` and what it starts: one holder of a folder, nothing left behind, everything restarted that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from app.children import ROOT
from app.embedded import EmbeddedError, running_service
from tests.e2e.deployment import (
    Client,
    alive,
    descendants,
    environment,
    eventually,
    is_job_process,
)

Serve = Callable[..., tuple["subprocess.Popen[str]", str]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts `serve` on a folder; returns its process and its URL, which is empty where it did not start."""
    started: list[subprocess.Popen[str]] = []

    def serve(folder: Path = tmp_path / "data", port: int = 0, **extra: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.embedded", "serve", str(port), str(folder)],
            cwd=ROOT,
            env=environment() | extra,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        return process, process.stdout.readline().strip()

    yield serve
    for process in started:
        process.terminate()
        process.communicate(timeout=20)


def part(process: subprocess.Popen[str], word: str) -> psutil.Process:
    """The child of the service with that word in its command."""
    children = filter(alive, psutil.Process(process.pid).children())
    return next(child for child in children if any(word in each for each in child.cmdline()))


def left_over(folder: Path) -> list[psutil.Process]:
    """Every process, whoever its parent is now, that has to do with a data folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if process.pid != os.getpid() and any(str(folder) in word for word in words) and alive(process):
                found.append(process)
    return found


def test_kill_9_leaves_no_process_and_the_next_start_finishes_the_job(
    serve: Serve, large_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    process, url = serve(folder)
    client = Client(url)
    path = client.submit(large_model, {"preset": "lossless"})
    eventually(lambda: client.job(path)["stage"])
    # Between its two processes a job has none.
    ours = eventually(lambda: (found := descendants(process.pid)) and any(map(is_job_process, found)) and found)
    assert len(left_over(folder)) > 5  # so that the check below can fail
    process.kill()
    eventually(lambda: not left_over(folder) and not any(map(alive, ours)), seconds=3)

    _, url = serve(folder)
    job = Client(url).finished(path)
    assert (job["state"], job["attempts"]) == ("succeeded", 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_clean_and_quick(serve: Serve, number: signal.Signals, tmp_path: Path) -> None:
    process, url = serve()
    assert httpx.get(url + "/healthz").status_code == 200
    started = time.monotonic()
    process.send_signal(number)
    assert process.wait(15) == 0
    assert time.monotonic() - started < 10
    assert left_over(tmp_path / "data") == []


def test_a_second_service_on_the_same_folder_is_refused(serve: Serve) -> None:
    first, url = serve()
    second, nothing = serve()
    assert nothing == ""
    assert second.wait(20) == 1
    assert second.stderr
    message = second.stderr.read()
    assert f"another service (process {first.pid}) uses" in message
    assert "Traceback" not in message
    assert httpx.get(url + "/healthz").status_code == 200


def test_a_port_in_use_is_refused_before_anything_is_started(serve: Serve, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        process, nothing = serve(port=other.getsockname()[1])
        assert (nothing, process.wait(20)) == ("", 1)
    assert process.stderr
    assert "choose another port, or 0 for a free one" in process.stderr.read()
    assert not (tmp_path / "data" / "squeezer.db").exists()


def test_parts_that_die_are_started_again(serve: Serve, small_model: Path) -> None:
    process, url = serve(SQUEEZER_SWEEP_SECONDS="0.5")
    for found in [part(process, word) for word in ("redis-server", "app.embedded", "celery", "workers.sweeper")]:
        found.kill()

    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError, StopIteration, psutil.Error):
            answer = httpx.get(url + "/readyz", timeout=20)
            return answer.status_code == 200 and bool(part(process, "celery") and part(process, "workers.sweeper"))
        return False

    eventually(ready)
    client = Client(url)
    assert client.finished(client.submit(small_model, {"preset": "safe"}))["state"] == "succeeded"


def test_a_folder_with_a_long_and_unusual_name(tmp_path: Path, small_model: Path) -> None:
    name = "with space, #hash, ?mark and %41" + "x" * 100
    sockets = Path("/tmp")  # noqa: S108 - where those of long folders go
    before = set(sockets.glob("squeezer-*-*"))
    with running_service(tmp_path / name) as url:
        client = Client(url)
        assert client.finished(client.submit(small_model, {"preset": "safe"}))["state"] == "succeeded"
        stand_ins = {path.parent for path in sockets.glob("squeezer-*-*/redis.sock")} - before
    assert (tmp_path / name / "squeezer.db").exists()
    assert stand_ins
    assert not any(folder.exists() for folder in stand_ins)


def test_a_folder_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="choose another"), running_service(tmp_path / "file" / "data"):
        pass


def test_a_running_service_ends_with_the_block() -> None:
    with running_service() as url:
        port = int(url.rpartition(":")[2])
        assert httpx.get(url + "/readyz").status_code == 200
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
