from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.command import downgrade
from alembic.command import upgrade as upgrade_to
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Engine

import app.jobs.models
import app.tenants.models
from app.db import MIGRATIONS, Base, make_engine, schema_is_current, upgrade
from app.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TABLES = {"artifacts", "job_steps", "jobs", "tenants"}
assert app.jobs.models  # registers the tables
assert app.tenants.models  # likewise


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An empty database."""
    for name in [name for name in os.environ if name.startswith("SQUEEZER_")]:
        monkeypatch.delenv(name)
    if request.param == "sqlite":
        settings = Settings(data_dir=tmp_path)
    else:
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        settings = Settings(data_dir=tmp_path, database_url=new_database())
    engine = make_engine(settings)
    yield engine
    engine.dispose()


def tables(engine: Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names()) - {"alembic_version"}


def drift(engine: Engine, metadata: sa.MetaData) -> list[object]:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        return compare_metadata(context, metadata)


def test_migrations_lead_to_what_the_models_say(engine: Engine) -> None:
    upgrade(engine)
    assert tables(engine) == TABLES
    assert drift(engine, Base.metadata) == []


def test_negative_control_drift_is_seen(engine: Engine) -> None:
    upgrade(engine)
    changed = sa.MetaData(naming_convention=Base.metadata.naming_convention)
    for table in Base.metadata.tables.values():
        table.to_metadata(changed)
    changed.tables["jobs"].append_column(sa.Column("added", sa.Integer))
    sa.Index(None, changed.tables["jobs"].c.state)
    assert {difference[0] for difference in drift(engine, changed)} == {"add_column", "add_index"}


def test_upgrading_again_changes_nothing(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE witness (x INTEGER)"))
        assert schema_is_current(connection)
    upgrade(engine)
    assert tables(engine) == TABLES | {"witness"}


def test_an_empty_database_is_not_current(engine: Engine) -> None:
    with engine.begin() as connection:
        assert not schema_is_current(connection)


def test_several_processes_may_upgrade_at_once(engine: Engine) -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            upgrade(engine)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert tables(engine) == TABLES


def migrate(engine: Engine, run: Callable[[Config, str], None], revision: str) -> None:
    """Up or down to a revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        run(config, revision)


def test_downgrade_takes_everything_back(engine: Engine) -> None:
    upgrade(engine)
    migrate(engine, downgrade, "base")
    assert tables(engine) == set()


def test_jobs_keep_their_steps_and_artifacts_on_the_way_up_and_down(engine: Engine) -> None:
    """SQLite may build a table anew to change it; dropping the old one would take along what refers to it."""
    job = {"state": "succeeded", "queue": "cpu", "recipe": "{}", "file_name": "m", "model_key": "k", "progress": 1}
    job |= {"recipe_version": 1, "model_bytes": 1, "model_sha256": "0", "fencing_token": 1}
    job |= dict.fromkeys(["crashed_attempts", "lost_attempts", "max_crashed_attempts", "max_lost_attempts"], 1)
    job_id, now = "0" * 32, "2024-01-01 00:00:00"
    job |= {"id": job_id, "created_at": now}
    made = {"job_id": job_id, "format": "sqz", "key": "a", "bytes": 1, "sha256": "0", "created_at": now}
    step = {"job_id": job_id, "position": 0, "method": "m", "metrics": "{}"}
    rows = {"jobs": job, "artifacts": made, "job_steps": step}
    migrate(engine, upgrade_to, "0001")
    with engine.begin() as connection:
        for table, row in rows.items():
            names = ", ".join(row)
            values = ", ".join(f":{name}" for name in row)
            connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({values})"), row)  # noqa: S608 - ours

    def counts() -> dict[str, int]:
        with engine.begin() as connection:
            return {
                table: connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()  # noqa: S608 - ours
                for table in rows
            }

    for run, revision in ((upgrade_to, "head"), (downgrade, "0001"), (upgrade_to, "head")):
        migrate(engine, run, revision)
        assert counts() == dict.fromkeys(rows, 1)
    assert drift(engine, Base.metadata) == []


def test_the_command_line_does_the_same(tmp_path: Path) -> None:
    """`alembic check` is the drift check, too."""
    environment = {"SQUEEZER_DATA_DIR": str(tmp_path), "PATH": ""}
    for arguments in (["upgrade", "head"], ["check"]):
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=MIGRATIONS.parent,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
