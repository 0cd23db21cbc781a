"""The database: opened, watched, and restored; every repository of this package works in its transactions.

SQLite, or PostgreSQL by URL. Only this package imports SQLAlchemy.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, select, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from webapp.domain.keeping import StoreTrouble
from webapp.errors import StoreUnavailable
from webapp.store.engines import BUSY_TIMEOUT_S, make_engine
from webapp.store.failures import gone, is_disk_unwritable, translated
from webapp.store.files import Files, files_at, make_database_private, remove_journal
from webapp.store.migrate import migrate
from webapp.store.schema import operations, revisions, timeline
from webapp.store.stand_in import close_copy, open_copy
from webapp.store.urls import sqlite_file, usable

log = logging.getLogger(__name__)

PROMPT_S = 0.9
"""How long a write may take that a person waits for: an answer, or the reason for a failure, comes within a second."""

WRITTEN_BY_A_RUN = (timeline, operations)
"""Tables that only a running Warden writes; accounts are also written from a terminal."""


class Database:
    """One database. Safe to use from any thread between ``open`` and ``close``."""

    def __init__(self, url: str) -> None:
        """Keep the SQLAlchemy URL; nothing is opened yet."""
        self._url = url
        self._engine: Engine | None = None
        self._files: Files = None
        """Which files are open; SQLite only."""
        self._writing = threading.Lock()
        """Held during a durable write: SQLite does not queue waiting writers, so one of them could starve."""
        self._has_failed = False
        """Whether a transaction has failed since the last durable write that succeeded."""
        self._unopened: StoreUnavailable | None = None
        """Why a copy is open instead of the database; ``None`` while the database itself is open."""

    # Opening and closing

    def open(self) -> None:
        """Connect and bring the tables to the current revision.

        Raises:
            ConfigurationError: the URL cannot be used.
            StoreUnavailable: the database does not answer, or its file cannot be used; says what to do next.
        """
        url = usable(self._url)
        file = sqlite_file(url)
        if file is not None:
            make_database_private(file)
        engine = make_engine(url)
        try:
            with translated(file), engine.begin() as connection:
                migrate(connection)
        except StoreUnavailable:
            engine.dispose()
            raise
        self._close_copy()
        self._engine, self._files = engine, files_at(file)

    def open_or_read(self) -> StoreUnavailable | None:
        """Open; if the disk cannot be written, read from a copy until it can be (``look``), and return the reason.

        Raises as ``open`` does if the disk is not the cause, or if there is no other disk with room for the copy.
        """
        try:
            self.open()
        except StoreUnavailable as exc:
            if (file := self._file) is None or not is_disk_unwritable(exc):
                raise
            try:
                self._engine = open_copy(file)
            except OSError:
                raise exc from None
            self._unopened, self._has_failed = exc, True
            return exc
        try:
            self._write_something()  # if an earlier run left its journal, the database opens even on a full disk
        except StoreUnavailable as exc:
            return exc
        return None

    def has_served(self) -> bool:
        """Return whether a Warden has run with this database; needs no ``open`` and creates nothing.

        Raises:
            ConfigurationError: the URL cannot be used.
            StoreUnavailable: the database does not answer.
        """
        url = usable(self._url)
        file = sqlite_file(url)
        if file is not None and not file.exists():
            return False
        engine = make_engine(url)
        try:
            with translated(file), engine.connect() as connection:
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

    def _close_copy(self) -> None:
        if self._unopened is not None and self._engine is not None:
            close_copy(self._engine)
            self._unopened = self._engine = None

    # Transactions

    @contextmanager
    def begin(self, busy_s: float = BUSY_TIMEOUT_S) -> Iterator[Connection]:
        """Open a transaction and yield its connection. Raises StoreUnavailable, also for what fails inside."""
        engine = self._engine
        if engine is None:
            raise StoreUnavailable(reason="the database is not open", trouble=StoreTrouble.FAILED.value)
        try:
            with (
                translated(sqlite_file(engine.url)),
                engine.connect() as connection,
                connection.execution_options(warden_busy_s=busy_s).begin(),
            ):
                yield connection
        except StoreUnavailable as exc:
            self._has_failed = True
            if self._unopened is not None:
                raise StoreUnavailable(**self._unopened.params) from exc
            raise

    @contextmanager
    def durable(self) -> Iterator[Connection]:
        """Open a transaction for data that people rely on: it fails within ``PROMPT_S`` or is on the disk.

        Raises StoreUnavailable, also for what fails inside.
        """
        deadline = time.monotonic() + PROMPT_S
        if not self._writing.acquire(timeout=PROMPT_S):
            raise StoreUnavailable(reason="another write takes too long", trouble=StoreTrouble.SLOW.value)
        try:
            self._refuse_replaced()
            with self.begin(max(0.0, deadline - time.monotonic())) as connection:
                yield connection
            self._refuse_replaced()
        finally:
            self._writing.release()
        self._has_failed = False

    def _write_something(self) -> None:
        with self.durable() as connection:
            connection.execute(update(revisions).values(version_num=revisions.c.version_num))

    # A database that was deleted or replaced, or has failed

    def look(self) -> bool:
        """Reopen a deleted or replaced file and return whether there was one; after a failed transaction, try a write.

        A deleted file is restored with all its contents, which stay readable as long as the file is open.

        Raises StoreUnavailable: nothing can be written now.
        """
        if self._is_replaced():
            if (file := self._file) is not None and not file.exists():
                self._restore(file)
            log.error("the database %s was deleted or replaced: it is opened anew", self._file)
            was = self._files
            self.close()  # before the new one is opened: SQLite must not meet two journals of one name
            remove_journal(self._file, was)
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
        """Open the database again. Raises StoreUnavailable."""
        try:
            self.open()
        except StoreUnavailable as exc:
            raise gone(self._file, exc.params["reason"]) from exc

    def _restore(self, file: Path) -> None:
        """Copy the deleted file, which is still open, back to its path. Contents that cannot be read are lost.

        Raises StoreUnavailable: it cannot be copied now; its contents stay readable for the next attempt.
        """
        engine, copy = self._engine, Path(f"{file}.new")
        assert engine is not None
        if not engine.pool.checkedin():  # type: ignore[attr-defined]
            # a new connection would open another file
            raise gone(file, "all connections to the deleted file are in use")
        try:
            make_database_private(copy)
            with engine.connect() as connection, closing(sqlite3.connect(copy)) as target:
                connection.connection.driver_connection.backup(target)  # type: ignore[union-attr]
            copy.rename(file)
        except (StoreUnavailable, OSError, sqlite3.OperationalError) as exc:
            with suppress(OSError):
                copy.unlink()
            raise gone(file, exc) from exc
        except (sqlite3.Error, SQLAlchemyError):
            copy.unlink(missing_ok=True)
            log.exception("what the deleted database %s held cannot be read and is lost", file)

    @property
    def _file(self) -> Path | None:
        return sqlite_file(make_url(self._url))

    def _is_replaced(self) -> bool:
        """Whether the open file is no longer the one at the path: a write to it would be lost."""
        return self._files is not None and files_at(self._file) != self._files

    def _refuse_replaced(self) -> None:
        if self._is_replaced():
            raise gone(self._file, f"{self._file} was deleted or replaced")
