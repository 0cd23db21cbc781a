"""The table of leases."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the table of leases."""
    op.create_table(
        "leases",
        sa.Column("instance_id", sa.Text, primary_key=True),
        sa.Column("changed_at", sa.Float(53), nullable=False),
        sa.Column("document", sa.Text, nullable=False),
    )
