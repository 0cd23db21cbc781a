"""A copy of the database to read from while its own disk cannot be written: SQLite cannot even open it there."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from webapp.errors import StoreUnavailable
from webapp.store.engines import make_engine, only_read
from webapp.store.failures import translated
from webapp.store.migrate import migrate

log = logging.getLogger(__name__)

IN_MEMORY = Path("/dev/shm")  # noqa: S108  the copy's folder there is its owner's alone  # nosec B108
PREFIX = "warden-database-"


def open_copy(file: Path) -> Engine:
    """Return a read-only engine over a copy of ``file``. Raises OSError, StoreUnavailable."""
    copy = _copy_elsewhere(file)
    engine = make_engine(URL.create("sqlite", database=str(copy)))
    try:
        with translated(file), engine.begin() as connection:
            migrate(connection)
    except StoreUnavailable:
        engine.dispose()
        _remove(copy)
        raise
    only_read(engine)
    return engine


def close_copy(engine: Engine) -> None:
    """Close what ``open_copy`` returned and remove the copy with its folder."""
    engine.dispose()
    _remove(Path(str(engine.url.database)))


def _copy_elsewhere(file: Path) -> Path:
    """Copy an SQLite database and its journal to a new folder, in memory or among the temporary files.

    A database that does not exist yet gives an empty copy. Raises OSError: no other disk has room either.
    """
    places = [str(place) for place in (IN_MEMORY, Path(tempfile.gettempdir())) if place.is_dir()]
    for place in places[:-1]:
        try:
            return _copy(file, place)
        except OSError as exc:
            log.info("the database cannot be copied to %s: %s", place, exc)
    return _copy(file, places[-1])


def _copy(file: Path, place: str) -> Path:
    copy = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place)) / file.name
    try:
        for suffix in ("", "-wal"):
            if (source := Path(f"{file}{suffix}")).exists():
                shutil.copyfile(source, f"{copy}{suffix}")
    except OSError:
        _remove(copy)
        raise
    return copy


def _remove(copy: Path) -> None:
    shutil.rmtree(copy.parent, ignore_errors=True)
