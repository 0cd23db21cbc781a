"""The lock of the state folder: one Warden per folder, however it was started."""

from __future__ import annotations

import fcntl
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from webapp.control.path_claim import PathTaken, claim_path
from webapp.errors import AlreadyRunning, ConfigurationError
from webapp.folders import disk_trouble, make_private

LOCK = "lock"


@dataclass(frozen=True)
class LockHolder:
    """The Warden that holds a state folder, or the last one that did."""

    pid: str
    database: str
    """Its database, without a password; empty if an older version did not record it."""
    is_running: bool


class StateLock:
    """An exclusive lock on ``FOLDER/lock`` and on the folder's path; the kernel releases both when the process ends,
    however it ends.

    The file names the process and ``database``, so that a command in a terminal can tell whose folder it is. It
    protects a folder that two containers share. The claim on the path also holds without a file: on a full or read-only
    disk, and after the folder of a running Warden was removed.
    """

    def __init__(self, folder: Path, database: str = "") -> None:
        self._folder = folder
        self._database = database
        self._claim: socket.socket | None = None
        self._file: int | None = None

    def take(self) -> None:
        """Create the folder (mode 0700) and take the lock; does nothing if this object holds it.

        Raises:
            AlreadyRunning: another Warden holds it.
            ConfigurationError: the folder cannot be used.
        """
        if self._claim is not None:
            return
        try:
            claim = claim_path(self._folder)
        except PathTaken as exc:
            raise AlreadyRunning(state_dir=str(self._folder), pid=str(exc.pid or self._written_pid())) from exc
        except OSError as exc:
            raise self._unusable(str(exc)) from exc
        try:
            self._file = self._lock_file()
        except ConfigurationError:
            claim.close()
            raise
        self._claim = claim

    def release(self) -> None:
        """Release the lock; idempotent."""
        if self._claim is not None:
            self._claim.close()
            self._claim = None
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _lock_file(self) -> int | None:
        """Return the locked file; ``None`` if the disk cannot be written to."""
        file = self._open()
        if file is None:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            pid, _ = _read(file)
            os.close(file)
            raise AlreadyRunning(state_dir=str(self._folder), pid=pid or None) from exc
        with suppress(OSError):  # on a full disk the previous content stays
            content = f"{os.getpid()}\n{self._database}\n".encode()
            os.pwrite(file, content, 0)
            os.ftruncate(file, len(content))
        return file

    def _open(self) -> int | None:
        try:
            make_private(self._folder)
            if self._folder.stat().st_mode & 0o077:
                self._folder.chmod(0o700)
            return os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            trouble = disk_trouble(exc)
            if trouble is None:
                raise self._unusable(str(exc)) from exc
            if not self._folder.is_dir():
                raise self._unusable(f"the folder cannot be created, {trouble}, or choose another folder") from exc
        try:
            return os.open(self._folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None

    def _written_pid(self) -> str:
        holder = last_holder(self._folder)
        return "" if holder is None else holder.pid

    def _unusable(self, detail: str) -> ConfigurationError:
        return ConfigurationError(setting="WARDEN_STATE_DIR", value=str(self._folder), detail=detail)


def last_holder(folder: Path) -> LockHolder | None:
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
        return LockHolder(*_read(file), is_running=_is_held(file))
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
