from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import text

from app.db import make_engine
from app.settings import Settings
from app.storage import LocalStorage
from tests.app.conftest import Server, assert_problem

if TYPE_CHECKING:
    from pathlib import Path


def ready(settings: Settings) -> httpx.Response:
    server = Server(settings).start()
    try:
        assert httpx.get(f"{server.url}/healthz").json() == {"status": "ok"}
        return httpx.get(f"{server.url}/readyz", timeout=20)
    finally:
        server.stop()


def test_ready_when_all_is_there(settings: Settings, redis_url: str) -> None:
    response = ready(settings.model_copy(update={"redis_url": redis_url}))
    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "checks": {"database": "ok", "redis": "ok", "storage": "ok"},
    }


def test_a_broker_that_is_down_is_named(settings: Settings) -> None:
    problem = assert_problem(ready(settings), 503, "not_ready")
    assert problem["checks"] == {"database": "ok", "redis": "does not answer", "storage": "ok"}
    assert "redis" in problem["detail"]


def test_a_database_that_is_down_is_named_without_its_password(tmp_path: Path, redis_url: str) -> None:
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/none"
    response = ready(Settings(mode="distributed", data_dir=tmp_path, database_url=url, redis_url=redis_url))
    problem = assert_problem(response, 503, "not_ready")
    assert problem["checks"]["database"] == "does not answer"
    assert "hunter2" not in response.text


def test_a_schema_that_is_old_is_named(tmp_path: Path, redis_url: str) -> None:
    problem = assert_problem(ready(Settings(data_dir=tmp_path, redis_url=redis_url)), 503, "not_ready")
    assert "alembic upgrade head" in problem["checks"]["database"]


def test_a_schema_that_is_newer_than_the_code_is_named(settings: Settings, redis_url: str) -> None:
    engine = make_engine(settings)
    with engine.begin() as connection:
        ours = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    try:
        problem = assert_problem(ready(settings.model_copy(update={"redis_url": redis_url})), 503, "not_ready")
        assert problem["checks"]["database"] != "ok"
    finally:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :ours"), {"ours": ours})
        engine.dispose()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_storage_that_cannot_be_written_to_is_named(settings: Settings, redis_url: str) -> None:
    server = Server(settings.model_copy(update={"redis_url": redis_url})).start()
    try:
        shutil.rmtree(settings.storage)
        problem = assert_problem(httpx.get(f"{server.url}/readyz"), 503, "not_ready")
    finally:
        server.stop()
        LocalStorage(settings.storage)  # makes the folder again
    assert problem["checks"] == {"database": "ok", "redis": "ok", "storage": "cannot be written to"}
