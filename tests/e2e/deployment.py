"""The service as an operator would run it: each part a process of its own, driven over HTTP alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from app.children import ROOT, tethered
from tests.servers import RedisServer, free_port

FINISHED = {"succeeded", "failed", "canceled"}
#: Shorter than an operator's, so that what is lost is found while a test waits.
QUICK = {
    "SQUEEZER_LEASE_SECONDS": "2",
    "SQUEEZER_HEARTBEAT_SECONDS": "0.5",
    "SQUEEZER_SWEEP_SECONDS": "0.5",
}


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """The first true value of a condition."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.05)
    return value


def environment() -> dict[str, str]:
    """Ours without the settings of whoever runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SQUEEZER_")}


def descendants(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).children(recursive=True)
    return []


def alive(process: psutil.Process) -> bool:
    """Whether it still runs; a zombie that nobody has reaped yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def is_job_process(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        command = process.cmdline()
        return "squeezer.child" in command and ("compress" in command or "verify" in command)
    return False


class Client:
    """A plain HTTP client of the service."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60)

    def submit(self, model: Path, spec: object, dataset: Path | None = None, student: Path | None = None) -> str:
        """Post a job; returns its path."""
        paths = {"model": model, "dataset": dataset, "student": student}
        with contextlib.ExitStack() as stack:
            files = {part: stack.enter_context(path.open("rb")) for part, path in paths.items() if path is not None}
            response = self.post(spec, files)
        assert response.status_code == 202, response.text
        assert response.json()["state"] in {"queued", "running"}
        return response.headers["location"]

    def post(self, spec: object, files: Mapping[str, Any]) -> httpx.Response:
        """Post a form."""
        return self.http.post("/jobs", data={"spec": json.dumps(spec)}, files=files)

    def job(self, path: str) -> dict[str, Any]:
        response = self.http.get(path)
        assert response.status_code == 200, response.text
        return dict(response.json())

    def finished(self, path: str, seconds: float = 60) -> dict[str, Any]:
        def job() -> dict[str, Any] | None:
            now = self.job(path)
            return now if now["state"] in FINISHED else None

        return dict(eventually(job, seconds))


class Deployment:
    """Distributed mode: uvicorn, a Celery worker and the sweeper beside PostgreSQL and a Redis of its own."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis").start()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.url)
        self._environment = environment() | QUICK | {
            "SQUEEZER_MODE": "distributed",
            "SQUEEZER_DATABASE_URL": database_url,
            "SQUEEZER_REDIS_URL": self.redis.url,
            "SQUEEZER_DATA_DIR": str(folder / "data"),
            "SQUEEZER_PORT": str(self.port),
        }  # fmt: skip
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> Deployment:
        self._start("api", "-m", "app.main")
        self._start("sweeper", "-m", "workers.sweeper")
        self.ensure_worker()
        eventually(self._ready)
        return self

    def ensure_worker(self, concurrency: int = 1) -> None:
        """Have a worker run, with a pool of that size where it has to be started."""
        if self.worker is None:
            options = ["-Q", "cpu", "--pool", "prefork", "--concurrency", str(concurrency), "--without-mingle"]
            self._start("worker", "-m", "celery", "-A", "workers.celery_app", "worker", "-l", "INFO", *options)

    @property
    def worker(self) -> psutil.Process | None:
        process = self._processes.get("worker")
        return psutil.Process(process.pid) if process and process.poll() is None else None

    def job_process(self) -> psutil.Process | None:
        """The process that works on a model now."""
        worker = self.worker
        return next(filter(is_job_process, descendants(worker.pid)), None) if worker else None

    def in_mid_job(self, path: str) -> psutil.Process:
        """Wait until the work on a model has begun; returns the process that does it."""
        eventually(lambda: self.client.job(path)["stage"])
        process: psutil.Process = eventually(self.job_process)
        return process

    def kill_worker(self) -> None:
        """As `kill -9 -PGID` would: the worker's main process and its pool."""
        process = self._processes["worker"]
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop_worker(self) -> float:
        """SIGTERM; returns the seconds that it took."""
        started = time.monotonic()
        process = self._processes["worker"]
        process.terminate()
        assert process.wait(20) == 0
        return time.monotonic() - started

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
        self.redis.close()

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                tethered([sys.executable, *arguments]),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _ready(self) -> bool:
        assert self._processes["api"].poll() is None, self.log("api")
        with contextlib.suppress(httpx.TransportError):
            return self.client.http.get("/readyz").status_code == 200
        return False
