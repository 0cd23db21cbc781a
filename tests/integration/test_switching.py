"""Switching between real models on the real server, through its JSON interface."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil

from tests.engine.server import WardenServer, wait_for

Start = Callable[..., WardenServer]


def test_load_switch_unload_give_receipts_and_leave_nothing(start_server: Start) -> None:
    server = start_server()
    first = server.load("lab/one")
    assert first["state"] == "succeeded", first
    second = server.load("lab/two")
    assert second["state"] == "succeeded", second
    (receipt,) = _receipts(second)
    assert receipt["expected_bytes"] > 8 * 2**20
    assert receipt["freed_bytes"] is not None
    instance = server.instance_of("lab/two")
    assert instance["measured_bytes"]
    assert len(server.worker_pids()) == 1
    unload = server.post(f"/api/v1/instances/{instance['id']}/unload")
    assert unload.status_code == 202
    assert server.finished(unload.json()["id"])["state"] in {"succeeded", "warning"}
    assert server.status()["instances"] == []
    assert server.worker_pids() == []
    assert list((server.state / "workers").iterdir()) == []


def test_fifty_simultaneous_applies_are_one_load_and_forty_nine_refusals(start_server: Start) -> None:
    server = start_server()
    body = {"mode": "transformers", "model": "lab/one"}
    with httpx.Client(timeout=30) as client, ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: client.post(server.url + "/api/v1/switch", json=body), range(50)))
    accepted = [a for a in answers if a.status_code == 202]
    refused = [a.json() for a in answers if a.status_code == 409]
    assert (len(accepted), len(refused)) == (1, 49)
    assert {r["code"] for r in refused} == {"busy"}
    assert {r["params"]["operation"] for r in refused} == {accepted[0].json()["id"]}
    assert server.finished(accepted[0].json()["id"])["state"] == "succeeded"
    assert len(server.worker_pids()) == 1


def test_model_whose_answer_has_just_ended_is_not_in_use(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    for loaded, wanted in (("lab/one", "lab/two"), ("lab/two", "lab/one")):
        ask = f"/api/v1/instances/{server.instance_of(loaded)['id']}/ask"
        assert server.post(ask, {"prompt": "hello", "max_tokens": 64}).status_code == 200
        switched = server.post("/api/v1/switch", {"mode": "transformers", "model": wanted})
        assert switched.status_code == 202, switched.json()
        assert server.finished(switched.json()["id"])["state"] == "succeeded"


def test_keep_others_adds_beside_and_both_answer(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    server.load("lab/two", keep_others=True)
    assert sorted(i["model"] for i in server.status()["instances"]) == ["lab/one", "lab/two"]
    assert len(server.worker_pids()) == 2


def test_what_does_not_fit_is_refused_and_what_is_loaded_stays(start_server: Start) -> None:
    server = start_server(memory_limit_gib=0.5, reserve_mib=0, reserve_percent=0)
    server.load("lab/one")
    body = {"mode": "transformers", "model": "lab/two", "options": {"max_tokens": 2048, "batch_size": 1024}}
    plan = server.post("/api/v1/plan", body).json()
    assert plan["verdict"] == "refused"
    assert plan["ways_out"]
    answer = server.post("/api/v1/switch", body)
    assert answer.status_code == 409
    assert answer.json()["code"] == "not_enough_memory"
    assert [i["model"] for i in server.status()["instances"]] == ["lab/one"]


def test_emergency_ends_everything_of_wardens_and_nothing_else(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    server.load("lab/two", keep_others=True)
    answer = server.post("/api/v1/emergency")
    assert answer.status_code == 202
    operation = server.finished(answer.json()["id"])
    assert operation["state"] in {"succeeded", "warning"}, operation
    assert server.status()["instances"] == []
    assert server.worker_pids() == []


def test_clean_reports_each_worker(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    operation = server.finished(server.post("/api/v1/clean").json()["id"])
    assert operation["state"] == "succeeded", operation
    assert [i["model"] for i in server.status()["instances"]] == ["lab/one"]


def test_model_added_on_disk_shows_without_a_restart(start_server: Start, cache: Path) -> None:
    from tests.engine.models import make_model

    server = start_server()
    make_model(cache, "lab/late", seed=9)
    rows = wait_for(lambda: [m for m in server.models() if m["id"] == "lab/late"], 5, lambda: "it did not show")
    assert rows[0]["problem"] is None


def test_stop_keeps_the_models_and_the_next_start_adopts_them(start_server: Start) -> None:
    server = start_server()
    server.load("lab/one")
    before = server.instance_of("lab/one")
    (pid,) = server.worker_pids()
    said = server.stop()
    assert any("lab/one" in line and "stay loaded" in line for line in said)
    assert psutil.pid_exists(pid)
    server.start()
    after = server.instance_of("lab/one")
    assert (after["id"], after["started_at"]) == (before["id"], before["started_at"])
    assert server.worker_pids() == [pid]


def test_stop_unloads_when_the_setting_says_so(start_server: Start) -> None:
    server = start_server(on_stop="unload")
    server.load("lab/one")
    server.stop()
    assert server.worker_pids() == []


def test_health_and_status_are_json_of_the_contract(start_server: Start) -> None:
    server = start_server()
    health = wait_for(lambda: _healthy(server), 5, lambda: "never healthy")
    assert health["monitor_age_s"] < 10
    status = server.status()
    assert status["mode"] is None
    (device,) = status["devices"]
    used = device["used_bytes"] + device["free_bytes"] + (device["reserved_bytes"] or 0)
    assert used == device["total_bytes"]
    json.dumps(status)


def _healthy(server: WardenServer) -> dict[str, float] | None:
    answer = httpx.get(server.url + "/healthz", timeout=5)
    return answer.json() if answer.status_code == 200 else None


def _receipts(operation: dict[str, object]) -> list[dict[str, int]]:
    receipts = operation.get("receipts") or [operation["receipt"]]
    assert isinstance(receipts, list)
    return receipts
