"""The JSON contract: every call, its exact names, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

import webapp
from tests.web.conftest import FORM
from tests.web.fakes import FakeController, foreign, instance, model, reading, worker
from webapp.control.contract import ForeignContainer
from webapp.domain.memory import without_figures
from webapp.domain.modes import Mode
from webapp.domain.operation import (
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    Receipt,
    Step,
    StepName,
    StepState,
)
from webapp.domain.units import gib
from webapp.errors import Busy
from webapp.message import Message
from webapp.web.actor import current_actor

BODY: dict[str, Any] = {"mode": "transformers", "model": "Qwen/Qwen3-1.7B"}


FOREIGN_ID = "c" * 64
CONTAINER = ForeignContainer(
    FOREIGN_ID,
    "alices-vllm",
    "vllm/vllm-openai:v1",
    "running",
    1000.5,
    "alice",
    "Qwen/Qwen3-8B",
    ("127.0.0.1:8000",),
    (77,),
)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def test_status_has_the_contracts_names(client: FlaskClient, controller: FakeController) -> None:
    controller.readings = (reading(held=(worker("i1", gib(4)), foreign("alice", "python", gib(1)))),)
    controller.instances = (instance("i1", last_used_at=1000.5),)

    status = client.get("/api/v1/status").json

    assert status is not None
    assert status["mode"] == "transformers"
    (device,), (loaded,) = status["devices"], status["instances"]
    expected = {"id": "gpu-0", "kind": "gpu", "total_bytes": gib(24), "used_bytes": gib(5), "level": "good"}
    assert expected.items() <= device.items()
    assert {"name", "reserved_bytes", "free_bytes", "used_percent", "unattributed_bytes"} <= device.keys()
    assert device["holders"][0] == {
        "pid": 4000, "user": "me", "command": "python -m webapp.worker", "bytes": gib(4), "kind": "worker",
        "instance_id": "i1", "container_id": None,
    }  # fmt: skip
    assert loaded["last_used_at"] == "1970-01-01T00:16:40.500Z"
    assert loaded["options"] == {"dtype": "auto", "quantization": "none", "max_tokens": 1024, "batch_size": 1}
    assert loaded["measured_bytes"] == gib(3.8)
    assert loaded["measured_bytes_by_device"] == {"gpu-0": gib(3.8)}
    assert {
        "id",
        "mode",
        "model",
        "state",
        "devices",
        "owner",
        "started_at",
        "in_flight",
        "predicted_bytes",
    } <= loaded.keys()


def test_status_is_sent_once_while_nothing_changes(client: FlaskClient, controller: FakeController) -> None:
    first = client.get("/api/v1/status")
    tag = {"If-None-Match": first.headers["ETag"]}
    controller.age_s = 0.9
    again = client.get("/api/v1/status", headers=tag)
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", first.headers["ETag"])

    controller.changed(instances=(instance("i1"),))
    changed = client.get("/api/v1/status", headers=tag)
    assert changed.status_code == 200
    assert changed.headers["ETag"] != first.headers["ETag"]
    assert changed.json is not None
    assert changed.json["instances"]


def test_unknown_is_null_and_never_zero(client: FlaskClient, controller: FakeController) -> None:
    controller.readings = (without_figures(reading(), Message("device_lost", {"device": "gpu-0"})),)
    controller.instances = (instance("i1", measured_bytes={}, predicted_bytes={}, in_flight=None),)

    status = client.get("/api/v1/status").json

    assert status is not None
    device = status["devices"][0]
    names = ("total_bytes", "free_bytes", "used_bytes", "used_percent", "level", "unattributed_bytes", "holders")
    assert [device[name] for name in names] == [None] * len(names)
    assert status["instances"][0]["measured_bytes"] is None
    assert status["instances"][0]["in_flight"] is None
    assert device["problem"]["code"] == "device_lost"


def test_models_say_why_one_cannot_be_loaded(client: FlaskClient, controller: FakeController) -> None:
    controller.models = (model(), model("lab/bad", problem=Message("model_no_tokenizer")))

    answer = client.get("/api/v1/models", headers={"Accept-Language": "en"}).json

    assert answer is not None
    good, bad = answer
    assert good["problem"] is None
    assert good["size_bytes"] == gib(3.4)
    assert {"id", "revision", "parameters", "dtype", "architecture", "quantization", "context_length"} <= good.keys()
    assert (bad["problem"], bad["problem_code"]) == (
        "There is no tokenizer; download the whole model",
        "model_no_tokenizer",
    )


def test_the_recommendation_is_the_guides(client: FlaskClient, controller: FakeController) -> None:
    controller.readings = (reading(free_bytes=gib(3)),)

    advice = client.get("/api/v1/recommendation?device=gpu-0").json

    assert advice is not None
    assert (advice["mode"], advice["precision"], advice["mark"]) == ("transformers", "int8", "limited")
    assert (advice["max_tokens"], advice["batch_size"]) == (512, 1)
    assert client.get("/api/v1/recommendation?device=gpu-9").status_code == 404
    assert client.get("/api/v1/recommendation?model=lab/gone").status_code == 404


def test_the_recommendation_for_a_model_is_a_body_that_its_plan_takes(
    client: FlaskClient, controller: FakeController
) -> None:
    controller.readings = (reading(free_bytes=gib(5)),)

    advice = client.get("/api/v1/recommendation?device=gpu-0&model=Qwen/Qwen3-1.7B").json
    assert advice is not None
    body = {
        "mode": advice["usable_mode"],
        "model": "Qwen/Qwen3-1.7B",
        "devices": ["gpu-0"],
        "options": advice["options"],
    }
    plan = client.post("/api/v1/plan", json=body).json

    assert plan is not None
    assert (advice["mark"], plan["verdict"] == "refused") == ("limited", False)
    assert advice["reasons"][0]["code"] == "advice_free"


def test_the_recommendation_for_a_model_that_has_no_room_says_what_lacks(
    client: FlaskClient, controller: FakeController
) -> None:
    controller.readings = (reading(free_bytes=gib(1)),)

    advice = client.get("/api/v1/recommendation?model=Qwen/Qwen3-1.7B").json

    assert advice is not None
    assert (advice["mark"], advice["precision"], advice["reasons"][0]["code"]) == ("none", "int4", "advice_nothing")
    assert advice["reasons"][0]["params"]["missing_bytes"] > 0


def test_no_recommendation_on_unknown_memory(client: FlaskClient, controller: FakeController) -> None:
    controller.stale = True

    answer = client.get("/api/v1/recommendation")

    assert (answer.status_code, answer.json and answer.json["code"]) == (503, "device_unreadable")


def test_a_plan_shows_its_arithmetic_by_part_and_device(client: FlaskClient, controller: FakeController) -> None:
    controller.instances = (instance("i1", "lab/other", owner=current_actor()),)

    plan = client.post("/api/v1/plan", json=BODY).json

    assert plan is not None
    assert plan["verdict"] == "fits"
    assert plan["unload"][0]["instance_id"] == "i1"
    assert set(plan["needed_bytes"]["gpu-0"]) == {
        "weights",
        "kv_cache",
        "activation",
        "graphs",
        "non_torch",
        "context",
    }
    assert plan["free_before_bytes"]["gpu-0"] == reading().free_bytes
    assert isinstance(plan["free_after_bytes"]["gpu-0"], int)
    assert controller.calls == []


def test_a_refused_plan_has_ways_out_that_can_be_sent_back(client: FlaskClient, controller: FakeController) -> None:
    controller.readings = (reading(free_bytes=gib(4)),)

    plan = client.post("/api/v1/plan", json=BODY).json

    assert plan is not None
    assert (plan["verdict"], plan["refusal"]["code"]) == ("refused", "not_enough_memory")
    again = client.post("/api/v1/plan", json=plan["ways_out"][0]["request"]).json
    assert again is not None
    assert again["verdict"] != "refused"


def test_a_named_model_goes_although_the_others_stay(client: FlaskClient, controller: FakeController) -> None:
    controller.instances = tuple(instance(name, f"lab/{name}", owner=current_actor()) for name in ("i1", "i2"))
    beside = {**BODY, "keep_others": True}

    plan = client.post("/api/v1/plan", json={**beside, "unload": ["i2"]}).json
    unknown = client.post("/api/v1/switch", json={**beside, "unload": ["gone"]})

    assert plan is not None
    assert [each["instance_id"] for each in plan["unload"]] == ["i2"]
    assert unknown.json is not None
    assert (unknown.status_code, unknown.json["code"]) == (404, "unknown_instance")
    assert client.post("/api/v1/switch", json={**beside, "unload": ["i2"]}).status_code == 202
    assert controller.calls[-1][-1].unload == ("i2",)  # type: ignore[attr-defined]


def test_a_switch_is_accepted_with_its_operation(client: FlaskClient) -> None:
    options = {"dtype": "float16", "quantization": "int8", "max_tokens": 512, "batch_size": 1}
    answer = client.post("/api/v1/switch", json={**BODY, "options": options, "devices": ["gpu-0"]})

    assert answer.status_code == 202
    assert answer.json is not None
    assert (answer.json["kind"], answer.json["state"]) == ("switch", "running")
    assert answer.location == f"/api/v1/operations/{answer.json['id']}"


@pytest.mark.parametrize("path", ["instances/i1/unload", "clean", "emergency", "demo"])
def test_an_action_needs_no_body_and_no_token(client: FlaskClient, controller: FakeController, path: str) -> None:
    controller.instances = (instance("i1", in_flight=3, owner=current_actor()),)

    assert client.post(f"/api/v1/{path}").status_code == 202
    assert client.post(f"/api/v1/{path}", json={}).status_code == 202


def operation() -> Operation:
    steps = (Step(StepName.UNLOAD, StepState.DONE, 10.0, 11.25, Message("stopped", {"models": "x"})),)
    held = (HeldBy(7, "alice", "python", gib(1)),)
    receipts = (
        Receipt("gpu-0", gib(2), gib(1), gib(1), 1.0, settled=False, still_held_by=held),
        Receipt("gpu-1", gib(2), gib(2), None, 2.5, settled=True),
    )
    return Operation(
        "op1", OperationKind.UNLOAD, "ivan", OperationState.WARNING, 10.0, steps, ended_at=12.0, receipts=receipts,
        outcome=Message("unload_held", {"model": "m", "freed_bytes": gib(3), "expected_bytes": gib(4), "seconds": 2.5}),
    )  # fmt: skip


def test_an_operation_has_steps_and_one_receipt_over_all_devices(
    client: FlaskClient, controller: FakeController
) -> None:
    controller.recent = (operation(),)

    answer = client.get("/api/v1/operations/op1").json

    assert answer is not None
    step = answer["steps"][0]
    assert (step["name"], step["state"], step["ended_at"]) == ("unload", "done", "1970-01-01T00:00:11.250Z")
    receipt = answer["receipt"]
    assert (receipt["expected_bytes"], receipt["freed_bytes"], receipt["seconds"]) == (gib(4), gib(3), 2.5)
    assert receipt["model_freed_bytes"] is None
    assert receipt["still_held_by"] == [
        {"pid": 7, "user": "alice", "command": "python", "bytes": gib(1), "state": None}
    ]
    assert {"id", "kind", "actor", "state", "error", "receipts"} <= answer.keys()


def test_operations_are_listed_up_to_a_limit(client: FlaskClient, controller: FakeController) -> None:
    controller.recent = tuple(
        Operation(f"op{i}", OperationKind.CLEAN, "me", OperationState.SUCCEEDED, 1.0) for i in range(5)
    )

    answer = client.get("/api/v1/operations?limit=2").json

    assert answer is not None
    assert [o["id"] for o in answer] == ["op0", "op1"]
    assert [client.get(f"/api/v1/operations?limit={bad}").status_code for bad in ("0", "x", "501", "-1", "²")] == [
        422
    ] * 5


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mode": "tgi"}, "mode"),
        ({"mode": None}, "mode"),
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"tokens": 5}, "tokens"),
        ({"options": {"max_tokens": 0}}, "options.max_tokens"),
        ({"options": {"max_tokens": 4_194_305}}, "options.max_tokens"),
        ({"options": {"max_tokens": "512"}}, "options.max_tokens"),
        ({"options": {"max_tokens": True}}, "options.max_tokens"),
        ({"options": {"max_tokens": 5.0}}, "options.max_tokens"),
        ({"options": {"batch_size": 1025}}, "options.batch_size"),
        ({"options": {"dtype": "int3"}}, "options.dtype"),
        ({"options": {"seed": 1}}, "options.seed"),
        ({"devices": []}, "devices"),
        ({"devices": "gpu-0"}, "devices"),
        ({"keep_others": 1}, "keep_others"),
        ({"unload": "i1"}, "unload"),
        ({"unload": None}, "unload"),
        ({"keep_others": True, "unload": ["i1", "i1"]}, "unload"),
        ({"restore_on_failure": "yes"}, "restore_on_failure"),
    ],
)
@pytest.mark.parametrize("call", ["plan", "switch"])
def test_a_field_that_cannot_be_meant_is_named(
    client: FlaskClient, controller: FakeController, call: str, change: dict[str, Any], field: str
) -> None:
    answer = client.post(f"/api/v1/{call}", json={**BODY, **change})

    assert answer.status_code == 422
    assert answer.json is not None
    assert (answer.json["code"], answer.json["params"]["field"]) == ("invalid", field)
    assert controller.calls == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"mode": NaN}'])
def test_a_body_that_is_no_object_is_refused(client: FlaskClient, body: bytes) -> None:
    answer = client.post("/api/v1/plan", data=body, content_type="application/json")

    assert answer.status_code == 422
    assert answer.mimetype == "application/problem+json"


def test_a_refusal_is_a_problem_with_its_code_and_values(client: FlaskClient, controller: FakeController) -> None:
    controller.refusal = Busy(operation="op1", kind="switch", actor="ivan", since=5.0, step="launch", model="m")

    answer = client.post("/api/v1/clean")

    assert (answer.status_code, answer.mimetype) == (409, "application/problem+json")
    assert answer.json is not None
    assert answer.json["code"] == "busy"
    assert answer.json["title"] == "Another operation is running"
    assert "started by ivan" in answer.json["detail"]
    assert answer.json["params"] == {
        "operation": "op1", "kind": "switch", "actor": "ivan", "since": 5.0, "step": "launch", "model": "m",
    }  # fmt: skip


def test_a_model_that_is_not_there_is_a_404_and_one_that_does_not_fit_a_409(
    client: FlaskClient, controller: FakeController
) -> None:
    controller.readings = (reading(free_bytes=gib(1)),)

    unknown = client.post("/api/v1/switch", json={**BODY, "model": "lab/gone"})
    large = client.post("/api/v1/switch", json=BODY)

    assert (unknown.status_code, unknown.json and unknown.json["code"]) == (404, "unknown_model")
    assert (large.status_code, large.json and large.json["code"]) == (409, "not_enough_memory")
    assert large.json is not None
    assert large.json["params"]["missing_bytes"] > 0


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "status", "code"),
    [
        ("get", "/api/v1/nothing", {}, 404, "not_found"),
        ("get", "/api/nothing", {}, 404, "not_found"),
        ("get", "/api/v1/switch", {}, 405, "method_not_allowed"),
        ("post", "/api/v1/plan", {"data": b"<x/>", "content_type": "application/xml"}, 415, "unsupported_type"),
        ("post", "/api/v1/plan", {"data": b"a=1", "content_type": "application/x-www-form-urlencoded"}, 403, "form_for_json"),
        ("post", "/api/v1/plan", {"data": b" " * 270_000, "content_type": "application/json"}, 413, "too_large"),
    ],
)  # fmt: skip
def test_every_error_under_api_is_a_problem_document(
    client: FlaskClient, method: str, path: str, kwargs: dict[str, Any], status: int, code: str
) -> None:
    answer = getattr(client, method)(path, **kwargs)

    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert {"code", "title", "detail", "params"} <= answer.json.keys()
    assert answer.json["code"] == code


def test_a_defect_is_told_without_its_inside(client: FlaskClient, controller: FakeController) -> None:
    controller.defect = RuntimeError("secret inside")

    answer = client.post("/api/v1/plan", json=BODY)
    page = client.get("/", query_string=FORM)

    assert answer.status_code == 500
    for told in (answer, page):
        assert "secret inside" not in told.text
        assert "Traceback" not in told.text
    assert answer.mimetype == "application/problem+json"


def test_the_status_tells_the_version(client: FlaskClient) -> None:
    status = client.get("/api/v1/status").json

    assert status is not None
    assert status["version"] == webapp.__version__


def test_times_are_rfc_3339_in_utc(client: FlaskClient) -> None:
    status = client.get("/api/v1/status").json

    assert status is not None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", status["taken_at"])


@pytest.mark.parametrize(("healthy", "status"), [(True, 200), (False, 503)])
def test_healthz_is_true_only_while_both_live(
    client: FlaskClient, controller: FakeController, healthy: bool, status: int
) -> None:
    controller.healthy = healthy

    answer = client.get("/healthz")

    assert answer.status_code == status
    age = 0.2 if healthy else None
    assert answer.json == {"ok": healthy, "monitor_age_s": age, "controller_age_s": 0.1, "store_problem": None}


def test_containers_of_other_people_are_listed_with_what_is_known(
    client: FlaskClient, controller: FakeController
) -> None:
    controller.containers = (CONTAINER,)
    expected = {
        "id": FOREIGN_ID, "name": "alices-vllm", "image": "vllm/vllm-openai:v1", "state": "running",
        "created_at": "1970-01-01T00:16:40.500Z", "owner": "alice", "model": "Qwen/Qwen3-8B",
        "ports": ["127.0.0.1:8000"], "pids": [77], "of_warden": None,
    }  # fmt: skip

    status = client.get("/api/v1/status").json

    assert client.get("/api/v1/containers").json == [expected]
    assert status is not None
    assert status["containers"] == [expected]


def test_a_container_is_stopped_under_its_name(client: FlaskClient, controller: FakeController) -> None:
    controller.containers = (CONTAINER,)
    path = f"/api/v1/containers/{FOREIGN_ID}/stop"

    accepted = client.post(path, json={"name": "alices-vllm"})

    assert accepted.status_code == 202
    assert accepted.json is not None
    assert accepted.json["kind"] == "stop_container"
    assert accepted.location == f"/api/v1/operations/{accepted.json['id']}"


@pytest.mark.parametrize(
    ("container_id", "body", "status", "code"),
    [
        (FOREIGN_ID, {"name": "alices"}, 409, "not_confirmed"),
        (FOREIGN_ID, {}, 422, "invalid"),
        (FOREIGN_ID, {"name": ""}, 422, "invalid"),
        (FOREIGN_ID, {"name": "alices-vllm", "force": True}, 422, "invalid"),
        ("d" * 64, {"name": "alices-vllm"}, 404, "unknown_container"),
    ],
)
def test_a_container_is_not_stopped_without_its_name(
    client: FlaskClient,
    controller: FakeController,
    container_id: str,
    body: dict[str, object],
    status: int,
    code: str,
) -> None:
    controller.containers = (CONTAINER,)

    answer = client.post(f"/api/v1/containers/{container_id}/stop", json=body)

    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.json is not None
    assert answer.json["code"] == code


def test_status_says_why_a_mode_cannot_be_chosen(client: FlaskClient, controller: FakeController) -> None:
    controller.mode_problems = {Mode.VLLM: Message("engine_missing", {"socket": "/var/run/docker.sock"})}

    status = client.get("/api/v1/status").json

    assert status is not None
    problem = status["mode_problems"]["vllm"]
    assert problem["code"] == "engine_missing"
    assert "/var/run/docker.sock" in problem["text"]


def test_a_failed_launch_keeps_the_last_lines_of_its_log(client: FlaskClient, controller: FakeController) -> None:
    error = Message("container_exited", {"model": "m", "exit": "1", "log": "line 1\nline 2"})
    controller.recent = (replace(operation(), error=error),)

    answer = client.get("/api/v1/operations/op1").json

    assert answer is not None
    assert answer["error"]["params"]["log"] == "line 1\nline 2"
    assert "line 1" not in answer["error"]["text"]


def test_a_switch_that_is_sent_again_under_its_id_is_answered_with_the_first(
    client: FlaskClient, controller: FakeController
) -> None:
    body = {**BODY, "request_id": "ci.run-7_a"}
    first, again = (client.post("/api/v1/switch", json=body) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json == again.json
    assert first.headers["Location"] == again.headers["Location"]
    assert len(controller.calls) == 1

    other = client.post("/api/v1/switch", json={**body, "keep_others": True})
    assert other.status_code == 409
    assert other.json is not None
    assert other.json["code"] == "request_id_reused"


@pytest.mark.parametrize("path", ["/api/v1/queue", "/api/v1/tickets"])
def test_a_launch_that_is_queued_again_under_its_id_has_one_place(
    client: FlaskClient, full: FakeController, path: str
) -> None:
    body = {**BODY, "request_id": "r1"}
    first, again = (client.post(path, json=body) for _ in range(2))
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json == again.json
    assert len(full.waiting) == 1
    assert client.post("/api/v1/switch", json=body).status_code == 409


@pytest.mark.parametrize("request_id", ["", "a" * 65, "two words", "id\n", "ключ", 7])
def test_a_request_id_is_short_and_plain(client: FlaskClient, request_id: object) -> None:
    answer = client.post("/api/v1/switch", json={**BODY, "request_id": request_id})
    assert answer.status_code == 422
    assert answer.json is not None
    assert answer.json["params"]["field"] == "request_id"
