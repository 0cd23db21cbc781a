"""A controller in memory: real plans over a state that a test sets, a record of what was asked of it, and a knob for
every refusal.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from webapp.audit.trail import Audit
from webapp.control.contract import EmergencyPreview, Health, Question, Snapshot
from webapp.control.controller import Controller
from webapp.control.leases import Leasing
from webapp.control.queue import LaunchQueue
from webapp.control.recorder import Timeline
from webapp.control.repeats import check_same_launch, check_same_switch
from webapp.control.terms import check_terms, refuse_kept
from webapp.domain.audit import EVERYTHING, AuditEntry, AuditFilter
from webapp.domain.calibration import UNCALIBRATED, Calibration
from webapp.domain.idle import Quiet, idle_unload_in
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import Lease, Notice, ReleaseAnswer, Terms
from webapp.domain.memory import DeviceKind, HistoryPoint, Holder, HolderKind, Reading, Sample
from webapp.domain.model import CachedModel, ModelShape, WeightFacts
from webapp.domain.modes import NOT_INSTALLED, LaunchOptions, Mode
from webapp.domain.operation import (
    ANY_OPERATION,
    Grace,
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
    Step,
    StepName,
)
from webapp.domain.people import Invitation, Person
from webapp.domain.plan import Plan, SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.advise import advise
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import Cooldown, Headroom, PlanningState, headrooms
from webapp.domain.queue import (
    QueuedLaunch,
    QueueEntry,
    QueueState,
    check_admissible,
    check_place,
    judge,
    line_up,
    may_cancel,
)
from webapp.domain.recommend import Advice, recommend
from webapp.domain.timeline import SCALES, Point, Span, TimelineEvent, Track
from webapp.domain.units import gib
from webapp.errors import (
    ForeignQueuedLaunch,
    NotConfirmed,
    NothingToRestore,
    UnknownContainer,
    UnknownDevice,
    UnknownInstance,
    UnknownModel,
    UnknownOperation,
    UnknownQueuedLaunch,
    WardenError,
)
from webapp.message import Message
from webapp.runtimes.base import ForeignContainer
from webapp.settings import Settings

NOT_YET = NOT_INSTALLED[Mode.VLLM]


def model(model_id: str = "Qwen/Qwen3-1.7B", *, weights_bytes: int = gib(3.4), **changes: object) -> CachedModel:
    """A cached model of ``weights_bytes`` in bfloat16, nine tenths of it in linear layers."""
    elements = weights_bytes // 2
    made = CachedModel(
        id=model_id,
        revision="a" * 40,
        snapshot=Path("/cache/snapshots") / ("a" * 40),
        size_bytes=weights_bytes,
        parameters=elements,
        dtype="bfloat16",
        architecture="Qwen3ForCausalLM",
        quantization=None,
        context_length=40960,
        has_chat_template=True,
        shape=ModelShape(28, 2048, 6144, 16, 8, 128, 151936),
        weights=WeightFacts(weights_bytes, elements, elements * 9 // 10, 300_000, (("BF16", elements),)),
        modified_at=1000.0,
        problem=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def reading(
    device_id: str = "gpu-0", *, total: int = gib(24), held: tuple[Holder, ...] = (), **changes: object
) -> Reading:
    """A device of which 0.4 GiB are the driver's and ``held`` the processes'."""
    reserved = gib(0.4)
    used = sum(holder.used_bytes or 0 for holder in held)
    host = device_id == "host"
    made = Reading(
        device_id=device_id,
        kind=DeviceKind.HOST if host else DeviceKind.GPU,
        name=None if host else "NVIDIA RTX 4090",
        uuid=None if host else f"GPU-{device_id}",
        total_bytes=total,
        reserved_bytes=None if host else reserved,
        used_bytes=used,
        free_bytes=total - used - (0 if host else reserved),
        utilization_percent=None if host else 71.0,
        temperature_c=None if host else 58.0,
        power_w=None if host else 212.0,
        holders=held,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def worker(instance_id: str, size: int, pid: int = 4000) -> Holder:
    """A worker's process."""
    return Holder(pid, "me", "python -m webapp.worker", size, HolderKind.WORKER, instance_id=instance_id)


def foreign(user: str | None, command: str | None, size: int, pid: int = 777) -> Holder:
    """Somebody else's process."""
    return Holder(pid, user, command, size, HolderKind.FOREIGN)


def container(number: int = 1, name: str = "alice-vllm", **changes: object) -> ForeignContainer:
    """Somebody else's vLLM container, running since yesterday."""
    made = ForeignContainer(
        id=f"{number:x}".rjust(64, "c"),
        name=name,
        image="vllm/vllm-openai:v0.11.0",
        state="running",
        created_at=time.time() - 86_400,
        owner="alice",
        model="Qwen/Qwen3-8B",
        ports=("0.0.0.0:8000",),
        pids=(9001,),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def held_by(container: ForeignContainer, size: int | None, pid: int = 9001) -> Holder:
    """A process in a container of somebody else's."""
    return Holder(pid, "root", "VLLM::EngineCore", size, HolderKind.FOREIGN, container_id=container.id)


def instance(instance_id: str = "i1", model_id: str = "Qwen/Qwen3-1.7B", **changes: object) -> Instance:
    """A model that is ready on GPU 0."""
    made = Instance(
        id=instance_id,
        mode=Mode.TRANSFORMERS,
        model_id=model_id,
        revision="a" * 40,
        options=LaunchOptions(max_tokens=1024),
        devices=("gpu-0",),
        owner="maria",
        state=InstanceState.READY,
        started_at=time.time() - 3600,
        predicted_bytes={"gpu-0": gib(3.7)},
        measured_bytes={"gpu-0": gib(3.8)},
        has_chat_template=True,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def sample(*readings: Reading, problem: Message | None = None) -> Sample:
    """A reading of all devices, a moment ago."""
    return Sample(1, time.time(), time.monotonic(), readings, problem)


@dataclass
class FakeController(Controller):
    """Keeps a state and answers from it. ``refusal`` is raised by the next action; ``calls`` records all of them."""

    readings: tuple[Reading, ...] = (reading(),)
    sample_problem: Message | None = None
    instances: tuple[Instance, ...] = ()
    models: tuple[CachedModel, ...] = (model(),)
    models_problem: Message | None = None
    running: tuple[Operation, ...] = ()
    recent: tuple[Operation, ...] = ()
    claims: dict[str, str] = field(default_factory=dict)
    containers: tuple[ForeignContainer, ...] = ()
    waiting: tuple[QueueEntry, ...] = ()
    waited: tuple[QueuedLaunch, ...] = ()
    queue_limit: int = 8
    age_s: float | None = 0.4
    stale: bool = False
    unlisted_workers: int = 0
    healthy: bool = True
    histories: dict[str, tuple[HistoryPoint, ...]] = field(default_factory=dict)
    refusal: WardenError | None = None
    defect: Exception | None = None
    pieces: tuple[str, ...] = ("Привет", ", ", "мир!")
    breaks_with: WardenError | None = None
    """Raised after the last piece of an answer."""
    gate: threading.Event | None = None
    """An answer continues after its first piece only when this is open."""
    closed_answers: int = 0
    log: tuple[str, ...] = ("loading weights", "ready")
    mode_problems: dict[Mode, Message | None] = field(
        default_factory=lambda: {Mode.TRANSFORMERS: None, Mode.VLLM: NOT_YET}
    )
    calibration: Calibration = UNCALIBRATED
    cooldowns: dict[str, Cooldown] = field(default_factory=dict)
    present: frozenset[str] = frozenset()
    notices: tuple[Notice, ...] = ()
    store_problem: Message | None = None
    policy: AdmissionPolicy = field(default_factory=AdmissionPolicy)
    seen: set[str] = field(default_factory=set)
    """Who has looked at a page."""
    grace: Grace | None = None
    """The seconds before the next operation acts."""
    calls: list[tuple[object, ...]] = field(default_factory=list)
    sent: dict[tuple[str, str], Operation | QueuedLaunch] = field(default_factory=dict)
    """What was begun under each person's request ids."""
    version: int = 0
    queue: FakeQueue = field(init=False, repr=False, compare=False)
    leases: FakeLeases = field(init=False, repr=False, compare=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.queue, self.leases = FakeQueue(self), FakeLeases(self)

    def changed(self, **changes: object) -> None:
        """Set parts of the state, as the real one does: under a new version."""
        for name, value in changes.items():
            setattr(self, name, value)
        self.version += 1

    # Reading

    def snapshot(self) -> Snapshot:
        return Snapshot(
            version=str(self.version),
            sample=None if self.age_s is None else sample(*self.readings, problem=self.sample_problem),
            sample_age_s=self.age_s,
            sample_is_stale=self.stale,
            instances=self.instances,
            running=self.running,
            recent=self.recent,
            models=self.models,
            models_problem=self.models_problem,
            models_scanned_at=1.0,
            mode_problems=self.mode_problems,
            claims=self.claims,
            containers=self.containers,
            waiting=self.waiting,
            waited=self.waited,
            present=self.present,
            notices=self.notices,
            store_problem=self.store_problem,
            idle_unload_at=dict(self._idle_moments()),
        )

    def _idle_moments(self) -> Iterator[tuple[str, float]]:
        """As a controller counts that has looked all the time."""
        now = time.time()
        for one in self.instances:
            quiet = Quiet(now - one.used_at, now - max(one.ready_at or one.started_at, one.lease.idle_set_at or 0))
            left_s = idle_unload_in(one, 0.0, quiet, now)
            if left_s is not None:
                yield one.id, now + left_s

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        return self.histories.get(device_id, ())

    def planning_state(self) -> PlanningState:
        return PlanningState(
            now=time.time(),
            sample=self.snapshot().sample,
            sample_is_stale=self.stale,
            instances=self.instances,
            models={m.id: m for m in self.models},
            policy=self.policy,
            mode_problems=self.mode_problems,
            claims=self.claims,
            calibration=self.calibration,
            cooldowns=self.cooldowns,
        )

    def plan(self, request: SwitchRequest, actor: str | None = None) -> Plan:
        if self.defect is not None:
            raise self.defect
        return plan_switch(request, self.planning_state(), actor)

    def headrooms(self, request: SwitchRequest | None = None, actor: str | None = None) -> tuple[Headroom, ...]:
        return headrooms(replace(self.planning_state(), actor=actor), request)

    def recommend(
        self, device_id: str | None = None, model_id: str | None = None, actor: str | None = None
    ) -> Advice | None:
        known = {r.device_id: r.free_bytes for r in self.readings}
        if device_id is not None and device_id not in known:
            raise UnknownDevice(device=device_id, known=", ".join(known))
        if model_id is not None:
            devices = None if device_id is None else (device_id,)
            return self.advise(SwitchRequest(Mode.TRANSFORMERS, model_id, devices=devices), actor)
        free = [f for d, f in known.items() if f is not None and device_id in (None, d)]
        known_free = bool(free) and not self.stale
        return recommend(max(free), vllm_unavailable=self.mode_problems[Mode.VLLM]) if known_free else None

    def advise(self, request: SwitchRequest, actor: str | None = None) -> Advice | None:
        return advise(request, replace(self.planning_state(), actor=actor))

    def operation(self, operation_id: str) -> Operation:
        found = next((o for o in (*self.running, *self.recent) if o.id == operation_id), None)
        if found is None:
            raise UnknownOperation(operation=operation_id)
        return found

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        if self.refusal is not None:
            raise self.refusal
        ordered = (*reversed(self.running), *self.recent)
        seen = 0 if before is None else ordered.index(self.operation(before)) + 1
        return tuple([o for o in ordered[seen:] if where.matches(o)][:limit])

    def operation_values(self) -> OperationValues:
        if self.refusal is not None:
            raise self.refusal
        kept = (*self.running, *self.recent)
        return OperationValues(
            kinds=tuple(k for k in OperationKind if any(o.kind is k for o in kept)),
            actors=tuple(sorted({o.actor for o in kept})),
            models=tuple(sorted({o.model_id for o in kept if o.model_id})),
            states=tuple(s for s in OperationState if any(o.state is s for o in kept)),
        )

    def log_tail(self, instance_id: str) -> tuple[str, ...]:
        self.listed(instance_id)
        return self.log

    def health(self) -> Health:
        return Health(self.healthy, 0.2 if self.healthy else None, 0.1, self.store_problem)

    def emergency_preview(self) -> EmergencyPreview:
        others = tuple(h for r in self.readings for h in r.holders if h.kind is HolderKind.FOREIGN)
        launches = len(self.waiting)
        return EmergencyPreview(self.instances, self.unlisted_workers, self.running, others, self.containers, launches)

    # Acting

    def switch(self, request: SwitchRequest, actor: str, request_id: str | None = None) -> Operation:
        if request_id is not None and (begun := self.sent.get((actor, request_id))) is not None:
            return check_same_switch(begun, request, request_id)
        check_terms(request.lease_until, request.reason, request.idle_minutes, time.time())
        planning_state = self.planning_state()
        error = refusal_of(plan_switch(request, planning_state, actor), planning_state)
        if error is not None:
            raise error
        begun = self._accept(OperationKind.SWITCH, actor, request)
        begun = replace(begun, model_id=request.model_id, mode=request.mode.value)
        if request_id is not None:
            begun = self.sent[actor, request_id] = replace(begun, request=request)
        return begun

    def restore(self, operation_id: str, actor: str) -> Operation:
        owing = self.operation(operation_id)
        if not owing.to_restore:
            raise NothingToRestore(operation=operation_id)
        return replace(self._accept(OperationKind.RESTORE, actor), model_id=owing.to_restore[0].model_id)

    def enqueue(
        self, request: SwitchRequest, actor: str, *, starts_by_itself: bool, request_id: str | None = None
    ) -> QueueEntry:
        if self.refusal is not None:
            raise self.refusal
        if request_id is not None and (begun := self.sent.get((actor, request_id))) is not None:
            same = check_same_launch(begun, request, request_id, starts_by_itself=starts_by_itself)
            return next((one for one in self.waiting if one.launch.id == same.id), QueueEntry(same, 1))
        self.queue.check(request, actor)
        planning_state = self.planning_state()
        self.calls.append(("take_ticket", actor, request, starts_by_itself))
        number = len(self.waiting) + 1
        made = QueuedLaunch(f"t{number}", number, request, actor, time.time(), starts_by_itself)
        launches = (*(one.launch for one in self.waiting), made)
        self.changed(waiting=line_up(launches, lambda launch, held: judge(launch, held, planning_state, {})))
        if request_id is not None:
            self.sent[actor, request_id] = made
        return self.waiting[-1]

    def unload(self, instance_id: str, actor: str, override_reason: str | None = None) -> Operation:
        refuse_kept(self.listed(instance_id), actor, time.time(), override=override_reason is not None)
        reasons = () if override_reason is None else (override_reason,)
        return self._accept(OperationKind.UNLOAD, actor, instance_id, *reasons)

    def is_stored(self, operation_id: str) -> bool:
        return self.store_problem is None

    def see(self, actor: str) -> None:
        self.seen.add(actor)

    def dismiss(self, notice: int, actor: str) -> None:
        self.changed(notices=tuple(n for n in self.notices if (n.number, n.to) != (notice, actor)))

    def stop_container(self, container_id: str, name: str, actor: str) -> Operation:
        found = next((c for c in self.containers if c.id == container_id), None)
        if found is None:
            raise UnknownContainer(container=container_id)
        if name != found.name:
            raise NotConfirmed(container=container_id, name=found.name, owner=found.owner)
        return self._accept(OperationKind.STOP_CONTAINER, actor, container_id, name)

    def clean(self, actor: str) -> Operation:
        return self._accept(OperationKind.CLEAN, actor)

    def emergency(self, actor: str) -> Operation:
        return self._accept(OperationKind.EMERGENCY, actor)

    def make_demo(self, actor: str) -> Operation:
        return self._accept(OperationKind.DEMO, actor)

    def end_pause(self, model_id: str) -> CachedModel:
        found = self.snapshot().model(model_id)
        if found is None:
            raise UnknownModel(model=model_id)
        self.changed(cooldowns={})
        return found

    def selftest(self, actor: str) -> Operation:
        return self._accept(OperationKind.SELFTEST, actor)

    def cancel(self, operation_id: str, actor: str, *, rollback: bool = False, as_owner: bool = False) -> Operation:
        as_whom = ("as owner",) if as_owner else ()
        self.calls.append(("cancel", actor, operation_id, rollback, *as_whom))
        if self.refusal is not None:
            raise self.refusal
        return self.operation(operation_id)

    def ask(self, instance_id: str, question: Question) -> Iterator[str]:
        self.listed(instance_id)
        self.calls.append(("ask", instance_id, question))
        if self.refusal is not None:
            raise self.refusal
        return self._answer()

    def _answer(self) -> Iterator[str]:
        try:
            for number, piece in enumerate(self.pieces):
                if number and self.gate is not None:
                    self.gate.wait(10)
                yield piece
            if self.breaks_with is not None:
                raise self.breaks_with
        finally:
            self.closed_answers += 1

    def _accept(self, kind: OperationKind, actor: str, *what: object) -> Operation:
        self.calls.append((kind.value, actor, *what))
        if self.refusal is not None:
            raise self.refusal
        return Operation(
            id=f"op{next(self._numbers)}",
            kind=kind,
            actor=actor,
            state=OperationState.RUNNING,
            started_at=time.time(),
            steps=(Step(StepName.PLAN if self.grace is None else StepName.GRACE),),
            grace=self.grace,
        )

    def listed(self, instance_id: str) -> Instance:
        found = self.snapshot().instance(instance_id)
        if found is None:
            raise UnknownInstance(instance=instance_id)
        return found


class FakeQueue(LaunchQueue):
    """The calls of the queue that the page makes, on the state of its controller."""

    def __init__(self, of: FakeController) -> None:
        self._of = of

    def check(self, request: SwitchRequest, actor: str) -> None:
        check_admissible(request, replace(self._of.planning_state(), actor=actor))
        check_place([one.launch for one in self._of.waiting], request, actor, self._of.queue_limit)

    def cancel(self, launch_id: str, actor: str, *, is_administrator: bool = False) -> QueuedLaunch:
        queued = self._queued("cancel_ticket", launch_id, actor, is_administrator)
        self._of.changed(waiting=tuple(one for one in self._of.waiting if one is not queued))
        return queued.launch.ended(QueueState.CANCELLED, time.time())

    def resume(self, launch_id: str, actor: str, *, is_administrator: bool = False) -> QueueEntry:
        return self._queued("resume_ticket", launch_id, actor, is_administrator)

    def is_stored(self, launch_id: str) -> bool:
        return self._of.store_problem is None

    def start_now(self, launch_id: str, actor: str, *, is_administrator: bool = False) -> Operation:
        queued = self._queued("start_ticket", launch_id, actor, is_administrator)
        return self._of.switch(queued.launch.request, queued.launch.actor)

    def _queued(self, call: str, launch_id: str, actor: str, is_administrator: bool) -> QueueEntry:
        self._of.calls.append((call, actor, launch_id))
        if self._of.refusal is not None:
            raise self._of.refusal
        found = next((one for one in self._of.waiting if one.launch.id == launch_id), None)
        if found is None:
            raise UnknownQueuedLaunch(ticket=launch_id)
        if not may_cancel(found.launch, actor, is_administrator):
            raise ForeignQueuedLaunch(ticket=launch_id, actor=found.launch.actor)
        return found


class FakeLeases(Leasing):
    """The calls on leases that the page makes, on the state of its controller."""

    def __init__(self, of: FakeController) -> None:
        self._of = of

    def set(self, instance_id: str, terms: Terms, actor: str) -> Instance:
        return self._changed("lease", instance_id, actor, terms, lambda lease: lease)

    def ask(self, instance_id: str, why: str, actor: str) -> Instance:
        return self._changed("ask", instance_id, actor, why, lambda lease: lease.asked_by(actor, why, time.time()))

    def answer(self, instance_id: str, answer: ReleaseAnswer, word: str, actor: str) -> Instance:
        def change(lease: Lease) -> Lease:
            return lease.answered(answer, time.time(), actor, word)

        return self._changed("answer", instance_id, actor, (answer, word), change)

    def keep(self, instance_id: str, actor: str) -> Instance:
        return self._changed("keep", instance_id, actor, None, lambda lease: lease.kept(time.time()))

    def _changed(
        self, call: str, instance_id: str, actor: str, what: object, change: Callable[[Lease], Lease]
    ) -> Instance:
        found = self._of.listed(instance_id)
        self._of.calls.append((call, actor, instance_id, what))
        if self._of.refusal is not None:
            raise self._of.refusal
        made = replace(found, lease=change(found.lease))
        self._of.changed(instances=tuple(made if i.id == instance_id else i for i in self._of.instances))
        return made


@dataclass
class FakeTimeline(Timeline):
    """Points of the hour and of the week by device, as a test sets them; ``now`` is the end of what is shown."""

    points: dict[str, tuple[Point, ...]] = field(default_factory=dict)
    buckets: dict[str, tuple[Point, ...]] = field(default_factory=dict)
    events: tuple[TimelineEvent, ...] = ()
    now: float = field(default_factory=time.time)
    refusal: WardenError | None = None

    def devices(self) -> tuple[str, ...]:
        return tuple(self.points)

    def track(self, device_id: str, span: Span, *, drawn: bool = False) -> Track:
        if device_id not in self.points:
            raise UnknownDevice(device=device_id, known=", ".join(self.points))
        if self.refusal is not None:
            raise self.refusal
        begun_at, ended_at = SCALES[span].window(self.now)
        kept = self.points if span is Span.HOUR else self.buckets
        points = tuple(p for p in kept.get(device_id, ()) if begun_at <= p.taken_at < ended_at)
        events = tuple(e for e in self.events if begun_at <= e.ended_at < ended_at and e.touches(device_id))
        return Track(device_id, span, begun_at, ended_at, points, events)


class NoAccounts:
    """A Warden on this machine alone, for the one person who started it. Tests of people bring real accounts."""

    def has_administrator(self) -> bool:
        return False

    def by_token(self, key: str) -> None:
        return None

    def people(self) -> tuple[Person, ...]:
        return ()

    def invitations(self) -> tuple[Invitation, ...]:
        return ()


class FakeRecord:
    """Entries in memory; it finds all of them, whatever is looked for."""

    def __init__(self) -> None:
        self.kept: list[AuditEntry] = []

    def add(self, entries: Sequence[AuditEntry]) -> None:
        self.kept += [replace(entry, id=len(self.kept) + n) for n, entry in enumerate(entries, 1)]

    def entries(self, limit: int, where: AuditFilter = EVERYTHING, before: int | None = None) -> tuple[AuditEntry, ...]:
        return tuple(reversed(self.kept))[:limit]

    def has(self, entry: AuditEntry) -> bool:
        return any(entry.repeats(kept) for kept in self.kept)

    def people(self) -> tuple[str, ...]:
        return tuple(sorted({entry.doer.name for entry in self.kept}))

    def prune(self, before: float) -> int:
        return 0


@dataclass
class FakeServices:
    """What the application is given: settings, a controller, a timeline, and the accounts."""

    settings: Settings
    controller: FakeController
    timeline: FakeTimeline = field(default_factory=FakeTimeline)
    accounts: Any = field(default_factory=NoAccounts)
    """``NoAccounts``, or real ones."""
    audit: Audit = field(default_factory=lambda: Audit(FakeRecord(), keep_s=1e9))
