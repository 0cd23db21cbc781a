"""The lock of the state folder: one Warden a folder, whatever started it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from webapp.errors import AlreadyRunning, ConfigurationError


class StateLock:
    """An exclusive lock on ``FOLDER/lock``; the kernel gives it back when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
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
            pid = os.read(file, 32).decode(errors="replace").strip()
            os.close(file)
            raise AlreadyRunning(state_dir=str(self._folder), pid=pid or None) from exc
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
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
            return os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise ConfigurationError(setting="WARDEN_STATE_DIR", value=str(self._folder), detail=str(exc)) from exc
