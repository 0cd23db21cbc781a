"""Identities while the database does not answer: recently found people stay signed in, and queries pause after a failure."""

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
"""How recently before a failure of the database an identity must have been found to be accepted during it: revoking
permissions needs the database too, and an emergency stop has to work until the database is repaired.
"""
PAUSE_S: Final = 5.0
"""How long the database is not queried after a failure."""


class IdentityCache:
    """The identities found last, for the time that the database does not answer: an emergency stop must work then, too.

    Entries are refreshed by database reads only, never by hits; otherwise a polling page would stay signed in for ever.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._found: OrderedDict[str, tuple[Identity, float]] = OrderedDict()

    def of(self, kind: str, key: str, find: Callable[[], Identity | None]) -> Identity | None:
        """Return the result of ``find``, or, while it fails, its last result. Raises StoreUnavailable if there is none.

        ``kind`` is the kind of ``key``: a key of one kind must not be accepted as another.
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
        """Forget all identities: permissions have changed."""
        with self._lock:
            self._found.clear()


class CircuitBreaker:
    """Queries the database, but not for a while after a failure: a host that does not answer blocks each request for
    seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._failed: tuple[float, str] | None = None
        """The time and reason of the last failure."""

    def ask(self, act: Callable[[], T]) -> T:
        """Return the result of ``act``. Raises StoreUnavailable, during a pause without calling it."""
        self._refuse_in_pause()
        try:
            found = act()
        except StoreUnavailable as exc:
            self._failed = (self._clock(), str(exc.params.get("reason")))
            raise
        self._failed = None
        return found

    def _refuse_in_pause(self) -> None:
        """After the pause one caller queries the database; the others are refused until that call returns."""
        with self._lock:
            failed, now = self._failed, self._clock()
            if failed is None:
                return
            at, reason = failed
            if 0 <= now - at < PAUSE_S:
                raise StoreUnavailable(reason=reason)
            self._failed = (now, reason)
