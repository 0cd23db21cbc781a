"""The launch queue: what a queued launch is, what prevents its start, and whose turn it is. Pure.

The queue is ordered by arrival. **A launch that waits for memory holds the devices that it waits for**: the named ones,
or, if the choice was left to Warden, each on which it could ever fit. A later launch may start first only if it uses
none of them, so small requests that always find a gap cannot starve a large one. A launch that waits for something else
(a pause after a failed load, an unavailable mode, a figure that cannot be read) holds nothing, and neither does one
that an emergency stop has paused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from webapp.domain.operation import Operation, OperationState
from webapp.domain.plan import DevicePlan, Plan, SwitchRequest
from webapp.domain.planning.admission import within_limit
from webapp.domain.planning.fit import Needs, needs_of
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import Headroom, PlanningState, headrooms
from webapp.errors import (
    AlreadyLoaded,
    AlreadyWaiting,
    CannotWait,
    ConfirmationNeeded,
    CoolingDown,
    InstanceInUse,
    InstanceLeased,
    InvalidRequest,
    NotEnoughMemory,
    NotFound,
    QueueFull,
)
from webapp.message import Message, Param

MOST_TRIES: Final = 3
"""Starts that fail for want of a resource before a launch is given up: each may have unloaded models and loaded them
again.
"""
COMES_BACK: Final = frozenset(
    {
        "busy",
        "not_enough_memory",
        "instance_in_use",
        "instance_leased",
        "confirmation_needed",
        "load_fenced",
        "device_unreadable",
        "superseded",
        "disk_full",
        "disk_read_only",
        "too_many_files",
        "too_many_processes",
    }
)
"""Errors of a start that the model did not cause: memory, disk, descriptors or processes ran short, so the
launch keeps its position.
"""
NO_FAULT: Final = frozenset(
    {
        "cancelled_by_emergency",
        "cancelled_by_stop",
        "lease_pending",
        "not_stored",
        "mode_unavailable",
        "cannot_end",
        "engine_unreachable",
        "engine_missing",
    }
)
"""Errors of a start that was interrupted, came a moment too early, or met a condition that the queue waits for anyway:
they do not count as tries.
"""
SATISFIED: Final = "ticket_satisfied"
"""The outcome of a launch whose model became available without a start of its own."""


class QueueState(StrEnum):
    """The state of a queued launch."""

    WAITING = "waiting"
    """The request does not fit yet, or it is not its turn."""
    READY = "ready"
    """It fits, and its owner was notified: nothing starts until a person starts it."""
    STARTING = "starting"
    """Its operation is running."""
    STARTED = "started"
    """Its model is loaded: by its own start, or by another person, whom ``outcome`` then names."""
    CANCELLED = "cancelled"
    """A person cancelled it."""
    EXPIRED = "expired"
    """It has waited too long, or its owner was notified and did not respond."""
    FAILED = "failed"
    """Waiting cannot make the request possible, or its start failed; ``outcome`` says why."""


ENDED: Final = frozenset({QueueState.STARTED, QueueState.CANCELLED, QueueState.EXPIRED, QueueState.FAILED})
OPEN: Final = frozenset(QueueState) - ENDED
"""The states of a launch that still has its position."""
TRANSITIONS: Final[Mapping[QueueState, frozenset[QueueState]]] = {
    QueueState.WAITING: ENDED | {QueueState.READY, QueueState.STARTING},
    QueueState.READY: ENDED | {QueueState.WAITING, QueueState.STARTING},
    QueueState.STARTING: ENDED - {QueueState.EXPIRED} | {QueueState.WAITING},
    **dict.fromkeys(ENDED, frozenset()),
}
"""For each state, the states that may follow. A model that another person has loaded satisfies a launch in any of the
open states.
"""


@dataclass(frozen=True)
class QueuedLaunch:
    """One queued launch. Times are seconds since the epoch."""

    id: str
    number: int
    """Its number among all launches ever queued: rises, and survives a restart."""
    request: SwitchRequest
    """The original request. A start does no more than it says."""
    actor: str
    created_at: float
    starts_by_itself: bool = True
    """Whether it starts automatically; if not, its owner is only notified."""
    state: QueueState = QueueState.WAITING
    told_at: float | None = None
    """Since when it has been known to fit, while it is ``ready``."""
    operation_id: str | None = None
    """The operation of its current or last start."""
    tries: int = 0
    """Starts that failed for want of memory."""
    not_before: float | None = None
    """The earliest next start after such a failure, by the monotonic clock of this process."""
    paused_by: str | None = None
    """The person whose emergency stop prevents its start until it is resumed."""
    ended_at: float | None = None
    outcome: Message | None = None
    """Why it ended, if its state does not say so."""
    request_id: str | None = None
    """The id under which the actor's client sent the request, so that it can be sent again."""

    @property
    def is_open(self) -> bool:
        """Whether it still has its position."""
        return self.state in OPEN

    def to(self, state: QueueState, **changes: object) -> QueuedLaunch:
        """Return the launch in ``state``.

        Raises:
            ValueError: the table does not allow the transition.
        """
        if state is not self.state and state not in TRANSITIONS[self.state]:
            raise ValueError(f"a launch cannot go from {self.state} to {state}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]

    def ended(self, state: QueueState, now: float, outcome: Message | None = None) -> QueuedLaunch:
        """Return the launch as ended at ``now``. Raises ValueError as ``to`` does."""
        return self.to(state, ended_at=now, outcome=outcome, told_at=None, paused_by=None, not_before=None)


@dataclass(frozen=True)
class QueueVerdict:
    """What prevents the start of a launch at one moment; ``why`` is ``None`` if nothing does."""

    why: Message | None
    devices: frozenset[str] = frozenset()
    """The devices that a start would use now, or that the launch waits for; empty if it does not wait for memory."""
    request: SwitchRequest | None = None
    """The request that would be started now: the original one, on the devices that were found."""
    is_over: bool = False
    """Whether waiting is pointless: the result exists already, or waiting cannot make the request possible."""


@dataclass(frozen=True)
class QueueEntry:
    """An open launch at its position, from 1 on. ``behind`` is the nearest earlier launch that holds one of its
    devices.
    """

    launch: QueuedLaunch
    place: int
    why: Message | None = None
    behind: QueuedLaunch | None = None
    request: SwitchRequest | None = None
    """The request that would be started now."""
    is_over: bool = False
    devices: frozenset[str] = frozenset()
    """The devices that it holds in the queue."""

    @property
    def fits(self) -> bool:
        """Whether nothing prevents its start."""
        return self.why is None and self.behind is None and not self.is_over


Judge = Callable[[QueuedLaunch, frozenset[str]], QueueVerdict]
"""Judges a launch while others hold some devices: if the choice is Warden's, it is made among the rest as far as
possible.
"""


def in_order(launches: Iterable[QueuedLaunch]) -> tuple[QueuedLaunch, ...]:
    """Return the open launches in the order of arrival."""
    return tuple(sorted((launch for launch in launches if launch.is_open), key=lambda launch: launch.number))


def line_up(launches: Iterable[QueuedLaunch], judge: Judge) -> tuple[QueueEntry, ...]:
    """Return the queue with what each launch waits for, by the rule in the module's docstring."""
    return tuple(_line_up(in_order(launches), judge))


def _line_up(ordered: Iterable[QueuedLaunch], judge: Judge) -> Iterator[QueueEntry]:
    holders: dict[str, QueuedLaunch] = {}
    for place, launch in enumerate(ordered, 1):
        if launch.state is QueueState.STARTING:
            yield QueueEntry(launch, place)  # Its operation has claimed the resources that it needs.
            continue
        judged = judge(launch, frozenset(holders))
        before = [holders[device] for device in judged.devices if device in holders]
        behind = max(before, key=lambda other: other.number, default=None)
        holds = launch.paused_by is None and not judged.is_over
        devices = judged.devices if holds else frozenset[str]()
        yield QueueEntry(launch, place, judged.why, behind, judged.request, judged.is_over, devices)
        holders |= {device: launch for device in devices if device not in holders}


def next_to_start(line: Iterable[QueueEntry], passed: Collection[str] = ()) -> QueueEntry | None:
    """Return the first launch that starts automatically and that nothing prevents; the ids in ``passed`` had their
    turn.
    """
    return next((queued for queued in line if may_start(queued) and queued.launch.id not in passed), None)


def may_start(queued: QueueEntry) -> bool:
    """Return whether a launch starts automatically now."""
    launch = queued.launch
    waits = launch.state is QueueState.WAITING and launch.paused_by is None
    return waits and launch.starts_by_itself and queued.fits


def may_cancel(launch: QueuedLaunch, actor: str, is_administrator: bool) -> bool:
    """Return whether ``actor`` may cancel, start or resume ``launch``: its owner or an administrator may."""
    return is_administrator or launch.actor == actor


def came_back(operation: Operation) -> bool:
    """Return whether the start of a launch ended in a way that leaves it in the queue: a shortage of memory, or an
    interruption.

    A start that was interrupted by the end of Warden (``abandoned``) proves nothing either.
    """
    code = None if operation.error is None else operation.error.code
    return operation.state is OperationState.ABANDONED or code in COMES_BACK | NO_FAULT


def counts_as_try(operation: Operation) -> bool:
    """Return whether an operation that came back proves a shortage of memory."""
    return operation.error is not None and operation.error.code in COMES_BACK


def check_place(launches: Iterable[QueuedLaunch], request: SwitchRequest, actor: str, limit: int) -> None:
    """Refuse more launches than ``limit``, and a second one of ``actor`` for the same request. Raises QueueFull,
    AlreadyWaiting.
    """
    waiting = in_order(launches)
    for place, other in enumerate(waiting, 1):
        if (_launch(other.request), other.actor) == (_launch(request), actor):
            raise AlreadyWaiting(ticket=other.id, model=request.model_id, place=place)
    if len(waiting) >= limit:
        raise QueueFull(limit=limit)


def _launch(request: SwitchRequest) -> SwitchRequest:
    """Return the request without the end of its lease, which differs between two clicks."""
    return replace(request, lease_until=None)


def check_admissible(request: SwitchRequest, planning_state: PlanningState) -> None:
    """Refuse a request that waiting cannot make possible.

    Raises:
        NotFound, InvalidRequest: the request names what does not exist, or is invalid.
        Refused: something other than a shortage of memory forbids it.
        CannotWait: no device, or none of the named ones, would hold it even if it were empty.
    """
    if request.load_anyway:
        raise InvalidRequest(field="load_anyway", value="true", allowed="false")
    if request.override_reason is not None:
        raise InvalidRequest(field="override_reason", value=request.override_reason, allowed="null")
    plan = plan_switch(request, planning_state, with_ways_out=False)
    error = refusal_of(plan, planning_state)
    if error is not None and error.code not in _BY_CODE:
        raise error
    if error is not None and error.code == NotEnoughMemory.code and not _candidates(request, plan, planning_state):
        needed = max((device.footprint.required_bytes + device.reserve_bytes for device in plan.devices), default=None)
        raise CannotWait(model=request.model_id, needed_bytes=needed, most_bytes=_most_bytes(request, planning_state))


def judge(
    launch: QueuedLaunch, held: frozenset[str], planning_state: PlanningState, running: Mapping[str, Operation]
) -> QueueVerdict:
    """Return what prevents ``launch`` in ``planning_state`` while earlier launches hold the devices ``held``.

    ``running`` are the running operations by id. Never raises because of a changed state: that is a reason to wait, or
    the end.
    """
    planning_state = planning_state.seen_by(launch.actor)
    request = still_asked(launch.request, planning_state)
    try:
        plan = plan_switch(request, planning_state, with_ways_out=False)
    except InvalidRequest as exc:
        return QueueVerdict(exc.message, is_over=True)
    except NotFound as exc:  # The catalogue is not read yet or a driver is away: the model or device may appear again.
        return QueueVerdict(exc.message)
    if plan.refusal is not None and plan.refusal.code == AlreadyLoaded.code:
        return QueueVerdict(_satisfied(plan.refusal, planning_state), is_over=True)
    if plan.refusal is not None and plan.refusal.code == InvalidRequest.code:
        return QueueVerdict(plan.refusal, is_over=True)
    plan = _elsewhere(plan, request, held, planning_state)
    return _judged(launch, request, plan, planning_state, running)


def _satisfied(refusal: Message, planning_state: PlanningState) -> Message:
    """Return the outcome that names the owner of the model that is already loaded."""
    owner = next((i.owner for i in planning_state.instances if i.id == refusal.params.get("instance")), None)
    return Message(SATISFIED, {"model": refusal.params.get("model"), "owner": owner})


def _judged(
    launch: QueuedLaunch,
    request: SwitchRequest,
    plan: Plan,
    planning_state: PlanningState,
    running: Mapping[str, Operation],
) -> QueueVerdict:
    why = _why(plan, planning_state, running)
    if why is not None and why.code not in FOR_ROOM:
        return QueueVerdict(why)
    if why is not None:
        return QueueVerdict(why, _candidates(request, plan, planning_state))
    if launch.not_before is not None and launch.not_before > planning_state.monotonic:
        why = Message("waits_pause", {"tries": launch.tries, "most": MOST_TRIES})
    found = tuple(device.device_id for device in plan.devices)
    return QueueVerdict(why, plan.touched, replace(request, devices=found))


def still_asked(request: SwitchRequest, planning_state: PlanningState) -> SwitchRequest:
    """Return ``request`` without its outdated parts: instances to unload that have ended, an expired lease."""
    running = {instance.id for instance in planning_state.instances}
    kept = tuple(instance_id for instance_id in request.unload if instance_id in running)
    until = request.lease_until if (request.lease_until or 0) > planning_state.now else None
    return (
        request
        if (kept, until) == (request.unload, request.lease_until)
        else replace(request, unload=kept, lease_until=until)
    )


def _elsewhere(plan: Plan, request: SwitchRequest, held: frozenset[str], planning_state: PlanningState) -> Plan:
    """Return the plan for the first free device if Warden chose one that an earlier launch holds; else ``plan``."""
    if request.devices is not None or not plan.touched & held:
        return plan
    for device_id in planning_state.device_ids:
        other = plan_switch(replace(request, devices=(device_id,)), planning_state, with_ways_out=False)
        if other.refusal is None and not other.touched & (held | planning_state.claims.keys()):
            return other
    return plan


def _candidates(request: SwitchRequest, plan: Plan, planning_state: PlanningState) -> frozenset[str]:
    """Return the devices that a request waits for: the named ones, or each that would hold it alone; none if it never
    fits.
    """
    if request.devices is not None:
        return plan.touched if all(_could_hold(device, planning_state) for device in plan.devices) else frozenset()
    every = headrooms(planning_state)
    needs = needs_of(request, planning_state.models[request.model_id], every)
    most = [_room_of_empty(room, planning_state) for room in every]
    found = {every[n].device_id for n, needed in enumerate(needs.alone) if needed <= most[n]}
    return frozenset(found or _in_a_spread(needs, every, most))


def _in_a_spread(needs: Needs, every: Sequence[Headroom], most: Sequence[int]) -> Iterator[str]:
    """Yield every GPU of the groups that would hold it together."""
    for mixture in needs.together:
        if all(sum(share.needed_bytes <= most[n] for n in share.headrooms) >= share.count for share in mixture):
            yield from (
                every[n].device_id for share in mixture for n in share.headrooms if share.needed_bytes <= most[n]
            )


def _room_of_empty(room: Headroom, planning_state: PlanningState) -> int:
    """Return the bytes that a launch may take on a device that nobody else uses."""
    return within_limit(room.usable_bytes, 0, planning_state.policy.memory_limit_bytes) - _reserve_on(
        room.device_id, planning_state
    )


def _could_hold(device: DevicePlan, planning_state: PlanningState) -> bool:
    """Return whether an empty device would suffice; one whose size is unknown might."""
    if device.total_bytes is None:
        return True
    reading = None if planning_state.sample is None else planning_state.sample.reading(device.device_id)
    usable = device.total_bytes - ((reading.reserved_bytes or 0) if reading is not None else 0)
    most = within_limit(usable, 0, planning_state.policy.memory_limit_bytes)
    return device.footprint.required_bytes + device.reserve_bytes <= most


def _reserve_on(device_id: str, planning_state: PlanningState) -> int:
    reading = None if planning_state.sample is None else planning_state.sample.reading(device_id)
    return planning_state.policy.reserve_on((reading.total_bytes or 0) if reading is not None else 0)


def _most_bytes(request: SwitchRequest, planning_state: PlanningState) -> int:
    """Return the bytes that the largest requested device may hold."""
    usable = [
        r.usable_bytes for r in headrooms(planning_state) if request.devices is None or r.device_id in request.devices
    ]
    return within_limit(max(usable, default=0), 0, planning_state.policy.memory_limit_bytes)


def _why(plan: Plan, planning_state: PlanningState, running: Mapping[str, Operation]) -> Message | None:
    """Return why a launch waits. A running operation on its devices comes first: its memory is in flight."""
    refusal = refusal_of(plan, planning_state)
    if refusal is not None and refusal.code not in _BY_CODE:
        return refusal.message
    for device_id in sorted(plan.touched):
        operation = running.get(planning_state.claims.get(device_id, ""))
        if operation is not None:
            return _operation(device_id, operation)
    if refusal is None:
        return None
    return Message(_BY_CODE[refusal.code], {name: refusal.params[name] for name in refusal.params if name != "seconds"})


def _operation(device_id: str, operation: Operation) -> Message:
    params: dict[str, Param] = {
        "device": device_id,
        "kind": operation.kind.value,
        "model": operation.model_id,
        "actor": operation.actor,
        "since": operation.started_at,
    }
    return Message("waits_operation", params)


_BY_CODE: Final[Mapping[str, str]] = {
    NotEnoughMemory.code: "waits_memory",
    InstanceInUse.code: "waits_in_use",
    InstanceLeased.code: "waits_leased",
    ConfirmationNeeded.code: "waits_others",
    CoolingDown.code: "waits_cooldown",
}
"""The refusals that justify waiting, and the messages for a queued launch; no message has a figure that only counts
down.
"""
FOR_ROOM: Final = frozenset({"waits_memory", "waits_in_use", "waits_leased", "waits_others", "waits_operation"})
"""The messages of a launch that waits for memory."""
