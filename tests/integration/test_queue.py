"""A queued launch next to real models: it survives ``kill -9`` of Warden, and starts automatically once there is room."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.engine.server import WardenServer, wait_for

Start = Callable[..., WardenServer]
ROOM_FOR_ONE = {"memory_limit_gib": 0.045, "reserve_mib": 0, "reserve_percent": 0}
"""One worker takes 29 MiB by the plan, and two of them do not fit."""
BODY = {"mode": "transformers", "model": "lab/two", "keep_others": True}


def ticket_of(server: WardenServer, launch_id: str) -> Any:
    return server.get(f"/api/v1/tickets/{launch_id}")


def becomes(server: WardenServer, launch_id: str, state: str) -> Any:
    def look() -> Any:
        launch = ticket_of(server, launch_id)
        return launch if launch["state"] == state else None

    return wait_for(look, 90, lambda: f"it is not {state}: {ticket_of(server, launch_id)}")


def test_it_survives_kill_9_and_starts_once_the_other_model_has_gone(start_server: Start) -> None:
    server = start_server(**ROOM_FOR_ONE)
    server.load("lab/one")
    taken = server.post("/api/v1/tickets", BODY)
    assert (taken.status_code, taken.json()["why"]["code"]) == (201, "waits_memory")
    launch_id = taken.json()["id"]
    assert server.post("/api/v1/tickets", BODY).json()["code"] == "already_waiting"
    server.kill()
    server.start()
    after = ticket_of(server, launch_id)
    assert (after["state"], after["place"], after["created_at"]) == ("waiting", 1, taken.json()["created_at"])
    first = server.instance_of("lab/one")
    server.finished(server.post(f"/api/v1/instances/{first['id']}/unload").json()["id"])
    started = becomes(server, launch_id, "started")
    assert server.instance_of("lab/two")["state"] == "ready"
    operation = server.get(f"/api/v1/operations/{started['operation_id']}")
    assert (operation["actor"], operation["state"]) == (taken.json()["actor"], "succeeded")
    assert [i["model"] for i in server.status()["instances"]] == ["lab/two"]


def test_model_that_somebody_loads_meanwhile_satisfies_it_and_that_is_known_after_kill_9(start_server: Start) -> None:
    server = start_server("tests.engine.holding_wsgi:app")
    (server.state / "hold").write_text("launch")
    body = {"mode": "transformers", "model": "lab/one"}
    loading = server.post("/api/v1/switch", body).json()["id"]
    wait_for((server.state / "held").exists, 60, lambda: "the launch was not reached")
    taken = server.post("/api/v1/tickets", body)
    assert (taken.status_code, taken.json()["why"]["code"]) == (201, "waits_operation")
    (server.state / "hold").unlink()
    server.finished(loading)
    launch_id = taken.json()["id"]
    assert becomes(server, launch_id, "started")["outcome"]["code"] == "ticket_satisfied"
    later = server.post("/api/v1/tickets", {"mode": "transformers", "model": "lab/two", "starts_by_itself": False})
    assert server.post(f"/api/v1/tickets/{later.json()['id']}/cancel").status_code == 200
    server.kill()
    server.start()
    assert ticket_of(server, launch_id)["outcome"]["code"] == "ticket_satisfied"
    assert ticket_of(server, later.json()["id"])["state"] == "cancelled"


def test_killed_in_its_start_it_waits_again_and_starts(start_server: Start) -> None:
    server = start_server("tests.engine.holding_wsgi:app", **ROOM_FOR_ONE)
    (server.state / "hold").write_text("launch")
    launch_id = server.post("/api/v1/tickets", BODY).json()["id"]
    wait_for((server.state / "held").exists, 60, lambda: "the launch was not reached")
    cut_off = becomes(server, launch_id, "starting")["operation_id"]
    server.kill()
    (server.state / "hold").unlink()
    (server.state / "held").unlink()
    server.start()
    started = becomes(server, launch_id, "started")
    assert server.get(f"/api/v1/operations/{cut_off}")["state"] == "abandoned"
    assert started["operation_id"] != cut_off
    assert server.instance_of("lab/two")["state"] == "ready"
    assert len(server.worker_pids()) == 1
