"""The controller's mutable state: one frozen value, replaced under a lock that guards only assignments."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from webapp.control.events import (
    Event,
    Events,
    InstanceChanged,
    InstanceListed,
    InstanceRemoved,
    OperationBegun,
    OperationChanged,
    OperationEnded,
)
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import Lease
from webapp.domain.operation import Operation, OperationKind
from webapp.domain.planning.state import Cooldown
from webapp.errors import Busy, NotCancellable, Stopping, Superseded, UnknownInstance, UnknownOperation

RECENT_LIMIT = 20
"""Ended operations that are kept in memory for the page; the store has all."""


@dataclass(frozen=True)
class ControllerState:
    """The state at one moment. ``version`` rises with every change."""

    version: int = 0
    accepting: bool = False
    instances: Mapping[str, Instance] = field(default_factory=dict)
    running: Mapping[str, Operation] = field(default_factory=dict)
    recent: tuple[Operation, ...] = ()
    """Ended operations, newest first."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Claimed device ids and other names, and the id of the operation that claimed each."""
    cooldowns: Mapping[str, Cooldown] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()
    """Operations that are being stored: they hold their claims, but are not shown until they are accepted."""

    @property
    def shown(self) -> tuple[Operation, ...]:
        """The running operations that are accepted."""
        return tuple(operation for operation in self.running.values() if operation.id not in self.pending)

    def instance(self, instance_id: str) -> Instance:
        """Return a listed instance. Raises UnknownInstance."""
        instance = self.instances.get(instance_id)
        if instance is None:
            raise UnknownInstance(instance=instance_id)
        return instance


class StateStore:
    """Holds the state. Readers take ``state``; each change is one method that decides and applies it in one locked block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._state = ControllerState()
        self.events = Events()

    @property
    def state(self) -> ControllerState:
        """The present state; a reference, so reading it never waits."""
        return self._state

    def begin(
        self,
        operation: Operation,
        claims: Iterable[str],
        *,
        unchanged_since: ControllerState | None = None,
        is_pending: bool = False,
    ) -> bool:
        """Enter ``operation`` with its claims; if ``is_pending``, the caller must confirm or withdraw it.

        Returns False and changes nothing if the instances differ from those of ``unchanged_since``, on which the plan
        was based.

        Raises:
            Busy: one of the claims is taken.
            Stopping: no operation is accepted now.
        """
        names = tuple(claims)
        with self._locked():
            state = self._state
            if not state.accepting:
                raise Stopping
            _refuse_claimed(state, names)
            if unchanged_since is not None and not _same_instances(state, unchanged_since):
                return False
            self._enter(state, operation, names, is_pending=is_pending)
            return True

    def confirm(self, operation_id: str) -> Operation:
        """Show a pending operation as accepted. Raises Superseded if an emergency stop has ended it in the meantime."""
        with self._locked():
            operation = self._running(operation_id)
            self._set(pending=self._state.pending - {operation_id})
            return operation

    def withdraw(self, operation_id: str) -> bool:
        """Remove a pending operation and its claims; return False if an emergency stop has ended it in the meantime."""
        with self._locked():
            state = self._state
            if operation_id not in state.running:
                return False
            self._set(**_without(state, operation_id))
            return True

    def claim(self, operation_id: str, claims: Iterable[str]) -> None:
        """Add claims to a running operation, all or none. Raises Busy, Superseded."""
        names = tuple(claims)
        with self._locked():
            self._running(operation_id)
            state = self._state
            _refuse_claimed(state, tuple(name for name in names if state.claims.get(name) != operation_id))
            self._set(claims={**state.claims, **dict.fromkeys(names, operation_id)})

    def take_over(
        self, operation: Operation, claims: Iterable[str], close: Callable[[Operation], Operation]
    ) -> tuple[Operation, ...]:
        """Enter an emergency stop: ``close`` ends every running operation, and all claims pass to the emergency stop.

        Returns the ended operations.

        Raises:
            Busy: another emergency stop runs.
            Stopping: no operation is accepted now.
        """
        with self._locked():
            state = self._state
            if not state.accepting:
                raise Stopping
            for other in state.running.values():
                if other.kind is OperationKind.EMERGENCY:
                    raise busy_with(other)
            ended = tuple(close(other) for other in state.running.values())
            cleared = replace(
                state, running={}, claims={}, pending=frozenset(), recent=_newest((*ended, *state.recent))
            )
            self._enter(cleared, operation, (*state.claims, *claims), ended=ended)
            return ended

    def update(self, operation_id: str, change: Callable[[Operation], Operation]) -> Operation:
        """Apply ``change`` to a running operation. Raises Superseded if it no longer runs."""
        with self._locked():
            changed = change(self._running(operation_id))
            self._set(running={**self._state.running, operation_id: changed})
            return changed

    def end(self, operation_id: str, change: Callable[[Operation], Operation]) -> Operation:
        """End a running operation by ``change`` and release its claims. Raises Superseded if it no longer runs."""
        with self._locked():
            changed, state = change(self._running(operation_id)), self._state
            recent = _newest((changed, *state.recent))
            self._commit(replace(state, **_without(state, operation_id), recent=recent), ended=(changed,))
            return changed

    def request_cancel(self, operation_id: str, actor: str, *, as_owner: bool = False) -> Operation:
        """Record who cancels an operation. ``as_owner`` of a model that is to be unloaded, ``actor`` may cancel only before
        anything is touched.

        Raises UnknownOperation, NotCancellable, NotYours, TooLate.
        """
        with self._locked():
            operation = self._state.running.get(operation_id)
            if operation is None:
                ended = next((o for o in self._state.recent if o.id == operation_id), None)
                if ended is None:
                    raise UnknownOperation(operation=operation_id)
                raise NotCancellable(operation=operation_id, state=ended.state.value)
            if operation.kind is OperationKind.EMERGENCY or operation.is_committed:
                raise NotCancellable(operation=operation_id, state=operation.state.value)
            if as_owner:
                operation.check_stop(actor)
            changed = replace(operation, cancel_requested_by=operation.cancel_requested_by or actor)
            self._set(running={**self._state.running, operation_id: changed})
            return changed

    def amend(self, operation: Operation) -> None:
        """Replace an ended operation that is still in memory, since more about it became known."""
        with self._locked():
            self._set(recent=tuple(operation if o.id == operation.id else o for o in self._state.recent))

    def put(self, instance: Instance, *, operation_id: str | None = None) -> None:
        """List an instance, or replace a listed one except its terms, which the owner may have changed in the meantime.

        Raises Superseded if ``operation_id`` no longer runs.
        """
        with self._locked():
            if operation_id is not None:
                self._running(operation_id)
            listed = self._state.instances.get(instance.id)
            entered = instance if listed is None else replace(instance, lease=listed.lease, pending=listed.pending)
            self._set(instances={**self._state.instances, instance.id: entered})

    def change(self, instance_id: str, change: Callable[[Instance], Instance]) -> Instance:
        """Apply ``change`` to an instance. Raises UnknownInstance."""
        with self._locked():
            instance = self._state.instance(instance_id)
            changed = change(instance)
            if changed != instance:
                self._set(instances={**self._state.instances, instance_id: changed})
            return changed

    def stop(
        self, instance_ids: Iterable[str], refuse: Callable[[Instance], None], *, operation_id: str
    ) -> tuple[Instance, ...]:
        """Mark instances as stopping, or none if ``refuse`` raises for one of them; return them as they were before.

        Raises UnknownInstance, Superseded, and what ``refuse`` raises.
        """
        with self._locked():
            self._running(operation_id)
            listed = tuple(self._state.instance(instance_id) for instance_id in instance_ids)
            for instance in listed:
                refuse(instance)
            stopping = {instance.id: instance.to(InstanceState.STOPPING) for instance in listed}
            self._set(instances={**self._state.instances, **stopping})
            return listed

    def change_in_state(self, instance_id: str, state: InstanceState, change: Callable[[Instance], Instance]) -> bool:
        """Apply ``change`` to an instance if it is still in ``state``; else return False."""
        with self._locked():
            instance = self._state.instances.get(instance_id)
            if instance is None or instance.state is not state:
                return False
            changed = change(instance)
            if changed != instance:
                self._set(instances={**self._state.instances, instance_id: changed})
            return True

    def remove(self, instance_id: str) -> None:
        """Remove an instance from the list; idempotent."""
        with self._locked():
            if instance_id in self._state.instances:
                rest = {key: value for key, value in self._state.instances.items() if key != instance_id}
                self._set(instances=rest)

    def set_cooldown(self, model_id: str, cooldown: Cooldown | None) -> None:
        """Set a model's cool-down, or clear it with ``None``."""
        with self._locked():
            rest = {key: value for key, value in self._state.cooldowns.items() if key != model_id}
            self._set(cooldowns=rest if cooldown is None else {**rest, model_id: cooldown})

    def end_cooldown(self, model_id: str, now: float) -> None:
        """Let a model's cool-down end ``now``, on the monotonic clock; its failures still count."""
        with self._locked():
            cooldown = self._state.cooldowns.get(model_id)
            if cooldown is not None and cooldown.until > now:
                self._set(cooldowns={**self._state.cooldowns, model_id: replace(cooldown, until=now)})

    def accept(self, accepting: bool) -> None:
        """Accept new operations, or refuse them."""
        with self._locked():
            self._set(accepting=accepting)

    def set_recent(self, operations: Iterable[Operation]) -> None:
        """Set the ended operations, read from the store at the start."""
        with self._locked():
            self._set(recent=_newest(operations))

    def _running(self, operation_id: str) -> Operation:
        operation = self._state.running.get(operation_id)
        if operation is None:
            raise Superseded(operation=operation_id)
        return operation

    def _enter(
        self,
        state: ControllerState,
        operation: Operation,
        names: tuple[str, ...],
        *,
        is_pending: bool = False,
        ended: tuple[Operation, ...] = (),
    ) -> None:
        claims = {**state.claims, **dict.fromkeys(names, operation.id)}
        running = {**state.running, operation.id: operation}
        pending = state.pending | {operation.id} if is_pending else state.pending
        self._commit(replace(state, running=running, claims=claims, pending=pending), ended)

    def _set(self, **changes: object) -> None:
        self._commit(replace(self._state, **changes))  # type: ignore[arg-type]

    def _commit(self, state: ControllerState, ended: tuple[Operation, ...] = ()) -> None:
        """Replace the state and note the events of the change: the only place that does either."""
        before, version = self._state, self._state.version + 1
        self._state = replace(state, version=version)
        self.events.note(changes(before, self._state, ended))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock during the block, then tell subscribers what has changed."""
        with self._lock:
            yield
        self.events.tell()


def changes(before: ControllerState, after: ControllerState, ended: tuple[Operation, ...]) -> Iterator[Event]:
    """Yield the events between two successive states; ``ended`` are the operations that ended with the second."""
    version = after.version
    shown = {operation.id: operation for operation in before.shown}
    for operation in ended:
        yield OperationEnded(version, operation)
    for operation in after.shown:
        if operation.id not in shown:
            yield OperationBegun(version, operation)
        elif operation is not shown[operation.id]:
            yield OperationChanged(version, operation)
    if not ended and after.recent is not before.recent:
        known = {operation.id: operation for operation in before.recent}
        for operation in after.recent:
            if known.get(operation.id, operation) is not operation:
                yield OperationChanged(version, operation)
    if after.instances is not before.instances:
        yield from _instance_changes(before, after)


def _instance_changes(before: ControllerState, after: ControllerState) -> Iterator[Event]:
    version = after.version
    for instance_id, instance in after.instances.items():
        was = before.instances.get(instance_id)
        if was is None:
            yield InstanceListed(version, instance)
        elif was is not instance:
            yield InstanceChanged(version, was, instance)
    for instance_id, instance in before.instances.items():
        if instance_id not in after.instances:
            yield InstanceRemoved(version, instance)


def _without(state: ControllerState, operation_id: str) -> dict[str, Any]:
    """Return the changes that remove an operation: its claims are free."""
    return {
        "running": {key: value for key, value in state.running.items() if key != operation_id},
        "claims": {name: owner for name, owner in state.claims.items() if owner != operation_id},
        "pending": state.pending - {operation_id},
    }


def _refuse_claimed(state: ControllerState, names: tuple[str, ...]) -> None:
    for name in names:
        if (owner := state.claims.get(name)) is not None:
            raise busy_with(state.running[owner])


def busy_with(operation: Operation) -> Busy:
    """Return the refusal that names the running operation, its actor, its start and its step."""
    step = operation.current_step
    return Busy(
        operation=operation.id,
        kind=operation.kind.value,
        actor=operation.actor,
        since=operation.started_at,
        step=None if step is None else step.name.value,
        model=operation.model_id,
    )


def _same_instances(state: ControllerState, other: ControllerState) -> bool:
    """Return whether both have the same instances, equally busy and on the same terms: evictions depend on that."""

    def essence(of: ControllerState) -> dict[str, tuple[InstanceState, bool, Lease]]:
        return {i.id: (i.state, i.may_be_busy, i.lease) for i in of.instances.values()}

    return state.instances is other.instances or essence(state) == essence(other)


def _newest(operations: Iterable[Operation]) -> tuple[Operation, ...]:
    ordered = sorted(operations, key=lambda o: o.ended_at or o.started_at, reverse=True)
    return tuple(ordered[:RECENT_LIMIT])
