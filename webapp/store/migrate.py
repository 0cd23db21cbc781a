"""Migrate a database to the revision that this version of Warden works with."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select
from sqlalchemy.exc import DatabaseError

from webapp.store.schema import HEAD, metadata, revisions

MIGRATIONS = Path(__file__).with_name("migrations")


_MISFIT = re.compile("already exists|duplicate column|no such (table|column)|does not exist", re.IGNORECASE)
"""The messages of SQLite and PostgreSQL for a revision that does not match the tables; a full disk and a lock have
others."""


class NewerDatabase(Exception):
    """The database's revision is later than any that this version of Warden knows; ``str()`` names both."""


class ForeignDatabase(Exception):
    """The revision, or the tables, are those of no released version of Warden; ``str()`` says what does not match."""


def migrate(connection: Connection) -> None:
    """Create the tables or run the missing revisions, inside the connection's transaction.

    A current database costs two small reads.

    Raises:
        NewerDatabase: a newer Warden has migrated it.
        ForeignDatabase: its revision or its tables are not those of any version up to this one.
    """
    if connection.dialect.name == "postgresql":  # no request waits for this, and a new index may take longer
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    tables = inspect(connection).get_table_names()
    if not tables:
        _make(connection)
    elif (revision := _revision(connection, tables)) != HEAD:
        _upgrade(connection, revision)


def _revision(connection: Connection, tables: Collection[str]) -> str | None:
    if revisions.name not in tables:
        return None
    return connection.execute(select(revisions.c.version_num)).scalar()


def _make(connection: Connection) -> None:
    """Create the current tables in an empty database, marked as if every revision had been run."""
    metadata.create_all(connection, checkfirst=False)
    revisions.create(connection)
    connection.execute(insert(revisions).values(version_num=HEAD))


def _upgrade(connection: Connection, revision: str | None) -> None:
    # Alembic takes 0.2 s of the page's start, and only an update needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        is_later = revision is not None and revision.isdigit() and revision > HEAD
        raise (NewerDatabase if is_later else ForeignDatabase)(
            f"revision {revision}; this version knows revisions up to {HEAD}"
        ) from exc
    except DatabaseError as exc:
        if not _MISFIT.search(detail := " ".join(str(exc.orig).split())):
            raise
        raise ForeignDatabase(f"revision {revision} does not fit its tables: {detail}") from exc
