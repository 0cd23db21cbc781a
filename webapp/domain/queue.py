"""Requests that wait for room: what a ticket is, what stands between it and its start, and whose turn it is. Pure.

The line is kept in the order in which people came. **A ticket that waits for room holds the devices that it waits for**: those that it
names, or each on which it could ever fit where the choice was left to Warden. A later ticket may go first only where it touches none of
them, so nobody is starved by smaller requests that always find a gap. A ticket that waits for something else than room (a pause after a
failed load, a mode that is away, a figure that cannot be read) holds nothing, and neither does one that an emergency has paused.
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
    WardenError,
)
from webapp.message import Message, Param

MOST_TRIES: Final = 3
"""Starts that come back for want of something before a ticket gives up: each may have unloaded models and loaded them again."""
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
"""Errors of a start that say nothing against the model: memory, disk, descriptors or processes ran short, so the ticket keeps its place."""
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
"""Errors of a start that was cut off from outside, came a moment too early, or met what a ticket waits for anyway: it counts as no try."""
SATISFIED: Final = "ticket_satisfied"
"""What a ticket says once its model is there without a start of its own."""


class QueueState(StrEnum):
    """Where a ticket stands."""

    WAITING = "waiting"
    """What it asks for does not fit yet, or it is not its turn."""
    READY = "ready"
    """It fits, and its person was told: nothing starts before somebody starts it."""
    STARTING = "starting"
    """Its operation runs."""
    STARTED = "started"
    """Its model is there: loaded by its start, or by somebody else; ``outcome`` then says by whom."""
    CANCELLED = "cancelled"
    """A person took it back."""
    EXPIRED = "expired"
    """It has waited too long, or its person was told and did not come."""
    FAILED = "failed"
    """What it asks for cannot be had by waiting, or its start failed; ``outcome`` says why."""


TRANSITIONS: Final[Mapping[QueueState, frozenset[QueueState]]] = {
    QueueState.WAITING: frozenset(
        {
            QueueState.READY,
            QueueState.STARTING,
            QueueState.STARTED,
            QueueState.CANCELLED,
            QueueState.EXPIRED,
            QueueState.FAILED,
        }
    ),
    QueueState.READY: frozenset(
        {
            QueueState.WAITING,
            QueueState.STARTING,
            QueueState.STARTED,
            QueueState.CANCELLED,
            QueueState.EXPIRED,
            QueueState.FAILED,
        }
    ),
    QueueState.STARTING: frozenset({QueueState.WAITING, QueueState.STARTED, QueueState.CANCELLED, QueueState.FAILED}),
    QueueState.STARTED: frozenset(),
    QueueState.CANCELLED: frozenset(),
    QueueState.EXPIRED: frozenset(),
    QueueState.FAILED: frozenset(),
}
"""From each state, the states that may follow. A model that somebody else has loaded satisfies a ticket in any of the open ones."""
OPEN: Final = frozenset(state for state, following in TRANSITIONS.items() if following)
"""The states of a ticket that still has its place."""


@dataclass(frozen=True)
class QueuedLaunch:
    """One request that waits. Times are seconds since the epoch."""

    id: str
    number: int
    """Its place among all that ever waited: rises, and survives a restart."""
    request: SwitchRequest
    """As asked. A start does no more than it says."""
    actor: str
    created_at: float
    starts_by_itself: bool = True
    """Else its person is only told."""
    state: QueueState = QueueState.WAITING
    told_at: float | None = None
    """Since when it has been known to fit, while it is ``ready``."""
    operation_id: str | None = None
    """Its start: under way, or the last one."""
    tries: int = 0
    """Starts that came back for want of room."""
    not_before: float | None = None
    """When it may start again after such a one, by the monotonic clock of this process."""
    paused_by: str | None = None
    """Whose emergency keeps it from starting, until a person lets it go on."""
    ended_at: float | None = None
    outcome: Message | None = None
    """Why it ended, where its state does not say it."""

    @property
    def is_open(self) -> bool:
        """Whether it still has its place."""
        return self.state in OPEN

    def to(self, state: QueueState, **changes: object) -> QueuedLaunch:
        """Return the ticket in ``state``.

        Raises:
            ValueError: the table does not allow the transition.
        """
        if state is not self.state and state not in TRANSITIONS[self.state]:
            raise ValueError(f"a ticket cannot go from {self.state} to {state}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]

    def ended(self, state: QueueState, now: float, outcome: Message | None = None) -> QueuedLaunch:
        """Return the ticket as ended at ``now``. Raises ValueError as ``to`` does."""
        return self.to(state, ended_at=now, outcome=outcome, told_at=None, paused_by=None, not_before=None)


@dataclass(frozen=True)
class QueueVerdict:
    """What stands between a ticket and its start at one moment; ``why`` is ``None`` where nothing does."""

    why: Message | None
    devices: frozenset[str] = frozenset()
    """What a start would touch now, or what it waits for; empty where it does not wait for room."""
    request: SwitchRequest | None = None
    """What would be started now: as asked, on the devices that were found."""
    is_over: bool = False
    """There is nothing more to wait for: what was asked for is there, or cannot be had by waiting."""


@dataclass(frozen=True)
class QueueEntry:
    """An open ticket in its place, from 1 on. ``behind`` is the nearest ticket before it that holds a device of its."""

    launch: QueuedLaunch
    place: int
    why: Message | None = None
    behind: QueuedLaunch | None = None
    request: SwitchRequest | None = None
    """What would be started now."""
    is_over: bool = False
    devices: frozenset[str] = frozenset()
    """What it holds in the line."""

    @property
    def fits(self) -> bool:
        """Whether nothing stands between it and its start."""
        return self.why is None and self.behind is None and not self.is_over


Judge = Callable[[QueuedLaunch, frozenset[str]], QueueVerdict]
"""Judges a ticket while others hold some devices: where the choice is Warden's, it is made among the rest as far as that helps."""


def in_order(launches: Iterable[QueuedLaunch]) -> tuple[QueuedLaunch, ...]:
    """Return the open tickets in the order in which people came."""
    return tuple(sorted((launch for launch in launches if launch.is_open), key=lambda launch: launch.number))


def line_up(launches: Iterable[QueuedLaunch], judge: Judge) -> tuple[QueueEntry, ...]:
    """Return the line with what each waits for, as the module says who may go before whom."""
    return tuple(_line_up(in_order(launches), judge))


def _line_up(ordered: Iterable[QueuedLaunch], judge: Judge) -> Iterator[QueueEntry]:
    holders: dict[str, QueuedLaunch] = {}
    for place, launch in enumerate(ordered, 1):
        if launch.state is QueueState.STARTING:
            yield QueueEntry(launch, place)  # its operation has claimed what it needs
            continue
        judged = judge(launch, frozenset(holders))
        before = [holders[device] for device in judged.devices if device in holders]
        behind = max(before, key=lambda other: other.number, default=None)
        holds = launch.paused_by is None and not judged.is_over
        devices = judged.devices if holds else frozenset[str]()
        yield QueueEntry(launch, place, judged.why, behind, judged.request, judged.is_over, devices)
        holders |= {device: launch for device in devices if device not in holders}


def next_to_start(line: Iterable[QueueEntry], passed: Collection[str] = ()) -> QueueEntry | None:
    """Return the first ticket in line that starts by itself and has nothing in its way; the ids in ``passed`` had their turn."""
    return next((queued for queued in line if may_start(queued) and queued.launch.id not in passed), None)


def may_start(queued: QueueEntry) -> bool:
    """Whether a ticket starts by itself now."""
    launch = queued.launch
    waits = launch.state is QueueState.WAITING and launch.paused_by is None
    return waits and launch.starts_by_itself and queued.fits


def may_cancel(launch: QueuedLaunch, actor: str, is_administrator: bool) -> bool:
    """Whether ``actor`` may take ``launch`` back, start it or let it go on: who took it, or an administrator."""
    return is_administrator or launch.actor == actor


def came_back(operation: Operation) -> bool:
    """Whether the start of a ticket ended in a way that leaves it waiting: no room, or cut off from outside.

    One that was cut off by the end of Warden (``abandoned``) has proved nothing either.
    """
    code = None if operation.error is None else operation.error.code
    return operation.state is OperationState.ABANDONED or code in COMES_BACK | NO_FAULT


def counts_as_try(operation: Operation) -> bool:
    """Whether an operation that came back says that there was no room."""
    return operation.error is not None and operation.error.code in COMES_BACK


def check_place(launches: Iterable[QueuedLaunch], request: SwitchRequest, actor: str, limit: int) -> None:
    """Refuse a ticket more than ``limit``, and a second one of ``actor`` for the same. Raises QueueFull, AlreadyWaiting."""
    waiting = in_order(launches)
    for place, other in enumerate(waiting, 1):
        if (_launch(other.request), other.actor) == (_launch(request), actor):
            raise AlreadyWaiting(ticket=other.id, model=request.model_id, place=place)
    if len(waiting) >= limit:
        raise QueueFull(limit=limit)


def _launch(request: SwitchRequest) -> SwitchRequest:
    """What is asked for, on whatever lease: two clicks name two moments."""
    return replace(request, lease_until=None)


def check_admissible(request: SwitchRequest, planning_state: PlanningState) -> None:
    """Refuse what waiting cannot bring about.

    Raises:
        NotFound, InvalidRequest: the request names what does not exist, or cannot be meant.
        Refused: something else than room forbids it.
        CannotWait: no device, or not the named ones, would hold it even if they were empty.
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
    """Return what stands between ``launch`` and its start in ``planning_state``, while earlier tickets hold the devices ``held``.

    ``running`` are the operations that run, by id. Never raises for what the world has become: that is a reason to wait, or the end.
    """
    planning_state = planning_state.seen_by(launch.actor)
    request = still_asked(launch.request, planning_state)
    try:
        plan = plan_switch(request, planning_state, with_ways_out=False)
    except InvalidRequest as exc:
        return QueueVerdict(exc.message, is_over=True)
    except NotFound as exc:  # a catalogue that is not read yet, a driver that is away: it may be there again
        return QueueVerdict(exc.message)
    if plan.refusal is not None and plan.refusal.code == AlreadyLoaded.code:
        return QueueVerdict(_satisfied(plan.refusal, planning_state), is_over=True)
    if plan.refusal is not None and plan.refusal.code == InvalidRequest.code:
        return QueueVerdict(plan.refusal, is_over=True)
    plan = _elsewhere(plan, request, held, planning_state)
    return _judged(launch, request, plan, planning_state, running)


def _satisfied(refusal: Message, planning_state: PlanningState) -> Message:
    """Say whose model it is that is there already."""
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
    """Return ``request`` without what has passed meanwhile: models to unload that have gone, a lease that would have ended."""
    running = {instance.id for instance in planning_state.instances}
    kept = tuple(instance_id for instance_id in request.unload if instance_id in running)
    until = request.lease_until if (request.lease_until or 0) > planning_state.now else None
    return (
        request
        if (kept, until) == (request.unload, request.lease_until)
        else replace(request, unload=kept, lease_until=until)
    )


def _elsewhere(plan: Plan, request: SwitchRequest, held: frozenset[str], planning_state: PlanningState) -> Plan:
    """Where Warden chose a device that an earlier ticket holds, the first other one on which nothing is in the way; else ``plan``."""
    if request.devices is not None or not plan.touched & held:
        return plan
    for device_id in planning_state.device_ids:
        other = plan_switch(replace(request, devices=(device_id,)), planning_state, with_ways_out=False)
        if other.refusal is None and not other.touched & (held | planning_state.claims.keys()):
            return other
    return plan


def _candidates(request: SwitchRequest, plan: Plan, planning_state: PlanningState) -> frozenset[str]:
    """The devices that a request waits for: those that it names, or each that would hold it alone; none where it never fits."""
    if request.devices is not None:
        return plan.touched if all(_could_hold(device, planning_state) for device in plan.devices) else frozenset()
    every = headrooms(planning_state)
    needs = needs_of(request, planning_state.models[request.model_id], every)
    most = [_room_of_empty(room, planning_state) for room in every]
    found = {every[n].device_id for n, needed in enumerate(needs.alone) if needed <= most[n]}
    return frozenset(found or _in_a_spread(needs, every, most))


def _in_a_spread(needs: Needs, every: Sequence[Headroom], most: Sequence[int]) -> Iterator[str]:
    """Every GPU that several together would hold it on."""
    for mixture in needs.together:
        if all(sum(share.needed_bytes <= most[n] for n in share.headrooms) >= share.count for share in mixture):
            yield from (
                every[n].device_id for share in mixture for n in share.headrooms if share.needed_bytes <= most[n]
            )


def _room_of_empty(room: Headroom, planning_state: PlanningState) -> int:
    """What a launch may take of a device that nobody else uses."""
    return within_limit(room.usable_bytes, 0, planning_state.policy.memory_limit_bytes) - _reserve_on(
        room.device_id, planning_state
    )


def _could_hold(device: DevicePlan, planning_state: PlanningState) -> bool:
    """Whether an empty device would do; one whose size is unknown might."""
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
    """What the largest device that is asked for may hold."""
    usable = [
        r.usable_bytes for r in headrooms(planning_state) if request.devices is None or r.device_id in request.devices
    ]
    return within_limit(max(usable, default=0), 0, planning_state.policy.memory_limit_bytes)


def _why(plan: Plan, planning_state: PlanningState, running: Mapping[str, Operation]) -> Message | None:
    """An operation that runs there comes first: its memory is in flight."""
    refusal = refusal_of(plan, planning_state)
    if refusal is not None and refusal.code not in _BY_CODE:
        return refusal.message
    for device_id in sorted(plan.touched):
        operation = running.get(planning_state.claims.get(device_id, ""))
        if operation is not None:
            return _operation(device_id, operation)
    return None if refusal is None else _BY_CODE[refusal.code](refusal)


def _operation(device_id: str, operation: Operation) -> Message:
    params: dict[str, Param] = {
        "device": device_id,
        "kind": operation.kind.value,
        "model": operation.model_id,
        "actor": operation.actor,
        "since": operation.started_at,
    }
    return Message("waits_operation", params)


def _memory(error: WardenError) -> Message:
    return Message("waits_memory", error.params)


def _in_use(error: WardenError) -> Message:
    return Message("waits_in_use", error.params)


def _leased(error: WardenError) -> Message:
    return Message("waits_leased", error.params)


def _others(error: WardenError) -> Message:
    return Message("waits_others", error.params)


def _cooldown(error: WardenError) -> Message:
    return Message("waits_cooldown", {"model": error.params.get("model"), "failures": error.params.get("failures")})


_BY_CODE: Final[Mapping[str, Callable[[WardenError], Message]]] = {
    NotEnoughMemory.code: _memory,
    InstanceInUse.code: _in_use,
    InstanceLeased.code: _leased,
    ConfirmationNeeded.code: _others,
    CoolingDown.code: _cooldown,
}
"""The refusals that are worth waiting for, and how a ticket says them; it lists no figure that only counts down."""
FOR_ROOM: Final = frozenset({"waits_memory", "waits_in_use", "waits_leased", "waits_others", "waits_operation"})
"""What a ticket says while it waits for room."""
