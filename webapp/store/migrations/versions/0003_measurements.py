"""The table of measured launches."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the table of measurements."""
    op.create_table(
        "measurements",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("taken_at", sa.Float(53), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
