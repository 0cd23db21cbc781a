"""Builds the documents of the JSON contract from domain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from webapp import __version__, schema
from webapp.control.contract import ForeignContainer, Snapshot
from webapp.domain.audit import AuditEntry
from webapp.domain.footprint import Footprint, MeasuredSpread
from webapp.domain.instance import Instance
from webapp.domain.lease import ReleaseRequest
from webapp.domain.memory import Holder, LedgerKind, Reading, build_ledger, level_of, used_percent
from webapp.domain.model import CachedModel
from webapp.domain.modes import LaunchOptions
from webapp.domain.operation import Evicted, HeldBy, Operation, Receipt
from webapp.domain.plan import Eviction, Plan, SwitchRequest, WayOut
from webapp.domain.planning.planner import footprint_parts
from webapp.domain.postmortem import Account, HolderLine, PostMortem, cause_message
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.recommend import Advice
from webapp.domain.timeline import Held, Point, Track
from webapp.message import Message
from webapp.web import words
from webapp.web.moments import moment, when
from webapp.web.phrases import misread
from webapp.web.words import names

D = TypeVar("D", bound=BaseModel)


def _like(document: type[D], source: object, **own: Any) -> D:
    """Return a document with ``own`` fields, and for the others those of ``source`` with the same name.

    Moments become texts, and messages get their sentences. The document checks that enum members are part of the
    contract.
    """
    for name in document.model_fields.keys() - own.keys():
        value = getattr(source, name)
        is_moment = name.endswith("_at") and value is not None
        own[name] = when(value) if is_moment else message(value) if isinstance(value, Message) else value
    return document(**own)


@overload
def message(said: Message) -> schema.MessageDocument: ...
@overload
def message(said: Message | None) -> schema.MessageDocument | None: ...
def message(said: Message | None) -> schema.MessageDocument | None:
    """Return a message with its sentence."""
    if said is None:
        return None
    return schema.MessageDocument(code=said.code, text=words.say(said), params=dict(said.params))


def _messages(said: Iterable[Message]) -> tuple[schema.MessageDocument, ...]:
    return tuple(message(each) for each in said)


def status(snapshot: Snapshot) -> schema.StatusDocument:
    """Return the whole state."""
    sample = snapshot.sample
    return _like(
        schema.StatusDocument,
        snapshot,
        version=__version__,
        devices=() if sample is None else tuple(device(each, snapshot) for each in sample.readings),
        instances=tuple(instance(each, snapshot) for each in snapshot.instances),
        operations=tuple(operation(each) for each in snapshot.running),
        containers=tuple(container(each) for each in snapshot.containers),
        taken_at=None if sample is None else when(sample.taken_at),
        age_s=snapshot.sample_age_s,
        stale=snapshot.sample_is_stale,
        problem=None if sample is None else message(sample.problem),
        mode_problems={mode.value: message(why) for mode, why in snapshot.mode_problems.items()},
    )


def device(reading: Reading, snapshot: Snapshot) -> schema.DeviceDocument:
    """Return one device."""
    ledger = build_ledger(reading, {i.id: i.model_id for i in snapshot.instances})
    share = used_percent(reading)
    return _like(
        schema.DeviceDocument,
        reading,
        id=reading.device_id,
        used_percent=None if share is None else round(share, 2),
        level=None if reading.free_bytes is None else level_of(reading.free_bytes),
        holders=tuple(map(holder, reading.holders)) if reading.holders_known else None,
        unattributed_bytes=None if ledger is None else ledger.unattributed_bytes,
        claimed_by=snapshot.claims.get(reading.device_id),
    )


def holder(held: Holder) -> schema.HolderDocument:
    """Return a process that holds memory."""
    return _like(schema.HolderDocument, held, bytes=held.used_bytes)


def options(chosen: LaunchOptions) -> schema.OptionsDocument:
    """Return launch options."""
    return _like(schema.OptionsDocument, chosen, dtype=chosen.dtype.value, quantization=chosen.quantization.value)


def instance(loaded: Instance, snapshot: Snapshot) -> schema.InstanceDocument:
    """Return a loaded model."""
    lease = loaded.lease
    return _like(
        schema.InstanceDocument,
        loaded,
        model=loaded.model_id,
        options=options(loaded.options),
        predicted_bytes=_total(loaded.predicted_bytes),
        measured_bytes=_total(loaded.measured_bytes),
        predicted_bytes_by_device=dict(loaded.predicted_bytes) or None,
        resting_bytes_by_device=dict(loaded.resting_bytes) or None,
        measured_bytes_by_device=dict(loaded.measured_bytes) or None,
        lease=schema.LeaseDocument(until=when(lease.until), reason=lease.reason or None),
        idle_unload_minutes=lease.idle_minutes,
        idle_unload_at=when(snapshot.idle_unload_at.get(loaded.id)),
        release=_release(lease.release),
    )


def _total(by_device: Mapping[str, int]) -> int | None:
    return sum(by_device.values()) if by_device else None


def _release(asked: ReleaseRequest | None) -> schema.ReleaseDocument | None:
    return (
        None if asked is None else _like(schema.ReleaseDocument, asked, why=asked.why or None, word=asked.word or None)
    )


def entry(noted: AuditEntry) -> schema.AuditEntryDocument:
    """Return an entry of the audit log."""
    doer, target = noted.doer, noted.target
    return _like(
        schema.AuditEntryDocument,
        noted,
        at=when(noted.at),
        who=_like(schema.DoerDocument, doer, name=doer.name or None),
        target=_like(schema.AuditTargetDocument, target, id=target.id or None, name=target.name or None),
        address=noted.address or None,
        details={detail.value: value for detail, value in noted.details},
    )


def container(found: ForeignContainer) -> schema.ContainerDocument:
    """Return a container of vLLM's image that this Warden did not start."""
    return _like(schema.ContainerDocument, found)


def models(cached: Iterable[CachedModel]) -> list[schema.ModelDocument]:
    """Return the cached models; one that cannot be described has the reason instead of its facts."""
    return [_described(each) for each in cached]


def _described(cached: CachedModel) -> schema.ModelDocument:
    try:
        return model(cached)
    except Exception as exc:  # noqa: BLE001  one defective model must not hide the others
        bare = replace(cached, parameters=None, dtype=None, architecture=None, quantization=None, context_length=None)
        return model(replace(bare, problem=misread(cached.id, exc)))


def model(cached: CachedModel) -> schema.ModelDocument:
    """Return a cached model."""
    problem = cached.problem
    return _like(
        schema.ModelDocument,
        cached,
        problem=None if problem is None else words.say(problem),
        problem_code=None if problem is None else problem.code,
    )


def advice(given: Advice) -> schema.AdviceDocument:
    """Return the recommended settings."""
    precision = given.precision
    chosen = LaunchOptions(precision.dtype, precision.quantization, given.max_tokens, given.batch_size)
    return _like(schema.AdviceDocument, given, reasons=_messages(given.reasons), options=options(chosen))


def plan(made: Plan) -> schema.PlanDocument:
    """Return what a switch would do."""
    devices = made.devices
    return _like(
        schema.PlanDocument,
        made,
        devices=tuple(each.device_id for each in devices),
        unload=tuple(_eviction(eviction, made.request) for eviction in made.unload),
        needed_bytes={
            device_id: {part.value: size for part, size in parts.items()}
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
    )


def _way_out(way: WayOut) -> schema.WayOutDocument:
    return schema.WayOutDocument(message=message(way.message), request=launch(way.request))


def queued_launch(queued: QueuedLaunch, entry: QueueEntry | None = None) -> schema.QueuedLaunchDocument:
    """Return a queued launch with its place and, while it is in the queue, what it waits for."""
    return _queued(schema.QueuedLaunchDocument, queued, entry)


def changed_queued_launch(
    queued: QueuedLaunch, entry: QueueEntry | None, *, stored: bool
) -> schema.ChangedQueuedLaunchDocument:
    """Return a queued launch that was changed."""
    return _queued(schema.ChangedQueuedLaunchDocument, queued, entry, stored=stored)


def _queued(document: type[D], queued: QueuedLaunch, entry: QueueEntry | None, **own: Any) -> D:
    behind = None if entry is None else entry.behind
    return _like(
        document,
        queued,
        place=None if entry is None else entry.place,
        request=launch(queued.request),
        why=None if entry is None else message(entry.why),
        behind=None if behind is None else behind.id,
        **own,
    )


def footprint(taken: Footprint) -> schema.FootprintDocument:
    """Return a launch's memory on one device, by component."""
    return _like(
        schema.FootprintDocument,
        taken,
        parts=tuple(_like(schema.PartDocument, part) for part in taken.parts),
        run_peak_bytes=taken.total_bytes,
        notes=tuple(schema.NoteDocument(code=note.value, text=words.word(names.NOTES, note)) for note in taken.notes),
        seen=_measured(taken.seen),
    )


def _measured(seen: MeasuredSpread | None) -> schema.MeasuredDocument | None:
    """Return the measured spread of such launches, which is the same on each device of a launch."""
    return None if seen is None else _like(schema.MeasuredDocument, seen)


def _eviction(eviction: Eviction, request: SwitchRequest) -> schema.EvictionDocument:
    return _like(
        schema.EvictionDocument,
        eviction,
        model=eviction.model_id,
        lease_until=when(eviction.lease_until),
        freed_bytes=dict(eviction.freed_bytes),
        confirmed=eviction.is_confirmed_by(request),
    )


def launch(request: SwitchRequest) -> schema.LaunchDocument:
    """Return a request as ``plan`` and ``switch`` take it."""
    return _like(
        schema.LaunchDocument,
        request,
        mode=request.mode.value,
        model=request.model_id,
        options=options(request.options),
        lease_until=None if request.lease_until is None else moment(request.lease_until),
        idle_unload_minutes=request.idle_minutes,
    )


def _evicted(evicted: Evicted) -> schema.EvictedDocument:
    return _like(
        schema.EvictedDocument,
        evicted,
        model=evicted.model_id,
        options=options(evicted.options),
        lease_until=when(evicted.lease.until),
    )


def operation(begun: Operation) -> schema.OperationDocument:
    """Return an operation, running or ended."""
    return _operation(schema.OperationDocument, begun)


def accepted_operation(begun: Operation, *, stored: bool) -> schema.AcceptedOperationDocument:
    """Return an operation that was begun or changed."""
    return _operation(schema.AcceptedOperationDocument, begun, stored=stored)


def _operation(document: type[D], begun: Operation, **own: Any) -> D:
    return _like(
        document,
        begun,
        model=begun.model_id,
        to_restore=tuple(map(_evicted, begun.to_restore)),
        steps=tuple(_like(schema.StepDocument, step) for step in begun.steps),
        receipt=_receipt(begun.receipts),
        receipts=tuple(map(_device_receipt, begun.receipts)),
        findings=tuple(_like(schema.FindingDocument, finding) for finding in begun.findings),
        checks=tuple(
            _like(schema.CheckDocument, check, title=words.word(names.CHECKS, check.name)) for check in begun.checks
        ),
        request=None if begun.request is None else launch(begun.request),
        post_mortem=None if begun.post_mortem is None else _post_mortem(begun.post_mortem),
        grace=None if begun.grace is None else _like(schema.GraceDocument, begun.grace, until=when(begun.grace.until)),
        **own,
    )


def _post_mortem(report: PostMortem) -> schema.PostMortemDocument:
    return _like(
        schema.PostMortemDocument,
        report,
        since=when(report.since),
        device=report.device_id,
        message=message(cause_message(report)),
        devices=tuple(map(_account, report.accounts)),
        way_out=None if report.way_out is None else _way_out(report.way_out),
    )


def _account(account: Account) -> schema.DeviceAccountDocument:
    return _like(
        schema.DeviceAccountDocument,
        account,
        id=account.device_id,
        predicted_bytes=account.gate_bytes,
        free_bytes=account.free_after_bytes,
        others_grown_bytes=account.grown_bytes,
        holders=tuple(map(_held_line, account.lines)),
    )


def _held_line(line: HolderLine) -> schema.HeldLineDocument:
    return _like(schema.HeldLineDocument, line, own=line.is_own, model=line.model_id, bytes=line.after_bytes)


def _receipt(receipts: tuple[Receipt, ...]) -> schema.ReceiptDocument | None:
    """Return all receipts of an operation as one: sums over devices, unknown if one summand is."""
    if not receipts:
        return None
    return schema.ReceiptDocument(
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


def _device_receipt(receipt: Receipt) -> schema.DeviceReceiptDocument:
    held = tuple(map(_still_held, receipt.still_held_by))
    return _like(schema.DeviceReceiptDocument, receipt, model=receipt.model_id, still_held_by=held)


def _still_held(held: HeldBy) -> schema.StillHeldDocument:
    return _like(schema.StillHeldDocument, held, bytes=held.used_bytes)


def track(recorded: Track) -> schema.TimelineDocument:
    """Return a device's memory over a span, with the operations that ended in it."""
    return _like(
        schema.TimelineDocument,
        recorded,
        device=recorded.device_id,
        step_seconds=recorded.scale.step_s,
        points=tuple(map(_point, recorded.points)),
        operations=tuple(
            _like(schema.EndedOperationDocument, event, model=event.model_id) for event in recorded.events
        ),
    )


def _point(point: Point) -> schema.PointDocument:
    held = tuple(_holding(held) for held in point.held if held.who.kind is not LedgerKind.FREE)
    return _like(schema.PointDocument, point, holders=held)


def _holding(held: Held) -> schema.HoldingDocument:
    who = held.who
    return _like(schema.HoldingDocument, who, model=who.model_id, bytes=held.used_bytes, most_bytes=held.most_bytes)
