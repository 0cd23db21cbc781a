"""Leases in the database: how long and on which terms each instance is held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Select, delete, select

from webapp.domain.lease import Lease
from webapp.store.database import Database
from webapp.store.documents import dump, load
from webapp.store.rows import readable
from webapp.store.schema import leases as table
from webapp.store.texts import column_text
from webapp.store.upsert import upsert


class LeaseRepository:
    """The leases of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_lease(self, instance_id: str, lease: Lease, changed_at: float) -> None:
        """Insert or replace the lease of an instance."""
        row = {"instance_id": column_text(instance_id), "changed_at": changed_at, "document": dump(lease)}
        with self._database.durable() as connection:
            upsert(connection, table, row)

    def drop_lease(self, instance_id: str) -> None:
        """Delete the lease of an instance; idempotent."""
        with self._database.durable() as connection:
            connection.execute(delete(table).where(table.c.instance_id == column_text(instance_id)))

    def drop_leases(self, before: float) -> int:
        """Delete the leases that have not changed since ``before`` and return how many were deleted."""
        with self._database.begin() as connection:
            return connection.execute(delete(table).where(table.c.changed_at < before)).rowcount

    def leases(self) -> Mapping[str, Lease]:
        """Return all kept leases by instance. An unreadable document is left out and logged."""
        query: Select[Any] = select(table.c.instance_id, table.c.document)
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return dict(
            readable(
                rows, lambda row: (str(row.instance_id), load(Lease, row.document)), "the lease of {row.instance_id}"
            )
        )
