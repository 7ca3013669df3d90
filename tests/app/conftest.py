from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest
import uvicorn
from sqlalchemy import func, select, text

from app.db import make_engine, make_sessions, upgrade
from app.jobs import repository
from app.jobs.models import Job
from app.main import create_app
from app.settings import Settings
from app.storage import new_key

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session, sessionmaker

#: Nothing listens there: rings fail at once, and must not matter.
NO_REDIS = "redis://127.0.0.1:1/0"
RECIPE = {"version": 1, "steps": [], "outputs": ["sqz"], "max_seconds": 60}
REPORT: dict[str, Any] = {
    "headline": "4 times smaller",
    "ratio": 4.0,
    "steps": [{"method": "magnitude_prune", "tensors": 2, "seconds": 0.5}],
    "layers": [{"name": "fc.weight", "shape": [2, 2], "stored_bytes": 7}],
    "ledger": {"header": 3, "values": 4},
    "digests": {"fc.weight": "00"},
}


@pytest.fixture(autouse=True, scope="session")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting comes from outside; the addresses of test servers stay."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name.startswith("SQUEEZER_") and not name.startswith("SQUEEZER_TEST_"):
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


class Backend:
    """A database with its schema, a storage, and a server on both; emptied before each test."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = make_engine(settings)
        upgrade(self.engine)
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        if self._server is None:
            self._server = Server(self.settings).start()
        return self._server

    def empty(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(text("DELETE FROM jobs"))
        for path in self.settings.storage.rglob("*"):
            if path.is_file():
                path.unlink()

    def close(self) -> None:
        if self._server:
            self._server.stop()
        self.engine.dispose()


@pytest.fixture(scope="session")
def sqlite_backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend(Settings(data_dir=tmp_path_factory.mktemp("sqlite"), redis_url=NO_REDIS))
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def postgresql_backend(tmp_path_factory: pytest.TempPathFactory, new_database: Callable[[], str]) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("postgresql")
    backend = Backend(Settings(mode="distributed", data_dir=folder, database_url=new_database(), redis_url=NO_REDIS))
    yield backend
    backend.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Backend:
    backend: Backend = request.getfixturevalue(f"{request.param}_backend")
    backend.empty()
    return backend


@pytest.fixture
def settings(backend: Backend) -> Settings:
    return backend.settings


@pytest.fixture
def sessions(backend: Backend) -> sessionmaker[Session]:
    return make_sessions(backend.engine)


AddJob = Callable[..., UUID]


@pytest.fixture
def add_job(sessions: sessionmaker[Session]) -> AddJob:
    """Inserts a queued job and returns its id; keywords replace columns."""

    def add(**columns: Any) -> UUID:
        values = {
            "queue": "cpu",
            "recipe": RECIPE,
            "recipe_version": 1,
            "file_name": "model.safetensors",
            "model_key": new_key(),
            "model_bytes": 1,
            "model_sha256": "0" * 64,
            "max_crashed_attempts": 2,
            "max_lost_attempts": 5,
        }
        with sessions.begin() as session:
            job = Job(**(values | columns))
            repository.add(session, job)
            return job.id

    return add


class Server:
    """The API under a real uvicorn, in a thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.app = create_app(settings)
        self._uvicorn = uvicorn.Server(uvicorn.Config(self.app, port=0, log_config=None, lifespan="on"))
        self._thread = threading.Thread(target=self._uvicorn.run, daemon=True)

    def start(self) -> Server:
        self._thread.start()
        wait_for(lambda: self._uvicorn.started)
        self.port: int = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    def stop(self) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(10)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    @property
    def files(self) -> list[Path]:
        """Everything in the storage, committed or not."""
        return [path for path in self.settings.storage.rglob("*") if path.is_file()]


@pytest.fixture
def server(backend: Backend) -> Server:
    return backend.server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


def wait_for(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def assert_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"/problems/{code}"
    assert document["status"] == status
    assert document["title"]
    assert len(document["detail"]) > 10
    return document


def form(*parts: tuple[str, str | None, bytes], boundary: str = "xxBOUNDARYxx") -> tuple[bytes, dict[str, str]]:
    """A multipart body and its headers; a part is its name, its file name or None, and its bytes."""
    body = b""
    for name, file_name, content in parts:
        file = "" if file_name is None else f'; filename="{file_name}"'
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


SPEC = ("spec", None, json.dumps({"preset": "lossless"}).encode())
MODEL = ("model", "model.safetensors", b"some bytes of a model")


def count(sessions: sessionmaker[Session]) -> int:
    with sessions() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def post(client: httpx.Client, *parts: tuple[str, str | None, bytes]) -> httpx.Response:
    body, headers = form(*parts)
    return client.post("/jobs", content=body, headers=headers)


def spec(document: Any) -> tuple[str, None, bytes]:
    return ("spec", None, json.dumps(document).encode())


@pytest.fixture
def nothing_remains(server: Server, sessions: sessionmaker[Session]) -> Iterator[None]:
    """Afterwards there is no job and no file."""
    yield
    assert count(sessions) == 0
    wait_for(lambda: server.files == [])
