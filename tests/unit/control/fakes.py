"""Small honest stand-ins for the controller's parts: a machine with memory, a runtime that takes and gives it, a store."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from webapp.catalog.scan import CatalogView
from webapp.domain.calibration import Measurement
from webapp.domain.instance import Instance, InstanceState, MemoryReport
from webapp.domain.lease import Lease
from webapp.domain.memory import DeviceKind, HistoryPoint, Holder, HolderKind, Reading, Sample
from webapp.domain.model import CachedModel, ModelShape, WeightFacts
from webapp.domain.modes import Mode
from webapp.domain.operation import (
    ANY_OPERATION,
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    OperationValues,
)
from webapp.domain.queue import QueuedLaunch
from webapp.domain.units import gib
from webapp.errors import (
    ContainerExited,
    EngineUnreachable,
    ImageMissing,
    OutOfMemory,
    PortLost,
    ProfileDisturbed,
    UnknownContainer,
    UnknownInstance,
    WardenError,
    WorkerDied,
    WorkerGarbled,
    WorkerSilent,
)
from webapp.message import Message
from webapp.runtimes.base import (
    CleanResult,
    Discovered,
    Endpoint,
    ForeignContainer,
    LaunchSpec,
    Leftover,
    Probe,
    ProbeState,
    StageCallback,
    StopResult,
    StopStage,
    Survivor,
)

SHAPE = ModelShape(layers=2, hidden=64, intermediate=128, heads=4, kv_heads=2, head_dim=16, vocabulary=1000)


def model(model_id: str = "lab/tiny", *, weights_bytes: int = gib(1), **changes: object) -> CachedModel:
    """A cached model of ``weights_bytes`` in bfloat16, half of it in linear layers."""
    elements = weights_bytes // 2
    facts = WeightFacts(
        bytes=weights_bytes,
        elements=elements,
        linear_elements=elements // 2,
        linear_rows=1000,
        dtypes=(("BF16", elements),),
    )
    made = CachedModel(
        id=model_id,
        revision="a" * 40,
        snapshot=Path("/nowhere/snapshots") / ("a" * 40),
        size_bytes=weights_bytes,
        parameters=elements,
        dtype="bfloat16",
        architecture="LlamaForCausalLM",
        quantization=None,
        context_length=8192,
        has_chat_template=True,
        shape=SHAPE,
        weights=facts,
        modified_at=0.0,
        problem=None,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


class Gate:
    """Where a call waits until the test opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def pass_through(self) -> None:
        """Wait here; for whoever is on the other side."""
        self._reached.set()
        self._opened.wait(10)

    def wait_reached(self) -> None:
        """Wait until somebody waits here."""
        assert self._reached.wait(10), "nobody came to the gate"

    def open(self) -> None:
        """Let everybody through, also those who come later."""
        self._opened.set()


@dataclass
class FakeMachine:
    """GPUs with memory that instances really take: what is launched is held until it is ended."""

    totals: Mapping[str, int] = field(default_factory=lambda: {"gpu-0": gib(24)})
    foreign: dict[str, int] = field(default_factory=dict)
    contained: dict[tuple[str, str], int] = field(default_factory=dict)
    """By device and container: what somebody else's containers hold."""
    held: dict[tuple[str, str], int] = field(default_factory=dict)
    own_kind: HolderKind = HolderKind.WORKER
    """What the instances' processes are."""
    lost: set[str] = field(default_factory=set)
    late_readings: int = 0
    """So many readings still show the memory of a process that has ended, as a driver does."""
    _returning: dict[tuple[str, str], list[int]] = field(default_factory=dict)

    def give_back(self, device_id: str, instance_id: str) -> None:
        """Free what an instance held on a device: at once, or ``late_readings`` later."""
        used = self.held.pop((device_id, instance_id), None)
        if used is not None and self.late_readings:
            self._returning[device_id, instance_id] = [used, self.late_readings]

    def readings(self) -> tuple[Reading, ...]:
        for key, late in list(self._returning.items()):
            late[1] -= 1
            if late[1] < 0:
                self._returning.pop(key, None)
        return tuple(self._reading(device_id, total) for device_id, total in self.totals.items())

    def _reading(self, device_id: str, total: int) -> Reading:
        lost = device_id in self.lost
        holders = tuple(
            Holder(1000 + i, "me", "worker", used, self.own_kind, instance_id=owner)
            for i, ((device, owner), used) in enumerate(sorted(self.held.items()))
            if device == device_id
        )
        foreign = self.foreign.get(device_id, 0)
        if foreign:
            holders = (*holders, Holder(77, "alice", "python train.py", foreign, HolderKind.FOREIGN))
        inside = {c: size for (device, c), size in self.contained.items() if device == device_id}
        holders += tuple(
            Holder(500 + i, "alice", "vllm", size, HolderKind.FOREIGN, container_id=container)
            for i, (container, size) in enumerate(sorted(inside.items()))
        )
        returning = sum(late[0] for (device, _), late in list(self._returning.items()) if device == device_id)
        used = returning + sum(h.used_bytes or 0 for h in holders)
        return Reading(
            device_id=device_id,
            kind=DeviceKind.GPU,
            name="Fake GPU",
            uuid=f"GPU-{device_id}",
            total_bytes=None if lost else total,
            reserved_bytes=None if lost else 0,
            used_bytes=None if lost else used,
            free_bytes=None if lost else total - used,
            utilization_percent=0.0,
            temperature_c=40.0,
            power_w=20.0,
            holders=() if lost else holders,
            problem=Message("device_lost") if lost else None,
        )


class FakeMonitor:
    """Reads the fake machine whenever it is asked."""

    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.stale = False
        self.gate: Gate | None = None
        """Where somebody waits for a reading of his own."""
        self.odd = 0
        """In how many of the next readings another process holds all the memory."""
        self._number = 0
        self._lately: deque[Sample] = deque(maxlen=400)
        self._missing = 0
        self._old: Sample | None = None

    def miss(self, readings: int) -> None:
        """Hang: so many who want a fresh reading get none in time, and until then the latest is the one of now."""
        self._old, self._missing = self.latest(), readings

    def latest(self) -> Sample | None:
        if self._missing:
            return self._old
        self._number += 1
        sample = Sample(self._number, time.time(), time.monotonic(), self._readings())
        self._lately.append(sample)
        return sample

    def lately(self) -> tuple[Sample, ...]:
        return tuple(self._lately)

    @property
    def read(self) -> int:
        """How many readings there were."""
        return self._number

    def _readings(self) -> tuple[Reading, ...]:
        if not self.odd:
            return self.machine.readings()
        self.odd -= 1
        return tuple(
            replace(
                reading,
                free_bytes=0,
                holders=(*reading.holders, Holder(99, "bob", "burst", reading.total_bytes, HolderKind.FOREIGN)),
            )
            for reading in self.machine.readings()
        )

    def fresh(self, timeout_s: float, *, anew: bool = False) -> Sample | None:
        if self.gate is not None:
            self.gate.pass_through()
        if self._missing:
            self._missing -= 1
            return None
        return self.latest()

    def age_s(self) -> float | None:
        return 0.1

    def is_stale(self) -> bool:
        return self.stale

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        return ()

    @contextmanager
    def faster(self) -> Iterator[None]:
        yield


@dataclass
class FakeRuntime:
    """A runtime with a knob for every fault; its gates are events that a test opens."""

    machine: FakeMachine
    mode: Mode = Mode.TRANSFORMERS
    takes_bytes: int = gib(1)
    process_bytes: int = 0
    fails: dict[str, str] = field(default_factory=dict)
    """By model: dies, oom, hangs, crawls, garbled, silent, no_image, disturbed, exited, no_engine."""
    disturbed_once: set[str] = field(default_factory=set)
    """Models whose first start finds that the memory of another process changes."""
    disturbance: str = "disturbed"
    """…or that he has taken its port: ``port_lost``."""
    problem: Message | None = None
    """Why the mode cannot be chosen."""
    message: Message | None = None
    """What a start that is not ready says of itself."""
    in_flight: dict[str, int] = field(default_factory=dict)
    """By model: how many requests it answers now."""
    used_at: float | None = None
    """When its models answered somebody, from the moment on at which they are ready."""
    shares: bool = False
    """Whether what its models import is shared."""
    libraries: str = "1"
    """The version of what runs its models."""
    libraries_of: dict[str, str] = field(default_factory=dict)
    """By model: what runs it, where that is not what would run another now."""
    told: MemoryReport | None = None
    """What they say of their memory, instead of what they take."""
    most_tokens: int | None = None
    """A longer context than this runs out of memory while it loads."""
    raises: dict[str, Exception] = field(default_factory=dict)
    """By call, or by call and model ("launch lab/one"): a fault that the protocol does not know."""
    gates: dict[str, Gate] = field(default_factory=dict)
    """By call: where it waits. ``kill`` is a terminate that does not ask first."""
    survives: set[str] = field(default_factory=set)
    """Models whose processes outlive every signal."""
    survives_once: set[str] = field(default_factory=set)
    """Models whose processes are seen to outlive the first stop, and no other."""
    keeps: set[str] = field(default_factory=set)
    """Models whose container stays on Docker's list after everything in it has ended."""
    strays: tuple[Leftover, ...] = ()
    """What reaping finds in addition to processes."""
    leaks: set[str] = field(default_factory=set)
    """Models whose memory is not given back at the stop."""
    gate: threading.Event | None = None
    """A launch becomes ready only when it is open."""
    launching: threading.Event = field(default_factory=threading.Event)
    stop_gate: threading.Event | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    answers_at: Endpoint = field(default_factory=lambda: Endpoint("http://worker"))
    """Where its models answer."""
    found: tuple[Discovered, ...] = ()
    alive: dict[str, LaunchSpec] = field(default_factory=dict)
    launched: list[LaunchSpec] = field(default_factory=list)
    prepared: set[str] = field(default_factory=set)
    """Instances whose launch was prepared, and neither made nor given up."""
    prepared_takes: dict[str, int] = field(default_factory=dict)
    """By device: what preparing the first of them takes for good."""
    died: set[str] = field(default_factory=set)
    overlapped: bool = False
    """Raised when two launches used one device at the same time."""
    outlived: set[str] = field(default_factory=set)
    """Instances that a stop was seen not to end: they answer nobody any more."""
    _loading: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _moves: Iterator[int] = field(default_factory=itertools.count)

    def engine_version(self, instance_id: str | None = None) -> str:
        spec = self.alive.get(instance_id or "")
        libraries = self.libraries if spec is None else self.libraries_of.get(spec.model_id, self.libraries)
        return f"fake {self.mode} {libraries}"

    def shares_libraries(self) -> bool:
        return self.shares

    def unavailable(self) -> Message | None:
        return self.problem

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def discover(self) -> tuple[Discovered, ...]:
        self._meet("discover")
        return self.found

    def prepare(self, spec: LaunchSpec) -> bool:
        self._meet("prepare", spec.model_id)
        self.prepared.add(spec.instance_id)
        self.machine.foreign.update(self.prepared_takes)
        return bool(self.prepared_takes)

    def reach(self) -> None:
        self._meet("reach")

    def launch(self, spec: LaunchSpec) -> None:
        self._meet("launch", spec.model_id)
        self.prepared.discard(spec.instance_id)
        with self._lock:
            devices = {d.id for d in spec.devices}
            self.overlapped |= bool(devices & self._loading)
            self._loading |= devices
            self.launched.append(spec)
            self.alive[spec.instance_id] = spec
            for device in spec.devices:
                self.machine.held[device.id, spec.instance_id] = self.takes_bytes
        self.launching.set()

    def probe(self, instance_id: str) -> Probe:
        spec = self.alive.get(instance_id)
        if spec is None:
            raise UnknownInstance(instance=instance_id)
        if (error := self.raises.get("probe")) is not None:
            raise error
        if instance_id in self.outlived:
            raise WorkerSilent(instance=instance_id, seconds=0.0)
        if instance_id in self.died:
            raise WorkerDied(model=spec.model_id, exit="SIGKILL", log="")
        fault = self.fails.get(spec.model_id)
        if fault == "dies":
            raise WorkerDied(model=spec.model_id, exit="1", log="boom")
        if (error := self._named(spec, fault)) is not None:
            raise error
        if fault == "oom" or spec.options.max_tokens > (self.most_tokens or spec.options.max_tokens):
            raise OutOfMemory(model=spec.model_id, detail="CUDA out of memory", log="")
        if fault == "garbled":
            raise WorkerGarbled(model=spec.model_id, detail="<html>", log="")
        if fault == "silent":
            raise WorkerSilent(instance=instance_id, seconds=2.0)
        if fault == "crawls":
            return Probe(ProbeState.LOADING, activity=(next(self._moves),), progress=0.5)
        if fault == "hangs" or (self.gate is not None and not self.gate.is_set()):
            return Probe(ProbeState.LOADING, activity=(1,), progress=0.5, message=self.message)
        with self._lock:
            self._loading -= {d.id for d in spec.devices}
        memory = self.told or MemoryReport(0, allocated_bytes=self.takes_bytes, reserved_bytes=self.takes_bytes)
        return Probe(
            ProbeState.READY,
            memory=memory,
            has_chat_template=True,
            pid=4242,
            in_flight=self.in_flight.get(spec.model_id, 0),
            last_used_at=self.used_at,
        )

    def _named(self, spec: LaunchSpec, fault: str | None) -> WardenError | None:
        if spec.model_id in self.disturbed_once:
            self.disturbed_once.discard(spec.model_id)
            fault = self.disturbance
        named = {
            "no_image": ImageMissing(image="lab/vllm:1", command="docker pull lab/vllm:1"),
            "disturbed": ProfileDisturbed(model=spec.model_id, before_bytes=gib(9), after_bytes=gib(10), log="moved"),
            "port_lost": PortLost(model=spec.model_id, port=8100, log="Address already in use"),
            "exited": ContainerExited(model=spec.model_id, exit="1", log="line 1\nline 2"),
            "no_engine": EngineUnreachable(socket="/run/docker.sock", detail="timed out"),
        }
        return named.get(fault or "")

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        if instance_id in self.alive:
            self.stopping.set()  # what was only prepared has no process that could be stopped
        if on_stage is not None:
            on_stage(StopStage.ASK)
        if ask and self.stop_gate is not None:
            self.stop_gate.wait(10)
        self._meet("ask" if ask else "kill")
        self.prepared.discard(instance_id)
        with self._lock:
            spec = self.alive.get(instance_id)
            if spec is None:
                return StopResult(StopStage.ASK, 0.0)
            self._loading -= {d.id for d in spec.devices}
            if spec.model_id in self.survives | self.survives_once:
                self.survives_once.discard(spec.model_id)
                self.outlived.add(instance_id)
                return StopResult(StopStage.VERIFY, 1.0, (Survivor(4242, "me", "worker", "D"),))
            self.alive.pop(instance_id)
            if spec.model_id not in self.leaks:
                for device in spec.devices:
                    self.machine.give_back(device.id, instance_id)
        stage = StopStage.ASK if ask else StopStage.KILL
        return StopResult(stage, 0.1, not_removed=spec.model_id in self.keeps)

    def clean(self, instance_id: str) -> CleanResult:
        self._meet("clean", self.alive[instance_id].model_id)
        return CleanResult(freed_bytes=1000)

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        self._meet("reap")
        candidates = sorted(self.alive.items())
        strays = [i for i, spec in candidates if spec.model_id not in self.survives and self._reap_one(i, known)]
        return (*(Leftover(Message("leftover_process", {"id": stray})) for stray in strays), *self.strays)

    def _reap_one(self, instance_id: str, known: Callable[[], frozenset[str]]) -> bool:
        if instance_id in known():
            return False
        with self._lock:
            spec = self.alive.pop(instance_id, None)
            if spec is None:
                return False
            for device in spec.devices:
                self.machine.give_back(device.id, instance_id)
        return True

    def endpoint(self, instance_id: str) -> Endpoint:
        return self.answers_at

    def log_tail(self, instance_id: str, lines: int) -> tuple[str, ...]:
        return ("last line",)

    def processes(self) -> Mapping[int, str]:
        self._meet("processes")
        return {1000 + i: instance_id for i, instance_id in enumerate(sorted(self.alive))}

    def open_gates(self) -> None:
        """Let everybody go on, for the end of a test."""
        for event in (self.gate, self.stop_gate):
            if event is not None:
                event.set()
        for gate in self.gates.values():
            gate.open()

    def _meet(self, call: str, model_id: str = "") -> None:
        if (gate := self.gates.get(call)) is not None:
            gate.pass_through()
        error = self.raises.get(call) or self.raises.get(f"{call} {model_id}")
        if error is not None:
            raise error


@dataclass
class FakeHost:
    """Containers of other people, which hold memory until they are ended."""

    machine: FakeMachine
    containers: tuple[ForeignContainer, ...] = ()
    survivors: tuple[Survivor, ...] = ()
    raises: Exception | None = None

    def foreign(self) -> tuple[ForeignContainer, ...]:
        return self.containers

    def terminate_foreign(self, container_id: str, *, on_stage: StageCallback | None = None) -> StopResult:
        if self.raises is not None:
            raise self.raises
        if container_id not in {c.id for c in self.containers}:
            raise UnknownContainer(container=container_id)
        if on_stage is not None:
            on_stage(StopStage.TERMINATE)
        if self.survivors:
            return StopResult(StopStage.VERIFY, 1.0, self.survivors)
        self.containers = tuple(c for c in self.containers if c.id != container_id)
        self.machine.contained = {key: size for key, size in self.machine.contained.items() if key[1] != container_id}
        return StopResult(StopStage.TERMINATE, 0.1)


def foreign_container(name: str = "alices-vllm", container_id: str = "c" * 64) -> ForeignContainer:
    """A vLLM that somebody else runs."""
    return ForeignContainer(
        container_id, name, "vllm/vllm-openai:v1", "running", 0.0, owner="alice", model="lab/theirs"
    )


class FakeStore:
    """Keeps operations in memory, in the order in which they were first saved."""

    def __init__(self) -> None:
        self.saved: dict[str, Operation] = {}
        self.written: list[Operation] = []
        """Every value that was saved, oldest first."""
        self.gate: Gate | None = None
        """Where a write waits."""
        self.raises: Exception | None = None
        """What every call raises."""
        self.takes_nothing: Exception | None = None
        """What every call raises that would change something."""
        self.measured: list[Measurement] = []
        self.waiting: dict[str, QueuedLaunch] = {}
        self.terms: dict[str, Lease] = {}
        self.is_renewed = False
        """Whether the next look finds a recreated database."""
        self.pruned: list[float] = []

    def look(self) -> bool:
        self._fail(writes=True)
        renewed, self.is_renewed = self.is_renewed, False
        return renewed

    def drop_operation(self, operation_id: str) -> None:
        self._fail(writes=True)
        self.saved.pop(operation_id, None)

    def prune(self, before: float) -> bool:
        self._fail(writes=True)
        self.pruned.append(before)
        return False

    def save(self, launch: QueuedLaunch, keep: int) -> None:
        if self.gate is not None:
            self.gate.pass_through()
        self._fail(writes=True)
        self.waiting[launch.id] = launch

    def drop(self, launch_id: str) -> None:
        self._fail(writes=True)
        self.waiting.pop(launch_id, None)

    def launches(self) -> tuple[QueuedLaunch, ...]:
        self._fail()
        return tuple(sorted(self.waiting.values(), key=lambda launch: launch.number))

    def save_lease(self, instance_id: str, lease: Lease, changed_at: float) -> None:
        if self.gate is not None:
            self.gate.pass_through()
        self._fail(writes=True)
        self.terms[instance_id] = lease

    def drop_lease(self, instance_id: str) -> None:
        self._fail(writes=True)
        self.terms.pop(instance_id, None)

    def drop_leases(self, before: float) -> int:
        self._fail(writes=True)
        return 0

    def leases(self) -> Mapping[str, Lease]:
        self._fail()
        return dict(self.terms)

    def save_measurement(self, measurement: Measurement, keep: int) -> None:
        if self.gate is not None:
            self.gate.pass_through()
        self._fail(writes=True)
        self.measured.append(measurement)

    def measurements(self) -> tuple[Measurement, ...]:
        self._fail()
        return tuple(self.measured)

    def save_operation(self, operation: Operation) -> None:
        if self.gate is not None:
            self.gate.pass_through()
        self._fail(writes=True)
        self.saved[operation.id] = operation
        self.written.append(operation)

    def operation(self, operation_id: str) -> Operation | None:
        self._fail()
        return self.saved.get(operation_id)

    def operation_of_request(self, actor: str, request_id: str) -> Operation | None:
        self._fail()
        sent = (actor, request_id)
        return next((o for o in self.saved.values() if (o.actor, o.request_id) == sent), None)

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        self._fail()
        ordered = sorted(self.saved.values(), key=lambda o: (o.started_at, o.id), reverse=True)
        seen = [o.id for o in ordered].index(before) + 1 if before in self.saved else 0 if before is None else None
        rest = [] if seen is None else ordered[seen:]
        return tuple([o for o in rest if where.matches(o)][:limit])

    def values(self) -> OperationValues:
        self._fail()
        saved = self.saved.values()
        return OperationValues(
            kinds=tuple(k for k in OperationKind if any(o.kind is k for o in saved)),
            actors=tuple(sorted({o.actor for o in saved})),
            models=tuple(sorted({o.model_id for o in saved if o.model_id})),
            states=tuple(s for s in OperationState if any(o.state is s for o in saved)),
        )

    def running(self) -> tuple[Operation, ...]:
        self._fail()
        return tuple(o for o in self.saved.values() if o.is_running)

    def _fail(self, *, writes: bool = False) -> None:
        error = self.raises or (self.takes_nothing if writes else None)
        if error is not None:
            raise error


class FakeCatalog:
    """A list of models."""

    def __init__(self, *models: CachedModel) -> None:
        self.models = models
        self.scanned_at = 0.0

    def latest(self) -> CatalogView:
        return CatalogView(models=self.models, problem=None, scanned_at=self.scanned_at)

    def rescan(self, timeout_s: float) -> bool:
        return True


class FakeDemo:
    """Says that it made a model."""

    def __init__(self, catalog: FakeCatalog) -> None:
        self.catalog = catalog

    def make(self, wait: Callable[[float], None]) -> str:
        self.catalog.models = (*self.catalog.models, model("warden/demo"))
        return "warden/demo"


def loaded(spec_model: CachedModel, instance_id: str = "old", **changes: object) -> Instance:
    """A ready instance of a model on gpu-0."""
    from webapp.domain.modes import LaunchOptions

    made = Instance(
        id=instance_id,
        mode=Mode.TRANSFORMERS,
        model_id=spec_model.id,
        revision=spec_model.revision,
        options=LaunchOptions(),
        devices=("gpu-0",),
        owner="maria",
        state=InstanceState.READY,
        started_at=0.0,
        predicted_bytes={"gpu-0": gib(1)},
    )
    return replace(made, **changes)  # type: ignore[arg-type]
