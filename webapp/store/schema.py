"""The tables, and the revision that this version of Warden works with."""

from __future__ import annotations

from sqlalchemy import (
    DDL,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    event,
)

HEAD = "0008"
"""The newest revision in ``migrations/versions``; a test compares. Kept here so that a start need not import
Alembic."""

metadata = MetaData()

operations = Table(
    "operations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("mode", Text),
    Column("model_id", Text),
    Column("started_at", Float(53), nullable=False),
    Column("ended_at", Float(53)),
    Column("document", Text, nullable=False),
    Index("operations_by_time", "started_at", "id"),
    Index("operations_by_state", "state"),
    Index("operations_by_end", "ended_at"),
)
"""One row per operation. ``document`` is the whole value; the other columns repeat the fields to search by."""

operation_requests = Table(
    "operation_requests",
    metadata,
    Column("actor", Text, primary_key=True),
    Column("request_id", Text, primary_key=True),
    Column("operation_id", Text, ForeignKey("operations.id", ondelete="CASCADE"), nullable=False),
    Index("operation_requests_by_operation", "operation_id"),
)
"""One row per operation that was sent with a request id. It is deleted together with the operation's row."""

revisions = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)
"""Alembic's own table, as Alembic would create it: an empty database is set up without Alembic. It is not part of
``metadata``."""

timeline = Table(
    "timeline",
    metadata,
    Column("step_s", Integer, primary_key=True, autoincrement=False),
    Column("device_id", Text, primary_key=True),
    Column("taken_at", Float(53), primary_key=True),
    Column("document", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""One row per device and point, for single readings and for buckets (``step_s``). The key is the order of the rows on
the disk, so that a device's span is read in one piece."""

measurements = Table(
    "measurements",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("taken_at", Float(53), primary_key=True),
    Column("document", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""One row per measured launch. ``kind`` is the document of what it has in common with others (``LaunchKind``)."""

queued_launches = Table(
    "tickets",
    metadata,
    Column("id", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("ended_at", Float(53)),
    Column("document", Text, nullable=False),
)
"""One row per launch that is queued or left the queue recently: a handful."""

leases = Table(
    "leases",
    metadata,
    Column("instance_id", Text, primary_key=True),
    Column("changed_at", Float(53), nullable=False),
    Column("document", Text, nullable=False),
)
"""One row per instance that has a lease or another holding term."""

people = Table(
    "people",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("name_key", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("password_hash", Text),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("seen_at", Float(53)),
    Index("people_by_name", "name_key", unique=True),
)
"""One row per account. ``name_key`` is the name in lower case: no two names differ in case alone. Without a
``password_hash`` (argon2), the person can only sign in through a proxy."""

sessions = Table(
    "sessions",
    metadata,
    Column("key_hash", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("person_id", Text, ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("used_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("address", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Index("sessions_by_person", "person_id"),
)
"""One row per sign-in. Of the key in the cookie only the SHA-256 is stored, as for invitations and tokens."""

invitations = Table(
    "invitations",
    metadata,
    Column("key_hash", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53), nullable=False),
    Column("created_by", Text, nullable=False),
    Column("used_at", Float(53)),
)
"""One row per invitation."""

tokens = Table(
    "api_tokens",
    metadata,
    Column("key_hash", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("person_id", Text, ForeignKey("people.id", ondelete="CASCADE"), nullable=False),
    Column("name", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("expires_at", Float(53)),
    Column("used_at", Float(53)),
    Index("api_tokens_by_person", "person_id"),
)
"""One row per API token."""

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float(53), nullable=False),
    Column("doer", Text, nullable=False),
    Column("came", Text, nullable=False),
    Column("person_id", Text),
    Column("token", Text),
    Column("action", Text, nullable=False),
    Column("target_kind", Text, nullable=False),
    Column("target_id", Text, nullable=False),
    Column("target_name", Text, nullable=False),
    Column("result", Text, nullable=False),
    Column("problem", Text),
    Column("address", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("operation_id", Text),
    Index("audit_by_time", "at"),
    Index("audit_by_doer", "doer"),
    sqlite_autoincrement=True,
)
"""One row per audit entry. Rows are added and, when they are too old, deleted, but never changed. No id is reused."""

AUDIT_STAYS = """CREATE TRIGGER audit_stays BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'an entry of the audit is never changed'); END"""
"""Makes SQLite itself refuse every change of a row."""

event.listen(audit, "after_create", DDL(AUDIT_STAYS).execute_if(dialect="sqlite"))  # type: ignore[no-untyped-call]
