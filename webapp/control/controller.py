"""The controller: the only place that decides what happens to models and memory; see docs/design/controller.md."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from webapp.audit import trail
from webapp.control import (
    cleaning,
    containers,
    demo,
    emergency,
    grace,
    postmortem,
    restoring,
    selftest,
    switching,
    unloading,
)
from webapp.control.context import Context, new_id, side_by_side, within
from webapp.control.contract import EmergencyPreview, Health, Question, Snapshot
from webapp.control.events import InstanceChanged, InstanceRemoved, OperationEnded
from webapp.control.keeping import not_stored
from webapp.control.leases import IDLE_ACTOR, Leasing
from webapp.control.lock import StateLock
from webapp.control.pausing import QueuePause
from webapp.control.queue import LaunchQueue
from webapp.control.reconcile import LateRuntimes, reconcile
from webapp.control.repeats import Repeats, check_same_launch, check_same_switch
from webapp.control.run import Outcome, Run, carry_out
from webapp.control.standby import Standby
from webapp.control.state import ControllerState, busy_with
from webapp.control.stuck import StuckInstances, clear_stuck
from webapp.control.switching import Switch
from webapp.control.terms import check_terms, lease_of, refuse_kept
from webapp.control.versions import Versions
from webapp.control.watcher import Watcher
from webapp.domain.idle import idle_unload_in
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import NO_LEASE, Lease
from webapp.domain.memory import HistoryPoint, Holder, HolderKind, Reading
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.domain.operation import (
    ANY_OPERATION,
    Evicted,
    Finding,
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
    Step,
    StepName,
)
from webapp.domain.plan import Plan, SwitchRequest
from webapp.domain.planning.admission import own_bytes, within_limit
from webapp.domain.planning.advise import advise
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import Headroom, headrooms
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.recommend import Advice, recommend
from webapp.errors import (
    EngineMissing,
    EngineUnavailable,
    InstanceInUse,
    NotConfirmed,
    NothingToRestore,
    NotReady,
    OutOfMemory,
    StoreUnavailable,
    Unavailable,
    UnknownContainer,
    UnknownDevice,
    UnknownModel,
    UnknownOperation,
    WardenError,
)
from webapp.message import Message
from webapp.runtimes.base import Runtime, StopResult

if TYPE_CHECKING:
    from webapp.runtimes.chat import ChatReply

log = logging.getLogger(__name__)

WATCHER_LATE_S = 15.0
"""A watcher that has completed no round for this long counts as hanging."""
STOP_DEADLINE_S = 8.0
"""How long a stop of Warden waits for operations to undo their changes."""
PAUSE_MARK_S = 1.0
"""How long an emergency stop waits for the disk before it acts."""
DAY_S = 86_400.0


class Controller:
    """The one controller of a machine; ``start`` takes the lock of the state folder, reconciles and begins watching.

    Its public calls, with those of ``queue`` and ``leases``, are all that the web layer and the command line may use.
    They do not wait for an operation: those that act return the accepted operation, and ``snapshot`` shows its
    progress.
    """

    def __init__(self, context: Context, lock: StateLock) -> None:
        self._context = context
        self._lock = lock
        self._state_store = context.state_store
        self._late = LateRuntimes(context)
        self.queue = LaunchQueue(context, self.switch, self.cancel, self.operation)
        """Queued launches; ``enqueue`` adds one."""
        self.leases = Leasing(context)
        """The terms on which people hold instances."""
        self._watcher = Watcher(context, self._each_round)
        self._stuck = StuckInstances(context, self._clear_stuck)
        self._cut_off = restoring.CutOff(context, lambda owing, owed: self._restore(owing, owed, IDLE_ACTOR))
        self._standby = Standby()
        self._versions = Versions()
        self._repeats = Repeats(context.keeper)
        self._runs: dict[str, Run] = {}
        self._threads: dict[str, threading.Thread] = {}
        events = context.state_store.events
        events.subscribe(OperationEnded, lambda event: self.queue.nudge())
        events.subscribe(InstanceRemoved, lambda event: self.queue.nudge())
        events.subscribe(InstanceChanged, self._note_terms)

    # Life

    def start(self) -> None:
        """Lock the state folder, adopt running models, and accept operations.

        Raises:
            AlreadyRunning: another Warden holds the state folder.
            ConfigurationError: the state folder cannot be used.
        """
        self._lock.take()
        self._context.keeper.start(self._write_again, self._prune)
        for runtime in self._context.runtimes.values():
            runtime.start()
        if (calibrator := self._context.calibrator) is not None:
            calibrator.start(self._context.engines())
        self.leases.start()
        reconciled = reconcile(self._context)
        self._late.expect(reconciled.unanswered)
        left = None if self._context.pause_mark is None else self._context.pause_mark.start()
        self._cut_off.expect([o for o in reconciled.cut_off if left is None or o.started_at > left.at])
        self._watcher.start()
        self._standby.start()
        self._state_store.accept(True)
        self.queue.start(left)

    def stop(self) -> tuple[str, ...]:
        """End operations and threads; return lines for the console about the models that stay loaded."""
        self.queue.stop()
        self.end_operations()
        self._watcher.stop()
        self._standby.stop()
        self._late.stop()
        for runtime in self._context.runtimes.values():
            runtime.stop()
        lines = self._leave_models()
        self._context.keeper.stop()
        # While a thread still acts, no other Warden may start: the kernel then releases the lock with the process.
        if not self._threads:
            self._lock.release()
        return lines

    def end_operations(self) -> None:
        """Accept no more operations, and cancel the running ones, which undo their changes; the next start settles
        those that take too long.
        """
        self._state_store.accept(False)
        for operation in self._state_store.state.running.values():
            undoing = any(s.name is StepName.ROLLBACK for s in operation.steps)
            if (run := self._runs.get(operation.id)) and operation.kind is not OperationKind.EMERGENCY and not undoing:
                run.cancel()
        deadline, pause = self._context.monotonic() + STOP_DEADLINE_S, threading.Event()
        while self._is_acting() and self._context.monotonic() < deadline:
            pause.wait(0.02)

    def end_everything(self) -> tuple[str, ...]:
        """Unload all models while no Warden runs; return a line for each. Raises AlreadyRunning."""
        self._lock.take()
        try:
            lines = [line for runtime in self._context.runtimes.values() for line in _end_all(runtime)]
            return tuple(lines) or ("Nothing of Warden's is loaded.",)
        finally:
            self._lock.release()

    # Reading

    def snapshot(self) -> Snapshot:
        """Return the present state; takes references only."""
        unversioned = self._unversioned()
        version = self._versions.of(unversioned)
        return replace(unversioned, version=version, sample_age_s=self._context.monitor.age_s())

    def _unversioned(self) -> Snapshot:
        """Return the part that the version covers: everything except the age of the reading, which always grows."""
        state, context, line = self._state_store.state, self._context, self.queue.line
        catalog = context.catalog.latest()
        return Snapshot(
            version="",
            sample=context.monitor.latest(),
            sample_age_s=None,
            sample_is_stale=context.monitor.is_stale(),
            instances=tuple(sorted(state.instances.values(), key=lambda i: (i.started_at, i.id))),
            running=tuple(sorted(state.shown, key=lambda o: o.started_at)),
            recent=state.recent,
            models=catalog.models,
            models_problem=catalog.problem,
            models_scanned_at=catalog.scanned_at,
            mode_problems=context.mode_problems(),
            claims=state.claims,
            containers=context.foreign_containers(),
            waiting=line.queued,
            waited=line.ended,
            present=context.presence.present(context.monotonic()),
            notices=context.leases.notices,
            store_problem=context.keeper.trouble,
            idle_unload_at=dict(self._idle_unloads(state)),
        )

    def _idle_unloads(self, state: ControllerState) -> Iterator[tuple[str, float]]:
        """Yield ids and moments, rounded to seconds: jitter between the two clocks must not count as a change."""
        now, minutes = self._context.clock(), self._context.settings.sharing.idle_unload_minutes
        for instance in state.instances.values():
            left_s = idle_unload_in(instance, minutes, self._context.idleness.quiet(instance, now), now)
            if left_s is not None:
                yield instance.id, float(round(now + left_s))

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        """Return the short history of a device, oldest first; empty if the device is unknown."""
        return self._context.monitor.history(device_id)

    def plan(self, request: SwitchRequest, actor: str | None = None) -> Plan:
        """Return what ``request`` of ``actor`` would do now; refusals are in the plan. Raises NotFound, InvalidRequest."""
        return plan_switch(_with_reason(request), self._context.planning_state(actor=actor), actor)

    def headrooms(self, request: SwitchRequest | None = None, actor: str | None = None) -> tuple[Headroom, ...]:
        """Return how much a launch may take on each device, or on those that ``request`` of ``actor`` names.

        Empty if one of them does not exist.
        """
        return headrooms(self._context.planning_state(actor=actor), request)

    def recommend(
        self, device_id: str | None = None, model_id: str | None = None, actor: str | None = None
    ) -> Advice | None:
        """Return settings that suit a device's free memory, or that fit ``model_id`` there; ``None`` if it is unknown.

        Raises UnknownDevice, UnknownModel.
        """
        if model_id is not None:
            devices = None if device_id is None else (device_id,)
            return self.advise(SwitchRequest(Mode.TRANSFORMERS, model_id, devices=devices), actor)
        planning_state = self._context.planning_state()
        if device_id is not None and device_id not in planning_state.device_ids:
            raise UnknownDevice(device=device_id, known=", ".join(planning_state.device_ids))
        readings = (
            () if planning_state.sample is None or planning_state.sample_is_stale else planning_state.sample.readings
        )
        free = [
            _takeable(r, planning_state.instances, self._context) for r in readings if device_id in (None, r.device_id)
        ]
        known = [f for f in free if f is not None]
        if not known:
            return None
        return recommend(max(known), vllm_unavailable=planning_state.mode_problems.get(Mode.VLLM))

    def advise(self, request: SwitchRequest, actor: str | None = None) -> Advice | None:
        """Return the largest configuration of the requested model that fits on the devices chosen for ``actor``;
        ``None`` if the memory is unknown.

        Raises UnknownDevice, UnknownInstance, UnknownModel, InvalidRequest.
        """
        return advise(request, self._context.planning_state(actor=actor))

    def operation(self, operation_id: str) -> Operation:
        """Return an operation, running or from the store. Raises UnknownOperation, StoreUnavailable."""
        state = self._state_store.state
        known = {o.id: o for o in (*state.recent, *state.shown)}
        found = known.get(operation_id) or self._context.journal.find(operation_id)
        if found is None:
            raise UnknownOperation(operation=operation_id)
        return found

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return running and ended operations that match ``where``, newest first.

        ``before`` is the id of the last operation already seen: those after it follow. Raises UnknownOperation for it,
        StoreUnavailable.
        """
        seen = None if before is None else _age(self.operation(before))
        kept = self._context.journal.newest(limit, where, before)
        state = self._state_store.state
        present = {o.id: o for o in (*state.recent, *state.shown)}  # stored values may be a moment old
        found = [o for o in kept if o.id not in present]
        found += [o for o in present.values() if where.matches(o) and (seen is None or _age(o) < seen)]
        return tuple(sorted(found, key=_age, reverse=True)[:limit])

    def operation_values(self) -> OperationValues:
        """Return the values by which the stored operations can be filtered. Raises StoreUnavailable."""
        return self._context.journal.values()

    def log_tail(self, instance_id: str) -> tuple[str, ...]:
        """Return the last lines of an instance's log, oldest first. Raises UnknownInstance."""
        instance = self._state_store.state.instance(instance_id)
        return self._context.runtime(instance).log_tail(instance_id, self._context.settings.launch.log_lines)

    def health(self) -> Health:
        """Return whether Warden is alive, with the ages of the latest reading and of the controller's last round."""
        monitor, watcher = self._context.monitor.age_s(), self._watcher.age_s()
        ticking = monitor is not None and not self._context.monitor.is_stale()
        answering = watcher is not None and watcher < WATCHER_LATE_S
        problem = self._context.keeper.trouble
        ok = ticking and answering and problem is None
        return Health(ok=ok, monitor_age_s=monitor, controller_age_s=watcher, store_problem=problem)

    def emergency_preview(self) -> EmergencyPreview:
        """Return what ``emergency`` would end."""
        state, sample = self._state_store.state, self._context.monitor.latest()
        holders = [] if sample is None else [h for r in sample.readings for h in r.holders]
        alive = {i for runtime in self._context.runtimes.values() for i in runtime.processes().values()}
        unlisted = alive - set(state.instances)
        return EmergencyPreview(
            instances=tuple(state.instances.values()),
            unlisted_workers=len(unlisted),
            operations=tuple(state.running.values()),
            foreign=tuple(_largest(h for h in holders if h.kind is HolderKind.FOREIGN)),
            containers=self._context.foreign_containers(),
            launches=sum(one.launch.starts_by_itself for one in self.queue.line.queued),
        )

    # Acting

    def switch(self, request: SwitchRequest, actor: str, request_id: str | None = None) -> Operation:
        """Start loading a model, unloading what the plan names; the operation is in the store when this returns.

        A request that ``actor`` has sent under ``request_id`` before is not started again: its operation is returned,
        running or ended. Raises NotFound, Refused (RequestIdReused: for another request), InvalidRequest, Unavailable
        (NotStored: nothing was started).
        """
        request = _with_reason(request)
        if request_id is None:
            return self._switch(request, actor, None)
        with self._repeats.alone(actor, request_id):
            if (begun := self._begun_by(actor, request_id)) is not None:
                return check_same_switch(begun, request, request_id)
            return self._switch(request, actor, request_id)

    def _begun_by(self, actor: str, request_id: str) -> Operation | QueuedLaunch | None:
        """Return what ``actor`` began or queued under ``request_id``. Raises NotStored if the store does not respond."""
        state, sent = self._state_store.state, (actor, request_id)
        known = next((o for o in (*state.shown, *state.recent) if (o.actor, o.request_id) == sent), None)
        try:
            queued = self.queue.of_request(actor, request_id)
            return known or queued or self._context.journal.of_request(actor, request_id)
        except StoreUnavailable as exc:
            raise not_stored(exc) from exc

    def _switch(self, request: SwitchRequest, actor: str, request_id: str | None) -> Operation:
        check_terms(request.lease_until, request.reason, request.idle_minutes, self._context.clock())
        looked_again = False
        while True:
            state, planning_state = self._state_store.state, self._context.planning_state(actor=actor)
            _refuse_while_claimed(
                state, request.devices or planning_state.device_ids, all_of_them=request.devices is None
            )
            plan = plan_switch(request, planning_state)
            error = refusal_of(plan, planning_state)
            if isinstance(error, InstanceInUse) and not looked_again:
                self._watcher.look_again(e.instance_id for e in plan.unload)
                looked_again = True
                continue
            if error is not None:
                raise error
            devices = tuple(device.device_id for device in plan.devices)
            given = grace.before_switch(self._context, plan.unload)
            operation = self._new(OperationKind.SWITCH, actor, switching.steps(given))
            operation = replace(
                operation,
                mode=request.mode.value,
                model_id=request.model_id,
                instance_id=new_id(),
                devices=devices,
                request=request,
                grace=given,
                request_id=request_id,
            )
            run = Run(operation.id, self._context)
            if self._state_store.begin(operation, plan.touched, unchanged_since=state, is_pending=True):
                assert operation.instance_id is not None
                accepted = self._keep(operation, operation.instance_id, lease_of(request, operation.started_at))
                return self._go(accepted, run, Switch(run, plan, operation.instance_id).carry_out)

    def _keep(self, operation: Operation, instance_id: str, lease: Lease) -> Operation:
        """Store a switch and the terms of its model before it is shown as accepted.

        Raises:
            NotStored: the switch is discarded.
            Superseded: an emergency stop has ended it in the meantime.
        """
        kept = False
        try:
            needs_place = operation.request_id is None  # a request with an id has its place already
            if lease != NO_LEASE:
                self._context.leases.keep(instance_id, lease, in_request=needs_place)
            self._context.journal.keep(operation, in_request=needs_place)
            kept = True
        finally:
            if not kept and self._state_store.withdraw(operation.id):
                self._context.journal.drop(operation)
                self._context.leases.changed(instance_id)
        return self._state_store.confirm(operation.id)

    def enqueue(
        self, request: SwitchRequest, actor: str, *, starts_by_itself: bool, request_id: str | None = None
    ) -> QueueEntry:
        """Queue ``request`` until there is enough memory; it then starts in ``actor``'s name, or ``actor`` is only
        notified.

        A request that ``actor`` has sent under ``request_id`` before is not queued again: it is returned, open or
        ended. Raises NotFound, InvalidRequest, Refused (what waiting cannot change; QueueFull, AlreadyWaiting,
        CannotWait, RequestIdReused), StoreUnavailable.
        """
        request = _with_reason(request)
        if request_id is None:
            return self._enqueue(request, actor, starts_by_itself, None)
        with self._repeats.alone(actor, request_id):
            if (begun := self._begun_by(actor, request_id)) is not None:
                same = check_same_launch(begun, request, request_id, starts_by_itself=starts_by_itself)
                return self.queue.entry(same.id)
            return self._enqueue(request, actor, starts_by_itself, request_id)

    def _enqueue(
        self, request: SwitchRequest, actor: str, starts_by_itself: bool, request_id: str | None
    ) -> QueueEntry:
        check_terms(request.lease_until, request.reason, request.idle_minutes, self._context.clock())
        return self.queue.take(request, actor, starts_by_itself=starts_by_itself, request_id=request_id)

    def unload(self, instance_id: str, actor: str, override_reason: str | None = None) -> Operation:
        """Start unloading an instance; another person's leased or busy one only with an administrator's
        ``override_reason``.

        Raises UnknownInstance, InstanceLeased, InstanceInUse, Busy.
        """
        instance = self._state_store.state.instance(instance_id)
        reason = (override_reason or "").strip() or None
        try:
            refuse_kept(instance, actor, self._context.clock(), override=reason is not None)
        except InstanceInUse:
            self._watcher.look_again([instance_id])
            refuse_kept(self._state_store.state.instance(instance_id), actor, self._context.clock())
        return self._written(self._unload(instance, actor, lambda run: unloading.unload(run, instance_id, reason)))

    def _unload(self, instance: Instance, actor: str, body: Callable[[Run], Outcome]) -> Operation:
        given = None if actor == IDLE_ACTOR else grace.before_unload(self._context, instance, actor)
        steps = (
            (StepName.UNLOAD, StepName.SETTLE) if given is None else (StepName.GRACE, StepName.UNLOAD, StepName.SETTLE)
        )
        operation = replace(
            self._new(OperationKind.UNLOAD, actor, steps),
            mode=instance.mode.value,
            model_id=instance.model_id,
            instance_id=instance.id,
            devices=instance.devices,
            request=SwitchRequest(
                instance.mode, instance.model_id, instance.options, instance.devices, keep_others=True
            ),
            grace=given,
        )
        return self._begin(operation, instance.devices, body)

    def restore(self, operation_id: str, actor: str) -> Operation:
        """Start loading again what an ended operation had unloaded and did not restore, in the names of its owners.

        Raises UnknownOperation, NothingToRestore, Busy.
        """
        owing = self.operation(operation_id)
        if owing.is_running or not owing.to_restore:
            raise NothingToRestore(operation=operation_id)
        return self._written(self._restore(owing, owing.to_restore, actor))

    def _restore(self, owing: Operation, owed: tuple[Evicted, ...], actor: str) -> Operation:
        """Start loading ``owed`` again; these models then belong to the new operation instead of ``owing``."""
        devices = tuple(dict.fromkeys(device for evicted in owed for device in evicted.devices))
        operation = replace(
            self._new(OperationKind.RESTORE, actor, restoring.STEPS),
            mode=owed[0].mode.value,
            model_id=owed[0].model_id,
            devices=devices,
            to_restore=owed,
        )
        begun = self._begin(operation, devices, restoring.load_again)
        told = Finding(Message("restore_begun", {"models": restoring.names(owed), "actor": actor}))
        rest = tuple(evicted for evicted in owing.to_restore if evicted not in owed)
        passed_on = replace(owing, to_restore=rest, findings=(*owing.findings, told))
        self._state_store.amend(passed_on)
        self._context.journal.record(passed_on)
        return begun

    def is_stored(self, operation_id: str) -> bool:
        """Return whether the store has an operation that was accepted: all but a switch act first."""
        return self._context.journal.is_written(operation_id)

    def see(self, actor: str) -> None:
        """Note that ``actor`` has a page open; never waits."""
        self._context.presence.see(actor, self._context.monotonic())

    def dismiss(self, notice: int, actor: str) -> None:
        """Dismiss a notice to ``actor``; idempotent."""
        self._context.leases.dismiss(notice, actor)

    def stop_container(self, container_id: str, name: str, actor: str) -> Operation:
        """Start ending a container that Warden did not start. ``container_id`` is all 64 digits; ``name`` must be its
        exact name: the explicit confirmation.

        Raises UnknownContainer, NotConfirmed, Busy.
        """
        container = next((c for c in self._context.foreign_containers() if c.id == container_id), None)
        if container is None:
            raise UnknownContainer(container=container_id)
        if name != container.name:
            raise NotConfirmed(container=container_id, name=container.name, owner=container.owner)
        claims = containers.claims_of(self._context, container)
        operation = self._new(OperationKind.STOP_CONTAINER, actor, containers.STEPS)
        operation = replace(operation, model_id=container.model, devices=claims[:-1])
        return self._written(self._begin(operation, claims, lambda run: containers.stop_container(run, container)))

    def clean(self, actor: str) -> Operation:
        """Start freeing memory that nobody needs. Raises Busy."""
        operation = self._new(OperationKind.CLEAN, actor, cleaning.STEPS)
        return self._written(self._begin(operation, self._all_devices(), cleaning.clean))

    def make_demo(self, actor: str) -> Operation:
        """Start creating the demo model in the cache. Raises Busy."""
        operation = self._new(OperationKind.DEMO, actor, demo.STEPS)
        return self._written(self._begin(operation, (demo.CLAIM,), demo.make_demo))

    def end_pause(self, model_id: str) -> CachedModel:
        """End the pause after a failed load of a model, so that it can be tried again at once; idempotent.

        The failures still count: the next one is followed by the longer pause. Raises UnknownModel.
        """
        model = next((m for m in self._context.catalog.latest().models if m.id == model_id), None)
        if model is None:
            raise UnknownModel(model=model_id)
        self._context.state_store.end_cooldown(model_id, self._context.monotonic())
        return model

    def selftest(self, actor: str) -> Operation:
        """Start checking that everything works, next to the loaded models. Raises Busy while another self-test runs."""
        operation = self._new(OperationKind.SELFTEST, actor, selftest.STEPS)
        body: Callable[[Run], Outcome] = lambda run: selftest.SelfTest(run, self.recommend).carry_out()  # noqa: E731
        return self._written(self._begin(operation, (selftest.CLAIM,), body))

    def emergency(self, actor: str) -> Operation:
        """Start ending everything that Warden started, whatever else runs. Raises Busy only while another emergency
        stop runs.
        """
        operation = self._new(OperationKind.EMERGENCY, actor, emergency.STEPS)
        devices = self._all_devices()
        operation = replace(operation, devices=tuple(sorted(devices)))
        error, now = Message("cancelled_by_emergency", {"actor": actor}), self._context.clock()

        def close(other: Operation) -> Operation:
            return other.closed(OperationState.CANCELLED, now, Message("taken_over"), error=error)

        self._cut_off.forget()
        self.queue.pause(actor)
        ended = self._state_store.take_over(operation, devices, close)
        for each in (*ended, operation):
            self._context.journal.record(each)  # before the mark, which is removed once the store has everything
        self._mark_pause(QueuePause(actor, now))
        run = Run(operation.id, self._context)
        run.commit()
        self._go(operation, run, emergency.emergency)
        for other in ended:
            if (other_run := self._runs.get(other.id)) is not None:
                other_run.cancel()
        return self._written(operation, ended)

    def _mark_pause(self, pause: QueuePause) -> None:
        """Mark the pause on the disk before anything is ended, so that it survives this Warden; waits only briefly."""
        mark = self._context.pause_mark
        if mark is None:
            return

        def leave() -> None:
            mark.set(pause)
            self.queue.nudge()  # removes the mark if the store has the pause already; nothing else would

        within(PAUSE_MARK_S, lambda expired: leave(), "pause-mark")

    def cancel(self, operation_id: str, actor: str, *, rollback: bool = False, as_owner: bool = False) -> Operation:
        """Request that an operation stops; it then restores what it unloaded. A second cancel changes nothing.

        ``rollback`` is requested separately: abandon the rollback in progress. ``as_owner`` of a model that is to be
        unloaded, ``actor`` may cancel only before anything is touched. Raises UnknownOperation, NotCancellable,
        NotYours, TooLate.
        """
        before = self._state_store.state.running.get(operation_id)
        operation = self._state_store.request_cancel(operation_id, actor, as_owner=as_owner)
        run = self._runs.get(operation_id)
        first = before is not None and before.cancel_requested_by is None and not operation.is_undoing
        if run is not None and (first or (rollback and operation.is_undoing)):
            run.cancel()
        return operation

    def ask(self, instance_id: str, question: Question) -> Iterator[str]:
        """Yield pieces of the model's answer; this returns once the first piece has arrived.

        Raises (also while iterating): UnknownInstance, NotReady, GenerationFailed, OutOfMemory.
        """
        from webapp.runtimes.chat import stream_chat  # noqa: PLC0415  0.1 s and 5 MB that no start needs

        instance = self._state_store.state.instance(instance_id)
        if instance.state is not InstanceState.READY:
            raise NotReady(model=instance.model_id, instance=instance_id, state=instance.state.value)
        endpoint = self._context.runtime(instance).endpoint(instance_id)
        with self._explained(instance):
            answer = stream_chat(
                endpoint,
                question.prompt,
                max_tokens=question.max_tokens,
                temperature=question.temperature,
                has_chat_template=instance.has_chat_template,
            )
        self._watcher.nudge()
        return _WatchedReply(answer, self._watcher.nudge, lambda: self._explained(instance))

    # Inside

    def _each_round(self) -> None:
        """Do the checks of each round of the watcher: once a second, and sooner after an event."""
        self._late.look()
        self._stuck.look(self._watcher.over)
        self._cut_off.look(self._late.silent)
        self.queue.nudge()
        for instance_id in self.leases.look():
            self._unload_idle(instance_id)

    def _note_terms(self, event: InstanceChanged) -> None:
        if event.instance.lease != event.before.lease:
            self.queue.nudge()

    def _unload_idle(self, instance_id: str) -> None:
        """Unload an idle model; while its devices are claimed, it waits for another round."""
        state = self._state_store.state
        instance = state.instances.get(instance_id)
        if instance is None or not state.accepting or set(instance.devices) & set(state.claims):
            return
        try:
            operation = self._unload(instance, IDLE_ACTOR, lambda run: unloading.unload_idle(run, instance_id))
        except WardenError as exc:
            log.info("%s is idle and stays for now: %s", instance_id, exc)
        else:
            self._context.record(trail.idle_unload(instance, self._context.clock(), operation.id))

    def _clear_stuck(self, instance: Instance) -> Operation:
        return self._unload(instance, IDLE_ACTOR, lambda run: clear_stuck(run, instance.id))

    @contextmanager
    def _explained(self, instance: Instance) -> Iterator[None]:
        """If a model runs out of memory inside the block, store an account of the causes."""
        try:
            yield
        except OutOfMemory as exc:
            postmortem.explain(self._context, instance, exc)
            raise

    def _all_devices(self) -> set[str]:
        state = self._state_store.state
        return {*self._context.planning_state().device_ids, *(d for i in state.instances.values() for d in i.devices)}

    def _new(self, kind: OperationKind, actor: str, steps: Iterable[StepName]) -> Operation:
        return Operation(
            id=new_id(),
            kind=kind,
            actor=actor,
            state=OperationState.RUNNING,
            started_at=self._context.clock(),
            steps=tuple(Step(name) for name in steps),
        )

    def _begin(self, operation: Operation, claims: Iterable[str], body: Callable[[Run], Outcome]) -> Operation:
        self._state_store.begin(operation, claims)
        self._context.journal.record(operation)
        return self._go(operation, Run(operation.id, self._context), body)

    def _written(self, operation: Operation, ended: Iterable[Operation] = ()) -> Operation:
        """Wait briefly until the store has an operation that acts already, and those it has ended; see ``is_stored``."""
        self._context.journal.settle(*(other.id for other in ended), operation.id)
        return operation

    def _write_again(self) -> None:
        """Have everything in memory written, since the database was recreated or replaced."""
        state = self._state_store.state
        for operation in (*state.recent, *state.running.values()):
            self._context.journal.record(operation)
        for instance_id in state.instances:
            self._context.leases.changed(instance_id)
        self.queue.write_again()

    def _prune(self) -> bool:
        """Delete expired operations; return whether more remain. Raises StoreUnavailable."""
        return self._context.journal.prune(
            self._context.clock() - self._context.settings.storage.operation_days * DAY_S
        )

    def _go(self, operation: Operation, run: Run, body: Callable[[Run], Outcome]) -> Operation:
        """Start the thread of an entered operation. Raises Unavailable; the operation has then failed."""
        self._runs[operation.id] = run
        try:
            self._begin_thread(operation, lambda: self._work(run, body))
        except RuntimeError as exc:  # no thread is available: the claims must be released
            self._runs.pop(operation.id, None)
            ended = self._state_store.end(
                operation.id,
                lambda o: o.closed(OperationState.FAILED, self._context.clock(), Message("nothing_changed")),
            )
            self._context.journal.record(ended)
            raise Unavailable(reason=str(exc)) from exc
        if (entered := self._state_store.state.running.get(operation.id)) and entered.cancel_requested_by is not None:
            run.cancel()  # the cancel arrived before the run was listed
        return operation

    def _begin_thread(self, operation: Operation, work: Callable[[], None]) -> None:
        """Run ``work`` in a new thread; if none is available, an emergency stop uses the spare one. Raises
        RuntimeError.
        """
        name = f"warden-{operation.kind}-{operation.id}"
        try:
            threading.Thread(target=work, name=name, daemon=True).start()
        except RuntimeError:
            if operation.kind is not OperationKind.EMERGENCY or not self._standby.run(work):
                raise

    def _work(self, run: Run, body: Callable[[Run], Outcome]) -> None:
        self._threads[run.id] = threading.current_thread()
        try:
            if not self._state_store.state.accepting:
                run.cancel()  # Warden started to stop before this thread was listed
            carry_out(run, body)
        finally:
            self._runs.pop(run.id, None)
            self._threads.pop(run.id, None)

    def _is_acting(self) -> bool:
        return bool(self._threads or self._state_store.state.running)

    def _leave_models(self) -> tuple[str, ...]:
        state = self._state_store.state
        live = [i for i in state.instances.values() if i.is_live]
        if self._context.settings.stop.on_stop == "unload":
            results = side_by_side(lambda i: self._context.runtime(i).terminate(i.id), live, "stop")
            return tuple(f"{i.model_id}: {_how_it_ended(r)}" for i, r in zip(live, results, strict=True))
        stays = [i for i in live if i.state in (InstanceState.READY, InstanceState.SILENT, InstanceState.STUCK)]
        if not stays:
            return ()
        names = ", ".join(f"{i.model_id} ({i.mode}, {'+'.join(i.devices)})" for i in stays)
        return (
            f"Models that stay loaded: {names}.",
            "The next start finds them again. To end them now: warden end. To end them at every stop: WARDEN_ON_STOP=unload.",
        )


class _WatchedReply:
    """An answer in progress; ``done`` is called at its end, so that the model is soon listed as free."""

    def __init__(
        self, answer: ChatReply, done: Callable[[], None], explained: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._answer = answer
        self._done = done
        self._explained = explained

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        goes_on = False
        try:
            with self._explained():
                piece = next(self._answer)
            goes_on = True
            return piece
        finally:
            if not goes_on:
                self._done()

    def close(self) -> None:
        """End the answer."""
        self._answer.close()
        self._done()


def _age(operation: Operation) -> tuple[float, str]:
    """Return the sort key of operations, as in the store."""
    return operation.started_at, operation.id


def _end_all(runtime: Runtime) -> list[str]:
    """End all instances of a runtime; return a line for each, or one line if the runtime does not respond."""
    try:
        ids = {f.instance.id: f.instance.model_id for f in runtime.discover()}
        all_ids = sorted({*ids, *runtime.processes().values()})
        results = side_by_side(runtime.terminate, all_ids, "end")
        runtime.reap(frozenset)
    except EngineMissing:
        return []  # no Docker, no containers
    except EngineUnavailable as exc:
        return [f"{runtime.mode}: not reached ({exc})"]
    names = [ids.get(instance_id, instance_id) for instance_id in all_ids]
    return [f"{name}: {_how_it_ended(result)}" for name, result in zip(names, results, strict=True)]


def _how_it_ended(result: StopResult | Exception) -> str:
    if isinstance(result, Exception):
        return f"not ended ({type(result).__name__}: {result})"
    if result.survivors:
        return "still alive: " + ", ".join(f"pid {s.pid} of {s.user} (state {s.state})" for s in result.survivors)
    if result.not_removed:
        return "ended; Docker has not removed its container yet"
    return "ended"


def _with_reason(request: SwitchRequest) -> SwitchRequest:
    """Return the request without an override whose reason is blank."""
    return replace(request, override_reason=(request.override_reason or "").strip() or None)


def _refuse_while_claimed(state: ControllerState, devices: Iterable[str], *, all_of_them: bool) -> None:
    """Refuse while an operation has claimed the devices, since its memory is in motion. Raises Busy."""
    owners = [state.claims.get(device) for device in devices]
    busy = [owner for owner in owners if owner is not None]
    if not busy or (all_of_them and len(busy) < len(owners)):
        return
    raise busy_with(state.running[busy[0]])


def _takeable(reading: Reading, instances: tuple[Instance, ...], context: Context) -> int | None:
    if reading.free_bytes is None:
        return None
    own = own_bytes(instances, reading.device_id)
    return within_limit(reading.free_bytes, own, context.policy.memory_limit_bytes)


def _largest(holders: Iterable[Holder]) -> list[Holder]:
    return sorted(holders, key=lambda h: h.used_bytes or 0, reverse=True)[:20]
