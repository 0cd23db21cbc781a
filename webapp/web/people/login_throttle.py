"""Throttles password guessing: after too many failures in a quarter of an hour, passwords are no longer checked.

A name may fail as often as the setting allows, from all addresses together. An address with three times as many
failures is watched: each name may fail there only a third as often, and only one password from it is checked at a time.
So the failures of others at the same address (everybody behind one proxy or an ``ssh -L``) lock nobody out, and a flood
costs one check at a time; while it lasts, others at that address are asked to try again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from functools import wraps
from typing import Final, ParamSpec, cast

from flask import Flask, current_app, make_response
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import TooManyRequests

from webapp.errors import SignInFailed
from webapp.web.ports import services
from webapp.web.statuses import status_of

P = ParamSpec("P")
View = Callable[P, ResponseReturnValue]

EXTENSION: Final = "warden_guesses"
WINDOW_S: Final = 15 * 60.0
FAILED: Final = status_of(SignInFailed)
ADDRESS_SHARE: Final = 3
"""An address may have this many times the failures of a name, as several people can share it…"""
WATCHED_SHARE: Final = 3
"""…and then each name has this fraction of its failures there, so that one or two typing errors are still allowed."""


class LoginThrottle:
    """Counts failures by key, in a window that moves with the monotonic clock.

    A check in progress counts as failed until it succeeds, so that concurrent guesses have no advantage. (The library
    `limits` counts by wall time, cannot take a count back, and starts a thread for each failure.)
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, deque[float]] = OrderedDict()
        """The times of failures by key; the key with the latest failure is last."""
        self._checked: Counter[str] = Counter()
        """The number of checks in progress, by key."""

    def begin(self, name: str, address: str | None, allowed: int) -> bool:
        """Begin a check of a password; return False if it is refused. ``allowed`` is how often one name may fail."""
        with self._lock:
            self._forget()
            watched = address is not None and self._count(address) >= ADDRESS_SHARE * allowed
            most = max(1, allowed // WATCHED_SHARE) if watched else allowed
            if self._count(name) >= most or (watched and self._checked[address or ""] > 0):
                return False
            self._checked.update(_keys(name, address))
            return True

    def end(self, name: str, address: str | None, *, failed: bool) -> None:
        """Record the result of a check."""
        with self._lock:
            for key in _keys(name, address):
                self._checked[key] -= 1
                if failed:
                    self._failed.setdefault(key, deque()).append(self._monotonic())
                    self._failed.move_to_end(key)
            self._checked += Counter()  # drops zeros

    def _count(self, key: str) -> int:
        times = self._failed.get(key, deque())
        while times and times[0] < self._since():
            times.popleft()
        return len(times) + self._checked[key]

    def _forget(self) -> None:
        """Remove the keys without a failure in the window."""
        while self._failed and next(iter(self._failed.values()))[-1] < self._since():
            self._failed.popitem(last=False)

    def _since(self) -> float:
        return self._monotonic() - WINDOW_S


def _keys(name: str, address: str | None) -> tuple[str, ...]:
    return (name,) if address is None else (name, address)


def init_guesses(app: Flask) -> None:
    """Make ``app`` count failures, in memory only."""
    app.extensions[EXTENSION] = LoginThrottle()


def slow_by(name: Callable[[], str], address: Callable[[], str] | None = None) -> Callable[[View[P]], View[P]]:
    """Refuse a view after too many failures by name and, if given, by address. Raises TooManyRequests."""

    def guard(view: View[P]) -> View[P]:
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            guesses = cast(LoginThrottle, current_app.extensions[EXTENSION])
            by_name = f"{view.__name__} name {name()}"
            by_address = None if address is None else f"{view.__name__} address {address()}"
            if not guesses.begin(by_name, by_address, services().settings.auth.sign_in_failures):
                raise TooManyRequests
            failed = False
            try:
                response = make_response(view(*args, **kwargs))
                failed = response.status_code == FAILED
            finally:
                guesses.end(by_name, by_address, failed=failed)
            return response

        return guarded

    return guard
