"""The database's URL: what Warden accepts, and how it is shown to people."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from webapp.errors import ConfigurationError

DRIVERS = ("psycopg", "psycopg2")
"""PostgreSQL drivers that support libpq's deadlines."""


def usable(text: str) -> URL:
    """Return ``text`` as a URL that Warden can work with. Raises ConfigurationError."""
    try:
        url = make_url(text)
    except SQLAlchemyError as exc:
        raise misconfigured("(hidden)", "not an SQLAlchemy URL, such as sqlite:////var/lib/warden/warden.db") from exc
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise misconfigured(shown_database(url), "only SQLite and PostgreSQL are supported")
    if url.get_backend_name() == "postgresql" and url.get_driver_name() not in DRIVERS:
        raise misconfigured(
            shown_database(url), f"{url.get_driver_name()} is no driver that keeps Warden's deadlines; leave it out"
        )
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise misconfigured(shown_database(url), "a database in memory forgets everything; name a file")
    return url


def sqlite_file(url: URL) -> Path | None:
    """Return the file of an SQLite URL, ``None`` for any other database."""
    return Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None


def shown_database(text: str | URL) -> str:
    """Return the database of a URL as people see it: a file's full path, or server and name without user, password and
    options."""
    try:
        url = make_url(text)
    except SQLAlchemyError:
        return "(unreadable)"
    file = sqlite_file(url)
    if file is not None:
        return str(file.absolute())
    shown = URL.create(url.get_backend_name(), host=url.host, port=url.port, database=url.database)
    sockets = {name: url.query[name] for name in ("host", "port") if name in url.query}
    return shown.set(query=sockets).render_as_string()


def misconfigured(value: str, detail: str) -> ConfigurationError:
    """Return the error of a database setting; ``value`` must not contain a password."""
    return ConfigurationError(setting="WARDEN_DATABASE_URL", value=value, detail=detail)
