"""The table of clients' request ids, each with the operation that the first request started."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Create the table, empty: operations of earlier versions have no request id."""
    op.create_table(
        "operation_requests",
        sa.Column("actor", sa.Text, primary_key=True),
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("operation_id", sa.Text, sa.ForeignKey("operations.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_index("operation_requests_by_operation", "operation_requests", ["operation_id"])
