"""SQLAlchemy engines with Warden's settings for SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import NoSuchModuleError

from webapp.store.urls import misconfigured, shown_database

BUSY_TIMEOUT_S = 5.0
"""How long a write waits for another process's write, SQLite only."""
POOL_TIMEOUT_S = 3.0
"""How long a thread waits for a free connection of the pool, PostgreSQL only."""
DEADLINES: Mapping[str, int] = {"connect_timeout": 3, "tcp_user_timeout": 5000}
"""libpq's deadlines, in seconds and in milliseconds: without them an unresponsive host would block a request for
minutes. Values in the URL take precedence."""
EXTRAS = {"psycopg": "'warden[postgresql]'"}
"""The extra of the package that installs each driver."""
STATEMENT_TIMEOUT = "-c statement_timeout=5000"


def make_engine(url: URL) -> Engine:
    """Return an engine; nothing is opened yet. Raises ConfigurationError if the driver is missing."""
    try:
        if url.get_backend_name() != "sqlite":
            return create_engine(url, **postgresql_options(url), hide_parameters=True)
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S}, hide_parameters=True)
    except ImportError as exc:
        package = EXTRAS.get(exc.name or "", exc.name)
        raise misconfigured(shown_database(url), f"the database driver is missing: pip install {package}") from exc
    except NoSuchModuleError as exc:
        raise misconfigured(shown_database(url), f"there is no driver {url.get_driver_name()}; leave it out") from exc
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def postgresql_options(url: URL) -> dict[str, Any]:
    """Return the arguments of a PostgreSQL engine. Values in the URL take precedence: of two ``-c``
    options libpq uses the later one."""
    own = url.query.get("options", "")
    options = own if isinstance(own, str) else " ".join(own)
    missing = {name: value for name, value in DEADLINES.items() if name not in url.query}
    connect_args = {**missing, "options": f"{STATEMENT_TIMEOUT} {options}".rstrip()}
    return {"connect_args": connect_args, "pool_timeout": POOL_TIMEOUT_S, "pool_pre_ping": True}


def only_read(engine: Engine) -> None:
    """Make an SQLite engine read-only: open connections are closed, and new ones cannot write."""
    engine.dispose()
    event.listen(engine, "connect", _refuse_writes)


def _refuse_writes(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")


def _set_up_sqlite(connection: Any, _record: object) -> None:
    # Python's driver opens transactions late and never around DDL, so a crash would leave half a migration: Warden
    # begins its own.
    connection.isolation_level = None
    # In WAL mode only FULL brings a commit to the disk before it returns, and a confirmed write has to survive a power
    # failure.
    for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"):
        connection.execute(statement)


def _begin_sqlite(connection: Connection) -> None:
    busy_s = connection.get_execution_options().get("warden_busy_s", BUSY_TIMEOUT_S)
    connection.exec_driver_sql(f"PRAGMA busy_timeout={round(busy_s * 1000)}")
    connection.exec_driver_sql("BEGIN")
