"""Measured launches in the database: the newest ones of each kind."""

from __future__ import annotations

from sqlalchemy import delete, select

from webapp.domain.calibration import Measurement
from webapp.store.database import Database
from webapp.store.documents import dump, load
from webapp.store.rows import readable
from webapp.store.schema import measurements as table
from webapp.store.upsert import upsert


class MeasurementRepository:
    """The measurements of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_measurement(self, measurement: Measurement, keep: int) -> None:
        """Store a measurement and keep only the newest ``keep`` of its kind of launch."""
        kind = dump(measurement.kind)
        same = table.c.kind == kind
        newest = select(table.c.taken_at).where(same).order_by(table.c.taken_at.desc()).limit(keep)
        row = {"kind": kind, "taken_at": measurement.taken_at, "document": dump(measurement)}
        with self._database.begin() as connection:
            upsert(connection, table, row)
            connection.execute(delete(table).where(same, table.c.taken_at.not_in(newest)))

    def measurements(self) -> tuple[Measurement, ...]:
        """Return all kept measurements, oldest first. An unreadable document is left out and logged."""
        with self._database.begin() as connection:
            rows = connection.execute(select(table.c.document).order_by(table.c.taken_at)).all()
        return tuple(readable(rows, lambda row: load(Measurement, row.document), "a measurement"))
