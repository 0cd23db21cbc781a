"""Record how a model ran out of memory, while its readings are available. The rule is ``domain/postmortem.py``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from webapp.control.context import Context
from webapp.domain.instance import Instance
from webapp.domain.memory import Sample
from webapp.domain.operation import Operation, OperationFilter, OperationKind
from webapp.domain.plan import SwitchRequest, WayOut
from webapp.domain.planning.planner import plan_switch
from webapp.domain.postmortem import (
    Cause,
    Phase,
    PostMortem,
    account_of,
    likely_cause,
    moment_of,
    room_for_another,
)
from webapp.errors import (
    KvCacheTooSmall,
    LaunchFailed,
    LoadFenced,
    OutOfMemory,
    StartMemoryShort,
    StoreUnavailable,
    UnknownInstance,
    WardenError,
)
from webapp.message import Message
from webapp.runtimes.base import LaunchSpec

log = logging.getLogger(__name__)

MEMORY_ERRORS: Final = (OutOfMemory, StartMemoryShort, KvCacheTooSmall, LoadFenced)
"""Failures of a launch that are caused by memory."""
BEFORE_S: Final = 60.0
"""A model that was already running is compared with a reading of this age."""
KEPT_LINES: Final = 20
"""Lines of the log that a report keeps."""
LOADS_SEARCHED: Final = 50
"""The number of operations in which the one that loaded a model is searched for."""
MAKING_CACHE: Final = ("vllm_kv_cache", "vllm_graphs")
"""The phases in which a launch allocates its KV cache."""


def of_launch(
    context: Context, asked: SwitchRequest, spec: LaunchSpec, error: LaunchFailed, said: Message | None
) -> PostMortem | None:
    """Return the report of a failed launch; ``said`` is its last message. ``None`` if there is no reading."""
    if spec.decided_on is None:
        return None
    gates = {footprint.device_id: footprint.required_bytes for footprint in spec.footprints}
    report = _report(context, spec.decided_on, spec.instance_id, spec.model_id, gates, _phase(error, said))
    if report is not None and isinstance(error, LoadFenced):
        report = replace(report, cause=Cause.NEIGHBOUR_GREW, device_id=str(error.params["device"]))
    return None if report is None else _finished(context, report, asked, spec.instance_id, spec.decided_on, error)


def of_instance(context: Context, instance: Instance, error: WardenError) -> PostMortem | None:
    """Return the report of a model that ran out of memory after it was ready. ``None`` if there is no reading."""
    samples = context.monitor.lately()
    since = next((s for s in samples if s.monotonic_s >= context.monotonic() - BEFORE_S), None)
    if since is None:
        return None
    gates = {d: instance.predicted_bytes[d] for d in instance.devices if d in instance.predicted_bytes}
    report = _report(context, since, instance.id, instance.model_id, gates, Phase.ANSWERING)
    asked = SwitchRequest(instance.mode, instance.model_id, instance.options, instance.devices, keep_others=True)
    return None if report is None else _finished(context, report, asked, instance.id, since, error)


def explain(context: Context, instance: Instance, error: WardenError) -> None:
    """Store how a ready model ran out of memory with the operation that loaded it; does nothing if there is none."""
    loaded = _load_of(context, instance)
    report = None if loaded is None else of_instance(context, instance, error)
    if loaded is None or report is None:
        return
    kept = replace(loaded, post_mortem=report)
    context.state_store.amend(kept)
    context.journal.record(kept)
    try:
        context.state_store.change(instance.id, lambda i: replace(i, explained_by=kept.id))
    except UnknownInstance:
        log.debug("%s has left the list meanwhile", instance.id)


def _load_of(context: Context, instance: Instance) -> Operation | None:
    """Return the switch that loaded a model; a model that a rollback restored has none."""
    where = OperationFilter(kind=OperationKind.SWITCH, model_id=instance.model_id)
    found = [operation for operation in context.state.recent if where.matches(operation)]
    try:
        found += context.journal.newest(LOADS_SEARCHED, where)
    except StoreUnavailable as exc:
        log.warning("the operation that loaded %s cannot be read: %s", instance.id, exc)
    return next((one for one in found if one.instance_id == instance.id and not one.is_running), None)


def _phase(error: LaunchFailed, said: Message | None) -> Phase:
    if isinstance(error, StartMemoryShort):
        return Phase.STARTING
    is_making = said is not None and said.code in MAKING_CACHE
    return Phase.KV_CACHE if isinstance(error, KvCacheTooSmall) or is_making else Phase.LOADING


def _report(
    context: Context, since: Sample, instance_id: str, model_id: str, gates: Mapping[str, int], phase: Phase
) -> PostMortem | None:
    samples = [sample for sample in context.monitor.lately() if sample.number > since.number]
    moment = moment_of(samples, instance_id, tuple(gates)) or since
    models = {i.id: i.model_id for i in context.state.instances.values()} | {instance_id: model_id}
    pairs = [(since.reading(device_id), moment.reading(device_id), gate) for device_id, gate in gates.items()]
    accounts = tuple(
        account_of(before, now, gate, instance_id, models) for before, now, gate in pairs if before and now
    )
    if not accounts:
        return None
    cause, device_id = likely_cause(phase, accounts)
    return PostMortem(moment.taken_at, since.taken_at, phase, cause, device_id, accounts)


def _finished(
    context: Context, report: PostMortem, asked: SwitchRequest, instance_id: str, since: Sample, error: WardenError
) -> PostMortem:
    """Return the report with the last lines of the log and with a configuration that would have fitted."""
    lines = str(error.params.get("log") or "").splitlines()[-KEPT_LINES:]
    way_out = _way_out(context, report, asked, instance_id, since)
    return replace(report, log=tuple(lines), asked=asked, way_out=way_out)


def _way_out(
    context: Context, report: PostMortem, asked: SwitchRequest, instance_id: str, since: Sample
) -> WayOut | None:
    """Return the cheapest change by the planner's own arithmetic, for the memory at that time; ``None`` if no change
    would have sufficed.

    The models to be unloaded are already gone in that reading, so all others stay.
    """
    planning_state = replace(
        context.planning_state(_with_room(since, report)),
        instances=tuple(i for i in context.state.instances.values() if i.id != instance_id),
        cooldowns={},
        claims={},
    )
    beside = replace(asked, keep_others=True, unload=(), load_anyway=False)
    try:
        way = next(iter(plan_switch(beside, planning_state).ways_out), None)
        return None if way is None else _as_asked(way, asked, plan_switch(way.request, planning_state).request)
    except WardenError as exc:
        log.info("what would have fitted %s cannot be said: %s", asked.model_id, exc)
        return None


def _as_asked(way: WayOut, asked: SwitchRequest, placed: SwitchRequest) -> WayOut:
    """Return the change as a person requests it: on the devices of the calculation; if it keeps its own device, the
    same models are unloaded again.
    """
    elsewhere = placed.devices != asked.devices
    return WayOut(way.message, replace(placed, keep_others=asked.keep_others or elsewhere or bool(placed.unload)))


def _with_room(since: Sample, report: PostMortem) -> Sample:
    rooms = {account.device_id: room_for_another(report.cause, account) for account in report.accounts}
    readings = (replace(r, free_bytes=rooms[r.device_id]) if r.device_id in rooms else r for r in since.readings)
    return replace(since, readings=tuple(readings))
