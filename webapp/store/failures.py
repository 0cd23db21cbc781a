"""Database failures as StoreUnavailable, with the cause and what to do about it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from webapp.domain.keeping import StoreTrouble
from webapp.errors import StoreUnavailable
from webapp.folders import disk_trouble
from webapp.store.migrate import ForeignDatabase, NewerDatabase

SPACE_BYTES = 64 * 1024
"""If less than this is free, SQLite cannot write because the disk is full: its smallest files take half of it."""


@contextmanager
def translated(file: Path | None) -> Iterator[None]:
    """Turn what SQLAlchemy, its driver and the migrations raise into StoreUnavailable; ``file`` is that of SQLite."""
    try:
        yield
    except NewerDatabase as exc:
        raise StoreUnavailable(
            reason=f"a newer Warden has written the database ({exc}); update Warden, or choose another folder by "
            "WARDEN_STATE_DIR"
        ) from exc
    except ForeignDatabase as exc:
        raise StoreUnavailable(
            reason=f"{file or 'the database'} was written by a version of Warden that was never released ({exc}); "
            "start that version, or restore a backup made before it ran, or move the database away: loaded models stay, "
            "while history, leases and accounts are lost"
        ) from exc
    except SQLAlchemyError as exc:
        where: dict[str, str] = {} if file is None else {"file": str(file)}
        raise StoreUnavailable(reason=_reason(exc, file), trouble=_trouble(exc, file).value, **where) from exc


def unusable_file(file: Path, error: OSError) -> StoreUnavailable:
    """Return the error of a database file that cannot be created or opened."""
    advice = "check the folder's owner and free space, or set WARDEN_STATE_DIR to another one"
    return StoreUnavailable(
        reason=f"{file}: {disk_trouble(error) or f'{error.strerror}; {advice}'}",
        trouble=(StoreTrouble.FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else StoreTrouble.FAILED).value,
        file=str(file),
    )


def gone(file: Path | None, reason: object) -> StoreUnavailable:
    """Return the error of a database file that was deleted or replaced."""
    return StoreUnavailable(trouble=StoreTrouble.GONE.value, file=str(file), reason=str(reason))


def is_disk_unwritable(error: StoreUnavailable) -> bool:
    """Return whether the database cannot be opened because nothing can be written on its disk."""
    cause = error.__cause__
    is_full = error.params.get("trouble") == StoreTrouble.FULL.value
    return is_full or (isinstance(cause, OSError) and disk_trouble(cause) is not None)


def _trouble(error: SQLAlchemyError, file: Path | None) -> StoreTrouble:
    """Classify by SQLite's own error name; a full disk is also looked up on the disk, since SQLite may call it an I/O
    error."""
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
    """Return the driver's message, the file, and what to do; never a statement's values or a password."""
    detail = " ".join(str(error.orig if isinstance(error, DatabaseError) else error).split())
    if file is None:
        return f"{detail}; check that the database server runs and WARDEN_DATABASE_URL is right"
    if "not a database" in detail or "malformed" in detail:
        return f"{file}: {detail}; move the file away and start again: loaded models stay, only the history is lost"
    if _trouble(error, file) is StoreTrouble.FULL:
        return f"{file}: {detail}; the disk is full: free space on it"
    return f"{file}: {detail}; check the folder's owner and free space"
