"""Jobs belong to a tenant."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_LOCAL = UUID(int=0)


def upgrade() -> None:
    """Apply."""
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    # SQLite keeps times without a zone, and both databases take this one for UTC.
    now = datetime.now(UTC).replace(tzinfo=None) if op.get_bind().dialect.name == "sqlite" else datetime.now(UTC)
    op.bulk_insert(tenants, [{"id": _LOCAL, "name": "local", "created_at": now}])
    # Not in a batch, as in 0002, and so without a foreign key, which SQLite adds only with a new table.
    op.add_column("jobs", sa.Column("tenant_id", sa.Uuid(), nullable=False, server_default=_LOCAL.hex))
    op.create_index(op.f("ix_jobs_tenant_id_created_at_id"), "jobs", ["tenant_id", "created_at", "id"])
    op.drop_index(op.f("ix_jobs_created_at_id"), "jobs")


def downgrade() -> None:
    """Take back."""
    op.create_index(op.f("ix_jobs_created_at_id"), "jobs", ["created_at", "id"])
    op.drop_index(op.f("ix_jobs_tenant_id_created_at_id"), "jobs")
    op.drop_column("jobs", "tenant_id")
    op.drop_table("tenants")
