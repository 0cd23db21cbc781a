"""The version of a snapshot: a counter that rises whenever the value differs from the last one."""

from __future__ import annotations

import secrets
import threading

from webapp.control.contract import Snapshot


class Versions:
    """Gives each snapshot its version; thread-safe.

    The counter restarts with the process, so a version begins with a random name of the process: a reader that kept one
    from before a restart does not take the new state for the old one.
    """

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)
        self._lock = threading.Lock()
        self._last: Snapshot | None = None
        self._number = 0

    def of(self, compared: Snapshot) -> str:
        """Return the version of ``compared``: equal versions mean equal snapshots, whoever asked in between."""
        with self._lock:
            if compared != self._last:
                self._last = compared
                self._number += 1
            return f"{self._process}-{self._number}"
