"""``kill -9`` of the web process at each step of a switch, then a start: nothing is lost, nothing half-done is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.server import WardenServer, held_by_workers, wait_for

Start = Callable[..., WardenServer]


def hold_at(server: WardenServer, step: str) -> None:
    (server.state / "hold").write_text(step)


def wait_until_held(server: WardenServer) -> None:
    wait_for((server.state / "held").exists, 60, lambda: "the step was not reached")


def let_go(server: WardenServer) -> None:
    (server.state / "hold").unlink()
    (server.state / "held").unlink()


def answers(server: WardenServer, model: str) -> bool:
    """Whether the model says something (random weights: anything) when it is asked."""
    instance = server.instance_of(model)
    answer = server.post(f"/api/v1/instances/{instance['id']}/ask", {"prompt": "hello", "max_tokens": 4})
    wait_for(lambda: _is_over(server, instance), 10, lambda: "the answer has ended and still counts")
    return answer.status_code == 200 and "answer" in answer.json()


def _is_over(server: WardenServer, before: Any) -> bool:
    """Whether the list has seen the answer and its end: until then it may still say for a moment that the model is in use."""
    now = server.instance_of(before["model"])
    return not now["in_flight"] and now["last_used_at"] != before["last_used_at"]


@pytest.mark.parametrize("step", ["plan", "unload", "settle", "clean", "check", "launch", "ready", "measure"])
def test_killed_at_a_step_then_started(start_server: Start, step: str) -> None:
    server = start_server("tests.engine.holding_wsgi:app")
    server.load("lab/one")
    held_before = held_by_workers(server)
    hold_at(server, step)
    operation = server.switch("lab/two")
    wait_until_held(server)
    server.kill()
    let_go(server)
    server.start()
    cut_off = server.get(f"/api/v1/operations/{operation['id']}")
    assert cut_off["state"] == "abandoned"
    loaded = [i["model"] for i in server.status()["instances"]]
    expected = {"plan": ["lab/one"], "unload": ["lab/one"], "ready": ["lab/two"], "measure": ["lab/two"]}
    assert loaded == expected.get(step, [])
    assert len(server.worker_pids()) == len(loaded)
    assert [i["state"] for i in server.status()["instances"]] == ["ready"] * len(loaded)
    for model in loaded:
        assert answers(server, model)
    assert server.load("lab/three")["state"] == "succeeded"
    (device,) = server.status()["devices"]
    assert sum(device[k] or 0 for k in ("used_bytes", "free_bytes", "reserved_bytes")) == device["total_bytes"]
    assert abs(held_by_workers(server) - held_before) < 60 * 2**20


def test_web_process_killed_alone_is_started_again_and_adopts(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    before = server.instance_of("lab/one")
    server.output.clear()
    server.kill_web_process()
    wait_for(lambda: [line for line in server.output if line.startswith("Warden: http")], 30, lambda: "no new start")
    assert server.instance_of("lab/one")["id"] == before["id"]
