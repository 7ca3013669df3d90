"""Jobs may have a student."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    # Not in a batch, as in 0002.
    op.add_column("jobs", sa.Column("student_file_name", sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("student_key", sa.String(length=64), nullable=True))
    op.add_column("jobs", sa.Column("student_bytes", sa.BigInteger(), nullable=True))
    op.add_column("jobs", sa.Column("student_sha256", sa.String(length=64), nullable=True))


def downgrade() -> None:
    """Take back."""
    for column in ("student_sha256", "student_bytes", "student_key", "student_file_name"):
        op.drop_column("jobs", column)
