"""Clean: every model frees unneeded memory, leftovers are removed, and the rest is listed with its owners."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from webapp.control.context import Context, known_instances, side_by_side, total_or_none
from webapp.control.run import Outcome, Run
from webapp.control.settle import free_by_device
from webapp.control.unloading import READING_TIMEOUT_S, UNREACHABLE, not_removed, note_stop
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.memory import HolderKind, Reading, Sample, build_ledger
from webapp.domain.operation import Finding, OperationState, StepName
from webapp.domain.units import MIB
from webapp.errors import WardenError
from webapp.message import Message, Param
from webapp.runtimes.base import CleanResult, Runtime, StopResult

log = logging.getLogger(__name__)

STEPS = (StepName.CLEAN, StepName.CHECK)
SHOWN_FOREIGN_BYTES = 256 * MIB
"""Other people's processes below this are not listed."""


def clean(run: Run) -> Outcome:
    """Free memory that nobody needs: the body of a ``clean`` operation."""
    context = run.context
    sample = context.monitor.fresh(READING_TIMEOUT_S) or context.monitor.latest()
    before = free_by_device(sample)
    findings: list[Finding] = []
    with run.step(StepName.CLEAN) as note:
        for part in (_clean_instances, _remove_dead, _reap_all):
            found = part(context)
            run.add_findings(*found)
            findings += found
        note.message = Message("cleaned", {"count": len(findings)})
    with run.step(StepName.CHECK) as note:
        sample = context.monitor.fresh(READING_TIMEOUT_S) or context.monitor.latest()
        after = free_by_device(sample)
        free = total_or_none(r.free_bytes for r in sample.readings) if sample else None
        changes = total_or_none(max(0, after[d] - before[d]) if d in before else None for d in after)
        freed = None if free is None else changes
        note.message = Message("cleaned_free", {"free_bytes": free})
        run.add_findings(*stays(sample))
    state = OperationState.SUCCEEDED if all(f.ok for f in findings) else OperationState.WARNING
    return Outcome(state, Message("clean_done", {"freed_bytes": freed, "free_bytes": free}))


def _clean_instances(context: Context) -> list[Finding]:
    ready = [i for i in context.state.instances.values() if i.state is InstanceState.READY]
    results = side_by_side(lambda i: context.runtime(i).clean(i.id), ready, "clean")
    return [_cleaned(instance, result) for instance, result in zip(ready, results, strict=True)]


def _cleaned(instance: Instance, result: CleanResult | Exception) -> Finding:
    if isinstance(result, WardenError):
        return Finding(Message("clean_failed", {"model": instance.model_id, "code": result.code}), ok=False)
    if isinstance(result, Exception):
        log.error("%s could not be cleaned", instance.id, exc_info=result)
        return Finding(Message("clean_failed", {"model": instance.model_id, "code": type(result).__name__}), ok=False)
    on_device = result.device_freed_bytes
    given = result.freed_bytes if on_device is None else on_device
    freed = None if given is None else max(0, given)
    return Finding(Message("clean_worker", {"model": instance.model_id, "freed_bytes": freed}))


def _remove_dead(context: Context) -> list[Finding]:
    """Remove instances that ended on their own; those whose end is not confirmed stay listed."""
    dead = [i for i in context.state.instances.values() if i.state is InstanceState.DEAD]
    results = side_by_side(lambda i: context.runtime(i).terminate(i.id), dead, "remove")
    for instance, result in zip(dead, results, strict=True):
        note_stop(context, instance, result)
    return [_removed(instance, result) for instance, result in zip(dead, results, strict=True)]


def _removed(instance: Instance, result: StopResult | Exception) -> Finding:
    if isinstance(result, StopResult) and result.not_removed:
        return not_removed(instance)
    gone = isinstance(result, StopResult) and not result.survivors
    return Finding(Message("dead_removed" if gone else "dead_not_removed", {"model": instance.model_id}), gone)


def _reap_all(context: Context) -> list[Finding]:
    return reap(context, list(context.runtimes.values()))


def reap(context: Context, runtimes: Sequence[Runtime]) -> list[Finding]:
    """Remove what belongs to no instance; a runtime that does not respond becomes a line of the result and does not
    hold up the others.
    """
    results = side_by_side(lambda r: r.reap(lambda: known_instances(context)), runtimes, "reap")
    findings = []
    for runtime, result in zip(runtimes, results, strict=True):
        if isinstance(result, Exception):
            log.error("leftovers of %s could not be looked for", runtime.mode, exc_info=result)
            findings.append(Finding(Message(UNREACHABLE, {"mode": runtime.mode.value}), ok=False))
        else:
            findings += [Finding(left.message, left.ok) for left in result]
    return findings


def stays(sample: Sample | None) -> tuple[Finding, ...]:
    """Return a line for each large process of other people, and for memory that no process accounts for."""
    readings = () if sample is None else sample.readings
    return tuple(finding for reading in readings for finding in _stays_on(reading))


def _stays_on(reading: Reading) -> list[Finding]:
    findings = []
    for holder in reading.holders:
        if holder.kind is HolderKind.FOREIGN and (holder.used_bytes or 0) >= SHOWN_FOREIGN_BYTES:
            params: dict[str, Param] = {
                "device": reading.device_id,
                "pid": holder.pid,
                "user": holder.user,
                "command": holder.command,
                "used_bytes": holder.used_bytes,
            }
            findings.append(Finding(Message("stays_foreign", params)))
    if (ledger := build_ledger(reading, {})) is not None and ledger.unattributed_bytes >= SHOWN_FOREIGN_BYTES:
        rest: dict[str, Param] = {"device": reading.device_id, "used_bytes": ledger.unattributed_bytes}
        findings.append(Finding(Message("stays_unattributed", rest)))
    return findings
