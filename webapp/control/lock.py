"""The lock of the state folder: one Warden a folder, whatever started it."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from webapp.errors import AlreadyRunning, ConfigurationError

LOCK = "lock"


@dataclass(frozen=True)
class Holder:
    """The Warden that holds a state folder, or the last one that did."""

    pid: str
    database: str
    """Its database, without a password; empty if an older version did not write it down."""
    is_running: bool


class StateLock:
    """An exclusive lock on ``FOLDER/lock``; the kernel gives it back when the process ends, however it ends.

    The file names the process and ``database``, so that a command in a terminal can tell whose folder it is.
    """

    def __init__(self, folder: Path, database: str = "") -> None:
        self._folder = folder
        self._database = database
        self._file: int | None = None

    def take(self) -> None:
        """Make the folder (mode 0700) and take the lock; nothing happens when this object holds it.

        Raises:
            AlreadyRunning: another Warden holds it.
            ConfigurationError: the folder cannot be used.
        """
        if self._file is not None:
            return
        file = self._open()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            pid, _ = _read(file)
            os.close(file)
            raise AlreadyRunning(state_dir=str(self._folder), pid=pid or None) from exc
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n{self._database}\n".encode(), 0)
        self._file = file

    def release(self) -> None:
        """Give the lock back; idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self) -> int:
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._folder.chmod(0o700)
            return os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigurationError(setting="WARDEN_STATE_DIR", value=str(self._folder), detail=str(exc)) from exc


def last_holder(folder: Path) -> Holder | None:
    """Return the Warden that holds ``folder`` or held it last, ``None`` if none ever did; nothing is created.

    Raises:
        ConfigurationError: the folder cannot be read.
    """
    try:
        file = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise ConfigurationError(setting="WARDEN_STATE_DIR", value=str(folder), detail=str(exc)) from exc
    try:
        return Holder(*_read(file), is_running=_is_held(file))
    finally:
        os.close(file)


def _read(file: int) -> tuple[str, str]:
    """Return the process and the database that the file names."""
    pid, _, database = os.pread(file, 4096, 0).decode(errors="replace").partition("\n")
    return pid.strip(), database.strip()


def _is_held(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
