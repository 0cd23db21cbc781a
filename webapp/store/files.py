"""The files of an SQLite database: their mode, and whether those at the paths are still those that are open."""

from __future__ import annotations

import os
from pathlib import Path

from webapp.folders import make_private
from webapp.store.failures import unusable_file

Files = tuple[tuple[int, int] | None, ...] | None
"""Device and inode of a database and its journal, each ``None`` if the file is missing; ``None`` as a whole if
the database is not SQLite."""


def files_at(file: Path | None) -> Files:
    """Return which files are at the paths of an SQLite database and its journal."""
    return None if file is None else tuple(_identity(Path(f"{file}{suffix}")) for suffix in ("", "-wal"))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_journal(file: Path | None, was: Files) -> None:
    """Remove the journal of a database that is no longer at the path: SQLite would write its pages into the new
    database."""
    now = files_at(file)
    if now is None or was is None or now[0] == was[0] or now[1] != was[1]:
        return
    for suffix in ("-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)


def make_database_private(file: Path) -> None:
    """Create the database file, or restrict it, to mode 0600; SQLite gives its journal files the same mode.

    Raises StoreUnavailable.
    """
    try:
        make_private(file.parent)
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except OSError as exc:
        raise unusable_file(file, exc) from exc
