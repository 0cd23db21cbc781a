"""``kill -9`` of the web process at each step of a switch, then a start: nothing is lost, nothing half-done is left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
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


def ready_models(server: WardenServer) -> list[str]:
    return [i["model"] for i in server.status()["instances"] if i["state"] == "ready"]


STEPS = ["plan", "unload", "settle", "clean", "check", "launch", "ready", "measure"]
AFTER_THE_LOAD = ("ready", "measure")
WHILE_UNLOADED = ("settle", "clean", "check", "launch")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_a_step_then_started(start_server: Start, step: str) -> None:
    server = start_server("tests.engine.holding_wsgi:app")
    until = (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="seconds")
    server.load("lab/one", lease_until=until, reason="a demo")
    before, held_before = server.instance_of("lab/one"), held_by_workers(server)
    hold_at(server, step)
    operation = server.switch("lab/two")
    wait_until_held(server)
    server.kill()
    let_go(server)
    server.start()
    expected = "lab/two" if step in AFTER_THE_LOAD else "lab/one"
    wait_for(lambda: ready_models(server) == [expected], 60, lambda: f"{expected} is not there: {server.status()}")
    cut_off = server.get(f"/api/v1/operations/{operation['id']}")
    assert (cut_off["state"], cut_off["to_restore"]) == ("abandoned", [])
    assert len(server.worker_pids()) == 1
    after = server.instance_of(expected)
    if step not in AFTER_THE_LOAD:
        kept = ("model", "revision", "options", "devices", "owner", "lease")
        assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
        assert (after["id"] == before["id"]) is (step not in WHILE_UNLOADED)
    said = [finding["message"]["code"] for finding in cut_off["findings"]]
    assert ("restore_begun" in said) is (step in WHILE_UNLOADED)
    assert answers(server, expected)
    assert server.load("lab/three")["state"] == "succeeded"
    (device,) = server.status()["devices"]
    assert sum(device[k] or 0 for k in ("used_bytes", "free_bytes", "reserved_bytes")) == device["total_bytes"]
    assert abs(held_by_workers(server) - held_before) < 60 * 2**20


def test_model_that_a_killed_switch_had_unloaded_and_that_cannot_come_back_is_one_click_away(
    start_server: Start, cache: Path
) -> None:
    server = start_server("tests.engine.holding_wsgi:app")
    server.load("lab/one")
    hold_at(server, "launch")
    operation = server.switch("lab/two")
    wait_until_held(server)
    server.kill()
    let_go(server)
    repository, hidden = cache / "models--lab--one", cache / "hidden"
    repository.rename(hidden)
    try:
        server.start()
        failed = wait_for(lambda: restores(server), 30, lambda: "nothing was tried")[0]
        failed = server.finished(failed["id"])
        assert (failed["state"], failed["outcome"]["code"]) == ("failed", "restore_failed")
        assert failed["findings"][0]["message"]["code"] == "restore_model_gone"
        assert server.get(f"/api/v1/operations/{operation['id']}")["to_restore"] == []
        assert [owed["model"] for owed in failed["to_restore"]] == ["lab/one"]
    finally:
        hidden.rename(repository)
    server.models(3)
    response = server.post(f"/api/v1/operations/{failed['id']}/restore", {})
    assert response.status_code == 202, response.text
    assert server.finished(response.json()["id"])["state"] == "succeeded"
    assert ready_models(server) == ["lab/one"]


def restores(server: WardenServer) -> Any:
    return [o for o in server.get("/api/v1/operations") if o["kind"] == "restore"]


def test_web_process_killed_alone_is_started_again_and_adopts(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    before = server.instance_of("lab/one")
    server.output.clear()
    server.kill_web_process()
    wait_for(lambda: [line for line in server.output if line.startswith("Warden: http")], 30, lambda: "no new start")
    assert server.instance_of("lab/one")["id"] == before["id"]
