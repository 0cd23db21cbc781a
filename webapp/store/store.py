"""The store: operations, timeline, measurements, tickets, leases; in SQLite, or PostgreSQL by URL. Only this package imports SQLAlchemy."""

from __future__ import annotations

import errno
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    select,
    tuple_,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DatabaseError, NoSuchModuleError, SQLAlchemyError

from webapp.domain.keeping import StoreTrouble
from webapp.domain.learned import Measurement
from webapp.domain.lease import Lease
from webapp.domain.operation import (
    ANY_OPERATION,
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
)
from webapp.domain.queue import QueuedLaunch
from webapp.domain.timeline import Event, Point
from webapp.errors import ConfigurationError, StoreUnavailable
from webapp.folders import disk_trouble, make_private
from webapp.store.documents import DocumentError, dump, load
from webapp.store.migrate import ForeignDatabase, NewerDatabase, migrate
from webapp.store.points import dump_point, load_point
from webapp.store.schema import leases, measurements, revisions, tickets, timeline
from webapp.store.schema import operations as table
from webapp.store.stand_in import copy_elsewhere, remove
from webapp.store.texts import column_text as _text

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another process's, SQLite only…"""
PROMPT_S = 0.9
"""…and one that somebody waits for: an answer comes within a second, with the reason."""
POOL_TIMEOUT_S = 3.0
"""How long a thread waits for a connection while the others use all, PostgreSQL only."""
DEADLINES: Mapping[str, int] = {"connect_timeout": 3, "tcp_user_timeout": 5000}
"""libpq's, in seconds and milliseconds: a host that does not answer holds no request for minutes. What the URL says itself counts."""
STATEMENT_TIMEOUT = "-c statement_timeout=5000"
DRIVERS = ("psycopg", "psycopg2")
EXTRAS = {"psycopg": "'warden[postgresql]'"}
"""The extras of the package that have a driver."""
"""Those that know libpq's deadlines."""
SPACE_BYTES = 64 * 1024
"""With less than this free, a disk is why SQLite cannot write: its smallest files take half of it."""
PRUNED_AT_ONCE = 500
"""Old operations that go in one transaction: nobody who writes waits for more."""

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")

WRITTEN_BY_A_RUN = (timeline, table)
"""Tables that only a running Warden writes; accounts are written in a terminal too."""

_NEWEST_FIRST = (table.c.started_at.desc(), table.c.id.desc())


class Store:
    """The database. Safe to use from any thread between ``open`` and ``close``."""

    def __init__(self, url: str) -> None:
        """Keep the SQLAlchemy URL; nothing is opened yet."""
        self._url = url
        self._engine: Engine | None = None
        self._files: _Files = None
        """Which files are open; SQLite only."""
        self._writing = threading.Lock()
        """Held by the one who writes what people rely on: SQLite lets those who wait for one another starve."""
        self._has_failed = False
        """Whether a transaction has failed since one for certain wrote something."""
        self._unopened: StoreUnavailable | None = None
        """Why a copy stands in for the database; ``None`` while the database itself is open."""

    def open(self) -> None:
        """Connect and bring the tables to the present revision.

        Raises:
            ConfigurationError: the URL cannot be used.
            StoreUnavailable: the database does not answer, or its file cannot be used; says what to do next.
        """
        url = _usable(self._url)
        file = _sqlite_file(url)
        if file is not None:
            _make_private(file)
        engine = _engine(url)
        try:
            with _translated(file), engine.begin() as connection:
                migrate(connection)
        except StoreUnavailable:
            engine.dispose()
            raise
        self._close_copy()
        self._engine, self._files = engine, _files(file)

    def open_or_read(self) -> StoreUnavailable | None:
        """Open; where its disk takes nothing, read from a copy until it does (``look``), and return why: nothing is kept meanwhile.

        Raises as ``open`` does where the disk is not to blame, or where no other disk takes the copy.
        """
        try:
            self.open()
        except StoreUnavailable as exc:
            if (file := self._file) is None or not _takes_nothing(exc):
                raise
            try:
                self._engine = _opened_copy(file)
            except OSError:
                raise exc from None
            self._unopened, self._has_failed = exc, True
            return exc
        try:
            self._write_something()  # with a journal of an earlier run at hand even a full disk's database opens
        except StoreUnavailable as exc:
            return exc
        return None

    def _write_something(self) -> None:
        with self._kept() as connection:
            connection.execute(update(revisions).values(version_num=revisions.c.version_num))

    def _close_copy(self) -> None:
        if self._unopened is not None and self._engine is not None:
            self._engine.dispose()
            remove(Path(str(self._engine.url.database)))
            self._unopened = self._engine = None

    def look(self) -> bool:
        """Return whether the file was deleted or replaced and is open anew; where a transaction has failed, try to write.

        A deleted one is written again with all that it held: it is there as long as it is open.

        Raises StoreUnavailable: nothing can be written now.
        """
        if self._is_replaced():
            if (file := self._file) is not None and not file.exists():
                self._restore(file)
            log.error("the database %s was deleted or replaced: it is opened anew", self._file)
            was = self._files
            self.close()  # before the new one is opened: SQLite must not meet two journals of one name
            _remove_journal(self._file, was)
            self._open_anew()
            return True
        if self._unopened is not None:
            self.open()
            return True
        if self._engine is None:
            self._open_anew()
            return True
        if self._has_failed:
            self._write_something()
        return False

    def _open_anew(self) -> None:
        """Raises StoreUnavailable."""
        try:
            self.open()
        except StoreUnavailable as exc:
            raise self._gone(exc.params["reason"]) from exc

    def _restore(self, file: Path) -> None:
        """Copy the deleted file, which is open still, to its path. One that cannot be read is given up.

        Raises StoreUnavailable: it cannot be copied now; what it holds can be read until it can be.
        """
        engine, copy = self._engine, Path(f"{file}.new")
        assert engine is not None
        if not engine.pool.checkedin():  # type: ignore[attr-defined]
            raise self._gone("all connections to the deleted file are in use")  # a new one would open another file
        try:
            _make_private(copy)
            with engine.connect() as connection, closing(sqlite3.connect(copy)) as target:
                connection.connection.driver_connection.backup(target)  # type: ignore[union-attr]
            copy.rename(file)
        except (StoreUnavailable, OSError, sqlite3.OperationalError) as exc:
            with suppress(OSError):
                copy.unlink()
            raise self._gone(str(exc)) from exc
        except (sqlite3.Error, SQLAlchemyError):
            copy.unlink(missing_ok=True)
            log.exception("what the deleted database %s held cannot be read and is lost", file)

    def _gone(self, reason: object) -> StoreUnavailable:
        return StoreUnavailable(trouble=StoreTrouble.GONE.value, file=str(self._file), reason=str(reason))

    @property
    def _file(self) -> Path | None:
        return _sqlite_file(make_url(self._url))

    def _is_replaced(self) -> bool:
        """Whether what is open is not what stands at the path any more; nothing that is written there would be found again."""
        return self._files is not None and _files(self._file) != self._files

    def has_served(self) -> bool:
        """Whether a Warden has run with this database; needs no ``open``, and creates nothing.

        Raises:
            ConfigurationError: the URL cannot be used.
            StoreUnavailable: the database does not answer.
        """
        url = _usable(self._url)
        file = _sqlite_file(url)
        if file is not None and not file.exists():
            return False
        engine = _engine(url)
        try:
            with _translated(file), engine.connect() as connection:
                present = set(inspect(connection).get_table_names())
                kept = (each for each in WRITTEN_BY_A_RUN if each.name in present)
                return any(connection.execute(select(each).limit(1)).first() is not None for each in kept)
        finally:
            engine.dispose()

    def close(self) -> None:
        """Close all connections; idempotent."""
        self._close_copy()
        engine, self._engine, self._files = self._engine, None, None
        if engine is not None:
            engine.dispose()

    def save_operation(self, operation: Operation) -> None:
        """Keep ``operation``, replacing what was kept under its id. Raises StoreUnavailable."""
        row = _row(operation)
        with self._kept() as connection:
            changed = connection.execute(update(table).where(table.c.id == row["id"]).values(row))
            if changed.rowcount == 0:
                connection.execute(insert(table).values(row))

    def drop_operation(self, operation_id: str) -> None:
        """Forget an operation that was not begun after all; idempotent. Raises StoreUnavailable."""
        with self._kept() as connection:
            connection.execute(delete(table).where(table.c.id == _text(operation_id)))

    def operation(self, operation_id: str) -> Operation | None:
        """Return the operation ``operation_id`` or ``None``. Raises StoreUnavailable, also when its document is unreadable."""
        query = select(table.c.id, table.c.document).where(table.c.id == _text(operation_id))
        with self._begin() as connection:
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
        """Return up to ``limit`` operations, newest first, that ``where`` matches.

        ``before`` is the id of the last one already seen: the page after it is returned, and none when it is unknown. A document
        that cannot be read is left out and logged. Raises StoreUnavailable.
        """
        conditions: list[ColumnElement[bool]] = [
            table.c[name] == _text(value) for name, value in vars(where).items() if value is not None
        ]
        if before is not None:
            seen = select(table.c.started_at, table.c.id).where(table.c.id == _text(before)).scalar_subquery()
            conditions.append(tuple_(table.c.started_at, table.c.id) < seen)
        return self._select(_newest(*conditions).limit(limit))

    def values(self) -> OperationValues:
        """Return what the kept operations can be filtered by. Raises StoreUnavailable."""
        columns = (table.c.kind, table.c.actor, table.c.model_id, table.c.state)
        with self._begin() as connection:
            rows = connection.execute(select(*columns).distinct()).all()
        return OperationValues(
            kinds=_members(OperationKind, {row.kind for row in rows}),
            actors=tuple(sorted({row.actor for row in rows}, key=str.lower)),
            models=tuple(sorted({row.model_id for row in rows if row.model_id is not None}, key=str.lower)),
            states=_members(OperationState, {row.state for row in rows}),
        )

    def running(self) -> tuple[Operation, ...]:
        """Return every operation that was kept as running, newest first. Raises StoreUnavailable."""
        return self._select(_newest(table.c.state == OperationState.RUNNING.value))

    def prune(self, before: float) -> bool:
        """Drop some of the operations that ended before ``before``; return whether there are more. Raises StoreUnavailable."""
        old = select(table.c.id).where(table.c.ended_at < before).limit(PRUNED_AT_ONCE)
        with self._kept() as connection:
            return connection.execute(delete(table).where(table.c.id.in_(old))).rowcount == PRUNED_AT_ONCE

    def save_points(self, step_s: int, points: Mapping[str, Sequence[Point]]) -> None:
        """Keep points by device, ``step_s`` apart, replacing those of the same moments. Raises StoreUnavailable."""
        rows = [
            {"step_s": step_s, "device_id": device_id, "taken_at": point.taken_at, "document": dump_point(point)}
            for device_id, of_device in points.items()
            for point in of_device
        ]
        if not rows:
            return
        same = [column == bindparam(f"of_{column.name}") for column in timeline.primary_key.columns]
        keys = [{f"of_{name}": value for name, value in row.items() if name != "document"} for row in rows]
        with self._begin() as connection:
            connection.execute(delete(timeline).where(*same), keys)
            connection.execute(insert(timeline), rows)

    def points(self, device_id: str, step_s: int, since: float) -> tuple[Point, ...]:
        """Return a device's points from ``since`` on, oldest first.

        A document that cannot be read is left out and logged. Raises StoreUnavailable.
        """
        where = (timeline.c.step_s == step_s, timeline.c.device_id == _text(device_id), timeline.c.taken_at >= since)
        query: Select[Any] = select(timeline.c.taken_at, timeline.c.document).where(*where)
        with self._begin() as connection:
            rows = connection.execute(query.order_by(timeline.c.taken_at)).all()
        return tuple(_readable_points(rows))

    def drop_points(self, step_s: int, before: float) -> int:
        """Drop the points that are older than ``before`` and return how many went. Raises StoreUnavailable."""
        old = (timeline.c.step_s == step_s, timeline.c.taken_at < before)
        with self._begin() as connection:
            return connection.execute(delete(timeline).where(*old)).rowcount

    def recorded(self, step_s: int) -> tuple[str, ...]:
        """Return the devices that there are points of, ``step_s`` apart. Raises StoreUnavailable."""
        query = select(timeline.c.device_id).where(timeline.c.step_s == step_s).distinct()
        with self._begin() as connection:
            return tuple(connection.execute(query).scalars())

    def newest(self, device_id: str, step_s: int) -> float | None:
        """Return the moment of a device's newest point, ``None`` where there is none. Raises StoreUnavailable."""
        where = (timeline.c.step_s == step_s, timeline.c.device_id == _text(device_id))
        with self._begin() as connection:
            return connection.execute(select(func.max(timeline.c.taken_at)).where(*where)).scalar()

    def ended(self, since: float, limit: int) -> tuple[str, ...]:
        """Return the ids of the newest ``limit`` operations that ended at ``since`` or later, oldest first. Raises StoreUnavailable."""
        query = select(table.c.id).where(table.c.ended_at >= since).order_by(table.c.ended_at.desc()).limit(limit)
        with self._begin() as connection:
            return tuple(reversed(connection.execute(query).scalars().all()))

    def events(self, ids: Collection[str]) -> tuple[Event, ...]:
        """Return those of the operations that can be read, in any order. Raises StoreUnavailable."""
        with self._begin() as connection:
            rows = connection.execute(select(table).where(table.c.id.in_(ids))).all()
        return tuple(event for row in rows if (event := _event(row)) is not None)

    def save_measurement(self, measurement: Measurement, keep: int) -> None:
        """Keep a measurement, and of its kind of launch only the newest ``keep``. Raises StoreUnavailable."""
        kind, same = dump(measurement.kind), measurements.c.kind == dump(measurement.kind)
        moments = select(measurements.c.taken_at).where(same).order_by(measurements.c.taken_at.desc())
        row = {"kind": kind, "taken_at": measurement.taken_at, "document": dump(measurement)}
        with self._begin() as connection:
            connection.execute(delete(measurements).where(same, measurements.c.taken_at == measurement.taken_at))
            connection.execute(insert(measurements).values(row))
            connection.execute(delete(measurements).where(same, measurements.c.taken_at.not_in(moments.limit(keep))))

    def measurements(self) -> tuple[Measurement, ...]:
        """Return all kept measurements, oldest first.

        A document that cannot be read is left out and logged. Raises StoreUnavailable.
        """
        query = select(measurements.c.document).order_by(measurements.c.taken_at)
        return self._documents(Measurement, query, "measurement")

    def save_ticket(self, ticket: QueuedLaunch, keep: int) -> None:
        """Insert or replace a ticket, and of the ended ones keep only the newest ``keep``. Raises StoreUnavailable."""
        row = {"id": ticket.id, "number": ticket.number, "ended_at": ticket.ended_at, "document": dump(ticket)}
        ended = tickets.c.ended_at.is_not(None)
        newest = select(tickets.c.id).where(ended).order_by(tickets.c.ended_at.desc()).limit(keep)
        with self._kept() as connection:
            connection.execute(delete(tickets).where(tickets.c.id == ticket.id))
            connection.execute(insert(tickets).values(row))
            connection.execute(delete(tickets).where(ended, tickets.c.id.not_in(newest)))

    def drop_ticket(self, ticket_id: str) -> None:
        """Forget a ticket that was not taken after all; idempotent. Raises StoreUnavailable."""
        with self._kept() as connection:
            connection.execute(delete(tickets).where(tickets.c.id == _text(ticket_id)))

    def tickets(self) -> tuple[QueuedLaunch, ...]:
        """Return all kept tickets in the order in which people came.

        A document that cannot be read is left out and logged. Raises StoreUnavailable.
        """
        query = select(tickets.c.document).order_by(tickets.c.number)
        return self._documents(QueuedLaunch, query, "request that waits")

    def _documents(self, kind: type[T], query: Select[Any], what: str) -> tuple[T, ...]:
        with self._begin() as connection:
            documents = connection.execute(query).scalars().all()
        return tuple(_readable_documents(kind, documents, what))

    def save_lease(self, instance_id: str, lease: Lease, changed_at: float) -> None:
        """Keep the terms of an instance, replacing those that were kept. Raises StoreUnavailable."""
        key = _text(instance_id)
        row = {"instance_id": key, "changed_at": changed_at, "document": dump(lease)}
        with self._kept() as connection:
            connection.execute(delete(leases).where(leases.c.instance_id == key))
            connection.execute(insert(leases).values(row))

    def drop_lease(self, instance_id: str) -> None:
        """Forget the terms of an instance; idempotent. Raises StoreUnavailable."""
        with self._kept() as connection:
            connection.execute(delete(leases).where(leases.c.instance_id == _text(instance_id)))

    def drop_leases(self, before: float) -> int:
        """Forget what has not changed since ``before`` and return how many went. Raises StoreUnavailable."""
        with self._begin() as connection:
            return connection.execute(delete(leases).where(leases.c.changed_at < before)).rowcount

    def leases(self) -> Mapping[str, Lease]:
        """Return all kept terms by instance.

        A document that cannot be read is left out and logged. Raises StoreUnavailable.
        """
        query: Select[Any] = select(leases.c.instance_id, leases.c.document)
        with self._begin() as connection:
            rows = connection.execute(query).all()
        return dict(_readable_leases(rows))

    def _select(self, query: Select[Any]) -> tuple[Operation, ...]:
        with self._begin() as connection:
            rows = connection.execute(query).all()
        return tuple(_readable(rows))

    def begin(self) -> AbstractContextManager[Connection]:
        """A transaction for another module of this package. Raises StoreUnavailable, also for what fails inside."""
        return self._begin()

    @contextmanager
    def _kept(self) -> Iterator[Connection]:
        """A transaction of what people rely on: it waits no longer than they do, and ends well only in the file at the path."""
        deadline = time.monotonic() + PROMPT_S
        if not self._writing.acquire(timeout=PROMPT_S):
            raise StoreUnavailable(reason="another write takes too long", trouble=StoreTrouble.SLOW.value)
        try:
            self._refuse_replaced()
            with self._begin(max(0.0, deadline - time.monotonic())) as connection:
                yield connection
            self._refuse_replaced()
        finally:
            self._writing.release()
        self._has_failed = False

    def _refuse_replaced(self) -> None:
        if self._is_replaced():
            file = str(self._file)
            raise StoreUnavailable(reason=f"{file} was deleted or replaced", trouble=StoreTrouble.GONE.value, file=file)

    @contextmanager
    def _begin(self, busy_s: float = BUSY_TIMEOUT_S) -> Iterator[Connection]:
        """A transaction whose errors are the store's."""
        engine = self._engine
        if engine is None:
            raise StoreUnavailable(reason="the database is not open", trouble=StoreTrouble.FAILED.value)
        try:
            with (
                _translated(_sqlite_file(engine.url)),
                engine.connect() as connection,
                connection.execution_options(warden_busy_s=busy_s).begin(),
            ):
                yield connection
        except StoreUnavailable as exc:
            self._has_failed = True
            if self._unopened is not None:
                raise StoreUnavailable(**self._unopened.params) from exc
            raise


_Files = tuple[tuple[int, int] | None, ...] | None


def _remove_journal(file: Path | None, was: _Files) -> None:
    """Remove the journal of a database that stands there no more: SQLite would write its pages into the one that does."""
    now = _files(file)
    if now is None or was is None or now[0] == was[0] or now[1] != was[1]:
        return
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def _files(file: Path | None) -> _Files:
    """Which files stand at the paths of an SQLite database and of its journal; ``None`` in the place of one that does not."""
    return None if file is None else tuple(_identity(Path(f"{file}{suffix}")) for suffix in ("", "-wal"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _members(of: type[E], found: set[str]) -> tuple[E, ...]:
    """The members of a closed set that were found, in its own order; what a later version wrote is left out."""
    return tuple(member for member in of if member.value in found)


def _newest(*conditions: ColumnElement[bool]) -> Select[Any]:
    return select(table.c.id, table.c.document).where(*conditions).order_by(*_NEWEST_FIRST)


def _row(operation: Operation) -> dict[str, str | float | None]:
    return {
        "id": _text(operation.id),
        "kind": operation.kind.value,
        "actor": _text(operation.actor),
        "state": operation.state.value,
        "mode": None if operation.mode is None else _text(operation.mode),
        "model_id": None if operation.model_id is None else _text(operation.model_id),
        "started_at": operation.started_at,
        "ended_at": operation.ended_at,
        "document": dump(operation),
    }


def _readable(rows: Iterable[Row[Any]]) -> Iterator[Operation]:
    for row in rows:
        try:
            yield load(Operation, row.document)
        except DocumentError as exc:
            log.warning("operation %s cannot be read and is left out: %s", row.id, exc)


def _readable_points(rows: Iterable[Row[Any]]) -> Iterator[Point]:
    for row in rows:
        try:
            yield load_point(row.taken_at, row.document)
        except DocumentError as exc:
            log.warning("a point of the timeline cannot be read and is left out: %s", exc)


def _readable_documents(kind: type[T], documents: Iterable[str], what: str) -> Iterator[T]:
    for document in documents:
        try:
            yield load(kind, document)
        except DocumentError as exc:
            log.warning("a %s cannot be read and is left out: %s", what, exc)


def _readable_leases(rows: Iterable[Row[Any]]) -> Iterator[tuple[str, Lease]]:
    for row in rows:
        try:
            yield row.instance_id, load(Lease, row.document)
        except DocumentError as exc:
            log.warning("the lease of %s cannot be read and is left out: %s", row.instance_id, exc)


def _event(row: Row[Any]) -> Event | None:
    """What a mark needs of an operation. The document is not built up as a whole: that costs ten times as much."""
    try:
        document = json.loads(row.document)
        unloaded = [receipt["device_id"] for receipt in document.get("receipts", ())]
        return Event(
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
        log.warning("operation %s cannot be read and is left out: %s", row.id, exc)
        return None


def shown_database(text: str | URL) -> str:
    """Return the database of a URL for people: a file's full path, or server and name without user, password and options."""
    try:
        url = make_url(text)
    except SQLAlchemyError:
        return "(unreadable)"
    file = _sqlite_file(url)
    if file is not None:
        return str(file.absolute())
    shown = URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database)
    sockets = {name: url.query[name] for name in ("host", "port") if name in url.query}
    return shown.set(query=sockets).render_as_string()


def _usable(text: str) -> URL:
    try:
        url = make_url(text)
    except SQLAlchemyError as exc:
        raise _misconfigured("(hidden)", "not an SQLAlchemy URL, such as sqlite:////var/lib/warden/warden.db") from exc
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise _misconfigured(shown_database(url), "only SQLite and PostgreSQL are supported")
    if url.get_backend_name() == "postgresql" and url.get_driver_name() not in DRIVERS:
        raise _misconfigured(
            shown_database(url), f"{url.get_driver_name()} is no driver that keeps Warden's deadlines; leave it out"
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise _misconfigured(shown_database(url), "a database in memory forgets everything; name a file")
    return url


def _misconfigured(value: str, detail: str) -> ConfigurationError:
    return ConfigurationError(setting="WARDEN_DATABASE_URL", value=value, detail=detail)


def _sqlite_file(url: URL) -> Path | None:
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def _make_private(file: Path) -> None:
    """Create the database file, or restrict it, to mode 0600; SQLite gives its journal files the same mode."""
    try:
        make_private(file.parent)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except OSError as exc:
        trouble = disk_trouble(exc)
        advice = "check the folder's owner and free space, or set WARDEN_STATE_DIR to another one"
        raise StoreUnavailable(
            reason=f"{file}: {trouble or f'{exc.strerror}; {advice}'}",
            trouble=(StoreTrouble.FULL if exc.errno in (errno.ENOSPC, errno.EDQUOT) else StoreTrouble.FAILED).value,
            file=str(file),
        ) from exc


def _takes_nothing(error: StoreUnavailable) -> bool:
    """Whether the database cannot be opened because nothing can be written on its disk."""
    cause = error.__cause__
    is_full = error.params.get("trouble") == StoreTrouble.FULL.value
    return is_full or (isinstance(cause, OSError) and disk_trouble(cause) is not None)


def _opened_copy(file: Path) -> Engine:
    """Return an engine over a copy that is only read. Raises OSError, StoreUnavailable."""
    copy = copy_elsewhere(file)
    engine = _engine(URL.create("sqlite", database=str(copy)))
    try:
        with _translated(file), engine.begin() as connection:
            migrate(connection)
    except StoreUnavailable:
        engine.dispose()
        remove(copy)
        raise
    engine.dispose()  # what is connected from here on only reads
    event.listen(engine, "connect", _only_read)
    return engine


def _only_read(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, **postgresql_options(url), hide_parameters=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
    except ImportError as exc:
        raise _misconfigured(
            shown_database(url),
            f"the database driver is missing: pip install {EXTRAS.get(exc.name or '', exc.name)}",
        ) from exc
    except NoSuchModuleError as exc:
        raise _misconfigured(
            shown_database(url),
            f"there is no driver {url.get_driver_name()}; leave it out",
        ) from exc
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def postgresql_options(url: URL) -> dict[str, Any]:
    """Return what an engine is made with. The URL's own words win; of two ``-c`` among libpq's options the later one counts."""
    own = url.query.get("options", "")
    options = own if isinstance(own, str) else " ".join(own)
    missing = {name: value for name, value in DEADLINES.items() if name not in url.query}
    connect_args = {**missing, "options": f"{STATEMENT_TIMEOUT} {options}".rstrip()}
    return {"connect_args": connect_args, "pool_timeout": POOL_TIMEOUT_S, "pool_pre_ping": True}


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # Python's driver opens transactions late and never around DDL, so a crash would leave half a migration: Warden begins its own.
    connection.isolation_level = None
    # FULL: in WAL mode nothing less brings a commit to the disk before it returns, and what was confirmed outlives a power failure.
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"):
        connection.execute(statement)


def _begin_sqlite(connection: Connection) -> None:
    busy_s = connection.get_execution_options().get("warden_busy_s", BUSY_TIMEOUT_S)
    connection.exec_driver_sql(f"PRAGMA busy_timeout={round(busy_s * 1000)}")
    connection.exec_driver_sql("BEGIN")


@contextmanager
def _translated(file: Path | None) -> Iterator[None]:
    """Turn what SQLAlchemy and its driver raise into StoreUnavailable."""
    try:
        yield
    except NewerDatabase as exc:
        raise StoreUnavailable(
            reason=f"a newer Warden has written the database ({exc}); update Warden, or choose another folder by WARDEN_STATE_DIR"
        ) from exc
    except ForeignDatabase as exc:
        raise StoreUnavailable(
            reason=f"{file or 'the database'} was written by a version of Warden that was never released ({exc}); start that "
            "version, or restore a backup made before it ran, or move the database away: loaded models stay, while history, "
            "leases and accounts are lost"
        ) from exc
    except SQLAlchemyError as exc:
        where: dict[str, str] = {} if file is None else {"file": str(file)}
        raise StoreUnavailable(reason=_reason(exc, file), trouble=_trouble(exc, file).value, **where) from exc


def _trouble(error: SQLAlchemyError, file: Path | None) -> StoreTrouble:
    """What it was, by SQLite's own name for it; a full disk is also found by the disk itself, since SQLite may call it an I/O error."""
    name = str(getattr(getattr(error, "orig", None), "sqlite_errorname", ""))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StoreTrouble.LOCKED
    if name == "SQLITE_FULL" or (name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN")) and _is_full(file)):
        return StoreTrouble.FULL
    return StoreTrouble.FAILED


def _is_full(file: Path | None) -> bool:
    if file is None:
        return False
    try:
        disk = os.statvfs(file.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < SPACE_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


def _reason(error: SQLAlchemyError, file: Path | None) -> str:
    """What happened in the driver's own words, where, and what to do; never the statement's values or a password."""
    detail = " ".join(str(error.orig if isinstance(error, DatabaseError) else error).split())
    if file is None:
        return f"{detail}; check that the database server runs and WARDEN_DATABASE_URL is right"
    if "not a database" in detail or "malformed" in detail:
        return f"{file}: {detail}; move the file away and start again: loaded models stay, only the history is lost"
    if _trouble(error, file) is StoreTrouble.FULL:
        return f"{file}: {detail}; the disk is full: free space on it"
    return f"{file}: {detail}; check the folder's owner and free space"
