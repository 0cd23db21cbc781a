"""Leases, release requests, and idle models: people's decisions are kept with the instance, and in the store for the
next start.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from webapp.audit.trail import released_in_silence
from webapp.control.context import Context
from webapp.control.events import InstanceChanged, InstanceRemoved
from webapp.control.keeping import DEADLINE_S
from webapp.control.terms import check_terms, check_text
from webapp.domain.audit import WARDEN
from webapp.domain.idle import idle_unload_in, silence_releases
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import NO_LEASE, Lease, ReleaseAnswer, Terms
from webapp.errors import (
    InstanceStopping,
    InvalidRequest,
    LeasePending,
    NothingAsked,
    NotOwner,
    ReleasePending,
    UnknownInstance,
)
from webapp.message import Message, Param

log = logging.getLogger(__name__)

IDLE_ACTOR: Final = WARDEN.name
"""The actor of idle unloading."""


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
        """Return the terms that belong in the store: pending terms are there already, or are about to be."""
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
