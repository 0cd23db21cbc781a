"""The real server on a machine with GPUs, through its JSON interface: pynvml and the workers find the NVML stub's files.

One server serves all tests, since starts and loads are what takes long. Each test begins on two sound 24 GiB GPUs, and takes
over the models that an earlier one left where they are what it needs; so each runs alone too.
"""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.models import make_model
from tests.engine.nvml_stub import NvmlCode, NvmlStub
from tests.engine.server import WardenServer, running, wait_for
from webapp.domain.units import GIB, MIB

Document = dict[str, Any]

WORKER = Path(__file__).parents[1] / "engine" / "workers" / "stub_gpu_worker.py"
SETTINGS = {
    "worker_command": shlex.join([sys.executable, str(WORKER)]),
    "reading_interval_s": 0.1,
    "busy_reading_interval_s": 0.1,
    "settle_poll_s": 0.1,
    "stale_after_s": 2,
}
MODELS = ("lab/one", "lab/two", "lab/three")
RESERVED = 512 * MIB
QUICK_S = 1.0
"""What a page waits for at most, whatever the driver does."""
HANG_S = 10.0
FIGURES = ("total_bytes", "reserved_bytes", "used_bytes", "free_bytes")
GROWTH = 4 * MIB
"""What a worker's own bytes may move by between two looks at them."""


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> NvmlStub:
    return two_gpus(NvmlStub(tmp_path_factory.mktemp("nvml")))


@pytest.fixture(scope="module")
def common_server(tmp_path_factory: pytest.TempPathFactory, stub: NvmlStub) -> Iterator[WardenServer]:
    folder = tmp_path_factory.mktemp("warden")
    for number, name in enumerate(MODELS):
        make_model(folder / "cache", name, seed=number)
    server = WardenServer(folder / "state", folder / "cache", **SETTINGS)
    server.environment = stub.env()
    with running(server):
        server.models(len(MODELS))
        yield server


@pytest.fixture
def server(common_server: WardenServer, stub: NvmlStub) -> Iterator[WardenServer]:
    """The common server, its machine sound at the start and at the end."""
    wait_for(lambda: all_figures_known(common_server), 15, lambda: f"the GPUs are not read: {common_server.status()}")
    yield common_server
    repair(stub)


@pytest.fixture
def empty_server(server: WardenServer) -> WardenServer:
    """The common server with nothing loaded."""
    unload_all(server, lambda _: True)
    return server


@pytest.fixture
def resident(server: WardenServer) -> Document:
    """lab/one on gpu-1, alone on the common server."""
    unload_all(server, lambda i: (i["model"], i["devices"]) != ("lab/one", ["gpu-1"]))
    if not server.status()["instances"]:
        succeeded(server.load("lab/one", devices=["gpu-1"]))
    return instance_of(server, "lab/one")


@pytest.fixture
def loaded(server: WardenServer) -> Document:
    """Any loaded model of the common server."""
    if not server.status()["instances"]:
        succeeded(server.load("lab/one"))
    instances: list[Document] = server.status()["instances"]
    return instances[0]


@pytest.fixture
def foreign() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


# The machine


def two_gpus(stub: NvmlStub) -> NvmlStub:
    for index in (0, 1):
        stub.add_gpu(index)
    return stub


def repair(stub: NvmlStub) -> None:
    stub.unblock()
    stub.heal(None, "driver")
    for index in (0, 1):
        stub.heal(index, "all")
    two_gpus(stub)


def filed_bytes(stub: NvmlStub, gpu: int, pid: int) -> int:
    """What a worker says that it holds."""
    return int((stub.folder / f"gpu-{gpu}" / "processes" / str(pid)).read_text())


def all_figures_known(server: WardenServer) -> bool:
    status = server.status()
    known = [d["used_bytes"] == held_by_processes(d) for d in status["devices"] if d["free_bytes"] is not None]
    return not status["stale"] and known == [True, True]


def held_by_processes(device: Document) -> int:
    return sum(holder["bytes"] for holder in device["holders"] or ())


# What the server says


def device_of(server: WardenServer, device_id: str) -> Document:
    device: Document
    (device,) = [d for d in server.status()["devices"] if d["id"] == device_id]
    return device


def has_free(wanted: int, device: Document) -> bool:
    return bool(device["free_bytes"] == wanted)


def device_when(server: WardenServer, device_id: str, like: Callable[[Document], bool]) -> Document:
    """The device as soon as it is as wanted."""

    def look() -> Document | None:
        device = device_of(server, device_id)
        return device if like(device) else None

    return wait_for(look, 15, lambda: f"{device_id} stays as it is: {server.status()}")


def figures(device: Document) -> tuple[int | None, ...]:
    return tuple(device[name] for name in FIGURES)


def problem_code(described: Document) -> str | None:
    problem = described["problem"]
    return None if problem is None else str(problem["code"])


def placed(server: WardenServer) -> dict[str, list[str]]:
    """The loaded models of each GPU."""
    instances = server.status()["instances"]
    return {gpu: sorted(i["model"] for i in instances if gpu in i["devices"]) for gpu in ("gpu-0", "gpu-1")}


def instance_of(server: WardenServer, model: str) -> Document:
    """A model's row, once it has been measured on its GPU."""

    def measured() -> Document | None:
        row: Document = server.instance_of(model)
        return row if row["measured_bytes"] else None

    return wait_for(measured, 10, lambda: f"{model} was not measured")


def succeeded(operation: Document) -> Document:
    assert operation["state"] == "succeeded", operation
    return operation


def unload(server: WardenServer, instance: Document) -> Document:
    answer = server.post(f"/api/v1/instances/{instance['id']}/unload")
    assert answer.status_code == 202, answer.text
    ended: Document = server.finished(answer.json()["id"])
    return ended


def unload_all(server: WardenServer, unwanted: Callable[[Document], bool]) -> None:
    for instance in server.status()["instances"]:
        if unwanted(instance):
            succeeded(unload(server, instance))


def body(model: str, **fields: object) -> dict[str, object]:
    return {"mode": "transformers", "model": model, **fields}


def refused(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


# The tests


def test_models_are_placed_on_the_emptier_gpu_then_on_the_unclaimed_one_and_leave_the_other_alone(
    empty_server: WardenServer, stub: NvmlStub
) -> None:
    server = empty_server
    stub.set_gpu(0, used=5 * GIB)
    device_when(server, "gpu-0", lambda d: d["used_bytes"] == 5 * GIB)
    first, second = server.switch("lab/one"), server.switch("lab/two")
    assert (first["devices"], second["devices"]) == (["gpu-1"], ["gpu-0"])
    for operation in (first, second):
        succeeded(server.finished(operation["id"]))

    beside = succeeded(server.load("lab/three", devices=["gpu-1"], keep_others=True))
    assert beside["evicted"] == []
    assert placed(server) == {"gpu-0": ["lab/two"], "gpu-1": ["lab/one", "lab/three"]}
    on_the_other = [i for i in server.status()["instances"] if i["devices"] == ["gpu-1"]]

    leaving = filed_bytes(stub, 0, instance_of(server, "lab/two")["pid"])
    switched = succeeded(server.load("lab/three", devices=["gpu-0"]))
    assert switched["evicted"] == ["lab/two"]
    (receipt,) = switched["receipts"]
    assert receipt["device_id"] == "gpu-0"
    assert abs(receipt["freed_bytes"] - leaving) <= GROWTH
    assert placed(server) == {"gpu-0": ["lab/three"], "gpu-1": ["lab/one", "lab/three"]}
    after = [i for i in server.status()["instances"] if i["devices"] == ["gpu-1"]]
    assert [(i["id"], i["pid"], i["state"]) for i in after] == [(i["id"], i["pid"], "ready") for i in on_the_other]
    held = {i["id"] for i in after}
    assert {h["instance_id"] for h in device_of(server, "gpu-1")["holders"]} == held


def test_both_gpus_are_shown_with_who_holds_them_and_figures_that_add_up(
    server: WardenServer, stub: NvmlStub, resident: Document, foreign: subprocess.Popen[bytes]
) -> None:
    stub.set_gpu(0, used=1 * GIB)
    stub.set_process(0, foreign.pid, 2 * GIB)
    first = device_when(server, "gpu-0", lambda d: d["used_bytes"] == 3 * GIB)
    second = device_of(server, "gpu-1")

    assert [d["id"] for d in server.status()["devices"]] == ["gpu-0", "gpu-1"]
    assert figures(first) == (24 * GIB, RESERVED, 3 * GIB, 21 * GIB - RESERVED)
    assert first["unattributed_bytes"] == 1 * GIB
    (holder,) = first["holders"]
    assert holder == {
        "pid": foreign.pid,
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "command": "sleep 600",
        "bytes": 2 * GIB,
        "kind": "foreign",
        "instance_id": None,
        "container_id": None,
    }

    assert second["used_bytes"] + second["free_bytes"] + second["reserved_bytes"] == second["total_bytes"] == 24 * GIB
    assert second["unattributed_bytes"] == 0
    (holder,) = second["holders"]
    assert (holder["pid"], holder["kind"], holder["instance_id"]) == (resident["pid"], "worker", resident["id"])
    assert holder["bytes"] == second["used_bytes"]
    assert abs(holder["bytes"] - filed_bytes(stub, 1, resident["pid"])) <= GROWTH
    assert list(resident["measured_bytes_by_device"]) == ["gpu-1"]


def test_driver_that_goes_leaves_gpus_and_models_listed_and_figures_come_back(
    server: WardenServer, stub: NvmlStub, resident: Document
) -> None:
    stub.inject(None, "driver", NvmlCode.DRIVER_NOT_LOADED)
    device_when(server, "gpu-1", lambda d: d["free_bytes"] is None)
    status = server.status()
    assert [(d["id"], d["name"], figures(d)) for d in status["devices"]] == [
        (f"gpu-{index}", f"Stub GPU {index}", (None,) * 4) for index in (0, 1)
    ]
    assert {problem_code(d) for d in status["devices"]} == {"driver_gone"} == {problem_code(status)}
    assert [d["level"] for d in status["devices"]] == [None, None]
    assert [(i["id"], i["state"]) for i in status["instances"]] == [(resident["id"], "ready")]
    assert refused(server.post("/api/v1/switch", body("lab/two"))) == (503, "device_unreadable")
    assert server.get("/healthz")["ok"], "the monitor ticks; that the driver is gone stands in the status"

    stub.heal(None, "driver")
    back = device_when(server, "gpu-1", lambda d: d["free_bytes"] is not None)
    assert [h["instance_id"] for h in back["holders"]] == [resident["id"]]
    assert problem_code(back) is problem_code(server.status()) is None


def test_model_that_does_not_fit_beside_a_foreign_process_is_refused_before_anything_is_unloaded(
    server: WardenServer, stub: NvmlStub, resident: Document, foreign: subprocess.Popen[bytes]
) -> None:
    stub.set_gpu(1, total=4 * GIB, reserved=0)
    stub.set_process(1, foreign.pid, 3 * GIB + 512 * MIB)
    small = device_when(server, "gpu-1", lambda d: d["total_bytes"] == 4 * GIB and len(d["holders"]) == 2)
    before = [o["id"] for o in server.get("/api/v1/operations")]

    answer = server.post("/api/v1/switch", body("lab/two", devices=["gpu-1"]))
    assert refused(answer) == (409, "not_enough_memory")
    params = answer.json()["params"]
    assert params["device"] == "gpu-1"
    assert abs(params["free_bytes"] - 512 * MIB) <= GROWTH, "free once lab/one has gone"
    assert params["missing_bytes"] == params["needed_bytes"] + params["reserve_bytes"] - params["free_bytes"] > 0

    plan = server.post("/api/v1/plan", body("lab/two", devices=["gpu-1"])).json()
    assert (plan["verdict"], plan["refusal"]["code"]) == ("refused", "not_enough_memory")
    assert abs(plan["free_before_bytes"]["gpu-1"] - small["free_bytes"]) <= GROWTH
    (way,) = [w["request"] for w in plan["ways_out"] if w["message"]["code"] == "way_out_other_device"]
    assert server.post("/api/v1/plan", way).json()["devices"] == ["gpu-0"]

    still = instance_of(server, "lab/one")
    assert (still["id"], still["pid"], still["state"]) == (resident["id"], resident["pid"], "ready")
    assert [o["id"] for o in server.get("/api/v1/operations")] == before


@pytest.mark.leaves("the server that it starts again serves the other tests")
def test_killed_server_adopts_the_model_on_its_gpu_and_knows_its_process_there(
    server: WardenServer, resident: Document
) -> None:
    server.kill()
    server.start()
    after = server.instance_of("lab/one")
    same = ("id", "pid", "devices", "owner", "started_at", "options", "predicted_bytes_by_device")
    assert [after[key] for key in same] == [resident[key] for key in same]
    assert (after["adopted"], after["state"], after["devices"]) == (True, "ready", ["gpu-1"])
    device = device_when(server, "gpu-1", lambda d: bool(d["holders"]))
    (holder,) = device["holders"]
    assert (holder["pid"], holder["kind"], holder["instance_id"]) == (after["pid"], "worker", after["id"])
    assert holder["bytes"] == device["used_bytes"]
    assert device_of(server, "gpu-0")["holders"] == []
    assert server.worker_pids() == [after["pid"]]


def test_lost_gpu_takes_no_model_and_touches_no_other_until_it_is_found_again(
    server: WardenServer, stub: NvmlStub, resident: Document
) -> None:
    stub.set_gpu(0, used=5 * GIB)
    device_when(server, "gpu-0", lambda d: d["used_bytes"] == 5 * GIB)
    assert server.post("/api/v1/plan", body("lab/two", keep_others=True)).json()["devices"] == ["gpu-1"]

    stub.inject(1, "all", NvmlCode.GPU_IS_LOST)
    lost = device_when(server, "gpu-1", lambda d: d["free_bytes"] is None)
    assert (lost["name"], figures(lost), lost["holders"]) == ("Stub GPU 1", (None,) * 4, None)
    assert problem_code(lost) == "device_lost"
    sound = device_of(server, "gpu-0")
    assert (problem_code(sound), figures(sound)) == (None, (24 * GIB, RESERVED, 5 * GIB, 19 * GIB - RESERVED))

    answer = server.post("/api/v1/switch", body("lab/two", devices=["gpu-1"]))
    assert refused(answer) == (503, "device_unreadable")
    assert answer.json()["params"]["device"] == "gpu-1"
    assert refused(httpx.get(server.url + "/api/v1/recommendation?device=gpu-1")) == (503, "device_unreadable")
    assert succeeded(server.load("lab/two"))["devices"] == ["gpu-0"]
    assert placed(server) == {"gpu-0": ["lab/two"], "gpu-1": ["lab/one"]}
    assert server.instance_of("lab/one")["state"] == "ready"

    operation = unload(server, resident)
    (receipt,) = operation["receipts"]
    assert (operation["state"], receipt["freed_bytes"], receipt["settled"]) == ("warning", None, False)
    stub.heal(1, "all")
    found = device_when(server, "gpu-1", lambda d: d["free_bytes"] is not None)
    assert (figures(found), found["holders"]) == ((24 * GIB, RESERVED, 0, 24 * GIB - RESERVED), [])
    assert problem_code(found) is None


def test_driver_call_that_hangs_delays_no_answer_decides_nothing_and_stops_no_emergency(
    server: WardenServer, stub: NvmlStub, loaded: Document
) -> None:
    wanted = body("lab/two", options={"max_tokens": 64})
    httpx.get(server.url, timeout=30).raise_for_status()  # its templates are compiled once
    with httpx.Client(base_url=server.url, timeout=QUICK_S) as page:
        stub.block(600)
        wait_for(lambda: page.get("/api/v1/status").json()["stale"], 10, lambda: "the figures do not grow stale")
        refused_plan = page.post("/api/v1/plan", json=wanted).json()["refusal"]
        assert refused_plan["code"] == "device_unreadable"
        emergency: Document | None = None

        def asked_long_enough() -> bool:
            nonlocal emergency
            for path in ("/", "/fragments/live", "/api/v1/models", "/api/v1/operations"):
                assert page.get(path).status_code == 200, path
            health = page.get("/healthz")
            assert (health.status_code, health.json()["ok"]) == (503, False)
            assert refused(page.get("/api/v1/recommendation")) == (503, "device_unreadable")
            status = page.get("/api/v1/status").json()
            assert status["stale"]
            if emergency is None:
                assert loaded["id"] in [i["id"] for i in status["instances"]]
                for chosen in (None, ["gpu-0"], ["gpu-1"]):
                    answer = page.post("/api/v1/switch", json={**wanted, "devices": chosen})
                    assert refused(answer) == (503, "device_unreadable")
                emergency = page.post("/api/v1/emergency", json={}).json()
            return bool(status["age_s"] > HANG_S)

        wait_for(asked_long_enough, HANG_S + 10, lambda: "the sample does not age")
        assert emergency is not None
        ended = server.finished(emergency["id"])
        assert ended["state"] == "warning", ended
        assert [r["freed_bytes"] for r in ended["receipts"]] == [None], "nothing is said that was not read"
        assert server.worker_pids() == []

    stub.unblock()
    wait_for(lambda: not server.status()["stale"], 15, lambda: "the figures stay stale")
    assert [d["used_bytes"] for d in server.status()["devices"]] == [0, 0]
    assert server.get("/healthz")["ok"]
    assert server.post("/api/v1/plan", wanted).json()["refusal"] is None


def test_model_loaded_on_a_gpu_by_name_gives_back_what_it_held_and_the_gpu_reads_as_before(
    empty_server: WardenServer, stub: NvmlStub
) -> None:
    server = empty_server
    before = device_when(server, "gpu-1", lambda d: d["used_bytes"] == 0)
    assert succeeded(server.load("lab/one", devices=["gpu-1"]))["devices"] == ["gpu-1"]
    instance = instance_of(server, "lab/one")
    held = filed_bytes(stub, 1, instance["pid"])
    assert abs(instance["measured_bytes_by_device"]["gpu-1"] - held) <= GROWTH

    (receipt,) = succeeded(unload(server, instance))["receipts"]
    assert (receipt["device_id"], receipt["settled"], receipt["still_held_by"]) == ("gpu-1", True, [])
    assert abs(receipt["expected_bytes"] - held) <= GROWTH
    assert abs(receipt["freed_bytes"] - held) <= GROWTH
    after = device_of(server, "gpu-1")
    assert (figures(after), after["holders"]) == (figures(before), [])
    assert server.worker_pids() == []


LEVELS = {4 * GIB: "good", 4 * GIB - 1: "low", 2 * GIB: "low", 2 * GIB - 1: "critical"}
ADVICE = {
    8 * GIB: ("vllm", "fp16", 2048, 4, "ok"),
    8 * GIB - 1: ("vllm", "fp16", 1024, 2, "limited"),
    6 * GIB: ("vllm", "fp16", 1024, 2, "limited"),
    6 * GIB - 1: ("transformers", "fp16", 1024, 1, "limited"),
    4 * GIB: ("transformers", "fp16", 1024, 1, "limited"),
    4 * GIB - 1: ("transformers", "int8", 512, 1, "limited"),
}


def test_levels_and_advice_change_at_the_very_byte(empty_server: WardenServer, stub: NvmlStub) -> None:
    server = empty_server
    levels: dict[int, str] = {}
    advice: dict[int, tuple[object, ...]] = {}
    for free_bytes in sorted({*LEVELS, *ADVICE}):
        stub.set_gpu(0, used=24 * GIB - RESERVED - free_bytes)
        device = device_when(server, "gpu-0", partial(has_free, free_bytes))
        levels[free_bytes] = device["level"]
        advice[free_bytes] = _advice(server.get("/api/v1/recommendation?device=gpu-0"))
    assert levels == {**dict.fromkeys(levels, "good"), **LEVELS}
    assert {size: advice[size] for size in ADVICE} == ADVICE


def _advice(document: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(document[key] for key in ("mode", "precision", "max_tokens", "batch_size", "mark"))
