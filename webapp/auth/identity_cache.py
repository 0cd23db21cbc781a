"""While the database does not answer: who was found shortly before goes on, and the database is left alone for moments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from threading import Lock
from typing import Final, TypeVar

from webapp.domain.people import Identity
from webapp.errors import StoreUnavailable

T = TypeVar("T")

KNOWN_KEPT: Final = 256
KNOWN_S: Final = 3600.0
"""How long before a failure of the database somebody must have been found to count during it: what could take rights away needs it too, and
an emergency has to work until somebody has mended it."""
PAUSE_S: Final = 5.0
"""How long after a failure the database is not asked again."""


class IdentityCache:
    """Who was found last, for the time that the database does not answer: an emergency has to work then too.

    Only the database itself makes it later: who is let in from memory is not found anew, or a page that polls would stay for ever.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._found: OrderedDict[str, tuple[Identity, float]] = OrderedDict()

    def of(self, kind: str, key: str, find: Callable[[], Identity | None]) -> Identity | None:
        """Return what ``find`` returns, and while it fails what it returned last. Raises StoreUnavailable where that is not known.

        ``kind`` says what ``key`` is: what opens something in one way is nothing in another.
        """
        place = sha256(f"{kind} {key}".encode("utf-8", "replace")).hexdigest()
        try:
            identity = find()
        except StoreUnavailable:
            known, at = self._found.get(place, (None, 0.0))
            if known is None or self._clock() - at > KNOWN_S:
                raise
            return known
        self._keep(place, identity)
        return identity

    def _keep(self, place: str, identity: Identity | None) -> None:
        with self._lock:
            self._found.pop(place, None)
            if identity is not None:
                self._found[place] = (identity, self._clock())
            if len(self._found) > KNOWN_KEPT:
                self._found.popitem(last=False)

    def forget(self) -> None:
        """Forget everybody: rights have changed."""
        with self._lock:
            self._found.clear()


class CircuitBreaker:
    """Asks the database, and after a failure not for a while: a host that does not answer holds each request for seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failed: tuple[float, str] | None = None
        """When it failed last, and why."""

    def ask(self, act: Callable[[], T]) -> T:
        """Return what ``act`` returns. Raises StoreUnavailable, in a pause without asking."""
        self._refuse_in_pause()
        try:
            found = act()
        except StoreUnavailable as exc:
            self._failed = (self._clock(), str(exc.params.get("reason")))
            raise
        self._failed = None
        return found

    def _refuse_in_pause(self) -> None:
        """Of those who come when the pause is over one asks; the others are refused until that one has an answer."""
        with self._lock:
            failed, now = self._failed, self._clock()
            if failed is None:
                return
            at, reason = failed
            if 0 <= now - at < PAUSE_S:
                raise StoreUnavailable(reason=reason)
            self._failed = (now, reason)
