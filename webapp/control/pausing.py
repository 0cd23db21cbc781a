"""The mark of an emergency: a file that outlives a Warden that dies before the store has what it paused and what it ended.

It is made before it is needed and written over in place, so that a full disk does not keep an emergency from leaving its mark.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

NAME: Final = "paused"
SIZE: Final = 1024
"""Bytes of the file; a name is far shorter."""


@dataclass(frozen=True)
class QueuePause:
    """Nothing that waited or ran at that moment (seconds since the epoch) is started by itself before a person says so."""

    actor: str
    at: float


class PauseMark:
    """The file in the state folder. Each change is on the disk when the call returns; what fails is logged and stops nobody."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._is_set = False
        self._lock = threading.Lock()
        """Held during a write, so that the file is as the last of two callers left it."""

    def start(self) -> QueuePause | None:
        """Return the pause that an earlier Warden left, and make the file if there is none."""
        with self._lock:
            left = self._read()
            self._is_set = left is not None
            if left is None:
                self._write("")
        return left

    def set(self, pause: QueuePause) -> None:
        """Leave the mark."""
        with self._lock:
            self._is_set = True
            self._write(json.dumps(asdict(pause)))

    def clear(self, is_stored: Callable[[], bool]) -> None:
        """Remove the mark if the store has the pause, as ``is_stored`` says while no other is being left; costs nothing without one."""
        with self._lock:
            if self._is_set and is_stored():
                self._is_set = False
                self._write("")

    def _read(self) -> QueuePause | None:
        try:
            text = self._path.read_text().strip()
            return QueuePause(**json.loads(text)) if text else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as exc:
            log.warning("whether an emergency has paused what waits cannot be read: %s", exc)
            return None

    def _write(self, text: str) -> None:
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(file, text.encode().ljust(SIZE), 0)
                os.fsync(file)
            finally:
                os.close(file)
        except OSError as exc:
            log.warning("the mark of an emergency's pause cannot be written: %s", exc)
