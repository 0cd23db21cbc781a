"""Random worlds for the planner: devices, instances, leases, claims, calibration, and what is asked in them; one a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.calibration import UNCALIBRATED, Calibration, Measurement
from webapp.domain.instance import Instance, InstanceState, MemoryReport
from webapp.domain.lease import Lease, ReleaseAnswer
from webapp.domain.memory import DeviceKind, Reading
from webapp.domain.model import AttentionFacts, CachedModel, CacheKind, CacheLayers, ModelShape
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.state import Cooldown, PlanningState
from webapp.domain.units import gib
from webapp.message import Message

NOW = 100_000.0
PEOPLE = ("ivan", "maria", "olga")
SHAPES = (
    ModelShape(32, 4096, 14336, 32, 8, 128, 128256),
    ModelShape(3, 4096, 14336, 28, 4, 128, 128256),
    ModelShape(16, 2048, 8192, 9, 3, 128, 32000),
    None,
)
WINDOWS = AttentionFacts(
    (CacheLayers(CacheKind.FULL, 16, 8, 256), CacheLayers(CacheKind.WINDOW, 16, 8, 256, window=1024))
)


@dataclass(frozen=True)
class World:
    """A state, the request made in it, and by whom."""

    seed: int
    planning_state: PlanningState
    request: SwitchRequest
    actor: str | None


def world(seed: int) -> World:
    """Return the world of ``seed``, always the same one."""
    some = random.Random(seed)
    cached = _models(some)
    planning_state = _planning_state(some, cached)
    return World(
        seed, planning_state, _request(some, planning_state, cached), some.choice([None, "ivan", "ivan", "ivan"])
    )


def _planning_state(some: random.Random, cached: Sequence[CachedModel]) -> PlanningState:
    ids = [f"gpu-{n}" for n in range(some.choice([1, 2, 2, 2, 3, 3, 4, 4, 5, 8]))]
    sizes = some.choice([[24], [80], [24], [12, 24], [24, 80], [12, 24, 80]])
    machine = FakeMachine(
        totals={device: gib(some.choice(sizes)) for device in ids},
        foreign={device: gib(some.choice([0, 0, 0.5, 2, 6, some.uniform(0, 11)])) for device in ids},
        lost={device for device in ids if some.random() < 0.03},
    )
    there = tuple(_instances(some, machine, cached))
    sample = FakeMonitor(machine).latest()
    assert sample is not None
    return PlanningState(
        now=NOW,
        sample=None
        if some.random() < 0.01
        else replace(sample, taken_at=NOW - 0.5, readings=_named(some, sample.readings)),
        sample_is_stale=some.random() < 0.02,
        instances=there,
        models={each.id: each for each in cached},
        policy=AdmissionPolicy(memory_limit_bytes=some.choice([None, None, None, gib(30), gib(10)])),
        mode_problems=some.choice(
            [{}] * 12 + [{Mode.VLLM: Message("engine_missing")}, {Mode.VLLM: Message("image_missing")}]
        ),
        cooldowns={cached[0].id: Cooldown(2, some.choice([5.0, 50.0]))} if some.random() < 0.05 else {},
        claims={device: f"op-{device}" for device in ids if some.random() < some.choice([0, 0, 0, 0, 0.2, 1])},
        calibration=_calibration(some, cached),
        monotonic=10.0,
        actor=some.choice([None, "maria", "ivan"]),
    )


def _named(some: random.Random, readings: tuple[Reading, ...]) -> tuple[Reading, ...]:
    """The devices are alike, or of two kinds; the host is one of them now and then, or the only one."""
    names: list[str | None] = some.choice([["A"], ["A"], ["A", "B"], [None]])
    found = tuple(replace(each, name=some.choice(names)) for each in readings)
    if len(found) == 1 and some.random() < 0.3:
        return (replace(found[0], kind=DeviceKind.HOST, name=None),)
    if some.random() < 0.05:
        return (*found, replace(found[0], device_id="host", kind=DeviceKind.HOST, name=None, holders=()))
    return found


def _models(some: random.Random) -> tuple[CachedModel, ...]:
    return tuple(
        replace(
            model(
                f"lab/m{number}",
                weights_bytes=gib(
                    some.choice(
                        [0.5, 4, 6, 9, 14, 16, 18, 22, 30, 46, some.uniform(0.5, 50), some.uniform(0.5, 50), 130]
                    )
                ),
                shape=some.choice(SHAPES[:3] if some.random() < 0.9 else SHAPES),
            ),
            context_length=some.choice([None, 300, 8192, 8192, 131072]),
            quantization=some.choice([None] * 6 + ["gptq"]),
            attention=some.choice([None, None, WINDOWS]),
            dtype=some.choice(["bfloat16", "bfloat16", "float32"]),
            problem=Message("model_incomplete") if some.random() < 0.04 else None,
        )
        for number in range(2)
    )


def _instances(some: random.Random, machine: FakeMachine, cached: Sequence[CachedModel]) -> Iterator[Instance]:
    """Models of several people: used, leased, given up, on their way or dead; on one device or several."""
    ids = list(machine.totals)
    for number in range(some.choice([0, 1, 2, 3, 4, 6, 8, some.randint(8, 20)])):
        devices = tuple(some.sample(ids, min(len(ids), some.choice([1, 1, 1, 2, 2, 3]))))
        state = some.choice([InstanceState.READY] * 8 + list(InstanceState))
        size = gib(some.choice([1, 2, 4, 6, 6, 10, some.uniform(0, 12)]))
        held = {}
        for device in devices:
            used = sum(u for (d, _), u in machine.held.items() if d == device) + machine.foreign.get(device, 0)
            held[device] = min(size, machine.totals[device] - used)
            if state is not InstanceState.DEAD and some.random() < 0.95:
                machine.held[device, f"i{number}"] = held[device]
        lease = Lease(until=some.choice([None, None, None, NOW - 1, NOW + 600]), reason=some.choice(["", "a demo"]))
        if some.random() < 0.1:
            lease = lease.asked_by("ivan", "", NOW - 60).answered(ReleaseAnswer.RELEASE, NOW - 30, "the owner")
        own = some.choice(cached)
        promised = some.choice([0, 0, gib(1), gib(3)])
        yield loaded(
            own if some.random() < 0.1 else model(f"lab/old{number}"),
            f"i{number}",
            mode=some.choice([*Mode]),
            owner=some.choice(PEOPLE),
            devices=devices,
            state=state,
            lease=lease,
            in_flight=some.choice([0, 0, 0, 0, 1, None]),
            started_at=some.uniform(0, NOW),
            last_used_at=some.choice([None, some.uniform(0, NOW)]),
            predicted_bytes={d: h + promised for d, h in held.items()},
            measured_bytes=held if some.random() < 0.7 else {},
            memory=some.choice([None, MemoryReport(allocated_bytes=gib(1), reserved_bytes=gib(2))]),
            options=LaunchOptions(max_tokens=some.choice([2048, 2048, 100 + number])),
        )


def _calibration(some: random.Random, cached: Sequence[CachedModel]) -> Calibration:
    if some.random() < 0.7:
        return UNCALIBRATED
    empty = Calibration(shares_libraries=some.random() < 0.5)

    def measurements() -> Iterator[Measurement]:
        for number in range(some.randint(1, 4)):
            about, count = some.choice(cached), some.choice([1, 1, 2])
            names = [some.choice(["A", "B"])] * count
            options = LaunchOptions(max_tokens=some.choice([256, 2048, 8192]))
            kind = empty.kind_of(about.id, about.revision, some.choice([*Mode]), options, names)
            size = round((about.weights.bytes if about.weights else 0) * some.uniform(0.9, 1.4) / count)
            told = MemoryReport(weights_bytes=size, allocated_bytes=size - gib(0.2), activation_bytes=gib(0.3))
            yield Measurement(kind, float(number), size, size + gib(0.5), told)

    return empty.including(measurements())


def _request(some: random.Random, planning_state: PlanningState, cached: Sequence[CachedModel]) -> SwitchRequest:
    precision = some.choice([Precision.AUTO] * 8 + list(Precision))
    ids = [f"gpu-{n}" for n in range(4)] if planning_state.sample is None else list(planning_state.device_ids)
    running = [instance.id for instance in planning_state.instances]
    named = tuple(some.sample(running, some.randint(0, min(4, len(running))))) if some.random() < 0.4 else ()
    request = SwitchRequest(
        some.choice([*Mode]),
        cached[0].id,
        LaunchOptions(
            precision.dtype,
            precision.quantization,
            some.choice([1, 100, 257, 2048, 2048, 4096, 8192, 32768, 100_000, 4_194_304]),
            some.choice([1, 1, 1, 1, 2, 4, 7, 64, 1024]),
        ),
        devices=some.choice([None, None, tuple(some.sample(ids, some.randint(1, len(ids)))), (some.choice(ids),)]),
        keep_others=some.random() < 0.35,
        restore_on_failure=some.random() < 0.7,
        interrupt_busy=some.random() < 0.4,
        unload=named,
        load_anyway=some.random() < 0.1,
        override_reason=some.choice([None] * 5 + ["a demo"]),
    )
    return _spoilt(some, request) if some.random() < 0.03 else request


def _spoilt(some: random.Random, request: SwitchRequest) -> SwitchRequest:
    """A request that is an error whatever the memory."""
    changes: Sequence[Callable[[], dict[str, Any]]] = (
        lambda: {"model_id": "lab/none"},
        lambda: {"devices": ()},
        lambda: {"devices": ("gpu-0", "gpu-0")},
        lambda: {"devices": ("gpu-99",)},
        lambda: {"unload": ("i99",)},
        lambda: {"unload": (*request.unload, "i0", "i0")},
    )
    return replace(request, **some.choice(changes)())
