"""The mark of an emergency stop: a file that survives a Warden that dies before the store has the pause and the ended
models.

It is created before it is needed and overwritten in place, so that a full disk does not prevent an emergency stop from
setting its mark.
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
    """No launch that was queued or running at that moment (seconds since the epoch) starts automatically before a
    person resumes it.
    """

    actor: str
    at: float


class PauseMark:
    """The file in the state folder. Each change is on the disk when the call returns; failures are only logged."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._is_set = False
        self._lock = threading.Lock()
        """Held during a write, so that the file has the state of the later of two callers."""

    def start(self) -> QueuePause | None:
        """Return the pause that an earlier Warden left, and create the file if there is none."""
        with self._lock:
            left = self._read()
            self._is_set = left is not None
            if left is None:
                self._write("")
        return left

    def set(self, pause: QueuePause) -> None:
        """Set the mark."""
        with self._lock:
            self._is_set = True
            self._write(json.dumps(asdict(pause)))

    def clear(self, is_stored: Callable[[], bool]) -> None:
        """Remove the mark if the store has the pause, as ``is_stored`` reports while no other is being set; costs
        nothing without one.
        """
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
