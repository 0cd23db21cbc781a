"""Operations in the database: one document each, with columns that repeat the fields to search by."""

from __future__ import annotations

import json
from collections.abc import Collection
from enum import StrEnum
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Select, delete, select, tuple_

from webapp.domain.operation import (
    ANY_OPERATION,
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
)
from webapp.domain.timeline import TimelineEvent
from webapp.errors import StoreUnavailable
from webapp.store.database import Database
from webapp.store.documents import DocumentError, dump, load
from webapp.store.rows import readable
from webapp.store.schema import operation_requests
from webapp.store.schema import operations as table
from webapp.store.texts import column_text
from webapp.store.upsert import upsert

PRUNED_AT_ONCE = 500
"""How many old operations one transaction deletes; it bounds how long other writes wait."""

E = TypeVar("E", bound=StrEnum)

_NEWEST_FIRST = (table.c.started_at.desc(), table.c.id.desc())


class OperationRepository:
    """The operations of a database. Every method raises StoreUnavailable if the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save_operation(self, operation: Operation) -> None:
        """Insert ``operation``, or replace the one with its id; its request id is stored in the same transaction."""
        with self._database.durable() as connection:
            upsert(connection, table, _row(operation))
            if operation.request_id is not None:
                upsert(connection, operation_requests, _request_row(operation))

    def drop_operation(self, operation_id: str) -> None:
        """Delete an operation that was never started; idempotent."""
        with self._database.durable() as connection:
            connection.execute(delete(table).where(table.c.id == column_text(operation_id)))

    def operation(self, operation_id: str) -> Operation | None:
        """Return the operation ``operation_id`` or ``None``. Raises StoreUnavailable also if its document is
        unreadable."""
        return self._one(select(table.c.id, table.c.document).where(table.c.id == column_text(operation_id)))

    def operation_of_request(self, actor: str, request_id: str) -> Operation | None:
        """Return the operation that ``actor`` started with ``request_id`` or ``None``; raises as ``operation`` does."""
        sent = operation_requests.c
        query = select(table.c.id, table.c.document).join(operation_requests, sent.operation_id == table.c.id)
        return self._one(query.where(sent.actor == column_text(actor), sent.request_id == request_id))

    def _one(self, query: Select[Any]) -> Operation | None:
        with self._database.begin() as connection:
            row = connection.execute(query).first()
        if row is None:
            return None
        try:
            return load(Operation, row.document)
        except DocumentError as exc:
            raise StoreUnavailable(reason=f"operation {row.id} cannot be read: {exc}") from exc

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return up to ``limit`` operations that ``where`` matches, newest first.

        ``before`` is the id of the last operation already seen: the page after it is returned, and an empty one if the
        id is unknown. An unreadable document is left out and logged.
        """
        conditions: list[ColumnElement[bool]] = [
            table.c[name] == column_text(value) for name, value in vars(where).items() if value is not None
        ]
        if before is not None:
            seen = select(table.c.started_at, table.c.id).where(table.c.id == column_text(before)).scalar_subquery()
            conditions.append(tuple_(table.c.started_at, table.c.id) < seen)
        return self._select(_newest(*conditions).limit(limit))

    def running(self) -> tuple[Operation, ...]:
        """Return every operation that is stored as running, newest first."""
        return self._select(_newest(table.c.state == OperationState.RUNNING.value))

    def values(self) -> OperationValues:
        """Return the values by which the stored operations can be filtered."""
        columns = (table.c.kind, table.c.actor, table.c.model_id, table.c.state)
        with self._database.begin() as connection:
            rows = connection.execute(select(*columns).distinct()).all()
        return OperationValues(
            kinds=_members(OperationKind, {row.kind for row in rows}),
            actors=tuple(sorted({row.actor for row in rows}, key=str.lower)),
            models=tuple(sorted({row.model_id for row in rows if row.model_id is not None}, key=str.lower)),
            states=_members(OperationState, {row.state for row in rows}),
        )

    def prune(self, before: float) -> bool:
        """Delete some of the operations that ended before ``before``; return whether there may be more."""
        old = select(table.c.id).where(table.c.ended_at < before).limit(PRUNED_AT_ONCE)
        with self._database.durable() as connection:
            return connection.execute(delete(table).where(table.c.id.in_(old))).rowcount == PRUNED_AT_ONCE

    def ended(self, since: float, limit: int) -> tuple[str, ...]:
        """Return the ids of the newest ``limit`` operations that ended at ``since`` or later, oldest first."""
        query = select(table.c.id).where(table.c.ended_at >= since).order_by(table.c.ended_at.desc()).limit(limit)
        with self._database.begin() as connection:
            return tuple(reversed(connection.execute(query).scalars().all()))

    def events(self, ids: Collection[str]) -> tuple[TimelineEvent, ...]:
        """Return the operations with these ids that can be read, in any order."""
        with self._database.begin() as connection:
            rows = connection.execute(select(table).where(table.c.id.in_(ids))).all()
        return tuple(readable(rows, _event, "operation {row.id}"))

    def _select(self, query: Select[Any]) -> tuple[Operation, ...]:
        with self._database.begin() as connection:
            rows = connection.execute(query).all()
        return tuple(readable(rows, lambda row: load(Operation, row.document), "operation {row.id}"))


def _newest(*conditions: ColumnElement[bool]) -> Select[Any]:
    return select(table.c.id, table.c.document).where(*conditions).order_by(*_NEWEST_FIRST)


def _members(of: type[E], found: set[str]) -> tuple[E, ...]:
    """Return the members of an enum that were found, in the enum's order; values of a later version are left out."""
    return tuple(member for member in of if member.value in found)


def _row(operation: Operation) -> dict[str, str | float | None]:
    return {
        "id": column_text(operation.id),
        "kind": operation.kind.value,
        "actor": column_text(operation.actor),
        "state": operation.state.value,
        "mode": None if operation.mode is None else column_text(operation.mode),
        "model_id": None if operation.model_id is None else column_text(operation.model_id),
        "started_at": operation.started_at,
        "ended_at": operation.ended_at,
        "document": dump(operation),
    }


def _request_row(operation: Operation) -> dict[str, str | None]:
    return {
        "actor": column_text(operation.actor),
        "request_id": operation.request_id,
        "operation_id": column_text(operation.id),
    }


def _event(row: Row[Any]) -> TimelineEvent:
    """Return what a mark on the timeline needs of an operation. Raises DocumentError. Parsing the whole document would
    take ten times as long."""
    try:
        document = json.loads(row.document)
        unloaded = [receipt["device_id"] for receipt in document.get("receipts", ())]
        return TimelineEvent(
            id=row.id,
            kind=OperationKind(row.kind),
            state=OperationState(row.state),
            actor=row.actor,
            ended_at=row.ended_at,
            mode=row.mode,
            model_id=row.model_id,
            evicted=tuple(document.get("evicted", ())),
            devices=tuple(dict.fromkeys((*document.get("devices", ()), *unloaded))),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise DocumentError(f"TimelineEvent: {exc}") from exc
