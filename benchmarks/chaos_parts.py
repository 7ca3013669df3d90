"""The parts of `benchmarks.chaos`: the service in distributed mode, each part a process that can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Self

import httpx
import psutil

from app.children import Children, Program
from app.db import make_engine, make_sessions, upgrade
from app.jobs import repository
from app.queue import make_celery
from app.settings import Settings
from app.storage import LocalStorage
from tests.servers import Databases, PostgresServer, RedisServer, free_port
from workers.sweeper import Sweeper

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

_APIS, _WORKERS = 2, 3
_START_SECONDS = 120.0
#: A server that was killed is started again after at most so many seconds.
_AWAY_SECONDS = 3.0
#: Leases are short, so that a run ends; a process of a job may be killed often, and none of that is the job's fault.
_SETTINGS: dict[str, Any] = {
    "mode": "distributed",
    "lease_seconds": 5,
    "heartbeat_seconds": 1,
    "sweep_seconds": 1,
    "max_crashed_attempts": 20,
    "max_lost_attempts": 20,
}
#: What can be killed.
KILLS = (
    "the process of a job",
    "the supervisor of a job",
    "the main process of a worker",
    "a worker with its pool",
    "an API process",
    "Redis",
    "PostgreSQL",
)


class Parts:
    """Starts everything, and starts again what was killed. Use it from the main thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = [free_port() for _ in range(_APIS)]
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ports]
        self._redis = RedisServer(folder / "redis")
        self._postgres = PostgresServer(synchronous_commit=True)
        self._children = Children(folder / "logs", lambda text: print(text, file=sys.stderr))
        self._start_again: dict[float, Callable[[], object]] = {}

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            self._redis.start()
            self._postgres.start()
            self.settings = self._make_settings(Databases(self._postgres.admin_url).create())
            self._engine = make_engine(self.settings)
            upgrade(self._engine)
            self._sessions = make_sessions(self._engine)
            self._storage = LocalStorage(self.settings.storage)
            for program in self._programs(_environment(self.settings)):
                self._children.start(program)
            self._await_apis()
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def look_after(self, seconds: float = 0.05) -> None:
        """For so long, start again what is due."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for due in [due for due in self._start_again if due <= time.monotonic()]:
                self._start_again.pop(due)()
            self._children.look_after()
            time.sleep(0.05)

    def kill(self, kind: str, chance: random.Random) -> bool:
        """Kill one part of that kind; False where none is there now."""
        if kind in {"Redis", "PostgreSQL"}:
            return self._kill_server(self._redis if kind == "Redis" else self._postgres, chance)
        if kind == "an API process":
            return _kill_one(self._mains("app.main"), chance)
        workers = self._mains("celery")
        if kind == "the main process of a worker":
            return _kill_one(workers, chance)
        if kind == "a worker with its pool":
            return bool(workers) and _kill_group(chance.choice(workers))
        below = [process for worker in workers for process in _descendants(worker)]
        jobs = [process for process in below if _runs(process, "squeezer.child")]
        if kind == "the process of a job":
            return _kill_one(jobs, chance)
        return _kill_one([parent for job in jobs if (parent := _parent(job))], chance)

    def unfinished(self) -> int:
        """How many jobs have not ended. While the database is away, all may have or none."""
        return sum(job["state"] not in {"succeeded", "failed", "canceled"} for job in self.jobs().values())

    def jobs(self) -> dict[str, dict[str, Any]]:
        """All jobs by their ids, as the API shows them."""
        found: dict[str, dict[str, Any]] = {}
        cursor: str | None = None
        while True:
            page = self._get("/jobs", {"limit": "200"} | ({} if cursor is None else {"cursor": cursor})).json()
            found |= {job["id"]: job for job in page["jobs"]}
            cursor = page["next_cursor"]
            if cursor is None:
                return found

    def download(self, job: dict[str, Any]) -> bytes:
        """The artifact of a job."""
        return self._get(job["links"]["artifact"], {}).content

    def leftovers(self) -> list[str]:
        """Sweep once; then the files in the storage that no row names, and the files that are named and missing."""
        settings = self.settings.model_copy(update={"orphan_seconds": 1e-6})
        Sweeper(settings, self._sessions, self._storage, make_celery(settings)).turn()
        stored = {each.key for each in self._storage.list()}
        with self._sessions() as session:
            named = repository.keys_in_use(session)
        temporary = [path.name for path in (settings.storage / "tmp").iterdir()]
        return [f"no row names {key}" for key in stored - named] + [
            *(f"{key} is missing" for key in named - stored),
            *(f"temporary {name}" for name in temporary),
        ]

    def _programs(self, environment: dict[str, str]) -> list[Program]:
        module = [sys.executable, "-P", "-m"]
        options = ["-Q", "cpu", "--pool", "prefork", "--concurrency", "1", "--loglevel", "INFO"]
        apis = [
            Program(f"api-{port}", [*module, "app.main"], environment | {"SQUEEZER_PORT": str(port)})
            for port in self._ports
        ]
        workers = [
            Program(
                f"worker-{number}",
                [*module, "celery", "-A", "workers.celery_app", "worker", *options],
                environment | {"SQUEEZER_DATA_DIR": str(self._folder / f"worker-{number}")},
            )
            for number in range(_WORKERS)
        ]
        return [*apis, *workers, Program("sweeper", [*module, "workers.sweeper"], environment)]

    def _make_settings(self, database_url: str) -> Settings:
        return Settings(
            **_SETTINGS,
            database_url=database_url,
            redis_url=self._redis.url,
            data_dir=self._folder / "data",
            storage=self._folder / "storage",
        )

    def _mains(self, module: str) -> list[psutil.Process]:
        """The main processes of the parts that run a module."""
        return [process for process in _children(psutil.Process()) if _runs(process, module)]

    def _kill_server(self, server: RedisServer | PostgresServer, chance: random.Random) -> bool:
        if not server.running:
            return False
        server.kill()
        self._start_again[time.monotonic() + chance.uniform(0.5, _AWAY_SECONDS)] = server.start
        return True

    def _get(self, path: str, query: dict[str, str]) -> httpx.Response:
        """Read from whichever API process answers."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            for url in self.urls:
                with contextlib.suppress(httpx.TransportError):
                    answer = httpx.get(url + path, params=query or None, timeout=30, trust_env=False)
                    if answer.status_code != 503:
                        return answer.raise_for_status()
            if time.monotonic() > deadline:
                raise SystemExit("the service does not answer any more")
            self.look_after()

    def _await_apis(self) -> None:
        self._get("/readyz", {})

    def _stop(self) -> None:
        names = [path.stem for path in (self._folder / "logs").glob("*.log")]
        self._children.stop(names, 20.0)
        self._redis.close()
        self._postgres.close()


def _environment(settings: Settings) -> dict[str, str]:
    """The environment of a part: ours, without settings of the service's, and these settings."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("SQUEEZER_")}
    given = {f"SQUEEZER_{name.upper()}": str(getattr(settings, name)) for name in settings.model_fields_set}
    return others | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"} | given


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.children())
    return []


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []


def _parent(process: psutil.Process) -> psutil.Process | None:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.parent()
    return None


def _runs(process: psutil.Process, module: str) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return module in process.cmdline()
    return False


def _kill_one(processes: list[psutil.Process], chance: random.Random) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        if processes:
            chance.choice(processes).kill()
            return True
    return False


def _kill_group(process: psutil.Process) -> bool:
    """Kill the process and its group, which it leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        return True
    return False
