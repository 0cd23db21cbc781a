"""Requests that a client sends again under the same id: one at a time per person and id, and the same answer for all.

The id is stored with what the request began. So a client without an answer (a cut connection, a killed Warden) sends
the request again and gets its result, and nothing is done twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from webapp.control.keeping import Keeper, not_stored
from webapp.domain.keeping import StoreTrouble
from webapp.domain.operation import Operation
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch
from webapp.errors import RequestIdReused, StoreUnavailable

WAIT_S: Final = 3.0
"""How long a repeated request waits for the first one, which plans, probes a model for half a second and is stored in
two writes.
"""


class Repeats:
    """Admits one request at a time per person and id. A request takes one of the places for requests that wait
    for a write.
    """

    def __init__(self, keeper: Keeper, wait_s: float = WAIT_S) -> None:
        self._keeper = keeper
        self._wait_s = wait_s
        self._changed = threading.Condition()
        self._under_way: set[tuple[str, str]] = set()

    @contextmanager
    def alone(self, actor: str, request_id: str) -> Iterator[None]:
        """Hold the id, and a place for the writes of the block. Raises NotStored if either is not free in time.

        The place is taken first: otherwise requests that wait for the id could take the places that its holder still
        needs.
        """
        key = (actor, request_id)
        with self._keeper.place():
            self._enter(key)
            try:
                yield
            finally:
                with self._changed:
                    self._under_way.discard(key)
                    self._changed.notify_all()

    def _enter(self, key: tuple[str, str]) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._under_way, self._wait_s):
                raise not_stored(StoreUnavailable(trouble=StoreTrouble.SLOW.value))
            self._under_way.add(key)


def check_same_switch(begun: Operation | QueuedLaunch, request: SwitchRequest, request_id: str) -> Operation:
    """Return the operation that was begun under the id, if it is this switch. Raises RequestIdReused."""
    if not isinstance(begun, Operation) or begun.request != request:
        raise _reused(begun, request_id)
    return begun


def check_same_launch(
    begun: Operation | QueuedLaunch, request: SwitchRequest, request_id: str, *, starts_by_itself: bool
) -> QueuedLaunch:
    """Return the launch that was queued under the id, if it is this one. Raises RequestIdReused."""
    if not isinstance(begun, QueuedLaunch) or (begun.request, begun.starts_by_itself) != (request, starts_by_itself):
        raise _reused(begun, request_id)
    return begun


def _reused(begun: Operation | QueuedLaunch, request_id: str) -> RequestIdReused:
    is_operation = isinstance(begun, Operation)
    return RequestIdReused(
        request_id=request_id,
        operation=begun.id if is_operation else None,
        ticket=None if is_operation else begun.id,
    )
