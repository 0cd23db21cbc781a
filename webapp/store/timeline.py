"""Points of the timeline in the database, each a short text: a week of eight GPUs has eight thousand of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, delete, func, select

from webapp.domain.memory import LedgerKind
from webapp.domain.timeline import Held, Point, Who
from webapp.store.database import Database
from webapp.store.documents import DocumentError
from webapp.store.rows import readable
from webapp.store.schema import timeline as table
from webapp.store.texts import column_text
from webapp.store.upsert import upsert


class TimelineRepository:
    """The points of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_points(self, step_s: int, points: Mapping[str, Sequence[Point]]) -> None:
        """Store points by device, ``step_s`` apart, replacing those of the same moments."""
        rows = [
            {"step_s": step_s, "device_id": device_id, "taken_at": point.taken_at, "document": dump_point(point)}
            for device_id, of_device in points.items()
            for point in of_device
        ]
        if not rows:
            return
        with self._database.begin() as connection:
            upsert(connection, table, *rows)

    def points(self, device_id: str, step_s: int, since: float) -> tuple[Point, ...]:
        """Return a device's points from ``since`` on, oldest first. An unreadable document is left out and logged."""
        where = (table.c.step_s == step_s, table.c.device_id == column_text(device_id), table.c.taken_at >= since)
        query: Select[Any] = select(table.c.taken_at, table.c.document).where(*where).order_by(table.c.taken_at)
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return tuple(readable(rows, lambda row: load_point(row.taken_at, row.document), "a point of the timeline"))

    def drop_points(self, step_s: int, before: float) -> int:
        """Delete the points older than ``before`` and return how many were deleted."""
        old = (table.c.step_s == step_s, table.c.taken_at < before)
        with self._database.begin() as connection:
            return connection.execute(delete(table).where(*old)).rowcount

    def recorded(self, step_s: int) -> tuple[str, ...]:
        """Return the devices that have points ``step_s`` apart."""
        query = select(table.c.device_id).where(table.c.step_s == step_s).distinct()
        with self._database.begin() as connection:
            return tuple(connection.execute(query).scalars())

    def newest(self, device_id: str, step_s: int) -> float | None:
        """Return the moment of a device's newest point, or ``None``."""
        where = (table.c.step_s == step_s, table.c.device_id == column_text(device_id))
        with self._database.begin() as connection:
            return connection.execute(select(func.max(table.c.taken_at)).where(*where)).scalar()


def dump_point(point: Point) -> str:
    """Return ``[total, free sum, readings, [[kind, used, most, instance, model, mode, user], …]]``, without
    trailing unknown values; ASCII only."""
    held = [_short([h.who.kind.value, h.used_bytes, h.most_bytes, *h.who[1:]]) for h in point.held]
    return json.dumps([point.total_bytes, point.free_sum_bytes, point.readings, held], separators=(",", ":"))


def load_point(taken_at: float, text: str) -> Point:
    """Return what ``dump_point`` wrote. Raises DocumentError."""
    try:
        total, free_sum, readings, parts = json.loads(text)
        held = tuple(Held(_who(kind, *who), used, most) for kind, used, most, *who in parts)
    except (ValueError, TypeError) as exc:
        raise DocumentError(f"Point: {exc}") from exc
    return Point(taken_at, total, held, free_sum, readings)


def _short(values: list[object]) -> list[object]:
    while values[-1] is None:
        values.pop()
    return values


@lru_cache(maxsize=1024)
def _who(kind: str, *names: str | None) -> Who:
    return Who(LedgerKind(kind), *names)
