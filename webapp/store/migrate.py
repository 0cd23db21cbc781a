"""Bringing a database to the revision that this version of Warden works with."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from webapp.store.schema import HEAD

MIGRATIONS = Path(__file__).with_name("migrations")


class NewerDatabase(Exception):
    """The database has a revision that this version of Warden does not know."""


def migrate(connection: Connection) -> None:
    """Run what is missing, inside the connection's transaction; an up-to-date database costs two small reads.

    Raises:
        NewerDatabase: a newer Warden has migrated it.
    """
    if current_revision(connection) != HEAD:
        _upgrade(connection)


def current_revision(connection: Connection) -> str | None:
    """Return the database's revision, ``None`` when it is empty."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _upgrade(connection: Connection) -> None:
    # Imported here: Alembic takes 0.2 s and 6 MB, and only a first start and an update need it.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.util import CommandError  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as exc:
        raise NewerDatabase(str(exc)) from exc
