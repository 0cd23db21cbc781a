"""Workers that die, hang, are deaf, run out of memory or talk rubbish: a clear error, the old model back, the memory back."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.models import make_model
from tests.engine.server import WardenServer, held_by_workers, wait_for

Start = Callable[..., WardenServer]

PROGRAM = Path(__file__).parents[1] / "engine" / "workers" / "faulty_worker.py"
QUICK = {"launch_stall_s": 15, "worker_ask_s": 1, "worker_term_s": 1, "worker_kill_s": 3, "cooldown_s": 120}


def faulty(fault: str, model: str = "lab/two") -> str:
    """The worker command whose worker has ``fault`` when it loads ``model``."""
    return shlex.join([sys.executable, str(PROGRAM), "--fault", fault, "--model", model])


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("dies_in_load", "worker_died"),
        ("hangs_in_load", "launch_stalled"),
        ("out_of_memory", "out_of_memory"),
        ("answers_rubbish", "worker_garbled"),
        ("silent", "launch_stalled"),
    ],
)
def test_failed_load_ends_in_its_error_and_brings_the_old_model_back(
    start_server: Start, cache: Path, fault: str, code: str
) -> None:
    # 250 MB of weights: more than what the worker that runs out of memory is left with
    make_model(cache, "lab/two", hidden=1024, intermediate=4096, layers=4, heads=8, kv_heads=8)
    server = start_server(worker_command=faulty(fault), **QUICK)
    assert server.load("lab/one")["state"] == "succeeded"
    held_before = held_by_workers(server)
    operation = server.load("lab/two")
    assert operation["state"] == "failed", operation
    assert operation["error"]["code"] == code, operation["error"]
    assert operation["outcome"]["code"] == "rolled_back"
    explained = operation["post_mortem"] and operation["post_mortem"]["cause"]
    assert explained == ("process_limit" if code == "out_of_memory" else None), "the host had memory left"
    assert [i["model"] for i in server.status()["instances"]] == ["lab/one"]
    assert len(server.worker_pids()) == 1
    wait_for(
        lambda: abs(held_by_workers(server) - held_before) < 40 * 2**20,
        10,
        lambda: f"workers hold {held_by_workers(server)}, before it was {held_before}",
    )
    again = server.post("/api/v1/switch", {"mode": "transformers", "model": "lab/two"})
    assert (again.status_code, again.json()["code"]) == (409, "cooling_down")


def test_worker_that_is_deaf_to_sigterm_is_ended_all_the_same(start_server: Start) -> None:
    server = start_server(worker_command=faulty("ignores_sigterm", "lab/one"), **QUICK)
    server.load("lab/one")
    instance = server.instance_of("lab/one")
    began = time.monotonic()
    operation = server.finished(server.post(f"/api/v1/instances/{instance['id']}/unload").json()["id"])
    assert operation["state"] == "succeeded", operation
    assert time.monotonic() - began < 15
    assert server.worker_pids() == []


def test_model_that_dies_while_it_is_loaded_is_listed_as_dead_and_cleaned(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    (pid,) = server.worker_pids()
    server.end_models()
    dead = wait_for(
        lambda: [i for i in server.status()["instances"] if i["state"] == "dead"], 10, lambda: f"{pid} is not missed"
    )
    assert dead[0]["problem"]["code"] == "worker_died"
    assert server.finished(server.post("/api/v1/clean").json()["id"])["state"] == "succeeded"
    assert server.status()["instances"] == []


def test_emergency_works_while_a_load_hangs(start_server: Start) -> None:
    server = start_server(worker_command=faulty("hangs_in_load"), **QUICK | {"launch_stall_s": 300})
    hanging = server.switch("lab/two")
    wait_for(server.worker_pids, 20, lambda: "the worker did not start")
    operation = server.finished(server.post("/api/v1/emergency").json()["id"])
    assert operation["state"] in {"succeeded", "warning"}, operation
    assert server.worker_pids() == []
    assert server.get(f"/api/v1/operations/{hanging['id']}")["state"] == "cancelled"
