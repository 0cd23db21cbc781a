"""The order of requests: as many concurrent ones as the launch allows, and a bounded queue behind them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUEUE_LIMIT = 64
"""Requests that may wait; more are refused at once."""
_LOOK_S = 0.25
"""How often a queued request checks whether its client is still connected."""


class TurnsFull(Exception):
    """The queue is full."""


class GivenUp(Exception):
    """The client no longer waits for the request."""


class Turns:
    """Lets ``size`` requests through at once, the others one after the other in the order of arrival."""

    def __init__(self, size: int, queue_limit: int = QUEUE_LIMIT) -> None:
        self._size = size
        self._limit = queue_limit
        self._changed = threading.Condition()
        self._active = 0
        self._waiting: deque[object] = deque()

    @property
    def in_flight(self) -> int:
        """Requests that are being answered or queued."""
        return self._active + len(self._waiting)

    @contextmanager
    def turn(self, is_given_up: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn and hold it.

        Raises:
            TurnsFull: too many requests are queued already.
            GivenUp: ``is_given_up`` returned true while waiting.
        """
        self._take(is_given_up)
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until no request is in progress; False if it took longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self.in_flight == 0, timeout_s)

    def _take(self, is_given_up: Callable[[], bool]) -> None:
        turn = object()
        with self._changed:
            if self._active >= self._size and len(self._waiting) >= self._limit:
                raise TurnsFull
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or self._active >= self._size:
                    if is_given_up():
                        raise GivenUp
                    self._changed.wait(_LOOK_S)
                self._active += 1
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()
