"""What a forked process still shares with the process that it came from: memory that belongs to neither alone.

The kernel counts such pages in full for each of them. A worker that was forked from the launcher has its 250 MiB of libraries in this
way, so its own memory is ``anonymous - shared``, and the launcher's line holds the shared rest. A worker's figure therefore does not move
when a neighbour starts or ends.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_SHARED = re.compile(rb"^Shared_Dirty:\s+(\d+) kB", re.MULTILINE)
"""Anonymous pages are always dirty; what is clean and shared are mapped files, which the kernel counts apart."""
LEAST_AGE_S = 1.0
COST_SHARE, COST_SHARE_ANEW = 20, 4
"""A look is made once a second at most, and takes at most a twentieth of the time, or a quarter where somebody waits for the figure: the
kernel walks all pages, 15 ms for 1 GiB."""


@dataclass(frozen=True)
class _SharedLook:
    shared_bytes: int
    began: float
    cost_s: float

    def is_good(self, now: float, *, anew: bool) -> bool:
        least_s = COST_SHARE_ANEW * self.cost_s if anew else max(LEAST_AGE_S, COST_SHARE * self.cost_s)
        return now - self.began < least_s


class SharedPages:
    """Looks at processes by their pids, and remembers for a moment. Not for more than one thread."""

    def __init__(self, proc: str = "/proc", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._monotonic = monotonic
        self._looks: dict[str, _SharedLook] = {}

    def shared_bytes(self, pid: int | str, *, anew: bool = False) -> int:
        """Return the anonymous bytes that ``pid`` (or ``self``) shares with others; 0 where the kernel does not say.

        ``anew`` is for a figure that is kept: what was forked a moment ago copies 10 MiB of its pages within half a second, and an earlier
        look would count them as shared still.
        """
        name, now = str(pid), self._monotonic()
        look = self._looks.get(name)
        if look is None or not look.is_good(now, anew=anew):
            shared = self._read(name)
            look = self._looks[name] = _SharedLook(shared, now, self._monotonic() - now)
        return look.shared_bytes

    def keep_only(self, pids: Iterable[int]) -> None:
        """Forget all others: a pid is used again."""
        kept = {str(pid) for pid in pids}
        self._looks = {name: look for name, look in self._looks.items() if name in kept}

    def _read(self, name: str) -> int:
        try:
            handle = os.open(f"{self._proc}/{name}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            found = _SHARED.search(os.read(handle, 4096))
        except OSError:  # the process has ended meanwhile
            return 0
        finally:
            os.close(handle)
        return 0 if found is None else int(found[1]) * 1024
