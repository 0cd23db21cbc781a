"""How long states have lasted, by the monotonic clock: a changed time of day, or a sleeping machine, changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable


class Elapsed:
    """Measures durations inside one process; thread-safe.

    A moment before this process started is known only by the time of day: ``ahead_s`` is how long the state had lasted
    already.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: dict[Hashable, tuple[object, float]] = {}

    def note(self, key: Hashable, state: object, ahead_s: float = 0.0) -> None:
        """Record that ``key`` is in ``state`` now; a changed state counts from now, the first one from ``ahead_s``."""
        now = self._monotonic()
        with self._lock:
            known = self._since.get(key)
            if known is None or known[0] != state:
                self._since[key] = (state, now - ahead_s if known is None else now)

    def seconds(self, key: Hashable, state: object) -> float:
        """Return for how long ``key`` has been in ``state``; 0 if its last recorded state is another one, or there is
        none.
        """
        known = self._since.get(key)
        return 0.0 if known is None or known[0] != state else max(0.0, self._monotonic() - known[1])

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all other keys."""
        with self._lock:
            self._since = {key: since for key, since in self._since.items() if key in keys}
