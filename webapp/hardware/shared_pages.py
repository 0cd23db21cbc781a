"""Memory that a forked process still shares with its parent, and that belongs to neither alone.

The kernel counts such pages in full for each of them. A worker that was forked from the launcher shares 250 MiB of
libraries in this way, so its own memory is ``anonymous - shared``, and the launcher's line holds the shared rest. A
worker's figure therefore does not change when another worker starts or ends.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_SHARED = re.compile(rb"^Shared_Dirty:\s+(\d+) kB", re.MULTILINE)
"""Anonymous pages are always dirty; clean shared pages are mapped files, which the kernel counts separately."""
LEAST_AGE_S = 1.0
COST_SHARE, COST_SHARE_ANEW = 20, 4
"""A process is scanned once a second at most, and scans take at most a twentieth of the time, or a quarter if a caller
waits for the figure: the kernel walks all pages, 15 ms for 1 GiB.
"""


@dataclass(frozen=True)
class _SharedLook:
    shared_bytes: int
    began: float
    cost_s: float

    def is_good(self, now: float, *, anew: bool) -> bool:
        least_s = COST_SHARE_ANEW * self.cost_s if anew else max(LEAST_AGE_S, COST_SHARE * self.cost_s)
        return now - self.began < least_s


class SharedPages:
    """Scans processes by their pids and caches the result briefly. Not thread-safe."""

    def __init__(self, proc: str = "/proc", monotonic: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._monotonic = monotonic
        self._looks: dict[str, _SharedLook] = {}

    def shared_bytes(self, pid: int | str, *, anew: bool = False) -> int:
        """Return the anonymous bytes that ``pid`` (or ``self``) shares with others; 0 if the kernel does not say.

        ``anew`` is for a figure that is stored: a newly forked process copies 10 MiB of its pages within half a second,
        and an earlier scan would still count them as shared.
        """
        name, now = str(pid), self._monotonic()
        look = self._looks.get(name)
        if look is None or not look.is_good(now, anew=anew):
            shared = self._read(name)
            look = self._looks[name] = _SharedLook(shared, now, self._monotonic() - now)
        return look.shared_bytes

    def keep_only(self, pids: Iterable[int]) -> None:
        """Forget all other pids: the kernel reuses them."""
        kept = {str(pid) for pid in pids}
        self._looks = {name: look for name, look in self._looks.items() if name in kept}

    def _read(self, name: str) -> int:
        try:
            handle = os.open(f"{self._proc}/{name}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            found = _SHARED.search(os.read(handle, 4096))
        except OSError:  # the process has ended in the meantime
            return 0
        finally:
            os.close(handle)
        return 0 if found is None else int(found[1]) * 1024
