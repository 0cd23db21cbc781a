"""Memory that runs short while a model loads, with the real worker on a stub GPU: the load stops first, or says why it failed."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.engine.nvml_stub import NvmlStub
from tests.engine.server import WardenServer, wait_for
from webapp.domain.units import GIB, MIB

Document = dict[str, Any]
Start = Callable[..., WardenServer]

PROGRAM = Path(__file__).parents[1] / "engine" / "workers" / "gpu_faults.py"
QUICK = {
    "reading_interval_s": 0.1,
    "busy_reading_interval_s": 0.1,
    "settle_poll_s": 0.1,
    "reserve_mib": 64,
    "reserve_percent": 0,
    "cooldown_s": 0.1,
}
ME = pwd.getpwuid(os.getuid()).pw_name


def worker(fault: str, *options: str) -> str:
    """The worker command whose worker has ``fault`` when it loads lab/two."""
    return shlex.join([sys.executable, str(PROGRAM), "--fault", fault, "--model", "lab/two", *options])


@pytest.fixture
def stub(tmp_path: Path) -> NvmlStub:
    made = NvmlStub(tmp_path / "nvml")
    for index in (0, 1):
        made.add_gpu(index)
        made.set_gpu(index, reserved=0)
    return made


@pytest.fixture
def start_beside(stub: NvmlStub, start_server: Start, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WardenServer]:
    """Start a server that finds the stub's GPUs."""

    def start(**settings: object) -> WardenServer:
        for name, value in stub.env().items():
            monkeypatch.setenv(name, value)
        return start_server(**QUICK | settings)

    return start


@pytest.fixture
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


def needed(server: WardenServer, model: str, device: str) -> int:
    """What a load of the model is admitted with."""
    plan = server.post("/api/v1/plan", {"mode": "transformers", "model": model, "devices": [device]}).json()
    total: int = plan["total_needed_bytes"][device]
    return total


def held_by(server: WardenServer, pid: int) -> int | None:
    """What a process holds on the first GPU, ``None`` where it is not listed."""
    found = [holder["bytes"] for holder in server.status()["devices"][0]["holders"] if holder["pid"] == pid]
    return found[0] if found else None


def holders_of(operation: Document) -> dict[int, Document]:
    (device,) = operation["post_mortem"]["devices"]
    return {holder["pid"]: holder for holder in device["holders"]}


def test_load_beside_a_neighbour_who_grows_stops_first_names_him_and_brings_the_old_model_back(
    start_beside: Start, stub: NvmlStub, neighbour: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    server = start_beside(worker_command=worker("slow", "--gate", str(gate)))
    assert server.load("lab/one", devices=["gpu-0"])["state"] == "succeeded"
    stub.set_process(0, neighbour.pid, 2 * GIB)
    wait_for(lambda: held_by(server, neighbour.pid) == 2 * GIB, 10, lambda: "the neighbour is not seen")
    need = needed(server, "lab/two", "gpu-0")
    loading = server.switch("lab/two", devices=["gpu-0"])
    wait_for(
        lambda: [i for i in server.status()["instances"] if i["state"] == "loading"],
        60,
        lambda: f"no load: {server.get('/api/v1/operations/' + loading['id'])}",
    )
    stub.set_process(0, neighbour.pid, 24 * GIB - need + 8 * MIB)

    operation = server.finished(loading["id"])
    assert (operation["state"], operation["error"]["code"]) == ("failed", "load_fenced"), operation
    params = operation["error"]["params"]
    assert (params["pid"], params["user"], params["command"]) == (neighbour.pid, ME, "sleep 600")
    assert params["grown_bytes"] == 22 * GIB - need + 8 * MIB
    assert f"{ME} · sleep 600 · pid {neighbour.pid}" in operation["error"]["text"]
    assert operation["outcome"]["code"] == "rolled_back"
    assert [(i["model"], i["state"]) for i in server.status()["instances"]] == [("lab/one", "ready")]
    assert psutil.Process(neighbour.pid).status() != psutil.STATUS_ZOMBIE, "nobody else is hurt"

    report = operation["post_mortem"]
    assert (report["cause"], report["device"]) == ("neighbour_grew", "gpu-0")
    line = holders_of(operation)[neighbour.pid]
    assert (line["before_bytes"], line["bytes"]) == (2 * GIB, 24 * GIB - need + 8 * MIB)
    assert report["way_out"]["request"]["devices"] == ["gpu-1"]

    stub.remove_process(0, neighbour.pid)
    wait_for(lambda: held_by(server, neighbour.pid) is None, 10, lambda: "the neighbour is still listed")
    gate.touch()
    assert server.load("lab/two", devices=["gpu-0"])["state"] == "succeeded", "it may be tried again at once"


def test_model_that_takes_more_than_expected_is_explained_and_its_way_out_loads(
    start_beside: Start, stub: NvmlStub, neighbour: subprocess.Popen[bytes]
) -> None:
    server = start_beside(worker_command=worker("greedy", "--extra-mib", "1000"))
    stub.set_process(0, neighbour.pid, 256 * MIB)
    need = needed(server, "lab/two", "gpu-0")
    total = 256 * MIB + need + 80 * MIB
    stub.set_gpu(0, total=total)
    wait_for(lambda: server.status()["devices"][0]["free_bytes"] == total - 256 * MIB, 10, lambda: "not read")

    operation = server.load("lab/two", devices=["gpu-0"])
    assert operation["error"]["code"] == "out_of_memory", operation
    report = operation["post_mortem"]
    assert report["cause"] == "estimate_low", report
    (device,) = report["devices"]
    assert device["predicted_bytes"] == need
    assert device["free_before_bytes"] == total - 256 * MIB
    assert device["held_bytes"] > need
    held = holders_of(operation)
    assert (held[neighbour.pid]["before_bytes"], held[neighbour.pid]["bytes"]) == (256 * MIB, 256 * MIB)
    (own,) = [holder for holder in held.values() if holder["own"]]
    assert (own["model"], own["before_bytes"], own["bytes"]) == ("lab/two", 0, device["held_bytes"])
    assert report["log"] == operation["error"]["params"]["log"].splitlines()[-20:]

    way = report["way_out"]
    assert (way["message"]["code"], way["request"]["devices"]) == ("way_out_other_device", ["gpu-1"])

    def take_it() -> httpx.Response | None:
        answer = server.post("/api/v1/switch", way["request"])
        return answer if answer.status_code == 202 else None

    accepted = wait_for(take_it, 5, lambda: "the way out is refused beyond the pause")
    loaded = server.finished(accepted.json()["id"])
    assert (loaded["state"], loaded["devices"]) == ("succeeded", ["gpu-1"])
