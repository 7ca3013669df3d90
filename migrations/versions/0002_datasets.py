"""Jobs may have a data set."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # Not in a batch, here and below: on SQLite a batch may build the table anew, and dropping the old one would
    # take the steps and the artifacts of all jobs with it.
    op.add_column("jobs", sa.Column("dataset_file_name", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("dataset_key", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("dataset_bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("dataset_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Take back."""
    for column in ("dataset_sha256", "dataset_bytes", "dataset_key", "dataset_file_name"):
        op.drop_column("jobs", column)
