"""Keeps spare workers: programs that have imported everything, hold no model and touch no device."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable

from webapp.errors import WardenError

log = logging.getLogger(__name__)

PREFIX = "spare-"


def is_spare(name: str) -> bool:
    """Whether a folder's name is a spare's."""
    return name.startswith(PREFIX)


class Spares:
    """Holds ``size`` spares; one that was taken is replaced when ``refill`` is called.

    ``spawn(name)`` starts a spare, ``is_usable(name)`` tells whether it lives, ``end(name)`` ends it.
    """

    def __init__(
        self,
        size: int,
        spawn: Callable[[str], None],
        is_usable: Callable[[str], bool],
        end: Callable[[str], object],
    ) -> None:
        self._size = size
        self._spawn = spawn
        self._is_usable = is_usable
        self._end = end
        self._lock = threading.Lock()
        self._names: tuple[str, ...] = ()
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, found: Iterable[str]) -> None:
        """Keep those of ``found``, which an earlier Warden left, that are usable, and begin to fill up."""
        if self._size == 0:
            return
        with self._lock:
            self._names = tuple(name for name in found if self._is_usable(name))[: self._size]
        self._stopping.clear()
        self._wanted.set()
        self._thread = threading.Thread(target=self._keep, name="warden-spares", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the spares: without a Warden nobody would use them."""
        self._stopping.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(5)
            self._thread = None
        with self._lock:
            names, self._names = self._names, ()
        for name in names:
            self._end(name)

    @property
    def names(self) -> frozenset[str]:
        """The spares that wait."""
        return frozenset(self._names)

    def take(self) -> str | None:
        """Return a spare, which from now on is the caller's, or ``None``."""
        while True:
            with self._lock:
                if not self._names:
                    return None
                name, self._names = self._names[0], self._names[1:]
            if self._is_usable(name):
                return name
            self._end(name)

    def forget(self, name: str) -> None:
        """Count a spare no more; somebody ends it."""
        with self._lock:
            self._names = tuple(other for other in self._names if other != name)

    def refill(self) -> None:
        """Replace what was taken, in the background."""
        self._wanted.set()

    def _keep(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._stopping.is_set():
                return
            try:
                self._fill()
            except WardenError as exc:
                log.warning("no spare worker could be started: %s", exc)
            except Exception:
                log.exception("keeping spare workers failed")

    def _fill(self) -> None:
        while len(self._names) < self._size and not self._stopping.is_set():
            name = f"{PREFIX}{secrets.token_hex(6)}"
            with self._lock:
                self._names = (*self._names, name)  # first, so that it is never taken for a leftover
            try:
                self._spawn(name)
            except WardenError:
                self.forget(name)
                raise
