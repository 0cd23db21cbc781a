"""Events of operations and instances: one for each change of the state, delivered in the order of the changes.

An event is noted under the lock of the state and delivered after it is released, so a subscriber may read and change
the state. It may be delivered a moment later, by the thread of another change: whatever must happen before a person is
answered is therefore called by name.
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
    """Something that has happened. ``version`` is that of the first state that shows it."""

    version: int


@dataclass(frozen=True)
class OperationBegun(Event):
    """An operation is accepted and runs."""

    operation: Operation


@dataclass(frozen=True)
class OperationChanged(Event):
    """A running operation has changed, or more is known of an ended one."""

    operation: Operation


@dataclass(frozen=True)
class OperationEnded(Event):
    """An operation has ended and its claims are free. If an emergency stop ended it before it was accepted, it has no
    ``OperationBegun``.
    """

    operation: Operation


@dataclass(frozen=True)
class OperationStored(Event):
    """The store contains this value of an operation."""

    operation: Operation


@dataclass(frozen=True)
class InstanceListed(Event):
    """An instance was added to the list."""

    instance: Instance


@dataclass(frozen=True)
class InstanceChanged(Event):
    """An instance has changed."""

    before: Instance
    instance: Instance


@dataclass(frozen=True)
class InstanceRemoved(Event):
    """An instance has left the list."""

    instance: Instance


E = TypeVar("E", bound=Event)


class Events:
    """Delivers events to subscribers. Any thread may note and deliver; subscribers are registered before the first
    event, and must not wait.
    """

    def __init__(self) -> None:
        self._subscribers: dict[type[Event], tuple[Callable[[Any], None], ...]] = {}
        self._noted: deque[Event] = deque()
        self._telling = threading.Lock()
        """Held by the thread that delivers; it also delivers what other threads note meanwhile."""

    def subscribe(self, kind: type[E], tell: Callable[[E], None]) -> None:
        """Call ``tell`` with each event of ``kind``; an error that it raises is only logged."""
        self._subscribers[kind] = (*self._subscribers.get(kind, ()), tell)

    def note(self, events: Iterable[Event]) -> None:
        """Append events; the lock of their state is held."""
        self._noted.extend(events)

    def tell(self) -> None:
        """Deliver the noted events in order; if another thread is delivering, leave them to it."""
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
