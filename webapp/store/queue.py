"""Queued launches in the database, and those that ended last."""

from __future__ import annotations

from sqlalchemy import delete, select

from webapp.domain.queue import QueuedLaunch
from webapp.store.database import Database
from webapp.store.documents import dump, load
from webapp.store.rows import readable
from webapp.store.schema import queued_launches as table
from webapp.store.texts import column_text
from webapp.store.upsert import upsert


class QueueRepository:
    """The launch queue of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, launch: QueuedLaunch, keep: int) -> None:
        """Insert or replace a launch and keep only the newest ``keep`` of the ended ones."""
        row = {"id": launch.id, "number": launch.number, "ended_at": launch.ended_at, "document": dump(launch)}
        ended = table.c.ended_at.is_not(None)
        newest = select(table.c.id).where(ended).order_by(table.c.ended_at.desc()).limit(keep)
        with self._database.durable() as connection:
            upsert(connection, table, row)
            connection.execute(delete(table).where(ended, table.c.id.not_in(newest)))

    def drop(self, launch_id: str) -> None:
        """Delete a launch that was never queued; idempotent."""
        with self._database.durable() as connection:
            connection.execute(delete(table).where(table.c.id == column_text(launch_id)))

    def launches(self) -> tuple[QueuedLaunch, ...]:
        """Return all kept launches in the order of the queue. An unreadable document is left out and logged."""
        with self._database.begin() as connection:
            rows = connection.execute(select(table.c.document).order_by(table.c.number)).all()
        return tuple(readable(rows, lambda row: load(QueuedLaunch, row.document), "a queued launch"))
