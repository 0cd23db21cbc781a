"""Every state that the dashboard can be in, as controllers in memory, and the application served over one of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.serving import make_server

from tests.web.catalogues import compile_catalogues
from tests.web.fakes import (
    FakeController,
    FakeServices,
    FakeTimeline,
    container,
    foreign,
    instance,
    model,
    reading,
    worker,
)
from tests.web.reports import report
from webapp import create_app
from webapp.domain.instance import InstanceState
from webapp.domain.lease import Lease, Notice
from webapp.domain.memory import HistoryPoint
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, Step, StepName, StepState
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch, QueueEntry, QueueState
from webapp.domain.selftest import Check, CheckMark, CheckName
from webapp.domain.units import gib
from webapp.message import Message, Param
from webapp.settings import Settings, load_settings
from webapp.web.actor import current_actor

LONG = "an-organisation-with-a-very-long-name/and-a-model-with-an-even-longer-name-that-never-ends-72B-Instruct-GPTQ-Int4-v2"
LONG_COMMAND = (
    "python -m some.package.with.a.long.name.train --config=/home/somebody/experiments/2026/run-000123/config.yaml"
)
NO_DOCKER = Message("engine_missing", {"socket": "/var/run/docker.sock"})


def _controller(**changes: object) -> FakeController:
    ready = instance(last_used_at=time.time() - 120)
    held = (worker("i1", gib(3.8)), foreign("alice", "python train.py", gib(2.8)))
    made = FakeController(
        readings=(reading(held=held),),
        instances=(ready,),
        models=(model(is_demo=False), model("Qwen/Qwen3-8B", weights_bytes=gib(15.3))),
        histories={"gpu-0": _history()},
        recent=(_ended(OperationState.SUCCEEDED), _ended(OperationState.FAILED, "op-bad")),
    )
    made.changed(**changes)
    return made


def _history() -> tuple[HistoryPoint, ...]:
    now = time.time()
    return tuple(HistoryPoint(now - 600 + 10 * n, gib(2 + n % 20 / 2), gib(21 - n % 20 / 2)) for n in range(60))


def _ended(state: OperationState, operation_id: str = "op-old", model_id: str = "Qwen/Qwen3-1.7B") -> Operation:
    now = time.time() - 300
    failed = state is OperationState.FAILED
    error = Message("out_of_memory", {"model": model_id, "detail": "CUDA out of memory"}) if failed else None
    return Operation(
        id=operation_id,
        kind=OperationKind.SWITCH,
        actor="maria",
        state=state,
        started_at=now,
        ended_at=now + 12,
        mode="transformers",
        model_id=model_id,
        steps=(Step(StepName.PLAN, StepState.DONE, now, now), Step(StepName.LAUNCH, StepState.DONE, now, now + 12)),
        error=error,
        outcome=Message("nothing_changed") if failed else Message("switch_done", {"model": model_id, "seconds": 12.0}),
    )


def _running(model_id: str = "Qwen/Qwen3-8B", actor: str = "ivan") -> Operation:
    now = time.time()
    steps = (
        Step(StepName.PLAN, StepState.DONE, now - 20, now - 20),
        Step(StepName.UNLOAD, StepState.DONE, now - 20, now - 18),
        Step(StepName.LAUNCH, StepState.RUNNING, now - 18, progress=0.4),
        Step(StepName.READY),
        Step(StepName.MEASURE),
    )
    return Operation(
        id="op-now",
        kind=OperationKind.SWITCH,
        actor=actor,
        state=OperationState.RUNNING,
        started_at=now - 20,
        steps=steps,
        mode="transformers",
        model_id=model_id,
    )


def _host() -> FakeController:
    return _controller(
        readings=(reading("host", name="AMD EPYC", held=(foreign("root", "python3 train.py", gib(1)),)),),
        sample_problem=Message("driver_missing", {}),
        instances=(),
        mode_problems={Mode.TRANSFORMERS: None, Mode.VLLM: NO_DOCKER},
    )


def _driver_lost() -> FakeController:
    nothing: dict[str, Any] = dict.fromkeys(("total_bytes", "reserved_bytes", "used_bytes", "free_bytes"))
    lost = replace(
        reading(),
        **nothing,
        utilization_percent=None,
        problem=Message("device_lost", {"device": "gpu-0", "detail": "GPU is lost"}),
    )
    return _controller(
        readings=(lost, reading("gpu-1")), sample_problem=Message("driver_gone", {"detail": "GPU is lost"})
    )


def _tested(state: OperationState = OperationState.FAILED) -> Operation:
    """A self-test with every mark; its findings are as long as real ones."""
    checks = (
        Check(
            CheckName.MODEL,
            CheckMark.OK,
            Message("selftest_model_ok", {"model": "warden/demo", "size_bytes": 2**20}),
            0.5,
        ),
        Check(
            CheckName.SWITCH, CheckMark.FAILED, Message("selftest_not_ready"), 2.0, Message("selftest_advice_report")
        ),
        Check(CheckName.VLLM, CheckMark.WARNING, NO_DOCKER, 0.0),
        Check(CheckName.ANSWER, CheckMark.SKIPPED, Message("selftest_skipped", {"check": "switch"}), 0.0),
    )
    outcome = Message("selftest_done_failed", {"count": 1})
    ended = replace(
        _ended(state, "op-test"), kind=OperationKind.SELFTEST, model_id=None, error=None, outcome=outcome, checks=checks
    )
    return ended if state is not OperationState.RUNNING else replace(ended, outcome=None, ended_at=None)


def _long_names() -> FakeController:
    busy = instance(
        model_id=LONG, owner="a-person-with-a-long-name", in_flight=3, options=LaunchOptions(max_tokens=131072)
    )
    held = (worker("i1", gib(3.8)), foreign("somebody-else", LONG_COMMAND, gib(12)))
    return _controller(
        readings=(reading(name="NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", held=held),),
        instances=(busy,),
        models=(model(LONG), model(problem=Message("model_broken_config", {"detail": "x" * 200}))),
        recent=(_ended(OperationState.FAILED, model_id=LONG),),
        running=(_running(LONG, "a-person-with-a-long-name"),),
        containers=(container(name="a-container-whose-name-is-as-long-as-docker-allows-it-to-be", model=LONG),),
    )


def _eight_gpus() -> FakeController:
    people = ("alice", "bob", "carol", "dave")
    readings = tuple(
        reading(
            f"gpu-{n}",
            held=tuple(foreign(p, f"python {p}.py", gib(n / 2), pid=100 * n + i) for i, p in enumerate(people)),
        )
        for n in range(8)
    )
    return _controller(readings=readings, instances=tuple(instance(f"i{n}", devices=(f"gpu-{n}",)) for n in range(8)))


def _waiting() -> FakeController:
    """Return a queue in which each launch has another state, and one launch has expired."""
    now, asked = time.time(), SwitchRequest(Mode.TRANSFORMERS, LONG)
    params: dict[str, Param] = {
        "device": "gpu-0",
        "missing_bytes": gib(2.4),
        "needed_bytes": gib(15),
        "free_bytes": gib(13.8),
    }
    memory = Message("waits_memory", {**params, "reserve_bytes": gib(1.2)})
    busy = Message("waits_in_use", {"model": LONG, "owner": "maria", "in_flight": 3})
    first = QueuedLaunch("t1", 1, asked, "somebody-with-a-long-name", now - 7400)
    small = replace(asked, model_id="Qwen/Qwen3-1.7B")
    made = _controller(
        waiting=(
            QueueEntry(first, 1, memory),
            QueueEntry(replace(first, id="t2", request=small, actor="ivan"), 2, None, first),
            QueueEntry(replace(first, id="t3", request=small, paused_by="maria"), 3, busy, first),
            QueueEntry(replace(first, id="t4", request=small, state=QueueState.READY, starts_by_itself=False), 4),
            QueueEntry(replace(first, id="t5", request=small, state=QueueState.STARTING), 5),
        ),
        waited=(
            replace(
                first,
                id="t6",
                state=QueueState.EXPIRED,
                ended_at=now - 60,
                outcome=Message("ticket_not_fetched", {"seconds": 600.0}),
            ),
        ),
    )
    made.changed(models=(model("Qwen/Qwen3-8B", weights_bytes=gib(17)),))
    return made


def _leases() -> FakeController:
    """Somebody's leased model, an own one that is asked for, one that goes within the minute, and what was told."""
    now, me = time.time(), current_actor()
    asked = Lease(until=now - 400, reason="проверка перед статьёй").asked_by("ivan", "нужно место до вечера", now - 20)
    told = {"model": "Qwen/Qwen3-4B", "owner": "olga", "word": "до обеда считаю"}
    return _controller(
        instances=(
            instance("i1", in_flight=1, lease=Lease(until=now + 9000, reason="eval, 3 прогона")),
            instance("i2", "lab/own", owner=me, lease=asked),
            instance("i3", "lab/idle", owner="olga", lease=Lease(idle_minutes=60), last_used_at=now - 3560),
        ),
        notices=(Notice(1, me, now - 5, Message("release_kept", told)),),
    )


STATES: Mapping[str, Callable[[], FakeController]] = {
    "usual": _controller,
    "switching": lambda: _controller(running=(_running(),), claims={"gpu-0": "op-now"}),
    "just-failed": lambda: _controller(recent=(replace(_ended(OperationState.FAILED), ended_at=time.time()),)),
    "out-of-memory": lambda: _controller(
        recent=(replace(_ended(OperationState.FAILED, "op-bad"), ended_at=time.time(), post_mortem=report()),)
    ),
    "no-model": lambda: _controller(models=(), instances=(), recent=()),
    "cache-unreadable": lambda: _controller(
        models=(), models_problem=Message("cache_unreadable", {"path": "/cache", "detail": "Permission denied"})
    ),
    "no-gpu-no-docker": _host,
    "driver-lost": _driver_lost,
    "first-reading": lambda: _controller(age_s=None, instances=(), recent=()),
    "stale": lambda: _controller(age_s=75.0, stale=True),
    "docker-away": lambda: _controller(
        mode_problems={
            Mode.TRANSFORMERS: None,
            Mode.VLLM: Message("engine_unreachable", {"socket": "/var/run/docker.sock", "detail": "timed out"}),
        }
    ),
    "nothing-fits": lambda: _controller(
        readings=(reading(held=(foreign("alice", "python train.py", gib(22.5)),)),),
        instances=(),
        models=(model("meta-llama/Llama-3.3-70B-Instruct", weights_bytes=gib(131)),),
    ),
    "stuck-and-dead": lambda: _controller(
        instances=(
            instance(
                state=InstanceState.STUCK,
                problem=Message("stop_failed", {"model": "m", "pid": 5, "user": "me", "state": "D"}),
            ),
            instance(
                "i2",
                "Qwen/Qwen3-4B",
                state=InstanceState.DEAD,
                problem=Message("worker_died", {"model": "m", "exit": "SIGKILL"}),
            ),
        )
    ),
    "leases": _leases,
    "long-names": _long_names,
    "eight-gpus": _eight_gpus,
    "two-hundred-models": lambda: _controller(
        models=tuple(model(f"lab/model-{n:03d}", weights_bytes=gib(1 + n / 4)) for n in range(200))
    ),
    "tested": lambda: _controller(recent=(_tested(), _ended(OperationState.SUCCEEDED))),
    "testing": lambda: _controller(running=(_tested(OperationState.RUNNING),)),
    "foreign-containers": lambda: _controller(
        containers=(container(), container(2, "bob-vllm", owner=None, model=None, state="exited")),
        mode_problems={Mode.TRANSFORMERS: None, Mode.VLLM: None},
    ),
    "waiting": _waiting,
}
"""Names and makers of the states."""


@contextmanager
def served(controller: FakeController, folder: Path, timeline: FakeTimeline | None = None) -> Iterator[str]:
    """Serve the application over ``controller`` and give its address."""
    services = FakeServices(_settings(folder), controller, timeline or FakeTimeline())
    with serving(create_app(load_settings(state_dir=folder / "state", hf_cache=folder / "cache"), services)) as url:
        yield url


@contextmanager
def serving(app: Flask) -> Iterator[str]:
    """Serve an application and give its address."""
    compile_catalogues()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, name="states-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _settings(folder: Path) -> Settings:
    return load_settings(state_dir=folder / "state", hf_cache=folder / "cache", threads=4)
