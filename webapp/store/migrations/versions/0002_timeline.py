"""The timeline's table, and an index for finding the operations that ended recently."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the table of points."""
    op.create_table(
        "timeline",
        sa.Column("step_s", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("device_id", sa.Text, primary_key=True),
        sa.Column("taken_at", sa.Float(53), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("operations_by_end", "operations", ["ended_at"])
