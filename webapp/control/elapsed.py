"""How long things have been as they are, by the monotonic clock: a time of day that is set, or a machine that slept, moves nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Hashable


class Elapsed:
    """Measures durations inside one process; any thread may note and ask.

    A moment of before this process can only be given by the time of day: ``ahead_s`` says how long it already was so.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._since: dict[Hashable, tuple[object, float]] = {}

    def note(self, key: Hashable, state: object, ahead_s: float = 0.0) -> None:
        """Note that ``key`` is in ``state`` now; it counts anew where that is another than before, and from ``ahead_s`` at first."""
        now = self._monotonic()
        with self._lock:
            known = self._since.get(key)
            if known is None or known[0] != state:
                self._since[key] = (state, now - ahead_s if known is None else now)

    def seconds(self, key: Hashable, state: object) -> float:
        """Return for how long ``key`` has been in ``state``; 0 where it was last noted in another one, or never."""
        known = self._since.get(key)
        return 0.0 if known is None or known[0] != state else max(0.0, self._monotonic() - known[1])

    def keep(self, keys: Collection[Hashable]) -> None:
        """Forget all others."""
        with self._lock:
            self._since = {key: since for key, since in self._since.items() if key in keys}
