from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions, upgrade
from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage, new_key
from workers.supervisor import Supervisor

SCRIPTED_CHILD = (sys.executable, "-P", str(Path(__file__).with_name("scripted_child.py")))


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    engine = make_engine(Settings(data_dir=folder))
    upgrade(engine)
    engine.dispose()  # also writes the log back into the file
    return folder / "squeezer.db"


@pytest.fixture
def settings(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.startswith("SQUEEZER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    shutil.copy(empty_database, data_dir / "squeezer.db")
    return Settings(data_dir=data_dir, lease_seconds=2, heartbeat_seconds=0.2, sweep_seconds=0.1)


@pytest.fixture
def sessions(settings: Settings) -> Iterator[sessionmaker[Session]]:
    engine = make_engine(settings)
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def storage(settings: Settings) -> LocalStorage:
    return LocalStorage(settings.storage)


Submit = Callable[..., UUID]


@pytest.fixture
def submit(sessions: sessionmaker[Session], storage: LocalStorage) -> Submit:
    """Queues a job whose child does what the given Python says; returns its id."""

    def submit(script: str, *, outputs: tuple[str, ...] = ("sqz",), max_seconds: int = 60, queue: str = "cpu") -> UUID:
        key, content = new_key(), script.encode()
        with storage.writer(key) as writer:
            writer.write(content)
            writer.commit()
        job = Job(
            queue=queue,
            recipe={"version": 1, "outputs": list(outputs), "max_seconds": max_seconds},
            recipe_version=1,
            file_name="model",
            model_key=key,
            model_bytes=len(content),
            model_sha256=hashlib.sha256(content).hexdigest(),
            max_crashed_attempts=2,
            max_lost_attempts=5,
        )
        with sessions.begin() as session:
            session.add(job)
            session.flush()
            return job.id

    return submit


@pytest.fixture
def job(sessions: sessionmaker[Session]) -> Callable[[UUID], Job]:
    """Reads a job as it stands now."""

    def job(job_id: UUID) -> Job:
        with sessions(expire_on_commit=False) as session:
            found = session.get_one(Job, job_id)
            assert isinstance(found.artifacts, list)
            return found

    return job


@pytest.fixture
def supervisor(settings: Settings, sessions: sessionmaker[Session], storage: LocalStorage) -> Supervisor:
    return Supervisor(settings, sessions, storage, child=SCRIPTED_CHILD)
