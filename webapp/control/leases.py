"""Leases, release requests, and idle models: people's decisions are kept with the instance, and in the store for the
next start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Protocol

from webapp.audit.trail import released_in_silence
from webapp.control.events import InstanceChanged, InstanceRemoved
from webapp.control.keeping import DEADLINE_S, Keeper
from webapp.domain.audit import WARDEN
from webapp.domain.idle import idle_unload_in, silence_releases
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import LONGEST_S, NO_LEASE, TEXT_LIMIT, Lease, Notice, ReleaseAnswer, Terms
from webapp.domain.plan import SwitchRequest
from webapp.errors import (
    InstanceInUse,
    InstanceLeased,
    InstanceStopping,
    InvalidRequest,
    LeasePending,
    NothingAsked,
    NotOwner,
    NotStored,
    ReleasePending,
    StoreUnavailable,
    UnknownInstance,
)
from webapp.message import Message, Param

if TYPE_CHECKING:
    from webapp.control.context import Context

log = logging.getLogger(__name__)

KEPT_S: Final = 60 * 86400.0
"""Terms that have not changed for so long belong to a model that ended while Warden was not running."""
NOTICES_KEPT: Final = 200
NOTICE_S: Final = 86400.0
"""How long unread notices are kept."""
IDLE_ACTOR: Final = WARDEN.name
"""The actor of idle unloading."""
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
        """Write the present terms. Raises StoreUnavailable: nothing may overwrite terms that are not read yet."""
        self._read_kept()
        lease = self._read(instance_id)
        if lease is not None:
            self.write(instance_id, lease)
        elif self._store is not None:
            self._store.drop_lease(instance_id)


class _Pending(Exception):
    """Other terms of the instance are being stored."""


class Leasing:
    """People's actions on leases. Each change is decided and marked as pending in one locked block, stored, and only
    then applied.

    No change is accepted for a model that is being stopped: the confirmed terms would not hold.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._settled = threading.Condition()
        """Notified when terms are no longer pending."""

    def start(self) -> None:
        """Subscribe to changes of instances and read the stored terms; called before anything is adopted."""
        events, leases = self._context.state_store.events, self._context.leases
        events.subscribe(InstanceChanged, self._announce_answer)
        events.subscribe(InstanceRemoved, lambda event: leases.changed(event.instance.id))
        leases.start(self._terms, self._give, self._context.clock)

    def set(self, instance_id: str, terms: Terms, actor: str) -> Instance:
        """Set new terms of an instance. Raises UnknownInstance, NotOwner, InstanceStopping, InvalidRequest,
        LeasePending, NotStored.
        """
        now = self._context.clock()

        def change(instance: Instance) -> Instance:
            _refuse_stranger(instance, actor)
            lease = _on(instance.lease, terms, now)
            check_terms(lease.until if terms.moves_until else None, lease.reason, lease.idle_minutes, now)
            return replace(instance, lease=lease)

        return self._agree(instance_id, change)

    def ask(self, instance_id: str, why: str, actor: str) -> Instance:
        """Ask the owner to release an instance; a second request of the same person changes nothing.

        Raises UnknownInstance, InstanceStopping, InvalidRequest, ReleasePending, LeasePending, NotStored.
        """
        check_text("why", why)
        now = self._context.clock()

        def change(instance: Instance) -> Instance:
            if instance.owner == actor:
                raise InvalidRequest(field="instance", value=instance.model_id, allowed="another person's")
            asked = instance.lease.asked
            if asked is not None and asked.asker != actor:
                raise ReleasePending(model=instance.model_id, instance=instance.id, asker=asked.asker)
            return replace(instance, lease=instance.lease.asked_by(actor, why, now))

        return self._agree(instance_id, change)

    def answer(self, instance_id: str, answer: ReleaseAnswer, word: str, actor: str) -> Instance:
        """Answer the open release request.

        Raises UnknownInstance, NotOwner, InstanceStopping, NothingAsked, InvalidRequest, LeasePending, NotStored.
        """
        check_text("word", word)
        now = self._context.clock()

        def change(instance: Instance) -> Instance:
            _refuse_stranger(instance, actor)
            if instance.lease.asked is None:
                raise NothingAsked(model=instance.model_id, instance=instance.id)
            return replace(instance, lease=instance.lease.answered(answer, now, actor, word))

        return self._agree(instance_id, change)

    def keep(self, instance_id: str, actor: str) -> Instance:
        """Count a click as use, so that an idle instance is kept. Raises UnknownInstance, InstanceStopping,
        LeasePending, NotStored.
        """
        now = self._context.clock()
        instance = self._agree(instance_id, lambda i: replace(i, lease=i.lease.kept(now)))
        log.info("%s is kept by %s", instance_id, actor)
        return instance

    def look(self) -> tuple[str, ...]:
        """Apply release timeouts and return the instances due for idle unloading. Never waits."""
        now, settings = self._context.clock(), self._context.settings
        instances = self._context.state.instances
        self._context.idleness.look(instances.values(), now)
        for instance in instances.values():
            if self._is_silent(instance, now):
                self._release_later(instance.id)
        live, quiet = [i for i in instances.values() if i.pending is None], self._context.idleness.quiet
        due = ((i.id, idle_unload_in(i, settings.sharing.idle_unload_minutes, quiet(i, now), now)) for i in live)
        return tuple(instance_id for instance_id, left_s in due if left_s is not None and left_s <= 0)

    def _is_silent(self, instance: Instance, now: float) -> bool:
        """Return whether the owner has left a release request unanswered for the full period."""
        silence_s = self._context.settings.sharing.release_silence_s
        return silence_releases(instance, now, silence_s, self._context.idleness.quiet(instance, now))

    def _release_later(self, instance_id: str) -> None:
        """Apply the timeout in the keeper's thread, which retries until the store accepts it; until then nobody is
        notified.
        """
        self._context.keeper.later(f"silence {instance_id}", lambda: self._release_by_silence(instance_id))

    def _release_by_silence(self, instance_id: str) -> None:
        """Release the model if the timeout still applies. Raises StoreUnavailable."""
        now = self._context.clock()

        def change(instance: Instance) -> Instance:
            if not self._is_silent(instance, now):
                return instance  # answered, or in use, a moment ago
            return replace(instance, lease=instance.lease.answered(ReleaseAnswer.RELEASE, now, None))

        with suppress(_Pending, UnknownInstance, InstanceStopping):  # the next round tries again
            self._change(instance_id, change, self._context.leases.write)

    def _announce_answer(self, event: InstanceChanged) -> None:
        """Tell the asker how a release request ended; if by the owner's silence, tell the owner and record it."""
        instance, release = event.instance, event.instance.lease.release
        if event.before.lease.asked is None or release is None or release.is_open:
            return
        params: dict[str, Param] = {"model": instance.model_id, "owner": instance.owner, "word": release.word or None}
        given = "release_given" if release.answered_by else "release_given_silently"
        code = "release_kept" if release.answer is ReleaseAnswer.KEEP else given
        self._context.leases.tell(release.asker, Message(code, params))
        if release.answered_by is None:
            silence = Message("released_in_silence", {"model": instance.model_id, "asker": release.asker})
            self._context.leases.tell(instance.owner, silence)
            self._context.record(released_in_silence(instance, release.answered_at or self._context.clock()))

    def _agree(self, instance_id: str, change: Callable[[Instance], Instance]) -> Instance:
        """Change the terms; waits while other terms are pending.

        Raises UnknownInstance, InstanceStopping, LeasePending, NotStored.
        """
        self._context.leases.catch_up()
        deadline = self._context.monotonic() + DEADLINE_S
        while True:
            try:
                return self._change(instance_id, change, self._context.leases.keep)
            except _Pending as exc:
                if not self._wait_until_settled(instance_id, deadline):
                    raise LeasePending(model=self._model_of(instance_id), instance=instance_id) from exc

    def _change(
        self, instance_id: str, change: Callable[[Instance], Instance], write: Callable[[str, Lease], None]
    ) -> Instance:
        """Decide, mark as pending, store, and apply the change; if it is not stored, nothing has changed.

        Raises UnknownInstance, InstanceStopping, _Pending, and what ``change`` and ``write`` raise.
        """
        state_store = self._context.state_store

        def mark(instance: Instance) -> Instance:
            changed = change(replace(instance, pending=None))
            _refuse_stopping(instance)
            if instance.pending is not None:
                raise _Pending
            return instance if changed.lease == instance.lease else replace(instance, pending=changed.lease)

        marked = state_store.change(instance_id, mark)
        if marked.pending is None:
            return marked  # the terms are unchanged
        made: Instance | None = None
        try:
            write(instance_id, marked.pending)
            made = state_store.change(instance_id, _made)
            return made
        finally:
            if made is None:
                self._undo(instance_id)
            with self._settled:
                self._settled.notify_all()

    def _undo(self, instance_id: str) -> None:
        """Remove the mark, and have the present terms written: an abandoned write may still succeed late."""
        with suppress(UnknownInstance):
            self._context.state_store.change(instance_id, lambda i: replace(i, pending=None))
        self._context.leases.changed(instance_id)

    def _wait_until_settled(self, instance_id: str, deadline: float) -> bool:
        """Return whether the terms are settled before ``deadline``. Raises NotStored: too many requests are waiting."""

        def is_settled() -> bool:
            instance = self._context.state.instances.get(instance_id)
            return instance is None or instance.pending is None

        with self._context.keeper.place(), self._settled:
            return self._settled.wait_for(is_settled, max(0.0, deadline - self._context.monotonic()))

    def _model_of(self, instance_id: str) -> str | None:
        instance = self._context.state.instances.get(instance_id)
        return None if instance is None else instance.model_id

    def _give(self, kept: Mapping[str, Lease]) -> None:
        """Apply the terms of an earlier Warden to models that were adopted before the terms could be read."""
        for instance_id in kept.keys() & self._context.state.instances.keys():
            self._give_one(instance_id, kept[instance_id])

    def _give_one(self, instance_id: str, lease: Lease) -> None:
        with suppress(UnknownInstance):
            self._context.state_store.change(
                instance_id, lambda i: replace(i, lease=lease) if i.lease == NO_LEASE else i
            )

    def _terms(self, instance_id: str) -> Lease | None:
        """Return the terms that belong into the store: pending terms are there already, or are about to be."""
        instance = self._context.state.instances.get(instance_id)
        return None if instance is None else instance.pending or instance.lease


def _on(lease: Lease, terms: Terms, now: float) -> Lease:
    reason = lease.reason if terms.reason is None else terms.reason
    if terms.extend_s is not None:
        changed = replace(lease.extended(terms.extend_s, now), reason=reason)
    elif terms.sets_until:
        changed = lease.on_terms(terms.until, reason)
    else:
        changed = replace(lease, reason=reason)
    return changed.idle_after(terms.idle_minutes, now) if terms.sets_idle else changed


def _made(instance: Instance) -> Instance:
    """Make the pending terms effective. Raises InstanceStopping if it was taken in the meantime, by its owner or an
    override.
    """
    _refuse_stopping(instance)
    assert instance.pending is not None
    return replace(instance, lease=instance.pending, pending=None)


def _refuse_stopping(instance: Instance) -> None:
    if instance.state is InstanceState.STOPPING:
        raise InstanceStopping(model=instance.model_id, instance=instance.id)


def _refuse_stranger(instance: Instance, actor: str) -> None:
    if instance.owner != actor:
        raise NotOwner(model=instance.model_id, instance=instance.id, owner=instance.owner)
