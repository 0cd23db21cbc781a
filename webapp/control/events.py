"""What has happened to operations and loaded models: one event for each change of the state, told in the order of the changes.

A change is noted under the lock of the state and told after it, so a subscriber may read and change the state itself. What has to
be done before somebody is answered is called by name: an event may be told a moment later, by the thread of another change.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from webapp.domain.instance import Instance
from webapp.domain.operation import Operation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that has happened. ``version`` is that of the state which shows it first."""

    version: int


@dataclass(frozen=True)
class OperationBegun(Event):
    """An operation is accepted and runs."""

    operation: Operation


@dataclass(frozen=True)
class OperationChanged(Event):
    """A running operation got on, or something became known of one that has ended."""

    operation: Operation


@dataclass(frozen=True)
class OperationEnded(Event):
    """An operation has ended and its claims are free. One that an emergency ended before it was accepted has no beginning."""

    operation: Operation


@dataclass(frozen=True)
class OperationStored(Event):
    """The store has an operation as it is here."""

    operation: Operation


@dataclass(frozen=True)
class InstanceListed(Event):
    """An instance is on the list."""

    instance: Instance


@dataclass(frozen=True)
class InstanceChanged(Event):
    """An instance is not as it was."""

    before: Instance
    instance: Instance


@dataclass(frozen=True)
class InstanceRemoved(Event):
    """An instance has left the list."""

    instance: Instance


E = TypeVar("E", bound=Event)


class Events:
    """Tells subscribers; any thread may note and tell. Subscribers are named before anything is noted, and must not wait."""

    def __init__(self) -> None:
        self._subscribers: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}
        self._noted: deque[Event] = deque()
        self._telling = threading.Lock()
        """Held by the one thread that tells; what others note meanwhile it takes along."""

    def subscribe(self, kind: type[E], tell: Callable[[E], None]) -> None:
        """Have ``tell`` called with each event of ``kind``. An error that it raises is logged and is nobody else's."""
        self._subscribers[kind] = (*self._subscribers.get(kind, ()), tell)

    def note(self, events: Iterable[Event]) -> None:
        """Put events in their place behind those before; under the lock of the state that they are of."""
        self._noted.extend(events)

    def tell(self) -> None:
        """Tell what is noted, in order; whoever finds another thread telling leaves it to that one."""
        while self._noted and self._telling.acquire(blocking=False):
            try:
                while self._noted:
                    self._tell(self._noted.popleft())
            finally:
                self._telling.release()

    def _tell(self, event: Event) -> None:
        for tell in self._subscribers.get(type(event), ()):
            try:
                tell(event)
            except Exception:
                log.exception("a subscriber of %s failed", type(event).__name__)
