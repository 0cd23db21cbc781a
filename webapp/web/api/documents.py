"""The documents of the JSON contract, made of the domain's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, overload

from webapp import __version__, schema
from webapp.control.contract import ForeignContainer, Snapshot
from webapp.domain.audit import AuditEntry
from webapp.domain.footprint import Footprint, MeasuredSpread
from webapp.domain.instance import Instance
from webapp.domain.lease import ReleaseRequest
from webapp.domain.memory import Holder, LedgerKind, Reading, build_ledger, level_of, used_percent
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions
from webapp.domain.operation import Evicted, Grace, HeldBy, Operation, Receipt, Step
from webapp.domain.plan import Eviction, Plan, SwitchRequest, WayOut
from webapp.domain.planning.planner import footprint_parts
from webapp.domain.postmortem import Account, HolderLine, PostMortem
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.recommend import Advice
from webapp.domain.selftest import Check
from webapp.domain.timeline import Event, Held, Point, Track
from webapp.message import Message
from webapp.web import words
from webapp.web.operations.presenters.postmortem import cause_message
from webapp.web.phrases import misread
from webapp.web.words import names


@overload
def when(epoch_s: float) -> str: ...
@overload
def when(epoch_s: float | None) -> str | None: ...
def when(epoch_s: float | None) -> str | None:
    """Return a moment as RFC 3339 in UTC."""
    return None if epoch_s is None else schema.rfc3339(_moment(epoch_s))


def _moment(epoch_s: float) -> datetime:
    return datetime.fromtimestamp(epoch_s, UTC)


def _value(member: StrEnum | str | None) -> Any:
    """The plain text of a member; the model checks that it is one that the contract knows."""
    return member.value if isinstance(member, StrEnum) else member


@overload
def message(said: Message) -> schema.Message: ...
@overload
def message(said: Message | None) -> schema.Message | None: ...
def message(said: Message | None) -> schema.Message | None:
    """Return a message with its sentence."""
    if said is None:
        return None
    return schema.Message(code=said.code, text=words.say(said), params=dict(said.params))


def _messages(said: Iterable[Message]) -> tuple[schema.Message, ...]:
    return tuple(message(each) for each in said)


def status(snapshot: Snapshot) -> schema.Status:
    """Return the whole state."""
    sample = snapshot.sample
    return schema.Status(
        version=__version__,
        mode=_value(snapshot.mode),
        devices=() if sample is None else tuple(device(each, snapshot) for each in sample.readings),
        instances=tuple(instance(each, snapshot) for each in snapshot.instances),
        operations=tuple(operation(each) for each in snapshot.running),
        containers=tuple(container(each) for each in snapshot.containers),
        taken_at=None if sample is None else when(sample.taken_at),
        age_s=snapshot.sample_age_s,
        stale=snapshot.sample_is_stale,
        problem=None if sample is None else message(sample.problem),
        models_problem=message(snapshot.models_problem),
        models_scanned_at=when(snapshot.models_scanned_at),
        mode_problems={_value(mode): message(why) for mode, why in snapshot.mode_problems.items()},
        store_problem=message(snapshot.store_problem),
    )


def device(reading: Reading, snapshot: Snapshot) -> schema.Device:
    """Return one device."""
    ledger = build_ledger(reading, {i.id: i.model_id for i in snapshot.instances})
    share = used_percent(reading)
    return schema.Device(
        id=reading.device_id,
        kind=_value(reading.kind),
        name=reading.name,
        uuid=reading.uuid,
        total_bytes=reading.total_bytes,
        reserved_bytes=reading.reserved_bytes,
        used_bytes=reading.used_bytes,
        free_bytes=reading.free_bytes,
        used_percent=None if share is None else round(share, 2),
        level=None if reading.free_bytes is None else _value(level_of(reading.free_bytes)),
        utilization_percent=reading.utilization_percent,
        temperature_c=reading.temperature_c,
        power_w=reading.power_w,
        holders=tuple(map(holder, reading.holders)) if reading.holders_known else None,
        unattributed_bytes=None if ledger is None else ledger.unattributed_bytes,
        claimed_by=snapshot.claims.get(reading.device_id),
        problem=message(reading.problem),
    )


def holder(held: Holder) -> schema.Holder:
    """Return a process that holds memory."""
    return schema.Holder(
        pid=held.pid,
        user=held.user,
        command=held.command,
        bytes=held.used_bytes,
        kind=_value(held.kind),
        instance_id=held.instance_id,
        container_id=held.container_id,
    )


def options(chosen: LaunchOptions) -> schema.Options:
    """Return launch options."""
    return schema.Options(
        dtype=_value(chosen.dtype),
        quantization=_value(chosen.quantization),
        max_tokens=chosen.max_tokens,
        batch_size=chosen.batch_size,
    )


def instance(loaded: Instance, snapshot: Snapshot) -> schema.Instance:
    """Return a loaded model."""
    lease = loaded.lease
    return schema.Instance(
        id=loaded.id,
        mode=_value(loaded.mode),
        model=loaded.model_id,
        revision=loaded.revision,
        state=_value(loaded.state),
        options=options(loaded.options),
        devices=loaded.devices,
        owner=loaded.owner,
        started_at=when(loaded.started_at),
        last_used_at=when(loaded.last_used_at),
        in_flight=loaded.in_flight,
        predicted_bytes=_total(loaded.predicted_bytes),
        measured_bytes=_total(loaded.measured_bytes),
        predicted_bytes_by_device=dict(loaded.predicted_bytes) or None,
        resting_bytes_by_device=dict(loaded.resting_bytes) or None,
        measured_bytes_by_device=dict(loaded.measured_bytes) or None,
        progress=loaded.progress,
        adopted=loaded.adopted,
        pid=loaded.pid,
        problem=message(loaded.problem),
        explained_by=loaded.explained_by,
        lease=schema.Lease(until=when(lease.until), reason=lease.reason or None),
        idle_unload_minutes=lease.idle_minutes,
        idle_unload_at=when(snapshot.idle_unload_at.get(loaded.id)),
        release=_release(lease.release),
    )


def _total(by_device: Mapping[str, int]) -> int | None:
    return sum(by_device.values()) if by_device else None


def _release(asked: ReleaseRequest | None) -> schema.Release | None:
    if asked is None:
        return None
    return schema.Release(
        asker=asked.asker,
        asked_at=when(asked.asked_at),
        why=asked.why or None,
        answer=_value(asked.answer),
        answered_at=when(asked.answered_at),
        answered_by=asked.answered_by,
        word=asked.word or None,
    )


def entry(noted: AuditEntry) -> schema.AuditEntry:
    """Return an entry of the audit log."""
    doer, target = noted.doer, noted.target
    return schema.AuditEntry(
        id=noted.id,
        at=when(noted.at),
        who=schema.Doer(name=doer.name or None, came=_value(doer.came), person_id=doer.person_id, token=doer.token),
        action=_value(noted.action),
        group=_value(noted.group),
        target=schema.AuditTarget(kind=_value(target.kind), id=target.id or None, name=target.name or None),
        address=noted.address or None,
        result=_value(noted.result),
        problem=noted.problem,
        details={_value(detail): value for detail, value in noted.details},
        operation_id=noted.operation_id,
    )


def container(found: ForeignContainer) -> schema.Container:
    """Return a container of vLLM's image that this Warden did not start."""
    return schema.Container(
        id=found.id,
        name=found.name,
        image=found.image,
        state=found.state,
        created_at=when(found.created_at),
        owner=found.owner,
        model=found.model,
        ports=found.ports,
        pids=found.pids,
        of_warden=found.of_warden,
    )


def models(cached: Iterable[CachedModel]) -> list[schema.Model]:
    """Return the cached models; one that cannot be described has the reason in the place of its facts."""
    return [_described(each) for each in cached]


def _described(cached: CachedModel) -> schema.Model:
    try:
        return model(cached)
    except Exception as exc:  # noqa: BLE001  around one model: the list names all the others
        bare = replace(cached, parameters=None, dtype=None, architecture=None, quantization=None, context_length=None)
        return model(replace(bare, problem=misread(cached.id, exc)))


def model(cached: CachedModel) -> schema.Model:
    """Return a cached model."""
    return schema.Model(
        id=cached.id,
        revision=cached.revision,
        size_bytes=cached.size_bytes,
        parameters=cached.parameters,
        dtype=cached.dtype,
        architecture=cached.architecture,
        quantization=cached.quantization,
        context_length=cached.context_length,
        problem=None if cached.problem is None else words.say(cached.problem),
        problem_code=None if cached.problem is None else cached.problem.code,
        has_chat_template=cached.has_chat_template,
        is_demo=cached.is_demo,
    )


def advice(given: Advice) -> schema.Advice:
    """Return an advice."""
    precision = given.precision
    chosen = LaunchOptions(precision.dtype, precision.quantization, given.max_tokens, given.batch_size)
    return schema.Advice(
        mode=_value(given.mode),
        usable_mode=_value(given.usable_mode),
        precision=_value(precision),
        max_tokens=given.max_tokens,
        batch_size=given.batch_size,
        mark=_value(given.mark),
        reasons=_messages(given.reasons),
        options=options(chosen),
    )


def plan(made: Plan) -> schema.Plan:
    """Return what a switch would do."""
    devices = made.devices
    return schema.Plan(
        verdict=_value(made.verdict),
        devices=tuple(each.device_id for each in devices),
        unload=tuple(_eviction(eviction, made.request) for eviction in made.unload),
        needed_bytes={
            device_id: {_value(part): size for part, size in parts.items()}
            for device_id, parts in footprint_parts(made).items()
        },
        total_needed_bytes={each.device_id: each.footprint.total_bytes for each in devices},
        free_before_bytes={each.device_id: each.free_before_bytes for each in devices},
        free_after_bytes={each.device_id: each.free_after_bytes for each in devices},
        reserve_bytes={each.device_id: each.reserve_bytes for each in devices},
        footprints={each.device_id: footprint(each.footprint) for each in devices},
        measured=_measured(next((each.footprint.seen for each in devices if each.footprint.seen), None)),
        reasons=_messages(made.reasons),
        ways_out=tuple(map(_way_out, made.ways_out)),
        refusal=message(made.refusal),
        overruled=message(made.overruled),
    )


def _way_out(way: WayOut) -> schema.WayOut:
    return schema.WayOut(message=message(way.message), request=launch(way.request))


def queued_launch(ticket: QueuedLaunch, queued: QueueEntry | None = None) -> schema.QueuedLaunch:
    """Return a queued launch, with its place and what it waits for while it is in the queue."""
    return schema.QueuedLaunch(**_queued_fields(ticket, queued))


def changed_queued_launch(
    ticket: QueuedLaunch, queued: QueueEntry | None, *, stored: bool
) -> schema.ChangedQueuedLaunch:
    """Return a queued launch that was changed."""
    return schema.ChangedQueuedLaunch(**_queued_fields(ticket, queued), stored=stored)


def _queued_fields(ticket: QueuedLaunch, queued: QueueEntry | None) -> dict[str, Any]:
    behind = None if queued is None else queued.behind
    return {
        "id": ticket.id,
        "state": _value(ticket.state),
        "place": None if queued is None else queued.place,
        "actor": ticket.actor,
        "starts_by_itself": ticket.starts_by_itself,
        "request": launch(ticket.request),
        "created_at": when(ticket.created_at),
        "why": None if queued is None else message(queued.why),
        "behind": None if behind is None else behind.id,
        "told_at": when(ticket.told_at),
        "operation_id": ticket.operation_id,
        "paused_by": ticket.paused_by,
        "tries": ticket.tries,
        "ended_at": when(ticket.ended_at),
        "outcome": message(ticket.outcome),
    }


def footprint(taken: Footprint) -> schema.Footprint:
    """Return what a launch takes on one device."""
    return schema.Footprint(
        parts=tuple(
            schema.Part(
                name=_value(part.name),
                bytes=part.bytes,
                source=_value(part.source),
                confidence=_value(part.confidence),
            )
            for part in taken.parts
        ),
        run_peak_bytes=taken.total_bytes,
        load_peak_bytes=taken.load_peak_bytes,
        warm_bytes=taken.warm_bytes,
        confidence=_value(taken.confidence),
        notes=tuple(schema.Note(code=_value(note), text=words.word(names.NOTES, note)) for note in taken.notes),
        seen=_measured(taken.seen),
    )


def _measured(seen: MeasuredSpread | None) -> schema.Measured | None:
    """What was measured here of such launches; one launch has the same on each of its devices."""
    if seen is None:
        return None
    return schema.Measured(count=seen.count, spread_percent=seen.spread_percent, same_options=seen.same_options)


def _eviction(eviction: Eviction, request: SwitchRequest) -> schema.Eviction:
    return schema.Eviction(
        instance_id=eviction.instance_id,
        model=eviction.model_id,
        mode=_value(eviction.mode),
        owner=eviction.owner,
        in_flight=eviction.in_flight,
        lease_until=when(eviction.lease_until),
        freed_bytes=dict(eviction.freed_bytes),
        no_return=message(eviction.no_return),
        confirmed=eviction.is_confirmed_by(request),
    )


def launch(request: SwitchRequest) -> schema.Launch:
    """Return a request as ``plan`` and ``switch`` take it."""
    return schema.Launch(
        mode=_value(request.mode),
        model=request.model_id,
        options=options(request.options),
        devices=request.devices,
        keep_others=request.keep_others,
        restore_on_failure=request.restore_on_failure,
        interrupt_busy=request.interrupt_busy,
        unload=request.unload,
        load_anyway=request.load_anyway,
        lease_until=None if request.lease_until is None else _moment(request.lease_until),
        reason=request.reason,
        idle_unload_minutes=request.idle_minutes,
        override_reason=request.override_reason,
    )


def _evicted(evicted: Evicted) -> schema.Evicted:
    return schema.Evicted(
        instance_id=evicted.instance_id,
        model=evicted.model_id,
        revision=evicted.revision,
        mode=_value(evicted.mode),
        options=options(evicted.options),
        devices=evicted.devices,
        owner=evicted.owner,
        lease_until=when(evicted.lease.until),
    )


def operation(begun: Operation) -> schema.Operation:
    """Return an operation, running or ended."""
    return schema.Operation(**_operation_fields(begun))


def accepted_operation(begun: Operation, *, stored: bool) -> schema.AcceptedOperation:
    """Return an operation that was begun or changed."""
    return schema.AcceptedOperation(**_operation_fields(begun), stored=stored)


def _operation_fields(begun: Operation) -> dict[str, Any]:
    return {
        "id": begun.id,
        "kind": _value(begun.kind),
        "actor": begun.actor,
        "state": _value(begun.state),
        "mode": begun.mode,
        "model": begun.model_id,
        "instance_id": begun.instance_id,
        "devices": begun.devices,
        "evicted": begun.evicted,
        "to_restore": tuple(map(_evicted, begun.to_restore)),
        "started_at": when(begun.started_at),
        "ended_at": when(begun.ended_at),
        "steps": tuple(map(_step, begun.steps)),
        "receipt": _receipt(begun.receipts),
        "receipts": tuple(map(_device_receipt, begun.receipts)),
        "findings": tuple(schema.Finding(ok=each.ok, message=message(each.message)) for each in begun.findings),
        "error": message(begun.error),
        "outcome": message(begun.outcome),
        "cancel_requested_by": begun.cancel_requested_by,
        "checks": tuple(map(_check, begun.checks)),
        "request": None if begun.request is None else launch(begun.request),
        "post_mortem": None if begun.post_mortem is None else _post_mortem(begun.post_mortem),
        "grace": None if begun.grace is None else _grace(begun.grace),
    }


def _grace(grace: Grace) -> schema.Grace:
    return schema.Grace(until=when(grace.until), instances=grace.instances, owners=grace.owners)


def _post_mortem(report: PostMortem) -> schema.PostMortem:
    return schema.PostMortem(
        taken_at=when(report.taken_at),
        since=when(report.since),
        phase=_value(report.phase),
        cause=_value(report.cause),
        device=report.device_id,
        message=message(cause_message(report)),
        devices=tuple(map(_account, report.accounts)),
        log=report.log,
        way_out=None if report.way_out is None else _way_out(report.way_out),
    )


def _account(account: Account) -> schema.DeviceAccount:
    return schema.DeviceAccount(
        id=account.device_id,
        total_bytes=account.total_bytes,
        predicted_bytes=account.gate_bytes,
        held_before_bytes=account.held_before_bytes,
        held_bytes=account.held_bytes,
        free_before_bytes=account.free_before_bytes,
        free_bytes=account.free_after_bytes,
        others_grown_bytes=account.grown_bytes,
        holders=tuple(map(_held_line, account.lines)),
    )


def _held_line(line: HolderLine) -> schema.HeldLine:
    return schema.HeldLine(
        kind=_value(line.kind),
        own=line.is_own,
        model=line.model_id,
        instance_id=line.instance_id,
        container_id=line.container_id,
        pid=line.pid,
        user=line.user,
        command=line.command,
        before_bytes=line.before_bytes,
        bytes=line.after_bytes,
    )


def _check(check: Check) -> schema.Check:
    return schema.Check(
        name=_value(check.name),
        title=words.word(names.CHECKS, check.name),
        mark=_value(check.mark),
        seen=message(check.seen),
        seconds=check.seconds,
        advice=message(check.advice),
    )


def _step(step: Step) -> schema.Step:
    return schema.Step(
        name=_value(step.name),
        state=_value(step.state),
        started_at=when(step.started_at),
        ended_at=when(step.ended_at),
        progress=step.progress,
        message=message(step.message),
    )


def _receipt(receipts: tuple[Receipt, ...]) -> schema.Receipt | None:
    """All receipts of an operation as one: sums over devices, unknown as soon as one is."""
    if not receipts:
        return None
    return schema.Receipt(
        expected_bytes=_sum([r.expected_bytes for r in receipts]),
        freed_bytes=_sum([r.freed_bytes for r in receipts]),
        model_freed_bytes=_sum([r.model_freed_bytes for r in receipts]),
        seconds=max(r.seconds for r in receipts),
        settled=all(r.settled for r in receipts),
        still_held_by=tuple(_still_held(each) for r in receipts for each in r.still_held_by),
    )


def _sum(sizes: list[int | None]) -> int | None:
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _device_receipt(receipt: Receipt) -> schema.DeviceReceipt:
    return schema.DeviceReceipt(
        device_id=receipt.device_id,
        instance_id=receipt.instance_id,
        model=receipt.model_id,
        expected_bytes=receipt.expected_bytes,
        freed_bytes=receipt.freed_bytes,
        model_freed_bytes=receipt.model_freed_bytes,
        others_bytes=receipt.others_bytes,
        seconds=receipt.seconds,
        settled=receipt.settled,
        still_held_by=tuple(map(_still_held, receipt.still_held_by)),
    )


def _still_held(held: HeldBy) -> schema.StillHeld:
    return schema.StillHeld(pid=held.pid, user=held.user, command=held.command, bytes=held.used_bytes, state=held.state)


def track(recorded: Track) -> schema.Timeline:
    """Return a device's memory over a span, with the operations that ended in it."""
    return schema.Timeline(
        device=recorded.device_id,
        span=_value(recorded.span),
        step_seconds=recorded.scale.step_s,
        begun_at=when(recorded.begun_at),
        ended_at=when(recorded.ended_at),
        points=tuple(map(_point, recorded.points)),
        operations=tuple(map(_event, recorded.events)),
    )


def _point(point: Point) -> schema.Point:
    return schema.Point(
        taken_at=when(point.taken_at),
        total_bytes=point.total_bytes,
        free_bytes=point.free_bytes,
        mean_free_bytes=point.mean_free_bytes,
        holders=tuple(_holding(held) for held in point.held if held.who.kind is not LedgerKind.FREE),
    )


def _holding(held: Held) -> schema.Holding:
    who = held.who
    return schema.Holding(
        kind=_value(who.kind),
        instance_id=who.instance_id,
        model=who.model_id,
        mode=_value(who.mode),
        user=who.user,
        bytes=held.used_bytes,
        most_bytes=held.most_bytes,
    )


def _event(event: Event) -> schema.EndedOperation:
    return schema.EndedOperation(
        id=event.id,
        kind=_value(event.kind),
        state=_value(event.state),
        mark=_value(event.mark),
        actor=event.actor,
        model=event.model_id,
        mode=_value(event.mode),
        evicted=event.evicted,
        ended_at=when(event.ended_at),
    )
