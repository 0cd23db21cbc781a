"""A thread that does the same again and again: the watcher, the launch queue, the records in the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Rounds:
    """Calls ``act`` in a thread: at the start, then every ``interval_s`` (``None``: only after ``nudge``).

    Two rounds are at least ``pause_s`` apart. An error ends only its round. ``stop`` waits at most ``stop_s`` for the
    round in progress.
    """

    def __init__(
        self, name: str, act: Callable[[], None], interval_s: float | None, *, pause_s: float = 0.0, stop_s: float = 5.0
    ) -> None:
        self._name = f"warden-{name}"
        self._act = act
        self._interval_s, self._pause_s, self._stop_s = interval_s, pause_s, stop_s
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; a round that takes too long is abandoned."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._stop_s)
            self._thread = None

    def nudge(self) -> None:
        """Have the next round start soon; never waits."""
        self._wake.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._round()
            self._wake.wait(self._interval_s)
            self._wake.clear()  # before the check whether to stop, so that a stop in between is not missed
            self._stopping.wait(self._pause_s)

    def _round(self) -> None:
        try:
            self._act()
        except Exception:  # the top of a thread: the next round may succeed
            log.exception("a round of %s failed", self._name)
