"""Stop instances and verify on the device that their memory was freed: the stop, the settle, the receipts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from webapp.control.context import Context, side_by_side, total_or_none
from webapp.control.grace import give_grace
from webapp.control.run import Outcome, Run, Undone
from webapp.control.settle import Settled, Stock, settle, stock_by_device
from webapp.control.terms import refuse_kept
from webapp.domain.idle import idle_unload_in
from webapp.domain.instance import ANSWERING, Instance, InstanceState
from webapp.domain.memory import Sample, instance_bytes
from webapp.domain.modes import Mode
from webapp.domain.operation import Finding, HeldBy, OperationState, Receipt, StepName, StepState
from webapp.errors import IdleUsedAgain, StopFailed, Superseded, UnknownInstance
from webapp.message import Message, Param
from webapp.runtimes.base import Probe, StopResult, StopStage

log = logging.getLogger(__name__)

NOT_REMOVED = "container_not_removed"
"""Code of the finding for a container that has ended and that Docker cannot remove; it is removed later."""
UNREACHABLE = "runtime_unreachable"
"""Code of the finding for a runtime whose leftovers could not be searched for."""
READING_TIMEOUT_S = 3.0
"""How long an operation waits for a reading of its own before it continues with the latest one."""


@dataclass(frozen=True)
class Before:
    """The devices and the instances as they were before the first stop."""

    instances: tuple[Instance, ...]
    stock: Mapping[str, Stock]
    held_bytes: Mapping[str, int]
    """The total held by all instances, by device."""
    own_bytes: Mapping[str, int | None]
    """The memory that their processes held before they loaded anything, by device; ``None`` is unknown."""
    containers: frozenset[str] = frozenset()
    """Ids of other people's containers that end with them."""

    @property
    def leaving(self) -> frozenset[str]:
        """The ids of everything that ends."""
        return self.containers | {instance.id for instance in self.instances}


@dataclass(frozen=True)
class LastLook:
    """The check of instances at the moment at which they are taken, and the action that follows."""

    refuse: Callable[[Instance], None]
    """Raises if an instance has to stay; it is also called under the lock of the state, so it only compares."""
    taken: Callable[[tuple[Instance, ...]], None]
    """Receives all of them as they were at that moment."""


def unload(run: Run, instance_id: str, override_reason: str | None = None) -> Outcome:
    """Unload one instance: the body of an ``unload`` operation.

    Raises:
        InstanceLeased, InstanceInUse: it is another person's, and there is no ``override_reason``.
        StopFailed: a process survived every signal.
    """
    context, actor, override = run.context, run.operation.actor, override_reason is not None
    look = LastLook(
        refuse=lambda instance: refuse_kept(instance, actor, context.clock(), override=override),
        taken=lambda instances: note_others(run, instances, override_reason),
    )
    give_grace(run)
    return _unload(run, run.context.state.instance(instance_id), look)


def unload_idle(run: Run, instance_id: str) -> Outcome:
    """Unload one idle instance, unless it was used a moment ago. Raises as ``unload`` does."""
    look = LastLook(
        refuse=lambda instance: _refuse_used(run.context, instance),
        taken=lambda instances: _note_idle(run, instances),
    )
    try:
        return _unload(run, run.context.state.instance(instance_id), look)
    except IdleUsedAgain as exc:
        return Outcome(OperationState.CANCELLED, exc.message)


def _refuse_used(context: Context, instance: Instance) -> None:
    """Refuse an instance that is no longer idle. Raises IdleUsedAgain."""
    now = context.clock()
    quiet = context.idleness.quiet(instance, now)
    left_s = idle_unload_in(instance, context.settings.sharing.idle_unload_minutes, quiet, now)
    if left_s is None or left_s > 0 or instance.pending is not None:
        raise IdleUsedAgain(model=instance.model_id)


def _note_idle(run: Run, instances: Sequence[Instance]) -> None:
    for instance in instances:
        idle_s = round(run.context.idleness.quiet(instance, run.context.clock()).unused_s, 1)
        told: dict[str, Param] = {"model": instance.model_id, "idle_s": idle_s}
        run.add_findings(Finding(Message("unloaded_idle", told)))
        run.context.leases.tell(instance.owner, Message("unloaded_idle", told))


def refuse_now(context: Context, instances: Sequence[Instance], look: LastLook) -> None:
    """Refuse early, before any waiting: the final check is made when they are taken. Raises the refusal of ``look``."""
    probes = _probes(context, instances)
    for instance in instances:
        look.refuse(_as_probed(instance, probes))


def _probes(context: Context, instances: Sequence[Instance]) -> Mapping[str, Probe]:
    """Probe ready instances, since cached state may be a second old; fall back to it if a probe fails."""
    ready = [instance for instance in instances if instance.state is InstanceState.READY]
    results = side_by_side(lambda i: context.runtime(i).probe(i.id), ready, "in-use")
    return {i.id: probe for i, probe in zip(ready, results, strict=True) if isinstance(probe, Probe)}


def _as_probed(instance: Instance, probes: Mapping[str, Probe]) -> Instance:
    probe = probes.get(instance.id)
    if probe is None:
        return instance
    return replace(instance, in_flight=probe.in_flight, last_used_at=probe.last_used_at)


def note_others(run: Run, instances: Sequence[Instance], reason: str | None, new_model: str | None = None) -> None:
    """Notify the owners whose models are unloaded, and record who overrode their consent and why."""
    for instance in instances:
        if instance.owner != run.operation.actor and instance.is_live:
            _note_taken(run, instance, reason, new_model)


def _note_taken(run: Run, instance: Instance, reason: str | None, new_model: str | None) -> None:
    """Notify the owner of ``instance`` that another person takes its memory; record that in the operation if it was an
    override.
    """
    now, actor = run.context.clock(), run.operation.actor
    params: dict[str, Param] = {"model": instance.model_id, "actor": actor, "owner": instance.owner}
    held = instance.is_foreign_to(actor) and (instance.lease.runs(now) or instance.may_be_busy)
    if reason is not None and held:
        message = Message("lease_overridden", {**params, "reason": reason})
        run.add_findings(Finding(message, ok=False))
    elif new_model is None:
        message = Message("unloaded_by", params)
    else:
        message = Message("unloaded_for", {**params, "new_model": new_model})
    run.context.leases.tell(instance.owner, message)


def _unload(run: Run, instance: Instance, look: LastLook) -> Outcome:
    refuse_now(run.context, (instance,), look)
    run.undo = lambda: _cut_short(run.context, instance)
    receipts = end_instances(run, (instance,), look)
    if not instance.is_live:
        outcome = Outcome(OperationState.SUCCEEDED, Message("dead_removed", {"model": instance.model_id}))
    else:
        outcome = unload_outcome(instance.model_id, receipts)
    return removed_outcome(run, outcome)


def _cut_short(context: Context, instance: Instance) -> Undone | None:
    """Return the result of an unload that was cancelled or refused; ``None`` if the instance was already told to stop."""
    listed = context.state.instances.get(instance.id)
    if listed is None:
        return Undone(Message("unloaded_not_waited", {"model": instance.model_id}))
    was_told = listed.state in (InstanceState.STOPPING, InstanceState.STUCK)
    return None if was_told else Undone(Message("nothing_changed"))


def unload_outcome(model_id: str, receipts: Sequence[Receipt]) -> Outcome:
    """Return success if every receipt is settled; a warning with the figures otherwise."""
    params = {"model": model_id, **sums(receipts)}
    if all(receipt.settled for receipt in receipts):
        return Outcome(OperationState.SUCCEEDED, Message("unload_done", params))
    code = "unload_unknown" if params["freed_bytes"] is None else "unload_held"
    return Outcome(OperationState.WARNING, Message(code, params))


def removed_outcome(run: Run, outcome: Outcome) -> Outcome:
    """Return ``outcome``, as a warning if a stopped container may still be on Docker's list; a finding names it."""
    if any(finding.message.code in (NOT_REMOVED, UNREACHABLE) for finding in run.operation.findings):
        return replace(outcome, state=OperationState.WARNING)
    return outcome


def sums(receipts: Sequence[Receipt]) -> dict[str, Param]:
    """Return the freed and expected bytes and the longest time of receipts as a message's parameters; unknown is
    ``None``.
    """
    freed = total_or_none(r.freed_bytes for r in receipts)
    return {
        "freed_bytes": None if freed is None else max(0, freed),
        "expected_bytes": total_or_none(r.expected_bytes for r in receipts),
        "seconds": max((r.seconds for r in receipts), default=0.0),
    }


def end_instances(
    run: Run, instances: Sequence[Instance], look: LastLook, before: Before | None = None
) -> tuple[Receipt, ...]:
    """Stop ``instances`` concurrently, wait until their memory is freed, and write the receipts into the operation.

    Steps: ``unload`` and ``settle``. If ``look`` refuses one of them, nothing is stopped.

    Raises:
        WardenError: the refusal of ``look``.
        StopFailed: a process survived every signal; the instance stays listed as stuck.
    """
    context = run.context
    with run.step(StepName.UNLOAD) as note:
        before = before or take_stock(context, instances)
        _take(run, before.instances, look)
        results = _stop(run, before.instances)
        note.message = Message("stopped", {"models": _names(instances), "stage": _hardest(results).value})
        kept = [not_removed(i) for i, result in zip(before.instances, results, strict=True) if result.not_removed]
        if kept:
            run.add_findings(*kept)
            note.state = StepState.WARNING
    with run.step(StepName.SETTLE) as note:
        receipts = settle_receipts(run, before)
        note.message, note.state = settle_note(receipts)
    run.add_receipts(receipts)
    return receipts


def take_stock(context: Context, instances: Sequence[Instance]) -> Before:
    """Read the free memory of the devices and the memory of the instances on them; without a current reading nothing is
    known.
    """
    sample = context.monitor.fresh(READING_TIMEOUT_S)
    held: dict[str, int] = {}
    own: dict[str, int | None] = {}
    for instance in instances:
        for device_id in instance.devices if instance.is_live else ():
            bytes_here = _held_now(sample, instance, device_id)
            held[device_id] = held.get(device_id, 0) + bytes_here
            base = _own_bytes(instance, device_id, bytes_here)
            so_far = own.get(device_id, 0)
            own[device_id] = None if base is None or so_far is None else so_far + base
    leaving = frozenset(instance.id for instance in instances)
    return Before(tuple(instances), stock_by_device(sample, leaving), held, own)


def _held_now(sample: Sample | None, instance: Instance, device_id: str) -> int:
    """Return the memory of an instance: as the device reports it, else as listed; a starting one holds only what is
    visible.
    """
    reading = None if sample is None else sample.reading(device_id)
    seen = None if reading is None else instance_bytes(reading, instance.id)
    if seen == 0 and instance.state in ANSWERING:
        seen = None  # a process that answers holds memory: the device cannot attribute it
    return instance.held_bytes(device_id) if seen is None else seen


def _own_bytes(instance: Instance, device_id: str, held_bytes: int) -> int | None:
    """Return the memory of the process itself: on the host what it held before the load, on a GPU what torch did not
    reserve.
    """
    memory = instance.memory
    if memory is None:
        return None
    if device_id == "host":
        return memory.base_bytes
    if memory.reserved_bytes is None or len(instance.devices) > 1:
        return None  # torch's figure is the sum over all GPUs
    return max(0, held_bytes - memory.reserved_bytes)


def _take(run: Run, instances: Sequence[Instance], look: LastLook) -> None:
    """Mark all as stopping, or none. Their activity is probed a moment before, and their terms are read in the block
    that takes them.

    A reading was waited for since the operation was accepted: in the meantime a person may have sent a request, or been
    told that the model stays.
    """
    context = run.context
    probes = _probes(context, instances)
    ids = [instance.id for instance in instances]
    taken = context.state_store.stop(ids, lambda listed: look.refuse(_as_probed(listed, probes)), operation_id=run.id)
    look.taken(tuple(_as_probed(instance, probes) for instance in taken))


def _stop(run: Run, instances: Sequence[Instance]) -> list[StopResult]:
    context = run.context
    stages: dict[str, StopStage] = {}

    def on_stage(instance: Instance, stage: StopStage) -> None:
        stages[instance.id] = stage
        run.tell(StepName.UNLOAD, stop_message(stage, instance.model_id, in_container=instance.mode is Mode.VLLM))

    def stop(instance: Instance) -> StopResult:
        return context.runtime(instance).terminate(instance.id, on_stage=lambda stage: on_stage(instance, stage))

    results = side_by_side(stop, instances, "stop")
    for instance, result in zip(instances, results, strict=True):
        note_stop(context, instance, result)
    errors = [result for result in results if isinstance(result, Exception)]
    if errors:
        raise errors[0]
    finished = [result for result in results if isinstance(result, StopResult)]
    _refuse_survivors(instances, finished)
    return finished


def stop_message(stage: StopStage, name: str, *, in_container: bool) -> Message:
    """Return the progress of a stop; a container first receives the signal that a process receives only if a request
    did not help.
    """
    asked = in_container and stage is StopStage.TERMINATE
    return Message("stop_container" if asked else f"stop_{stage}", {"model": name})


def not_removed(instance: Instance) -> Finding:
    """Return a line for a container that Docker keeps although nothing runs in it."""
    return Finding(Message(NOT_REMOVED, {"model": instance.model_id, "name": f"warden-{instance.id}"}), ok=False)


def note_stop(context: Context, instance: Instance, result: StopResult | Exception) -> None:
    """Remove a stopped instance from the list; one whose end is not confirmed stays on it as stuck."""
    if isinstance(result, Superseded):
        return  # the emergency stop ends it, and reports how
    if isinstance(result, StopResult) and not result.survivors:
        context.state_store.remove(instance.id)
        return
    problem = Message("stop_unproved") if isinstance(result, Exception) else _survivor_error(instance, result).message
    try:
        context.state_store.change(instance.id, lambda i: replace(i, state=InstanceState.STUCK, problem=problem))
    except UnknownInstance:
        log.info("%s has left the list meanwhile", instance.id)


def _refuse_survivors(instances: Sequence[Instance], results: Sequence[StopResult]) -> None:
    for instance, result in zip(instances, results, strict=True):
        if result.survivors:
            raise _survivor_error(instance, result)


def _survivor_error(instance: Instance, result: StopResult) -> StopFailed:
    first = result.survivors[0]
    return StopFailed(model=instance.model_id, pid=first.pid, user=first.user, state=first.state)


def settle_receipts(run: Run, before: Before, step: StepName = StepName.SETTLE) -> tuple[Receipt, ...]:
    """Wait until the devices have freed what the instances held; return a receipt per device.

    A device without an earlier reading has nothing to compare with: its receipt is unknown, at once.
    """
    context = run.context
    wanted = {d: held for d, held in before.held_bytes.items() if held > 0}
    expected = {d: held for d, held in wanted.items() if d in before.stock}
    unknown = tuple(
        _receipt(Settled(d, held, None, 0.0, settled=False), before, None)
        for d, held in wanted.items()
        if d not in expected
    )
    if not expected:
        return unknown
    settled = settle(
        context.monitor,
        before.stock,
        expected,
        context.settle_policy,
        leaving=before.leaving,
        clock=context.monotonic,
        wait=run.wait,
        on_slow=lambda: run.tell(step, Message("settle_slow")),
    )
    sample = context.monitor.latest()
    return (*(_receipt(result, before, sample) for result in settled), *unknown)


def _receipt(result: Settled, before: Before, sample: Sample | None) -> Receipt:
    only = before.instances[0] if len(before.instances) == 1 else None
    own = before.own_bytes.get(result.device_id)
    model_freed = None if own is None or result.freed_bytes is None else max(0, result.freed_bytes - own)
    return Receipt(
        device_id=result.device_id,
        expected_bytes=result.expected_bytes,
        freed_bytes=result.freed_bytes,
        model_freed_bytes=model_freed,
        seconds=result.seconds,
        others_bytes=result.others_bytes,
        settled=result.settled,
        still_held_by=() if result.settled else still_held(sample, result.device_id, before.leaving),
        instance_id=None if only is None else only.id,
        model_id=None if only is None else only.model_id,
    )


def still_held(sample: Sample | None, device_id: str, leaving: frozenset[str]) -> tuple[HeldBy, ...]:
    """Return the processes that still hold memory that was to leave a device, largest first."""
    reading = None if sample is None else sample.reading(device_id)
    holders = [h for h in reading.holders if leaving & {h.instance_id, h.container_id}] if reading is not None else []
    holders.sort(key=lambda h: h.used_bytes or 0, reverse=True)
    return tuple(HeldBy(h.pid, h.user, h.command, h.used_bytes, h.process_state) for h in holders)


def settle_note(receipts: Sequence[Receipt]) -> tuple[Message, StepState]:
    """Return the message of a settle step for its receipts, and its end state."""
    if all(receipt.settled for receipt in receipts):
        return Message("settled", sums(receipts)), StepState.DONE
    params = sums(receipts)
    code = "settle_unknown" if params["freed_bytes"] is None else "settle_late"
    return Message(code, params), StepState.WARNING


def _names(instances: Sequence[Instance]) -> str:
    return ", ".join(instance.model_id for instance in instances)


def _hardest(results: Sequence[StopResult]) -> StopStage:
    order = list(StopStage)
    return max((r.stage for r in results), key=order.index, default=StopStage.ASK)
