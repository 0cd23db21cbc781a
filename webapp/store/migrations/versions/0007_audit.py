"""The audit trail's table, whose rows SQLite refuses to change."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("doer", sa.Text, nullable=False),
        sa.Column("came", sa.Text, nullable=False),
        sa.Column("person_id", sa.Text),
        sa.Column("token", sa.Text),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("target_kind", sa.Text, nullable=False),
        sa.Column("target_id", sa.Text, nullable=False),
        sa.Column("target_name", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("problem", sa.Text),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("operation_id", sa.Text),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_time", "audit", ["at"])
    op.create_index("audit_by_doer", "audit", ["doer"])
    if op.get_bind().dialect.name == "sqlite":
        op.execute(STAYS)


STAYS = """CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'an entry of the audit is never changed'); END"""
