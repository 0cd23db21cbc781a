"""Emergency stop: end everything that Warden started, whatever else hangs, and report the rest with its owners."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from webapp.control.cleaning import stays
from webapp.control.context import Context, Expired, known_instances, side_by_side, within
from webapp.control.run import Outcome, Run
from webapp.control.unloading import READING_TIMEOUT_S, note_stop, settle_note, settle_receipts, sums, take_stock
from webapp.domain.instance import Instance
from webapp.domain.modes import Mode
from webapp.domain.operation import Finding, OperationState, StepName, StepState
from webapp.message import Message, Param
from webapp.runtimes.base import Leftover, Runtime, StopResult

log = logging.getLogger(__name__)

STEPS = (StepName.END, StepName.SETTLE, StepName.CLEAN)

_NOT_REACHED: Final[StopResult | Exception] = TimeoutError("its runtime gave no answer")


@dataclass
class _Tally:
    """The results of everything that was to be ended; the last look at each counts."""

    findings: dict[str, Finding] = field(default_factory=dict)
    leftovers: dict[str, Finding] = field(default_factory=dict)
    """Leftovers without an instance: folders, sockets, containers that had ended."""

    def note(self, leftovers: Iterable[Leftover]) -> None:
        """Add the leftovers without an instance that a runtime found."""
        self.leftovers |= {str(left.message): Finding(left.message, left.ok) for left in leftovers}

    @property
    def all(self) -> tuple[Finding, ...]:
        return (*self.findings.values(), *self.leftovers.values())

    @property
    def failed(self) -> int:
        return sum(not finding.ok for finding in self.all)

    @property
    def ended(self) -> int:
        return sum(finding.ok for finding in self.findings.values())


def emergency(run: Run) -> Outcome:
    """End every instance and every process of Warden's runtimes: the body of an ``emergency`` operation."""
    context, tally = run.context, _Tally()
    instances = tuple(context.state.instances.values())
    with run.step(StepName.END) as note:
        before = take_stock(context, instances)
        _end_everything(run, tally, {instance.id: instance for instance in instances})
        note.message = Message("ended", {"count": tally.ended})
        note.state = StepState.WARNING if tally.failed else StepState.DONE
    with run.step(StepName.SETTLE) as note:
        receipts = settle_receipts(run, before)
        run.add_receipts(receipts)
        note.message, note.state = settle_note(receipts)
    with run.step(StepName.CLEAN) as note:
        first = tally.ended
        _end_everything(run, tally, {})  # a start in progress may have created one more
        run.add_findings(*tally.all)
        run.add_findings(*stays(context.monitor.fresh(READING_TIMEOUT_S) or context.monitor.latest()))
        run.add_findings(*_stay_contained(context))
        note.message = Message("ended_late", {"count": tally.ended - first})
    params: dict[str, Param] = {"count": tally.ended, **sums(receipts)}
    if tally.failed or note.state is not StepState.DONE or not all(receipt.settled for receipt in receipts):
        return Outcome(OperationState.WARNING, Message("emergency_incomplete", params))
    return Outcome(OperationState.SUCCEEDED, Message("emergency_done", params))


def _end_everything(run: Run, tally: _Tally, listed: Mapping[str, Instance]) -> None:
    """End everything in all runtimes, concurrently. ``listed`` are instances that are reported even if another thread
    ended them first.
    """
    runtimes = sorted(run.context.runtimes.values(), key=lambda runtime: runtime.mode is Mode.VLLM)  # Docker may hang
    side_by_side(lambda runtime: _end_runtime(run, runtime, tally), runtimes, "emergency")
    for instance in listed.values():
        if instance.id not in tally.findings and instance.id not in run.context.state.instances:
            tally.findings[instance.id] = _ended(instance.model_id, instance.mode)


def _end_runtime(run: Run, runtime: Runtime, tally: _Tally) -> None:
    """End everything in one runtime; one that hangs (a dead Docker socket) never holds up the others."""
    context, mode = run.context, runtime.mode
    results = {i.id: _NOT_REACHED for i in context.state.instances.values() if i.mode is mode}
    done = within(
        context.settings.stop.emergency_runtime_s,
        lambda expired: _terminate_all(run, runtime, tally, expired, results),
        "end",
    )
    for instance_id, result in list(results.items()):
        tally.findings[instance_id] = _after(context, mode, instance_id, result)
    tally.findings.pop(mode.value, None)
    if not done:
        tally.findings[mode.value] = Finding(Message("runtime_unreachable", {"mode": mode.value}), ok=False)


def _terminate_all(
    run: Run, runtime: Runtime, tally: _Tally, expired: Expired, results: dict[str, StopResult | Exception]
) -> bool:
    """End the instances of ``results`` and unlisted processes alike, then remove leftovers without an instance.

    Each result is entered as soon as it is available, so that one that hangs does not hide the results of the others.
    Returns True, unlike a call that ``within`` gives up.
    """
    context = run.context

    def end(instance_id: str) -> None:
        if expired.is_set():
            return
        try:
            result: StopResult | Exception = runtime.terminate(instance_id, ask=False)
        except Exception as exc:  # noqa: BLE001 - it is the result, and is logged where that is told
            result = exc
        if not expired.is_set():
            results[instance_id] = result

    side_by_side(end, sorted({*results, *runtime.processes().values()}), "kill")
    if not expired.is_set():
        left = runtime.reap(lambda: frozenset() if run.id in context.state.running else known_instances(context))
        if not expired.is_set():
            tally.note(left)
    return True


def _stay_contained(context: Context) -> tuple[Finding, ...]:
    """Return a line for each container that Warden did not start: an emergency stop leaves them alone."""
    return tuple(
        Finding(Message("stays_container", {"name": c.name, "user": c.owner, "image": c.image}))
        for c in context.foreign_containers()
    )


def _after(context: Context, mode: Mode, instance_id: str, result: StopResult | Exception) -> Finding:
    instance = context.state.instances.get(instance_id)
    if instance is not None:
        note_stop(context, instance, result)
    name = instance_id if instance is None else instance.model_id
    if result is _NOT_REACHED:
        return Finding(Message("not_reached", {"name": name, "mode": mode.value}), ok=False)
    if isinstance(result, Exception):
        log.error("emergency could not end %s", instance_id, exc_info=result)
        params: dict[str, Param] = {"name": name, "mode": mode.value, "detail": type(result).__name__}
        return Finding(Message("end_failed", params), ok=False)
    if result.survivors:
        first = result.survivors[0]
        alive: dict[str, Param] = {"model": name, "pid": first.pid, "user": first.user, "state": first.state}
        return Finding(Message("stop_failed", alive), ok=False)
    if result.not_removed:
        return Finding(Message("ended_not_removed", {"name": name, "mode": mode.value}), ok=False)
    return _ended(name, mode, "ended_unlisted" if instance is None else "ended_instance")


def _ended(name: str, mode: Mode, code: str = "ended_instance") -> Finding:
    return Finding(Message(code, {"name": name, "mode": mode.value}))
