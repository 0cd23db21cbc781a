"""A thread that is created at the start and waits: an emergency stop has to act on a machine that provides no new
thread.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

STOP_S: Final = 5.0


class Standby:
    """Does one thing at a time, in the thread that ``start`` created."""

    def __init__(self) -> None:
        self._free = threading.Lock()
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Create the thread."""
        self._thread = threading.Thread(target=self._run, name="warden-standby", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; waits a few seconds at most for its present work."""
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(STOP_S)
            self._thread = None

    def run(self, work: Callable[[], None]) -> bool:
        """Have the thread do ``work``, which raises nothing; False if there is no such thread, or it is busy."""
        if self._thread is None or not self._free.acquire(blocking=False):
            return False
        self._work.put(work)
        return True

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            finally:
                self._free.release()
