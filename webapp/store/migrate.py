"""Bringing a database to the revision that this version of Warden works with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, insert, inspect, select

from webapp.store.schema import HEAD, metadata, revisions

MIGRATIONS = Path(__file__).with_name("migrations")


class NewerDatabase(Exception):
    """The database has a revision that this version of Warden does not know."""


def migrate(connection: Connection) -> None:
    """Make or run what is missing, inside the connection's transaction; an up-to-date database costs two small reads.

    Raises:
        NewerDatabase: a newer Warden has migrated it.
    """
    if connection.dialect.name == "postgresql":  # no request waits for it, and a new index may take longer than one may
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    tables = inspect(connection).get_table_names()
    if not tables:
        _make(connection)
    elif _revision(connection, tables) != HEAD:
        _upgrade(connection)


def _revision(connection: Connection, tables: Collection[str]) -> str | None:
    if revisions.name not in tables:
        return None
    return connection.execute(select(revisions.c.version_num)).scalar()


def _make(connection: Connection) -> None:
    """Make the newest tables in an empty database, marked as if every revision had been run."""
    metadata.create_all(connection, checkfirst=False)
    revisions.create(connection)
    connection.execute(insert(revisions).values(version_num=HEAD))


def _upgrade(connection: Connection) -> None:
    # Imported here: Alembic takes 0.2 s and 6 MB, and only an update needs it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise NewerDatabase(str(exc)) from exc
