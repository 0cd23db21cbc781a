"""The contract's shapes: times are RFC 3339 in UTC, memory is bytes, unknown is ``null``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from webapp import __version__
from webapp.control.contract import ForeignContainer, Snapshot
from webapp.domain.audit import Entry
from webapp.domain.footprint import Footprint, Seen
from webapp.domain.instance import Instance
from webapp.domain.lease import ReleaseRequest
from webapp.domain.memory import Holder, LedgerKind, Reading, build_ledger, level_of, used_percent
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions
from webapp.domain.operation import Evicted, Grace, HeldBy, Operation, Receipt, Step
from webapp.domain.plan import Eviction, Plan, SwitchRequest
from webapp.domain.planning.planner import footprint_parts
from webapp.domain.postmortem import Account, HolderLine, PostMortem
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.recommend import Advice
from webapp.domain.selftest import Check
from webapp.domain.timeline import Event, Held, Point, Track
from webapp.message import Message
from webapp.web import words
from webapp.web.presenters.common import misread
from webapp.web.presenters.postmortem import cause_message

Document = dict[str, Any]


def when(epoch_s: float | None) -> str | None:
    """Return a moment as RFC 3339 in UTC."""
    if epoch_s is None:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def message_document(message: Message | None) -> Document | None:
    """Return a message with its sentence."""
    if message is None:
        return None
    return {"code": message.code, "text": words.say(message), "params": dict(message.params)}


def status_document(snapshot: Snapshot) -> Document:
    """Return the whole state."""
    sample = snapshot.sample
    return {
        "version": __version__,
        "mode": snapshot.mode,
        "devices": [] if sample is None else [device_document(r, snapshot) for r in sample.readings],
        "instances": [instance_document(instance, snapshot) for instance in snapshot.instances],
        "operations": [operation_document(operation) for operation in snapshot.running],
        "containers": [container_document(container) for container in snapshot.containers],
        "taken_at": None if sample is None else when(sample.taken_at),
        "age_s": snapshot.sample_age_s,
        "stale": snapshot.sample_is_stale,
        "problem": None if sample is None else message_document(sample.problem),
        "models_problem": message_document(snapshot.models_problem),
        "models_scanned_at": when(snapshot.models_scanned_at),
        "mode_problems": {mode.value: message_document(why) for mode, why in snapshot.mode_problems.items()},
        "store_problem": message_document(snapshot.store_problem),
    }


def device_document(reading: Reading, snapshot: Snapshot) -> Document:
    """Return one device."""
    ledger = build_ledger(reading, {i.id: i.model_id for i in snapshot.instances})
    return {
        "id": reading.device_id,
        "kind": reading.kind.value,
        "name": reading.name,
        "uuid": reading.uuid,
        "total_bytes": reading.total_bytes,
        "reserved_bytes": reading.reserved_bytes,
        "used_bytes": reading.used_bytes,
        "free_bytes": reading.free_bytes,
        "used_percent": _rounded(used_percent(reading)),
        "level": None if reading.free_bytes is None else level_of(reading.free_bytes).value,
        "utilization_percent": reading.utilization_percent,
        "temperature_c": reading.temperature_c,
        "power_w": reading.power_w,
        "holders": [holder_document(h) for h in reading.holders] if reading.holders_known else None,
        "unattributed_bytes": None if ledger is None else ledger.unattributed_bytes,
        "claimed_by": snapshot.claims.get(reading.device_id),
        "problem": message_document(reading.problem),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def holder_document(holder: Holder) -> Document:
    """Return a process that holds memory."""
    return {
        "pid": holder.pid,
        "user": holder.user,
        "command": holder.command,
        "bytes": holder.used_bytes,
        "kind": holder.kind.value,
        "instance_id": holder.instance_id,
        "container_id": holder.container_id,
    }


def options_document(options: LaunchOptions) -> Document:
    """Return launch options."""
    return {
        "dtype": options.dtype.value,
        "quantization": options.quantization.value,
        "max_tokens": options.max_tokens,
        "batch_size": options.batch_size,
    }


def instance_document(instance: Instance, snapshot: Snapshot) -> Document:
    """Return a loaded model; its bytes are the sum over its devices, and stand by device beside.

    Predicted is the peak while it answers; what it was expected to hold at rest, as it is measured, is ``resting``.
    """
    return {
        "id": instance.id,
        "mode": instance.mode.value,
        "model": instance.model_id,
        "revision": instance.revision,
        "state": instance.state.value,
        "options": options_document(instance.options),
        "devices": list(instance.devices),
        "owner": instance.owner,
        "started_at": when(instance.started_at),
        "last_used_at": when(instance.last_used_at),
        "in_flight": instance.in_flight,
        "predicted_bytes": sum(instance.predicted_bytes.values()) if instance.predicted_bytes else None,
        "measured_bytes": sum(instance.measured_bytes.values()) if instance.measured_bytes else None,
        "predicted_bytes_by_device": dict(instance.predicted_bytes) or None,
        "resting_bytes_by_device": dict(instance.resting_bytes) or None,
        "measured_bytes_by_device": dict(instance.measured_bytes) or None,
        "progress": instance.progress,
        "adopted": instance.adopted,
        "pid": instance.pid,
        "problem": message_document(instance.problem),
        "explained_by": instance.explained_by,
        "lease": {"until": when(instance.lease.until), "reason": instance.lease.reason or None},
        "idle_unload_minutes": instance.lease.idle_minutes,
        "idle_unload_at": when(snapshot.idle_unload_at.get(instance.id)),
        "release": _release_document(instance.lease.release),
    }


def _release_document(release: ReleaseRequest | None) -> Document | None:
    """The last ask to release it; ``answered_by`` is ``null`` with an answer where the owner was silent."""
    if release is None:
        return None
    return {
        "asker": release.asker,
        "asked_at": when(release.asked_at),
        "why": release.why or None,
        "answer": None if release.answer is None else release.answer.value,
        "answered_at": when(release.answered_at),
        "answered_by": release.answered_by,
        "word": release.word or None,
    }


def entry_document(entry: Entry) -> Document:
    """Return an entry of the record of who did what."""
    doer, target = entry.doer, entry.target
    return {
        "id": entry.id,
        "at": when(entry.at),
        "who": {"name": doer.name or None, "came": doer.came.value, "person_id": doer.person_id, "token": doer.token},
        "action": entry.action.value,
        "group": entry.group.value,
        "target": {"kind": target.kind.value, "id": target.id or None, "name": target.name or None},
        "address": entry.address or None,
        "result": entry.result.value,
        "problem": entry.problem,
        "details": {detail.value: value for detail, value in entry.details},
        "operation_id": entry.operation_id,
    }


def container_document(container: ForeignContainer) -> Document:
    """Return a container of vLLM's image that this Warden did not start."""
    return {
        "id": container.id,
        "name": container.name,
        "image": container.image,
        "state": container.state,
        "created_at": when(container.created_at),
        "owner": container.owner,
        "model": container.model,
        "ports": list(container.ports),
        "pids": list(container.pids),
        "of_warden": container.of_warden,
    }


def models_document(models: Iterable[CachedModel]) -> list[Document]:
    """Return the cached models; one that cannot be described has the reason in the place of its facts."""
    return [_described(model) for model in models]


def _described(model: CachedModel) -> Document:
    try:
        return model_document(model)
    except Exception as exc:  # noqa: BLE001  around one model: the list names all the others
        bare = replace(model, parameters=None, dtype=None, architecture=None, quantization=None, context_length=None)
        return model_document(replace(bare, problem=misread(model.id, exc)))


def model_document(model: CachedModel) -> Document:
    """Return a cached model; ``problem`` is the reason in words."""
    return {
        "id": model.id,
        "revision": model.revision,
        "size_bytes": model.size_bytes,
        "parameters": model.parameters,
        "dtype": model.dtype,
        "architecture": model.architecture,
        "quantization": model.quantization,
        "context_length": model.context_length,
        "problem": None if model.problem is None else words.say(model.problem),
        "problem_code": None if model.problem is None else model.problem.code,
        "has_chat_template": model.has_chat_template,
        "is_demo": model.is_demo,
    }


def advice_document(advice: Advice) -> Document:
    """Return an advice; ``options`` are the same as a body of ``plan`` takes."""
    return {
        "mode": advice.mode.value,
        "usable_mode": advice.usable_mode.value,
        "precision": advice.precision.value,
        "max_tokens": advice.max_tokens,
        "batch_size": advice.batch_size,
        "mark": advice.mark.value,
        "reasons": [message_document(reason) for reason in advice.reasons],
        "options": {
            "dtype": advice.precision.dtype.value,
            "quantization": advice.precision.quantization.value,
            "max_tokens": advice.max_tokens,
            "batch_size": advice.batch_size,
        },
    }


def plan_document(plan: Plan) -> Document:
    """Return what a switch would do; figures stand by device."""
    return {
        "verdict": plan.verdict.value,
        "devices": [device.device_id for device in plan.devices],
        "unload": [_eviction_document(eviction, plan.request) for eviction in plan.unload],
        "needed_bytes": {
            device: {part.value: size for part, size in parts.items()}
            for device, parts in footprint_parts(plan).items()
        },
        "total_needed_bytes": {d.device_id: d.footprint.total_bytes for d in plan.devices},
        "free_before_bytes": {d.device_id: d.free_before_bytes for d in plan.devices},
        "free_after_bytes": {d.device_id: d.free_after_bytes for d in plan.devices},
        "reserve_bytes": {d.device_id: d.reserve_bytes for d in plan.devices},
        "footprints": {d.device_id: footprint_document(d.footprint) for d in plan.devices},
        "measured": _seen_document(next((d.footprint.seen for d in plan.devices if d.footprint.seen), None)),
        "reasons": [message_document(reason) for reason in plan.reasons],
        "ways_out": [
            {"message": message_document(way.message), "request": request_document(way.request)}
            for way in plan.ways_out
        ],
        "refusal": message_document(plan.refusal),
        "overruled": message_document(plan.overruled),
    }


def ticket_document(ticket: QueuedLaunch, queued: QueueEntry | None = None) -> Document:
    """Return a request that waits, with its place and what it waits for; of one that waits no more they are ``null``."""
    return {
        "id": ticket.id,
        "state": ticket.state.value,
        "place": None if queued is None else queued.place,
        "actor": ticket.actor,
        "starts_by_itself": ticket.starts_by_itself,
        "request": request_document(ticket.request),
        "created_at": when(ticket.created_at),
        "why": None if queued is None else message_document(queued.why),
        "behind": None if queued is None or queued.behind is None else queued.behind.id,
        "told_at": when(ticket.told_at),
        "operation_id": ticket.operation_id,
        "paused_by": ticket.paused_by,
        "tries": ticket.tries,
        "ended_at": when(ticket.ended_at),
        "outcome": message_document(ticket.outcome),
    }


def footprint_document(footprint: Footprint) -> Document:
    """Return what a launch takes on one device, by part; the larger of the two peaks decides whether it fits."""
    return {
        "parts": [
            {
                "name": part.name.value,
                "bytes": part.bytes,
                "source": part.source.value,
                "confidence": part.confidence.value,
            }
            for part in footprint.parts
        ],
        "run_peak_bytes": footprint.total_bytes,
        "load_peak_bytes": footprint.load_peak_bytes,
        "warm_bytes": footprint.warm_bytes,
        "confidence": footprint.confidence.value,
        "notes": [{"code": note.value, "text": words.word(words.NOTES, note)} for note in footprint.notes],
        "seen": _seen_document(footprint.seen),
    }


def _seen_document(seen: Seen | None) -> Document | None:
    """What was measured here of such launches; one launch has the same on each of its devices."""
    if seen is None:
        return None
    return {"count": seen.count, "spread_percent": seen.spread_percent, "same_options": seen.same_options}


def _eviction_document(eviction: Eviction, request: SwitchRequest) -> Document:
    """Return what would be unloaded; what is not ``confirmed`` is another person's and has to be named in ``unload``."""
    return {
        "instance_id": eviction.instance_id,
        "model": eviction.model_id,
        "mode": eviction.mode.value,
        "owner": eviction.owner,
        "in_flight": eviction.in_flight,
        "lease_until": when(eviction.lease_until),
        "freed_bytes": dict(eviction.freed_bytes),
        "no_return": message_document(eviction.no_return),
        "confirmed": eviction.is_confirmed_by(request),
    }


def request_document(request: SwitchRequest) -> Document:
    """Return a request as ``plan`` and ``switch`` take it."""
    return {
        "mode": request.mode.value,
        "model": request.model_id,
        "options": options_document(request.options),
        "devices": None if request.devices is None else list(request.devices),
        "keep_others": request.keep_others,
        "restore_on_failure": request.restore_on_failure,
        "interrupt_busy": request.interrupt_busy,
        "unload": list(request.unload),
        "load_anyway": request.load_anyway,
        "lease_until": when(request.lease_until),
        "reason": request.reason,
        "idle_unload_minutes": request.idle_minutes,
        "override_reason": request.override_reason,
    }


def _evicted_document(evicted: Evicted) -> Document:
    """A model that was unloaded and has not come back, as it ran."""
    return {
        "instance_id": evicted.instance_id,
        "model": evicted.model_id,
        "revision": evicted.revision,
        "mode": evicted.mode.value,
        "options": options_document(evicted.options),
        "devices": list(evicted.devices),
        "owner": evicted.owner,
        "lease_until": when(evicted.lease.until),
    }


def operation_document(operation: Operation) -> Document:
    """Return an operation, running or ended."""
    return {
        "id": operation.id,
        "kind": operation.kind.value,
        "actor": operation.actor,
        "state": operation.state.value,
        "mode": operation.mode,
        "model": operation.model_id,
        "instance_id": operation.instance_id,
        "devices": list(operation.devices),
        "evicted": list(operation.evicted),
        "to_restore": [_evicted_document(evicted) for evicted in operation.to_restore],
        "started_at": when(operation.started_at),
        "ended_at": when(operation.ended_at),
        "steps": [_step_document(step) for step in operation.steps],
        "receipt": _sum_document(operation.receipts),
        "receipts": [_receipt_document(receipt) for receipt in operation.receipts],
        "findings": [{"ok": f.ok, "message": message_document(f.message)} for f in operation.findings],
        "error": message_document(operation.error),
        "outcome": message_document(operation.outcome),
        "cancel_requested_by": operation.cancel_requested_by,
        "checks": [_check_document(check) for check in operation.checks],
        "request": None if operation.request is None else request_document(operation.request),
        "post_mortem": _post_mortem_document(operation.post_mortem),
        "grace": _grace_document(operation.grace),
    }


def _grace_document(grace: Grace | None) -> Document | None:
    """Until when nothing of other people's is touched, which models those are, and which owners may stop it."""
    if grace is None:
        return None
    return {"until": when(grace.until), "instances": list(grace.instances), "owners": list(grace.owners)}


def _post_mortem_document(report: PostMortem | None) -> Document | None:
    """How its model ran out of memory; ``way_out`` is as in a plan."""
    if report is None:
        return None
    way = report.way_out
    return {
        "taken_at": when(report.taken_at),
        "since": when(report.since),
        "phase": report.phase.value,
        "cause": report.cause.value,
        "device": report.device_id,
        "message": message_document(cause_message(report)),
        "devices": [_account_document(account) for account in report.accounts],
        "log": list(report.log),
        "way_out": None
        if way is None
        else {"message": message_document(way.message), "request": request_document(way.request)},
    }


def _account_document(account: Account) -> Document:
    return {
        "id": account.device_id,
        "total_bytes": account.total_bytes,
        "predicted_bytes": account.gate_bytes,
        "held_before_bytes": account.held_before_bytes,
        "held_bytes": account.held_bytes,
        "free_before_bytes": account.free_before_bytes,
        "free_bytes": account.free_after_bytes,
        "others_grown_bytes": account.grown_bytes,
        "holders": [_line_document(line) for line in account.lines],
    }


def _line_document(line: HolderLine) -> Document:
    """A holder; all beyond those that are listed are one without a kind."""
    return {
        "kind": None if line.kind is None else line.kind.value,
        "own": line.is_own,
        "model": line.model_id,
        "instance_id": line.instance_id,
        "container_id": line.container_id,
        "pid": line.pid,
        "user": line.user,
        "command": line.command,
        "before_bytes": line.before_bytes,
        "bytes": line.after_bytes,
    }


def _check_document(check: Check) -> Document:
    return {
        "name": check.name.value,
        "title": words.word(words.CHECKS, check.name),
        "mark": check.mark.value,
        "seen": message_document(check.seen),
        "seconds": check.seconds,
        "advice": message_document(check.advice),
    }


def _step_document(step: Step) -> Document:
    return {
        "name": step.name.value,
        "state": step.state.value,
        "started_at": when(step.started_at),
        "ended_at": when(step.ended_at),
        "progress": step.progress,
        "message": message_document(step.message),
    }


def _sum_document(receipts: tuple[Receipt, ...]) -> Document | None:
    """All receipts of an operation as one: sums over devices, unknown as soon as one is."""
    if not receipts:
        return None
    return {
        "expected_bytes": _sum([r.expected_bytes for r in receipts]),
        "freed_bytes": _sum([r.freed_bytes for r in receipts]),
        "model_freed_bytes": _sum([r.model_freed_bytes for r in receipts]),
        "seconds": max(r.seconds for r in receipts),
        "settled": all(r.settled for r in receipts),
        "still_held_by": [_held_document(holder) for r in receipts for holder in r.still_held_by],
    }


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _receipt_document(receipt: Receipt) -> Document:
    return {
        "device_id": receipt.device_id,
        "instance_id": receipt.instance_id,
        "model": receipt.model_id,
        "expected_bytes": receipt.expected_bytes,
        "freed_bytes": receipt.freed_bytes,
        "model_freed_bytes": receipt.model_freed_bytes,
        "others_bytes": receipt.others_bytes,
        "seconds": receipt.seconds,
        "settled": receipt.settled,
        "still_held_by": [_held_document(holder) for holder in receipt.still_held_by],
    }


def _held_document(holder: HeldBy) -> Mapping[str, object]:
    return {
        "pid": holder.pid,
        "user": holder.user,
        "command": holder.command,
        "bytes": holder.used_bytes,
        "state": holder.state,
    }


def track_document(track: Track) -> Document:
    """Return a device's memory over a span, with the operations that ended in it."""
    return {
        "device": track.device_id,
        "span": track.span.value,
        "step_seconds": track.scale.step_s,
        "begun_at": when(track.begun_at),
        "ended_at": when(track.ended_at),
        "points": [point_document(point) for point in track.points],
        "operations": [event_document(event) for event in track.events],
    }


def point_document(point: Point) -> Document:
    """Return one moment; its holders' ``bytes`` and ``free_bytes`` add up to ``total_bytes``."""
    return {
        "taken_at": when(point.taken_at),
        "total_bytes": point.total_bytes,
        "free_bytes": point.free_bytes,
        "mean_free_bytes": point.mean_free_bytes,
        "holders": [holding_document(held) for held in point.held if held.who.kind is not LedgerKind.FREE],
    }


def holding_document(held: Held) -> Document:
    """Return what one holder had at a moment, and at most since the one before."""
    return {
        "kind": held.who.kind.value,
        "instance_id": held.who.instance_id,
        "model": held.who.model_id,
        "mode": held.who.mode,
        "user": held.who.user,
        "bytes": held.used_bytes,
        "most_bytes": held.most_bytes,
    }


def event_document(event: Event) -> Document:
    """Return an operation as the timeline marks it; the whole of it has an address of its own."""
    return {
        "id": event.id,
        "kind": event.kind.value,
        "state": event.state.value,
        "mark": event.mark,
        "actor": event.actor,
        "model": event.model_id,
        "mode": event.mode,
        "evicted": list(event.evicted),
        "ended_at": when(event.ended_at),
    }
