"""A switch as a transaction: plan, unload, settle, clean, check, launch, ready, measure; on any failure, back to the
former state.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from webapp.control import postmortem
from webapp.control.cleaning import reap
from webapp.control.context import launch_devices, new_id, total_or_none
from webapp.control.grace import give_grace
from webapp.control.launching import launch_undisturbed, measure
from webapp.control.restoring import names, restore, restored_message
from webapp.control.run import Outcome, Run, Undone
from webapp.control.terms import in_use, lease_of, refuse_kept
from webapp.control.unloading import (
    READING_TIMEOUT_S,
    UNREACHABLE,
    Before,
    LastLook,
    end_instances,
    note_others,
    refuse_now,
    removed_outcome,
    settle_receipts,
    sums,
    take_stock,
)
from webapp.domain.instance import ANSWERING, Instance
from webapp.domain.memory import Sample
from webapp.domain.model import CachedModel
from webapp.domain.operation import Evicted, Finding, Grace, OperationState, Receipt, StepName, StepState
from webapp.domain.plan import Eviction, Plan
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import PlanningState
from webapp.errors import DeviceUnreadable, UnknownModel, WardenError
from webapp.message import Message, Param
from webapp.runtimes.base import LaunchSpec, Runtime

log = logging.getLogger(__name__)

STEPS = (
    StepName.PLAN,
    StepName.UNLOAD,
    StepName.SETTLE,
    StepName.CLEAN,
    StepName.CHECK,
    StepName.LAUNCH,
    StepName.READY,
    StepName.MEASURE,
)


def steps(grace: Grace | None) -> tuple[StepName, ...]:
    """Return the steps of a switch; it has a grace period only if other people's models are to be unloaded."""
    return STEPS if grace is None else (StepName.PLAN, StepName.GRACE, *STEPS[1:])


@dataclass
class Switch:
    """One switch in progress. ``plan`` is the accepted one."""

    run: Run
    plan: Plan
    instance_id: str
    evicted: tuple[Evicted, ...] = ()
    """The answering instances that were unloaded; a rollback restores them."""
    before: Before | None = None
    """The memory before unloading."""
    receipts: tuple[Receipt, ...] = ()
    _is_prepared: bool = False
    """Whether the launch is prepared; the preparations are removed if the switch ends before it."""
    _took_memory: bool = False
    """Whether the preparations took memory that the plan has not counted."""
    _spec_launched: LaunchSpec | None = None
    """The last launched specification."""

    def carry_out(self, run: Run) -> Outcome:
        """Carry out the switch: the body of a ``switch`` operation. Raises WardenError; ``undo`` then restores the
        former state.
        """
        began = run.context.monotonic()
        run.undo = self.undo
        try:
            with run.step(StepName.PLAN) as note:
                note.message = self._plan_message()
                self._prepare()
            if self._took_memory:
                self._refuse_what_fits_no_more()
            give_grace(run)
            self._unload()
            self._clean()
            spec = self._check()
            with run.step(StepName.LAUNCH) as note:
                instance = self._launch(spec)
                run.commit()
                run.change(to_restore=())
                note.message = Message("launched", {"model": instance.model_id})
        except Exception:
            self._give_up_prepared()
            raise
        seconds = round(run.context.monotonic() - began, 2)
        with run.step(StepName.READY) as note:
            note.message = Message("ready_after", {"seconds": seconds})
        with run.step(StepName.MEASURE) as note:
            instance = measure(run, instance)
            note.message = _measured(instance)
        return self._outcome(instance, seconds)

    def _prepare(self) -> None:
        """Prepare what the launch needs in addition to memory, before anything is unloaded; a cancel is noticed
        meanwhile.

        Raises LaunchBlocked, EngineUnavailable: nothing is unloaded then.
        """
        context, model_id = self.run.context, self.plan.request.model_id
        sample, model = context.monitor.latest(), context.planning_state().models.get(model_id)
        if model is None:
            raise UnknownModel(model=model_id)
        self._reach_what_goes()
        spec = self._spec(self.plan, model, sample)
        self._took_memory = self.run.wait_for(lambda: self._runtime.prepare(spec), "prepare", self._remove_prepared)
        self._is_prepared = True

    def _refuse_what_fits_no_more(self) -> None:
        """Check the plan against the memory once more before anything is unloaded. Raises DeviceUnreadable, Refused."""
        self._plan_anew(self._fresh_world())

    def _reach_what_goes(self) -> None:
        """Check the evictions: an instance that could be neither stopped in order nor restored is kept, unless nobody
        wants it back. Raises EngineUnavailable.
        """
        if self.plan.request.restore_on_failure:
            listed = self.run.context.state.instances
            going = [listed[e.instance_id] for e in self.plan.unload if e.instance_id in listed]
            for mode in {instance.mode for instance in going if instance.state in ANSWERING}:
                self.run.context.runtimes[mode].reach()

    def _give_up_prepared(self) -> None:
        """Remove the preparations of a launch that will not happen; a launch that happened has removed its own."""
        if self._is_prepared and self._spec_launched is None:
            self._remove_prepared()

    def _remove_prepared(self) -> None:
        try:
            self._runtime.terminate(self.instance_id, ask=False)
        except WardenError as exc:
            log.warning("what was prepared for %s is left: %s", self.plan.request.model_id, exc)

    @property
    def _runtime(self) -> Runtime:
        return self.run.context.runtimes[self.plan.request.mode]

    def _launch(self, spec: LaunchSpec) -> Instance:
        """Launch; if memory is the reason of a failure, the operation records its cause."""
        self._spec_launched = spec
        try:
            lease = lease_of(self.plan.request, self.run.context.clock())
            return launch_undisturbed(self.run, self.plan.request.mode, spec, self._spec_once_more, lease=lease)
        except postmortem.MEMORY_ERRORS as exc:
            step = self.run.operation.current_step
            said = None if step is None else step.message
            assert self._spec_launched is not None
            report = postmortem.of_launch(self.run.context, self.plan.request, self._spec_launched, exc, said)
            self.run.change(post_mortem=report)
            raise

    def _plan_message(self) -> Message:
        needed = sum(device.footprint.total_bytes for device in self.plan.devices)
        available = total_or_none(device.available_bytes for device in self.plan.devices)
        params: dict[str, Param] = {
            "needed_bytes": needed,
            "available_bytes": available,
            "unload": len(self.plan.unload),
        }
        return Message("planned", params)

    def _outcome(self, instance: Instance, seconds: float) -> Outcome:
        params: dict[str, Param] = {"model": instance.model_id, "mode": instance.mode.value, "seconds": seconds}
        if all(receipt.settled for receipt in self.receipts):
            return removed_outcome(self.run, Outcome(OperationState.SUCCEEDED, Message("switch_done", params)))
        return Outcome(OperationState.WARNING, Message("switch_done_memory_held", {**params, **sums(self.receipts)}))

    def _unload(self) -> None:
        """Unload the instances that the plan names, and no others."""
        context = self.run.context
        listed = context.state.instances
        going = tuple(listed[e.instance_id] for e in self._still_needed() if e.instance_id in listed)
        if not going:
            self.run.skip(StepName.UNLOAD, StepName.SETTLE)
            return
        look = LastLook(self._refuse_kept, self._taken)
        refuse_now(context, going, look)
        self.before = take_stock(context, going)
        self._owe(going)
        self.receipts = end_instances(self.run, going, look, self.before)

    def _still_needed(self) -> tuple[Eviction, ...]:
        """Return the evictions that are needed now: during the grace period enough memory may have become free without
        one of them.

        Raises Refused if one of them is needed and may no longer be unloaded.
        """
        if self.run.operation.grace is None:
            return self.plan.unload
        again = self._plan_anew(self.run.context.planning_state())
        needed = {eviction.instance_id for eviction in again.unload}
        return tuple(e for e in self.plan.unload if not e.is_others or e.instance_id in needed)

    def _plan_anew(self, planning_state: PlanningState) -> Plan:
        """Plan again over the named instances that are still loaded, and no others: the owners of all others were not
        notified.

        Raises Refused.
        """
        loaded = {instance.id for instance in planning_state.instances}
        going = tuple(e.instance_id for e in self.plan.unload if e.instance_id in loaded)
        request = replace(self.plan.request, keep_others=True, unload=going)
        again = plan_switch(request, planning_state, self.run.operation.actor, with_ways_out=False)
        if (error := refusal_of(again, planning_state)) is not None:
            raise error
        return again

    def _refuse_kept(self, instance: Instance) -> None:
        """Check again that every instance may be evicted. Raises InstanceLeased, InstanceInUse."""
        request, actor = self.plan.request, self.run.operation.actor
        refuse_kept(instance, actor, self.run.context.clock(), override=request.override_reason is not None)
        if instance.in_flight and instance.is_live and not request.interrupt_busy:
            raise in_use(instance)

    def _owe(self, going: tuple[Instance, ...]) -> None:
        """Store the models to restore before any of them is unloaded: if Warden is killed meanwhile, its next start
        loads them again.

        Raises NotStored: they cannot be stored, so nothing is unloaded.
        """
        if self.plan.request.restore_on_failure:
            owed = tuple(Evicted.of(instance) for instance in going if instance.state in ANSWERING)
            self.run.context.journal.keep(self.run.change(to_restore=owed), in_request=False)

    def _taken(self, instances: tuple[Instance, ...]) -> None:
        """Remember the evicted instances with their leases for a rollback, and notify their owners."""
        self.evicted = tuple(Evicted.of(instance) for instance in instances if instance.state in ANSWERING)
        changes: dict[str, object] = {"evicted": tuple(evicted.model_id for evicted in self.evicted)}
        if self.plan.request.restore_on_failure:
            changes["to_restore"] = self.evicted
        self.run.context.journal.record(self.run.change(**changes))
        note_others(self.run, instances, self.plan.request.override_reason, self.plan.request.model_id)

    def _clean(self) -> None:
        """Remove what belongs to no instance, so that the check sees the memory as it will be."""
        if not self.evicted:
            self.run.skip(StepName.CLEAN)
            return
        context = self.run.context
        with self.run.step(StepName.CLEAN) as note:
            modes = {evicted.mode for evicted in self.evicted}
            found = reap(context, [context.runtimes[mode] for mode in modes])
            self.run.add_findings(*found)
            asked = [finding for finding in found if finding.message.code != UNREACHABLE]
            note.message = Message("reaped", {"count": len(asked)})
            if len(asked) < len(found):
                note.state = StepState.WARNING

    def _check(self) -> LaunchSpec:
        """Plan again on a fresh reading, with nothing more to unload: the verdict of this moment counts."""
        with self.run.step(StepName.CHECK) as note:
            again, spec = self._plan_again()
            needed = sum(device.footprint.total_bytes for device in again.devices)
            free = total_or_none(device.available_bytes for device in again.devices)
            note.message = Message("checked", {"needed_bytes": needed, "free_bytes": free})
            if again.overruled is not None:
                note.state, note.message = StepState.WARNING, Message("checked_overruled", again.overruled.params)
                self.run.add_findings(self._against_the_estimate(again.overruled))
            return spec

    def _against_the_estimate(self, overruled: Message) -> Finding:
        """Return the result line that names the person who overrode the estimate, and the shortfall."""
        return Finding(Message("loaded_anyway", {**overruled.params, "actor": self.run.operation.actor}), ok=False)

    def _plan_again(self) -> tuple[Plan, LaunchSpec]:
        """Return the plan on a fresh reading and its launch specification. Raises DeviceUnreadable, Refused."""
        planning_state = self._fresh_world()
        again = plan_switch(replace(self.plan.request, keep_others=True, unload=()), planning_state)
        if (error := refusal_of(again, planning_state)) is not None:
            raise error
        return again, self._spec(again, planning_state.models[again.request.model_id], planning_state.sample)

    def _fresh_world(self) -> PlanningState:
        """Return the state on which a plan depends, with a fresh reading. Raises DeviceUnreadable."""
        context = self.run.context
        sample = context.monitor.fresh(READING_TIMEOUT_S)
        if sample is None:
            raise DeviceUnreadable(device=self.plan.devices[0].device_id, age_s=context.monitor.age_s())
        return context.planning_state(sample)

    def _spec_once_more(self) -> LaunchSpec:
        """Return the specification of a second start: checked again, on the same devices, under an id of its own."""
        self.instance_id = new_id()
        self.run.context.journal.record(self.run.change(instance_id=self.instance_id))
        _, self._spec_launched = self._plan_again()
        return self._spec_launched

    def _spec(self, plan: Plan, model: CachedModel, sample: Sample | None) -> LaunchSpec:
        return LaunchSpec(
            instance_id=self.instance_id,
            operation_id=self.run.id,
            model_id=model.id,
            revision=model.revision,
            snapshot=model.snapshot,
            options=plan.request.options,
            devices=launch_devices(sample, [device.device_id for device in plan.devices]),
            owner=self.run.operation.actor,
            footprints=tuple(device.footprint for device in plan.devices),
            decided_on=sample,
        )

    def undo(self) -> Undone | None:
        """Launch the evicted models again, unless the person chose otherwise. ``launch`` has already removed its own
        part.

        An instance that was told to stop and is still listed stays owed: it is loaded again on a click, once its end is
        confirmed.
        """
        gone = tuple(e for e in self.evicted if e.instance_id not in self.run.context.state.instances)
        self.run.change(to_restore=self.evicted if self.plan.request.restore_on_failure else ())
        if not gone:
            return None if self.evicted else Undone(Message("nothing_changed"))
        if not self.plan.request.restore_on_failure:
            return Undone(Message("not_restored_by_choice", {"models": names(gone)}))
        with self.run.step(StepName.ROLLBACK) as note:
            self._settle_again(gone)
            findings = restore(self.run, gone, StepName.ROLLBACK, planned=False)
            failed = [e for e, finding in zip(gone, findings, strict=True) if not finding.ok]
            note.message = restored_message(gone, failed)
            if failed:
                note.state = StepState.WARNING
        return Undone(note.message, findings)

    def _settle_again(self, gone: tuple[Evicted, ...]) -> None:
        """Wait until the memory of the ended instances, and of the launch that failed, is freed."""
        assert self.before is not None
        self.run.tell(StepName.ROLLBACK, Message("rollback_settling"))
        held: dict[str, int] = {}
        for evicted in gone:
            for device_id, held_bytes in evicted.held_bytes.items():
                held[device_id] = held.get(device_id, 0) + held_bytes
        settle_receipts(self.run, replace(self.before, held_bytes=held), StepName.ROLLBACK)


def _measured(instance: Instance) -> Message:
    predicted = sum(instance.predicted_bytes.values())
    if not instance.measured_bytes:
        return Message("measured_unknown", {"predicted_bytes": predicted})
    figures: dict[str, Param] = {
        "predicted_bytes": predicted,
        "expected_bytes": sum(instance.resting_bytes.values()),
        "measured_bytes": sum(instance.measured_bytes.values()),
    }
    return Message("measured", figures)
