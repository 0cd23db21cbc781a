"""The terms of leases: what may be agreed, who is protected by them, and what the store keeps of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final, Protocol

from webapp.control.keeping import Keeper
from webapp.domain.instance import Instance
from webapp.domain.lease import LONGEST_S, NO_LEASE, TEXT_LIMIT, Lease, Notice
from webapp.domain.plan import SwitchRequest
from webapp.errors import (
    InstanceInUse,
    InstanceLeased,
    InvalidRequest,
    LeasePending,
    NotStored,
    StoreUnavailable,
)
from webapp.message import Message

log = logging.getLogger(__name__)

KEPT_S: Final = 60 * 86400.0
"""Terms that have not changed for so long belong to a model that ended while Warden was not running."""
NOTICES_KEPT: Final = 200
NOTICE_S: Final = 86400.0
"""How long unread notices are kept."""
LONGEST_IDLE_MINUTES: Final = 30 * 24 * 60.0


class LeaseStore(Protocol):
    """The store's methods that leases use. Every call raises StoreUnavailable."""

    def save_lease(self, instance_id: str, lease: Lease, changed_at: float) -> None:
        """Store the terms of an instance, replacing the previous ones."""

    def drop_lease(self, instance_id: str) -> None:
        """Delete the terms of an instance; idempotent."""

    def drop_leases(self, before: float) -> int:
        """Delete terms that have not changed since ``before``."""

    def leases(self) -> Mapping[str, Lease]:
        """Return all stored terms by instance."""


def check_terms(until: float | None, reason: str, idle_minutes: float | None, now: float) -> None:
    """Refuse invalid terms. Raises InvalidRequest."""
    if until is not None and not now < until <= now + LONGEST_S:
        days = int(LONGEST_S // 86400)
        raise InvalidRequest(field="lease_until", value=str(round(until)), allowed=f"> now, <= {days} d")
    check_text("reason", reason)
    if idle_minutes is not None and not 0 <= idle_minutes <= LONGEST_IDLE_MINUTES:
        raise InvalidRequest(
            field="idle_unload_minutes", value=str(idle_minutes), allowed=f"0–{LONGEST_IDLE_MINUTES:.0f}"
        )


def check_text(field: str, text: str) -> None:
    """Refuse a text that is too long. Raises InvalidRequest."""
    if len(text) > TEXT_LIMIT:
        raise InvalidRequest(field=field, value=text[:TEXT_LIMIT], allowed=f"{TEXT_LIMIT}")


def refuse_kept(instance: Instance, actor: str, now: float, *, override: bool = False) -> None:
    """Refuse to take ``instance`` from another person who holds it: leased, about to be, or possibly answering a
    request.

    Raises InstanceLeased, LeasePending, InstanceInUse.
    """
    if override or not instance.is_live or not instance.is_foreign_to(actor):
        return
    if instance.lease.runs(now):
        raise leased(instance)
    if instance.pending is not None and instance.pending.runs(now):
        raise LeasePending(model=instance.model_id, instance=instance.id)
    if instance.may_be_busy:
        raise in_use(instance)


def leased(instance: Instance) -> InstanceLeased:
    """Return the refusal that names the owner, the end of the lease and its purpose."""
    return InstanceLeased(
        model=instance.model_id,
        instance=instance.id,
        owner=instance.owner,
        until=instance.lease.until,
        reason=instance.lease.reason or None,
    )


def in_use(instance: Instance) -> InstanceInUse:
    """Return the refusal that names the owner and the number of requests."""
    return InstanceInUse(
        model=instance.model_id, instance=instance.id, in_flight=instance.in_flight, owner=instance.owner
    )


def lease_of(request: SwitchRequest, now: float) -> Lease:
    """Return the terms that a switch requested."""
    return NO_LEASE.on_terms(request.lease_until, request.reason).idle_after(request.idle_minutes, now)


class Leases:
    """The terms in the store, and the notices. Without a store (a sandbox) nothing is stored."""

    def __init__(self, store: LeaseStore | None = None, keeper: Keeper | None = None) -> None:
        self._store = store
        self._keeper = keeper
        self._lock = threading.Lock()
        self._kept: Mapping[str, Lease] | None = {} if store is None else None
        """The terms that an earlier Warden stored; ``None`` until they are read."""
        self._notices: tuple[Notice, ...] = ()
        self._numbers = 0
        self._read: Callable[[str], Lease | None] = lambda instance_id: None
        self._give: Callable[[Mapping[str, Lease]], None] = lambda kept: None
        self._clock: Callable[[], float] = lambda: 0.0

    def start(
        self,
        read: Callable[[str], Lease | None],
        give: Callable[[Mapping[str, Lease]], None],
        clock: Callable[[], float],
    ) -> None:
        """Read the stored terms, or do so as soon as the database provides them. ``read`` returns an instance's present
        terms, ``None`` once it has ended; ``give`` applies the stored terms to instances that are listed already.
        """
        self._read, self._give, self._clock = read, give, clock
        try:
            self._read_kept()
        except StoreUnavailable as exc:
            log.warning("leases cannot be read yet: %s", exc)
            if self._keeper is not None:
                self._keeper.later("kept leases", self._read_kept)
        if self._store is not None:
            with suppress(StoreUnavailable):  # old terms are deleted at another start
                self._store.drop_leases(clock() - KEPT_S)

    def kept(self, instance_id: str) -> Lease:
        """Return the terms that an earlier Warden stored, as far as they are read."""
        return (self._kept or {}).get(instance_id, NO_LEASE)

    def catch_up(self) -> None:
        """Read the stored terms if the start could not. Raises NotStored: no terms may be agreed while the stored ones
        are unknown.
        """
        if self._kept is None and self._keeper is not None:
            self._keeper.now(self._read_kept)

    def changed(self, instance_id: str) -> None:
        """Queue the terms of an instance for writing, with their value at that moment; never waits."""
        if self._keeper is not None:
            self._keeper.later(f"lease {instance_id}", lambda: self._write_as_it_stands(instance_id))

    def keep(self, instance_id: str, lease: Lease, *, in_request: bool = True) -> None:
        """Store the terms of an instance before this returns.

        Raises:
            NotStored: the database did not accept them in time; the caller must call ``changed``, which reverts a late
            write.
        """
        if self._keeper is not None:
            self._keeper.now(lambda: self.write(instance_id, lease), in_request=in_request)

    def settle(self, instance_id: str, lease: Lease) -> None:
        """Store the terms with which an instance starts, and wait briefly: an operation continues without it."""
        if lease != NO_LEASE:
            with suppress(NotStored):
                self.keep(instance_id, lease, in_request=False)
                return
        self.changed(instance_id)

    def write(self, instance_id: str, lease: Lease) -> None:
        """Write the terms of an instance, in the keeper's thread. Raises StoreUnavailable."""
        if self._store is not None:
            self._store.save_lease(instance_id, lease, self._clock())

    @property
    def notices(self) -> tuple[Notice, ...]:
        """The notices, oldest first; a reference."""
        return self._notices

    def tell(self, to: str, message: Message) -> None:
        """Notify ``to`` on every page."""
        now = self._clock()
        with self._lock:
            self._numbers += 1
            fresh = tuple(notice for notice in self._notices if now - notice.at < NOTICE_S)
            self._notices = (*fresh, Notice(self._numbers, to, now, message))[-NOTICES_KEPT:]

    def dismiss(self, number: int, actor: str) -> None:
        """Dismiss a notice to ``actor``; idempotent."""
        with self._lock:
            self._notices = tuple(n for n in self._notices if n.number != number or n.to != actor)

    def _read_kept(self) -> None:
        """Read the stored terms, once. Raises StoreUnavailable."""
        if self._kept is None and self._store is not None:
            self._kept = self._store.leases()
            self._give(self._kept)

    def _write_as_it_stands(self, instance_id: str) -> None:
        """Write the present terms. Raises StoreUnavailable: nothing may overwrite terms that have not been read."""
        self._read_kept()
        lease = self._read(instance_id)
        if lease is not None:
            self.write(instance_id, lease)
        elif self._store is not None:
            self._store.drop_lease(instance_id)
