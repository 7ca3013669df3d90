from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions, upgrade
from app.jobs import repository
from app.jobs.models import Job
from app.settings import Settings
from app.storage import LocalStorage, new_key
from app.tenants.models import LOCAL
from workers.supervisor import Supervisor

SCRIPTED_CHILD = (sys.executable, "-P", str(Path(__file__).with_name("scripted_child.py")))
#: What a child may do: all that it should, or die.
GOOD = "compress() if MODE == 'compress' else None"
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"

Submit = Callable[..., UUID]
GetJob = Callable[[UUID], Job]
Meanwhile = Callable[[Callable[[], object]], None]


def eventually(condition: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.02)


def objects(storage: LocalStorage) -> set[str]:
    return {stored.key for stored in storage.list()}


def left_in_scratch(settings: Settings) -> list[str]:
    """What lies in the scratch folder, less the folder of checkpoints where that is empty."""
    scratch = settings.data_dir / "scratch"
    return [str(path.relative_to(scratch)) for path in scratch.rglob("*") if path != scratch / "checkpoints"]


def cancel(sessions: sessionmaker[Session], job_id: UUID) -> None:
    """Do what the request to cancel a job does."""
    with sessions.begin() as session:
        found = repository.get(session, LOCAL, job_id, lock=True)
        assert found
        repository.cancel(session, found)


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


@pytest.fixture
def submit(sessions: sessionmaker[Session], storage: LocalStorage) -> Submit:
    """Queues a job whose child does what the given Python says; returns its id."""

    def put(content: bytes) -> str:
        key = new_key()
        with storage.writer(key) as writer:
            writer.write(content)
            writer.commit()
        return key

    def submit(
        script: str,
        *,
        dataset: bytes | None = None,
        student: bytes | None = None,
        outputs: tuple[str, ...] = ("sqz",),
        max_seconds: int = 60,
        queue: str = "cpu",
    ) -> UUID:
        content = script.encode()
        job = Job(
            queue=queue,
            recipe={"version": 1, "outputs": list(outputs), "max_seconds": max_seconds},
            recipe_version=1,
            file_name="model",
            model_key=put(content),
            dataset_key=None if dataset is None else put(dataset),
            student_key=None if student is None else put(student),
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
def job(sessions: sessionmaker[Session]) -> GetJob:
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


@pytest.fixture
def child_pid(tmp_path: Path) -> Callable[[], int]:
    def child_pid() -> int:
        path = tmp_path / "child.pid"
        eventually(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    return child_pid


@pytest.fixture
def meanwhile() -> Iterator[Meanwhile]:
    """Does something while the supervisor, which wants the main thread, is at work."""
    threads: list[threading.Thread] = []

    def meanwhile(action: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=action))
        threads[-1].start()

    yield meanwhile
    for thread in threads:
        thread.join(10)
