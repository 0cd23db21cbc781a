"""Recorded memory as the pages of the timeline are tried with: a busy week, gaps, eight GPUs, nothing at all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from tests.web.fakes import FakeTimeline
from webapp.domain.memory import LedgerKind
from webapp.domain.operation import OperationKind, OperationState
from webapp.domain.timeline import BUCKET_S, POINT_S, Held, Point, TimelineEvent, Who
from webapp.domain.units import gib

TOTAL = gib(24)
LONG = "an-organisation-with-a-very-long-name/and-a-model-with-an-even-longer-name-that-never-ends-72B-Instruct-GPTQ-Int4-v2"
DRIVER = Who(LedgerKind.DRIVER)
FREE = Who(LedgerKind.FREE)


def model(name: str, mode: str = "transformers", instance_id: str = "i1") -> Who:
    kind = LedgerKind.CONTAINER if mode == "vllm" else LedgerKind.WORKER
    return Who(kind, instance_id, name, mode)


def user(name: str | None) -> Who:
    return Who(LedgerKind.FOREIGN, user=name)


def at(taken_at: float, sizes: Mapping[Who, float], total: int = TOTAL) -> Point:
    """A point of what each holds in GiB; the driver has 0.4, and the rest is free."""
    held = {DRIVER: gib(0.4), **{who: gib(size) for who, size in sizes.items() if size > 0}}
    free = total - sum(held.values())
    parts = (*(Held(who, size, size) for who, size in held.items()), Held(FREE, free, free))
    return Point(taken_at, total, parts, free, 1)


def unknown(taken_at: float) -> Point:
    return Point(taken_at, None)


Sizes = Callable[[float], Mapping[Who, float] | None]


def over(span_s: int, step_s: int, sizes: Sizes, now: float) -> tuple[Point, ...]:
    """The points of a device whose holders ``sizes`` gives by the share of the span."""
    moments = [(n, math.floor(now) - span_s + (n + 1) * step_s) for n in range(span_s // step_s)]
    given = [(taken_at, sizes(n * step_s / span_s)) for n, taken_at in moments]
    return tuple(unknown(taken_at) if one is None else at(taken_at, one) for taken_at, one in given)


def made(**devices: Sizes) -> FakeTimeline:
    """Both spans of devices, ``gpu_0`` and so on, with operations on the first."""
    now = time.time()
    named = {name.replace("_", "-"): sizes for name, sizes in devices.items()}
    return FakeTimeline(
        points={name: over(3600, POINT_S, sizes, now) for name, sizes in named.items()},
        buckets={name: over(7 * 86400, BUCKET_S, sizes, now) for name, sizes in named.items()},
        events=events(now),
        now=now,
    )


def busy(share: float) -> dict[Who, float]:
    """A model that is replaced, one that keeps running, another process that grows, and one that starts and ends."""
    return {
        model("Qwen/Qwen3-1.7B"): 3.8 if share < 0.45 else 0,
        model("Qwen/Qwen3-8B-AWQ", "vllm", "i2"): 9.4 + 0.3 * math.sin(40 * share) if share > 0.5 else 0,
        user("alice"): 2 + 4 * share,
        user("bob"): 2.6 if int(share * 12) % 3 == 0 else 0,
        Who(LedgerKind.UNATTRIBUTED): 0.3,
    }


def broken(share: float) -> dict[Who, float] | None:
    """The driver is away twice, and Warden was not there at first."""
    return None if share < 0.15 or 0.4 < share < 0.48 or 0.8 < share < 0.81 else busy(share)


def crowded(share: float) -> dict[Who, float]:
    """More holders than there are patterns, with names without an end, and one that nobody knows."""
    many = {
        model(f"lab/model-{n}", instance_id=f"m{n}"): 0.5 + n / 8 if int(share * 30) % 8 == n else 0 for n in range(8)
    }
    people = {user(name): 0.6 + 0.2 * place for place, name in enumerate(("a", "b", "carol", "dave", "eve", "frank"))}
    return {
        model(LONG, "vllm", "x"): 5 if share > 0.3 else 0,
        user("=HYPERLINK('http://evil')"): 1.5,
        user(None): 1,
        **many,
        **people,
    }


def event(number: int, ended_at: float, kind: OperationKind, **changes: object) -> TimelineEvent:
    values: dict[str, object] = {
        "id": f"op-{number}",
        "kind": kind,
        "state": OperationState.SUCCEEDED,
        "actor": "maria",
        "ended_at": ended_at,
        "mode": "transformers",
        "model_id": "Qwen/Qwen3-1.7B",
        "devices": ("gpu-0",),
    }
    return TimelineEvent(**{**values, **changes})  # type: ignore[arg-type]


def events(now: float) -> tuple[TimelineEvent, ...]:
    """One of each sign in the hour, and a dense morning in the week."""
    nothing = {"mode": None, "model_id": None, "devices": ()}
    return (
        *(event(100 + n, now - 3 * 86400 + 600 * n, OperationKind.UNLOAD, actor="ivan") for n in range(40)),
        event(1, now - 3400, OperationKind.SWITCH),
        event(2, now - 2900, OperationKind.CLEAN, **nothing),
        event(3, now - 2600, OperationKind.SELFTEST, model_id=None, mode=None),
        event(4, now - 2500, OperationKind.DEMO, devices=()),
        event(5, now - 2300, OperationKind.SWITCH, state=OperationState.FAILED, actor="ivan", model_id=LONG),
        event(6, now - 2000, OperationKind.SWITCH, state=OperationState.CANCELLED, actor="ivan"),
        event(
            7, now - 1700, OperationKind.SWITCH, evicted=("Qwen/Qwen3-1.7B",), model_id="Qwen/Qwen3-8B-AWQ", mode="vllm"
        ),
        event(8, now - 900, OperationKind.UNLOAD, state=OperationState.WARNING),
        event(9, now - 600, OperationKind.STOP_CONTAINER, actor="a-person-with-a-long-name"),
        event(10, now - 300, OperationKind.EMERGENCY, **nothing),
    )


def usual() -> FakeTimeline:
    return made(gpu_0=busy)


def with_gaps() -> FakeTimeline:
    return made(gpu_0=broken)


def many_holders() -> FakeTimeline:
    return made(gpu_0=crowded)


def eight_gpus() -> FakeTimeline:
    return made(**{f"gpu_{n}": busy if n % 2 else broken for n in range(8)})


def nothing() -> FakeTimeline:
    return FakeTimeline({"gpu-0": ()})
