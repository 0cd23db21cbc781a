"""The refusal is right both ways, where the memory really ends: a control group kills whoever goes beyond its limit.

Models of like build and rising size lie around the limit, and a foreign process holds a part of the memory. What is admitted loads and
answers a full prompt; what is refused would not have fitted with a tenth to spare.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.memory_group import MemoryGroup, memory_group
from tests.engine.models import make_hollow_model
from tests.engine.server import WardenServer, running
from webapp.domain.units import MIB, gib
from webapp.hardware.shared_pages import SharedPages
from webapp.worker.demo import Shape

LIMIT = gib(2.5)
CONTEXT = 256
SPARE = 1.1
STIR = 16 * MIB
"""What the other processes of the group may take from the plan to the load."""
LAYERS = range(4, 24)
"""0.3 to 1.7 GiB in steps of 72 MiB."""


def _shape(layers: int) -> Shape:
    return Shape(layers=layers, hidden=1536, intermediate=6144, heads=12, kv_heads=4, vocabulary=4096)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refusals")
    for layers in LAYERS:
        make_hollow_model(folder, f"lab/layers-{layers}", _shape(layers))
    return folder


def _body(layers: int) -> dict[str, Any]:
    return {"mode": "transformers", "model": f"lab/layers-{layers}", "options": {"max_tokens": CONTEXT}}


def _plan(server: WardenServer, layers: int) -> Any:
    return server.post("/api/v1/plan", _body(layers)).json()


def _left(plan: Any) -> int:
    """What a plan leaves above the reserve at the fullest moment."""
    needed = max(plan["total_needed_bytes"]["host"], plan["footprints"]["host"]["load_peak_bytes"])
    return int(_room(plan) - needed)


def _room(plan: Any) -> int:
    return int(plan["free_before_bytes"]["host"] - plan["reserve_bytes"]["host"])


def _load_and_answer(server: WardenServer, layers: int) -> int:
    """Load and answer as long a prompt as the context takes; return the most that the worker held, in bytes."""
    operation = server.finished(server.switch(**_body(layers))["id"])
    assert operation["state"] == "succeeded", operation
    (pid,) = server.worker_pids()
    instance = server.instance_of(f"lab/layers-{layers}")["id"]
    body = {"prompt": "memory " * (CONTEXT // 4), "max_tokens": 8}
    answer = httpx.post(f"{server.url}/api/v1/instances/{instance}/ask", json=body, timeout=60)
    assert answer.is_success, answer.text
    most = _most_held(pid)
    server.finished(server.post(f"/api/v1/instances/{instance}/unload").json()["id"])
    return most


def _most_held(pid: int) -> int:
    """The most that a process ever had resident, less the pages of files and shared memory that it has now, and what is the launcher's."""
    figures = dict(line.split(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    high, file, shared = (int(figures[name].split()[0]) * 1024 for name in ("VmHWM", "RssFile", "RssShmem"))
    return high - file - shared - SharedPages().shared_bytes(pid)


@pytest.mark.parametrize(
    ("foreign", "limit_gib"),
    [(400 * MIB, None), (900 * MIB, None), (400 * MIB, 1.8)],
    ids=["some-foreign-memory", "much-foreign-memory", "memory-limit"],
)
def test_what_is_admitted_runs_and_what_is_refused_has_no_room(
    cache: Path, tmp_path: Path, foreign: int, limit_gib: float | None
) -> None:
    settings = {} if limit_gib is None else {"memory_limit_gib": limit_gib}
    with memory_group(LIMIT) as group, group.hog(foreign):
        with _serving(group, tmp_path / "limited", cache, **settings) as server:
            plans = {layers: _plan(server, layers) for layers in LAYERS}
            admitted = [layers for layers, plan in plans.items() if plan["verdict"] != "refused"]
            refused = [layers for layers, plan in plans.items() if plan["verdict"] == "refused"]
            assert admitted == list(LAYERS[: len(admitted)])
            assert min(len(admitted), len(refused)) >= 2
            _load_and_answer(server, [layers for layers in admitted if _left(plans[layers]) >= STIR][-1])
            answer = server.post("/api/v1/switch", _body(refused[0]))
            assert (answer.status_code, answer.json()["code"]) == (409, "not_enough_memory")
        assert group.kills() == 0
        group.limit(2 * LIMIT)
        with _serving(group, tmp_path / "free", cache) as server:
            room = _room(plans[refused[0]])
            held = _load_and_answer(server, refused[0])
            assert held * SPARE > room, f"{refused[0]} layers held {held}, there was room for {room}"


@contextmanager
def _serving(group: MemoryGroup, state: Path, cache: Path, **settings: object) -> Iterator[WardenServer]:
    server = WardenServer(state, cache, launcher="start", **settings)
    server.started_by = group.command
    with running(server):
        server.models(len(LAYERS))
        server.launcher_ready()  # what the models share is there before any of them is judged
        yield server
