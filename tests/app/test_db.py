from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import StatementError

from app.db import make_engine
from app.jobs.models import Job
from app.settings import Settings

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session, sessionmaker

    from tests.app.conftest import AddJob


def test_times_come_back_aware_and_in_utc(sessions: sessionmaker[Session], add_job: AddJob) -> None:
    elsewhere = datetime(2024, 5, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5)))
    job_id = add_job(created_at=elsewhere)
    with sessions() as session:
        read = session.get_one(Job, job_id).created_at
    assert read == elsewhere
    assert read.tzinfo is UTC


def test_naive_times_are_refused(add_job: AddJob) -> None:
    with pytest.raises(StatementError, match="time zone"):
        add_job(created_at=datetime(2024, 5, 1))


def test_not_a_number_is_refused_in_json(add_job: AddJob) -> None:
    with pytest.raises((StatementError, ValueError), match="JSON"):
        add_job(metrics={"ratio": float("nan")})


def test_json_keeps_what_unicode_allows(sessions: sessionmaker[Session], add_job: AddJob) -> None:
    recipe = {"zero": "a\0b", "cjk": "模型", "order": {"b": 1, "a": 2}}
    job_id = add_job(recipe=recipe)
    with sessions() as session:
        read = session.get_one(Job, job_id).recipe
    assert read == recipe
    assert list(read["order"]) == ["b", "a"]


def test_sqlite_is_set_up_to_survive_power_cuts(tmp_path: object) -> None:
    engine = make_engine(Settings(data_dir=tmp_path))
    with engine.begin() as connection:
        read = {
            name: connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    engine.dispose()
    assert read == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_a_rollback_takes_everything_back(sessions: sessionmaker[Session], add_job: AddJob) -> None:
    job_id = add_job()
    with sessions() as session:
        session.get_one(Job, job_id).stage = "half-way"
        session.flush()
        session.rollback()
    with sessions() as session:
        assert session.get_one(Job, job_id).stage is None


def test_read_then_write_in_parallel_loses_nothing(sessions: sessionmaker[Session], add_job: AddJob) -> None:
    """Without BEGIN IMMEDIATE or a row lock, increments would be lost or fail with "database is locked"."""
    job_id: UUID = add_job()

    def increment() -> None:
        for _ in range(5):
            with sessions.begin() as session:
                job = session.scalars(select(Job).where(Job.id == job_id).with_for_update(of=Job)).one()
                job.lost_attempts += 1

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sessions() as session:
        assert session.get_one(Job, job_id).lost_attempts == 20
