"""Store the audit record: callers hand entries over without waiting, and a separate thread writes them.

Entries that cannot be written are retried until they can; a stop writes the remaining ones. Repeated refusals, and
actions of callers who are not signed in, are written once and then counted for a minute, so that a stranger cannot fill
the disk.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from webapp.domain.audit import (
    EVERYTHING,
    NOBODY,
    WARDEN,
    Action,
    AuditEntry,
    AuditFilter,
    Detail,
    Kind,
    Result,
    Target,
)
from webapp.domain.instance import Instance
from webapp.domain.queue import QueuedLaunch
from webapp.errors import StoreUnavailable
from webapp.rounds import Rounds

log = logging.getLogger(__name__)

ROUND_S: Final = 5.0
"""How often failed writes are retried, and expired counts are written."""
TIDY_S: Final = 86_400.0
"""How often old entries are dropped."""
DRAIN_S: Final = 5.0
"""How long a stop waits for entries that have not been written yet."""
PENDING_LIMIT: Final = 10_000
"""Entries that wait for an unresponsive database; further ones are lost, and the log says so."""
REPEAT_S: Final = 60.0
"""For so long a repeated entry is counted instead of written."""
COUNTED_LIMIT: Final = 256
"""Different entries that are counted at once; beyond that, targets and addresses are no longer distinguished."""

Key = tuple[object, ...]


class AuditStore(Protocol):
    """The store's methods that the record uses. Every call raises StoreUnavailable."""

    def add(self, entries: Sequence[AuditEntry]) -> None:
        """Add entries in their order, all or none."""

    def entries(self, limit: int, where: AuditFilter = EVERYTHING, before: int | None = None) -> tuple[AuditEntry, ...]:
        """Return entries that match ``where``, newest first; with ``before`` those that were added before it."""

    def has(self, entry: AuditEntry) -> bool:
        """Return whether there is an entry that ``entry`` repeats."""

    def people(self) -> tuple[str, ...]:
        """Return the names of all people who have entries."""

    def prune(self, before: float) -> int:
        """Delete the entries that are older than ``before``."""


@dataclass
class _Counted:
    """A repeated entry: the first one is written, ``last`` is the newest of the ``more`` that followed."""

    begun_at: float
    last: AuditEntry
    more: int = 0


class Audit(Rounds):
    """The audit record. Thread-safe; also works without its thread if ``flush`` is called."""

    def __init__(self, store: AuditStore, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        super().__init__("audit", self.look, ROUND_S, stop_s=DRAIN_S)
        self._store = store
        self._keep_s = keep_s
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._once = threading.Lock()
        """Held from the search for an earlier entry until the new one is queued."""
        self._pending: list[AuditEntry] = []
        self._counted: OrderedDict[Key, _Counted] = OrderedDict()
        self._lost = 0
        self._tidied_at: float | None = None
        self._failing = False

    def record(self, entry: AuditEntry) -> None:
        """Queue ``entry`` for writing; never waits."""
        with self._lock:
            if not self._is_repeated(entry):
                self._append(entry)
        self.nudge()

    def record_once(self, entry: AuditEntry) -> None:
        """Queue ``entry`` unless it repeats one that is pending or stored: the client sent one request twice.

        Waits for the database; if that does not answer, the entry is queued.
        """
        with self._once:
            try:
                self.flush()
                if self._store.has(entry):
                    return
            except StoreUnavailable as exc:
                log.info("whether %s was recorded before is not known: %s", entry.action.value, exc)
            self.record(entry)

    def flush(self) -> None:
        """Write the pending entries. Raises StoreUnavailable; no entry is lost then."""
        with self._writing:
            with self._lock:
                entries = list(self._pending)
            self._store.add(entries)
            with self._lock:
                del self._pending[: len(entries)]  # newer entries follow them

    def entries(self, limit: int, where: AuditFilter = EVERYTHING, before: int | None = None) -> tuple[AuditEntry, ...]:
        """Return entries that match ``where``, newest first, including pending ones. Raises StoreUnavailable."""
        self.flush()
        return self._store.entries(limit, where, before)

    def people(self) -> tuple[str, ...]:
        """Return the names of all people who have entries. Raises StoreUnavailable."""
        return self._store.people()

    def look(self) -> None:
        """Write the pending entries, and once a day delete expired ones; a failing store is tried again."""
        self._close_counts(self._clock())
        try:
            self.flush()
            self._tidy()
        except StoreUnavailable as exc:
            if not self._failing:
                log.warning("the audit cannot be written and waits until it can: %s", exc)
            self._failing = True
        else:
            self._failing = False

    def _run(self) -> None:
        super()._run()
        self._close_counts(float("inf"))
        self._round()  # what is left is written

    def _tidy(self) -> None:
        now = self._clock()
        if self._tidied_at is not None and now - self._tidied_at < TIDY_S:
            return
        self._store.prune(now - self._keep_s)
        self._tidied_at = now

    # Repeated entries; the lock is held

    def _append(self, entry: AuditEntry) -> None:
        if len(self._pending) < PENDING_LIMIT:
            self._pending.append(entry)
            return
        self._lost += 1
        if self._lost == 1 or self._lost % PENDING_LIMIT == 0:
            log.error("the audit cannot be written, and %s entries are lost", self._lost)

    def _is_repeated(self, entry: AuditEntry) -> bool:
        """Return whether ``entry`` is counted with one that was written a moment ago."""
        if entry.result is Result.DONE and entry.doer != NOBODY:
            return False
        key = _same(entry)
        if key not in self._counted and len(self._counted) >= COUNTED_LIMIT:
            entry = replace(entry, address="", target=replace(entry.target, id="", name=""))
            key = _same(entry)
        counted = self._counted.get(key)
        if counted is not None and entry.at - counted.begun_at < REPEAT_S:
            counted.last, counted.more = entry, counted.more + 1
            return True
        if counted is not None:
            self._close(counted)
        self._counted[key] = _Counted(entry.at, entry)
        return False

    def _close_counts(self, now: float) -> None:
        with self._lock:
            over = [key for key, counted in self._counted.items() if now - counted.begun_at >= REPEAT_S]
            for key in over:
                self._close(self._counted.pop(key))

    def _close(self, counted: _Counted) -> None:
        if counted.more:
            last = counted.last
            self._append(replace(last, details=(*last.details, (Detail.REPEATED, str(counted.more)))))


def _same(entry: AuditEntry) -> Key:
    """Return the key of equal entries. If nobody is signed in, the target does not count: the caller chooses it."""
    target = None if entry.doer == NOBODY else entry.target
    return entry.doer, entry.action, entry.result, entry.problem, entry.address, target


def idle_unload(instance: Instance, at: float, operation_id: str) -> AuditEntry:
    """Return the entry for an idle model that Warden unloads."""
    owner = ((Detail.OWNER, instance.owner),)
    return AuditEntry(at, WARDEN, Action.IDLE_UNLOAD, _model(instance), details=owner, operation_id=operation_id)


def released_in_silence(instance: Instance, at: float) -> AuditEntry:
    """Return the entry for a model that its owner's silence released."""
    owner = ((Detail.OWNER, instance.owner),)
    return AuditEntry(at, WARDEN, Action.RELEASED_IN_SILENCE, _model(instance), details=owner)


def queue_started(launch: QueuedLaunch, at: float, operation_id: str) -> AuditEntry:
    """Return the entry for a queued launch that Warden starts."""
    target = Target(Kind.QUEUED_LAUNCH, launch.id, launch.request.model_id)
    owner = ((Detail.OWNER, launch.actor),)
    return AuditEntry(at, WARDEN, Action.QUEUE_STARTED, target, details=owner, operation_id=operation_id)


def _model(instance: Instance) -> Target:
    return Target(Kind.MODEL, instance.id, instance.model_id)
