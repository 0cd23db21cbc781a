"""The audit trail in the database: entries are added, read, and deleted when they are old, but never changed."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, insert, select

from webapp.domain.audit import (
    EVERYTHING,
    Action,
    AuditActor,
    AuditChannel,
    AuditEntry,
    AuditFilter,
    Detail,
    Kind,
    Result,
    Target,
)
from webapp.store.database import Database
from webapp.store.schema import audit
from webapp.store.texts import column_text

log = logging.getLogger(__name__)


class AuditRepository:
    """The audit trail of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries in their order, all or none."""
        if not entries:
            return
        with self._database.begin() as connection:
            connection.execute(insert(audit), [_row(entry) for entry in entries])

    def entries(self, limit: int, where: AuditFilter = EVERYTHING, before: int | None = None) -> tuple[AuditEntry, ...]:
        """Return up to ``limit`` entries that ``where`` matches, newest first; with ``before`` only older ones.

        A row that a later version wrote and this one cannot read is left out and logged.
        """
        conditions = [*_conditions(where), *([] if before is None else [audit.c.id < before])]
        query = select(audit).where(*conditions).order_by(audit.c.id.desc()).limit(limit)
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return tuple(_readable(rows))

    def has(self, entry: AuditEntry) -> bool:
        """Return whether there is an entry that ``entry`` repeats."""
        row = _row(entry)
        same = (audit.c[name] == row[name] for name in ("doer", "action", "target_id", "operation_id", "result"))
        with self._database.begin() as connection:
            return connection.execute(select(audit.c.id).where(*same).limit(1)).first() is not None

    def people(self) -> tuple[str, ...]:
        """Return the sorted names of everybody with an entry; the empty name covers requests without a sign-in."""
        with self._database.begin() as connection:
            names = connection.execute(select(audit.c.doer).distinct()).scalars().all()
        return tuple(sorted(names, key=str.lower))

    def prune(self, before: float) -> int:
        """Delete the entries older than ``before`` and return how many were deleted."""
        with self._database.begin() as connection:
            return connection.execute(delete(audit).where(audit.c.at < before)).rowcount


def _conditions(where: AuditFilter) -> Iterator[ColumnElement[bool]]:
    if where.person is not None:
        yield audit.c.doer == column_text(where.person)
    if where.group is not None:
        yield audit.c.action.in_([action.value for action in Action if action.group is where.group])
    if where.result is not None:
        yield audit.c.result == where.result.value
    if where.since is not None:
        yield audit.c.at >= where.since
    if where.until is not None:
        yield audit.c.at < where.until
    if where.text is not None:
        text = column_text(where.text)
        in_name, in_id = (
            column.icontains(text, autoescape=True) for column in (audit.c.target_name, audit.c.target_id)
        )
        yield in_name | in_id


def _row(entry: AuditEntry) -> dict[str, Any]:
    return {
        "at": entry.at,
        "doer": column_text(entry.doer.name),
        "came": entry.doer.came.value,
        "person_id": entry.doer.person_id,
        "token": _text_or_none(entry.doer.token),
        "action": entry.action.value,
        "target_kind": entry.target.kind.value,
        "target_id": column_text(entry.target.id),
        "target_name": column_text(entry.target.name),
        "result": entry.result.value,
        "problem": _text_or_none(entry.problem),
        "address": column_text(entry.address),
        "details": json.dumps(dict(entry.details)),
        "operation_id": _text_or_none(entry.operation_id),
    }


def _text_or_none(text: str | None) -> str | None:
    return None if text is None else column_text(text)


def _readable(rows: Iterable[Row[Any]]) -> Iterator[AuditEntry]:
    for row in rows:
        try:
            yield _entry(row)
        except (ValueError, AttributeError) as exc:
            log.warning("entry %s of the audit cannot be read and is left out: %s", row.id, exc)


def _entry(row: Row[Any]) -> AuditEntry:
    return AuditEntry(
        at=row.at,
        doer=AuditActor(row.doer, AuditChannel(row.came), row.person_id, row.token),
        action=Action(row.action),
        target=Target(Kind(row.target_kind), row.target_id, row.target_name),
        result=Result(row.result),
        address=row.address,
        problem=row.problem,
        details=tuple((Detail(name), str(value)) for name, value in json.loads(row.details).items()),
        operation_id=row.operation_id,
        id=row.id,
    )
