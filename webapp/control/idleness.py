"""How long each model has been unused: recorded once per round, with a monotonic clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from webapp.control.elapsed import Elapsed
from webapp.domain.idle import Quiet
from webapp.domain.instance import Instance

GAP_S: Final = 10.0
"""A round runs every second; a longer gap means that Warden was not running, and nobody could see or stop a countdown.
"""

Noted = tuple[tuple[str, str], object]


class Idleness:
    """Records the observed activity of instances, and returns how long they have been quiet; thread-safe."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._elapsed = Elapsed(monotonic)
        self._looked_at = monotonic()
        self._gaps = 0

    def look(self, instances: Iterable[Instance], now: float) -> None:
        """Record the activity of ``instances`` at ``now``, the time of day; for a new one, its own times say how long
        it was unused.
        """
        looked_at = self._monotonic()
        self._gaps += looked_at - self._looked_at > GAP_S
        self._looked_at = looked_at
        kept = []
        for instance in instances:
            unused_s = max(0.0, now - instance.used_at)
            for key, state in self._noted(instance, now):
                self._elapsed.note(key, state, unused_s if key[1] == "unused" else 0.0)
                kept.append(key)
        self._elapsed.keep(kept)

    def quiet(self, instance: Instance, now: float) -> Quiet:
        """Return how long ``instance`` has been in its present condition; 0 if that differs from the recorded one."""
        return Quiet(*(self._elapsed.seconds(key, state) for key, state in self._noted(instance, now)))

    def _noted(self, instance: Instance, now: float) -> Iterator[Noted]:
        """Yield the counted conditions, in the order of ``Quiet``'s fields, each with the state whose change restarts
        the count.
        """
        lease, asked = instance.lease, instance.lease.asked
        used = (instance.last_used_at, instance.may_be_busy, instance.ready_at, lease.kept_at)
        yield (instance.id, "unused"), used
        yield (instance.id, "counted"), (lease.runs(now), lease.idle_minutes, self._gaps)
        yield (instance.id, "asked"), asked and (asked.asker, asked.asked_at)
