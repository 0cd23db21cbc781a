"""Operations in the store: the keeper writes the newest value of each, and a failing store delays no operation."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import Protocol

from webapp.control.events import OperationStored
from webapp.control.keeping import DRAIN_S, Keeper
from webapp.control.state import StateStore
from webapp.domain.operation import ANY_OPERATION, Operation, OperationFilter, OperationValues
from webapp.errors import NotStored, StoreUnavailable

log = logging.getLogger(__name__)


class OperationStore(Protocol):
    """The store's methods that the journal uses."""

    def save_operation(self, operation: Operation) -> None:
        """Insert or replace an operation. Raises StoreUnavailable."""

    def drop_operation(self, operation_id: str) -> None:
        """Delete an operation; idempotent. Raises StoreUnavailable."""

    def prune(self, before: float) -> bool:
        """Delete some operations that ended before ``before``; return whether more remain. Raises StoreUnavailable."""

    def operation(self, operation_id: str) -> Operation | None:
        """Return an operation or ``None``. Raises StoreUnavailable."""

    def operation_of_request(self, actor: str, request_id: str) -> Operation | None:
        """Return what ``actor`` began under ``request_id`` or ``None``. Raises StoreUnavailable."""

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return operations that match ``where``, newest first, following ``before``. Raises StoreUnavailable."""

    def values(self) -> OperationValues:
        """Return the values by which operations can be filtered. Raises StoreUnavailable."""

    def running(self) -> tuple[Operation, ...]:
        """Return the operations that are stored as running. Raises StoreUnavailable."""


class Journal:
    """Has the keeper write operations: only the newest value of each, and never a running value after an ended one."""

    def __init__(self, store: OperationStore, keeper: Keeper, state_store: StateStore) -> None:
        self._store = store
        self._keeper = keeper
        self._state_store = state_store
        self._lock = threading.Lock()
        self._unwritten: dict[str, Operation] = {}
        self._ended: set[str] = set()
        self._begun: set[str] = set()
        """Operations that the store has as running."""
        self._lost: set[str] = set()
        """Operations whose newest value will not be written."""
        self._dropped: set[str] = set()
        """Operations that were not accepted, and that a late write may have stored all the same."""

    def record(self, operation: Operation) -> None:
        """Queue ``operation`` for writing; never waits."""
        if self._take(operation):
            self._write_later(operation.id)

    def keep(self, operation: Operation, *, in_request: bool = True) -> None:
        """Store ``operation`` before this returns. Raises NotStored; the caller then drops it or records it later."""
        self._take(operation)
        self._keeper.now(lambda: self._write(operation.id), in_request=in_request)

    def settle(self, *operation_ids: str) -> None:
        """Wait briefly until recorded operations are written; ``is_written`` tells whether one is."""

        def write() -> None:
            for operation_id in operation_ids:
                self._write(operation_id)

        with suppress(NotStored):
            self._keeper.now(write)

    def flush(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until everything is written; return False if that took too long."""
        return self._keeper.flush(timeout_s)

    def drop(self, operation: Operation) -> None:
        """Discard an operation that was not accepted, and delete a late write of it; never waits."""
        with self._lock:
            self._unwritten.pop(operation.id, None)
            self._begun.discard(operation.id)
            self._dropped.add(operation.id)
        self._keeper.later(_key(operation.id), lambda: self._delete(operation.id))

    def _delete(self, operation_id: str) -> None:
        self._store.drop_operation(operation_id)
        with self._lock:
            self._dropped.discard(operation_id)

    def is_written(self, operation_id: str) -> bool:
        """Return whether the store has a recorded operation, possibly without its newest step."""
        waits = operation_id in self._unwritten or operation_id in self._lost
        return operation_id in self._begun or not waits

    @property
    def has_all(self) -> bool:
        """Whether the store has the newest value of every recorded operation."""
        return not self._unwritten

    def prune(self, before: float) -> bool:
        """Delete some that ended before ``before``; return whether more remain. Raises StoreUnavailable."""
        return self._store.prune(before)

    def _take(self, operation: Operation) -> bool:
        with self._lock:
            if operation.id in self._ended and operation.is_running:
                return False
            if not operation.is_running:
                self._ended.add(operation.id)
            self._unwritten[operation.id] = operation
            return True

    def _write_later(self, operation_id: str) -> None:
        if not self._keeper.later(_key(operation_id), lambda: self._write(operation_id)):
            with self._lock:
                self._unwritten.pop(operation_id, None)
                self._lost.add(operation_id)

    def _write(self, operation_id: str) -> None:
        """Write the newest value, in the keeper's thread. Raises StoreUnavailable; after another error the value is lost."""
        operation = self._unwritten.get(operation_id)
        if operation is None:
            return
        try:
            self._store.save_operation(operation)
        except StoreUnavailable:
            raise
        except Exception:
            with self._lock:
                self._lost.add(operation.id)
            self._forget(operation)
            raise
        with self._lock:
            self._lost.discard(operation.id)
            (self._begun.add if operation.is_running else self._begun.discard)(operation.id)
        self._forget(operation)
        self._state_store.events.note((OperationStored(self._state_store.state.version, operation),))
        self._state_store.events.tell()

    def _forget(self, written: Operation) -> None:
        with self._lock:
            if self._unwritten.get(written.id) is written:
                del self._unwritten[written.id]

    def cut_off(self) -> tuple[Operation, ...]:
        """Return the operations that an earlier Warden did not end; empty if the store cannot be read."""
        try:
            return self._store.running()
        except StoreUnavailable as exc:
            log.warning("interrupted operations cannot be read: %s", exc)
            return ()

    def recent(self, limit: int) -> tuple[Operation, ...]:
        """Return the newest operations; empty if the store cannot be read."""
        try:
            return self._store.operations(limit)
        except StoreUnavailable as exc:
            log.warning("earlier operations cannot be read: %s", exc)
            return ()

    def find(self, operation_id: str) -> Operation | None:
        """Return an operation or ``None``. Raises StoreUnavailable."""
        return self._unwritten.get(operation_id) or self._store.operation(operation_id)

    def of_request(self, actor: str, request_id: str) -> Operation | None:
        """Return what ``actor`` began under ``request_id`` or ``None``. Raises StoreUnavailable."""
        with self._lock:
            dropped = frozenset(self._dropped)
            unwritten = tuple(self._unwritten.values())
        sent = (actor, request_id)
        found = next((o for o in unwritten if (o.actor, o.request_id) == sent), None)
        found = found or self._store.operation_of_request(actor, request_id)
        return None if found is None or found.id in dropped else found

    def newest(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return operations that match ``where``, newest first, following ``before``. Raises StoreUnavailable."""
        return self._store.operations(limit, where, before)

    def values(self) -> OperationValues:
        """Return the values by which operations can be filtered. Raises StoreUnavailable."""
        return self._store.values()


def _key(operation_id: str) -> str:
    return f"operation {operation_id}"
