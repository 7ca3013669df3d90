"""Alembic's entry: migrates over the connection that `app.db.upgrade` hands in, or over one of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from alembic import context

import app.jobs.models
import app.tenants.models  # noqa: F401 - registers the tables, as the line before does
from app.db import Base, UtcDateTime, make_engine
from app.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


def render(kind: str, item: Any, _context: object) -> str | Literal[False]:
    """Write plain types into migrations, which must not change when the application's types do."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


def migrate(connection: Connection) -> None:
    """Run the migrations that were asked for."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_server_default=True,
        render_item=render,
        # SQLite changes a column by copying the table.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with make_engine(Settings()).begin() as own:
        migrate(own)
