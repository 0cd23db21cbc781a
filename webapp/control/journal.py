"""Keeps operations in the store by a thread of its own: a store that is slow or fails never keeps an operation waiting."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

from webapp.domain.operation import ANY_OPERATION, Operation, OperationFilter, OperationValues
from webapp.errors import NotStored, StoreUnavailable

log = logging.getLogger(__name__)

DRAIN_S = 5.0
"""How long a stop waits for what is not written yet."""


class OperationStore(Protocol):
    """What the controller needs of the store."""

    def save_operation(self, operation: Operation) -> None:
        """Insert or replace an operation. Raises StoreUnavailable."""

    def operation(self, operation_id: str) -> Operation | None:
        """Return an operation or ``None``. Raises StoreUnavailable."""

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return operations that ``where`` matches, newest first, those after ``before`` alone. Raises StoreUnavailable."""

    def values(self) -> OperationValues:
        """Return what the kept operations can be filtered by. Raises StoreUnavailable."""

    def running(self) -> tuple[Operation, ...]:
        """Return those that are stored as running. Raises StoreUnavailable."""


class Journal:
    """Writes operations down as they go. Of several values of one operation only the newest is written, and never one that runs
    after one that has ended."""

    def __init__(self, store: OperationStore) -> None:
        self._store = store
        self._changed = threading.Condition()
        self._pending: dict[str, Operation] = {}
        self._ended: set[str] = set()
        self._writing: Operation | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to write."""
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="warden-journal", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, for some seconds at most, and end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(DRAIN_S)
            self._thread = None

    def record(self, operation: Operation) -> None:
        """Have ``operation`` written; never waits."""
        with self._changed:
            if operation.id in self._ended and operation.is_running:
                return
            if not operation.is_running:
                self._ended.add(operation.id)
            self._pending[operation.id] = operation
            self._changed.notify_all()

    def keep(self, operation: Operation) -> None:
        """Write ``operation`` before this returns. Raises NotStored."""
        self.record(operation)
        if not self.flush(1.0):
            raise NotStored(reason="no answer in 1 s")

    def flush(self, timeout_s: float = DRAIN_S) -> bool:
        """Wait until everything is written; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and self._writing is None, timeout_s)

    def cut_off(self) -> tuple[Operation, ...]:
        """Return the operations that an earlier Warden did not end; empty when the store cannot be read."""
        try:
            return self._store.running()
        except StoreUnavailable as exc:
            log.warning("operations that were cut off cannot be read: %s", exc)
            return ()

    def recent(self, limit: int) -> tuple[Operation, ...]:
        """Return the newest operations; empty when the store cannot be read."""
        try:
            return self._store.operations(limit)
        except StoreUnavailable as exc:
            log.warning("earlier operations cannot be read: %s", exc)
            return ()

    def find(self, operation_id: str) -> Operation | None:
        """Return an operation or ``None``. Raises StoreUnavailable."""
        with self._changed:
            writing = self._writing
            newest = self._pending.get(operation_id)
        if newest is None and writing is not None and writing.id == operation_id:
            newest = writing
        return newest or self._store.operation(operation_id)

    def newest(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return operations that ``where`` matches, newest first, those after ``before`` alone. Raises StoreUnavailable."""
        return self._store.operations(limit, where, before)

    def values(self) -> OperationValues:
        """Return what the kept operations can be filtered by. Raises StoreUnavailable."""
        return self._store.values()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending or self._stopping)
                if not self._pending:
                    return
                operation = self._pending.pop(next(iter(self._pending)))
                self._writing = operation
            self._write(operation)
            with self._changed:
                self._writing = None
                self._changed.notify_all()

    def _write(self, operation: Operation) -> None:
        try:
            self._store.save_operation(operation)
        except StoreUnavailable as exc:
            log.warning("operation %s was not written down: %s", operation.id, exc)
        except Exception:
            log.exception("operation %s could not be written down", operation.id)
