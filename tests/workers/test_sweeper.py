from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from redis import Redis
from sqlalchemy.orm import Session, sessionmaker

from app.db import utc_now
from app.jobs import repository
from app.jobs.models import Job
from app.queue import make_celery
from app.settings import Settings
from app.storage import LocalStorage, new_key
from tests.servers import RedisServer
from tests.workers.conftest import Submit
from workers import checkpoints
from workers.sweeper import Sweeper

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def sweeper(
    settings: Settings, sessions: sessionmaker[Session], storage: LocalStorage, redis_server: RedisServer
) -> Sweeper:
    settings = settings.model_copy(update={"redis_url": redis_server.url})
    return Sweeper(settings, sessions, storage, make_celery(settings))


def rings(server: RedisServer, queue: str = "cpu") -> int:
    with Redis.from_url(server.url) as client:
        return int(client.llen(queue))


def test_a_job_whose_worker_fell_silent_waits_again_and_is_rung_for(
    sweeper: Sweeper,
    submit: Submit,
    job: Callable[[UUID], Job],
    sessions: sessionmaker[Session],
    redis_server: RedisServer,
) -> None:
    job_id = submit("")
    with sessions.begin() as session:
        assert repository.claim(session, "cpu", "the silent one", 30)
    sweeper.turn()
    assert (job(job_id).state, rings(redis_server)) == ("running", 0)
    with sessions.begin() as session:
        session.get_one(Job, job_id).lease_expires_at = utc_now() - timedelta(seconds=1)
    sweeper.turn()
    lost = job(job_id)
    assert (lost.state, lost.error_code, lost.lost_attempts, rings(redis_server)) == ("queued", "lost", 1, 1)
    assert "the silent one" in (lost.error_detail or "")


def test_rings_do_not_pile_up_while_workers_are_busy(
    sweeper: Sweeper, submit: Submit, redis_server: RedisServer
) -> None:
    submit("")
    submit("", queue="gpu")
    for _ in range(5):
        sweeper.turn()
    assert (rings(redis_server), rings(redis_server, "gpu")) == (1, 1)


def test_nothing_is_rung_for_where_nothing_waits(sweeper: Sweeper, redis_server: RedisServer) -> None:
    sweeper.turn()
    assert rings(redis_server) == 0


def test_duties_go_on_while_redis_is_down(
    sweeper: Sweeper, submit: Submit, redis_server: RedisServer, settings: Settings
) -> None:
    submit("")
    redis_server.stop()
    left = settings.data_dir / "scratch" / "dead-1"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    sweeper.turn()
    assert not left.exists()
    redis_server.start()
    sweeper.turn()
    assert rings(redis_server) == 1


def test_checkpoints_of_jobs_that_have_ended_are_removed(
    sweeper: Sweeper, submit: Submit, sessions: sessionmaker[Session], settings: Settings
) -> None:
    root = settings.data_dir / "scratch" / "checkpoints"
    waiting, ended = submit(""), submit("")
    with sessions.begin() as session:
        session.get_one(Job, ended).state = "failed"
    kept, _ = (checkpoints.take(root, job_id, 1) for job_id in (waiting, ended))
    sweeper.turn()
    assert list(root.glob("*/*")) == [kept]


def put(storage: LocalStorage, age_seconds: float) -> str:
    key = new_key()
    with storage.writer(key) as writer:
        writer.write(b"x")
        writer.commit()
    then = time.time() - age_seconds
    os.utime(storage.path(key), (then, then))
    return key


def test_only_old_files_that_no_job_names_are_deleted(
    sweeper: Sweeper, submit: Submit, job: Callable[[UUID], Job], storage: LocalStorage, settings: Settings
) -> None:
    queued = job(submit("", dataset=b"d", student=b"s"))
    assert queued.dataset_key
    assert queued.student_key
    used = {queued.model_key, queued.dataset_key, queued.student_key}
    for key in used:
        os.utime(storage.path(key), (0, 0))
    old, young = put(storage, settings.orphan_seconds + 60), put(storage, 60)
    sweeper.turn()
    assert {stored.key for stored in storage.list()} == used | {young}
    assert old not in used | {young}


def test_it_survives_a_database_that_is_gone_and_stops_at_once(tmp_path: Path, redis_url: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEEZER_")}
    environment |= {
        "SQUEEZER_MODE": "distributed",
        "SQUEEZER_DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1:1/none",
        "SQUEEZER_REDIS_URL": redis_url,
        "SQUEEZER_DATA_DIR": str(tmp_path),
        "SQUEEZER_SWEEP_SECONDS": "0.1",
    }
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.sweeper"], env=environment, cwd=REPOSITORY, stderr=output, stdout=output
        )
    try:
        deadline = time.monotonic() + 20
        while log.read_text().count("give_back_lost failed and is tried again") < 2:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        stopped = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert time.monotonic() - stopped < 2
    finally:
        process.kill()
        process.wait()
