"""vLLM mode on a machine with two GPUs (pynvml on a C library): which one a container asks for, and how much of it it takes."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.dockerd import PrivateEngine
from tests.engine.engine_fixtures import engine_settings, variables
from tests.engine.nvml_stub import NvmlStub
from tests.engine.server import WardenServer, running, wait_for
from tests.integration.vllm.conftest import MODELS, QUICK, engine_process, inspect, load
from webapp.domain.units import GIB, gib

CONTEXT = gib(0.6)
"""What a vLLM process holds of a GPU before it looks how much is free; the larger of the figures that are reported."""


@pytest.fixture
def stub(tmp_path: Path) -> NvmlStub:
    stub = NvmlStub(tmp_path / "nvml")
    for index in (0, 1):
        stub.add_gpu(index)
    return stub


@pytest.fixture
def foreign(stub: NvmlStub) -> Iterator[None]:
    """Somebody else's processes: 14 GiB on the first GPU, 3 GiB on the second."""
    with subprocess.Popen(["sleep", "600"]) as one, subprocess.Popen(["sleep", "600"]) as two:
        stub.set_process(0, one.pid, 14 * GIB)
        stub.set_process(1, two.pid, 3 * GIB)
        yield
        one.kill()
        two.kill()


@pytest.fixture
def gpu_server(
    tmp_path: Path, cache: Path, engine: PrivateEngine, stub: NvmlStub, foreign: None
) -> Iterator[WardenServer]:
    settings = {**engine_settings(engine), **QUICK, "vllm_env": variables()}
    server = WardenServer(tmp_path / "state", cache, **settings)
    server.environment = stub.env()
    with running(server):
        server.models(len(MODELS))
        yield server


def flag(engine: PrivateEngine, container: str, name: str) -> str:
    command = inspect(engine, container)["Config"]["Cmd"]
    return str(command[command.index(name) + 1])


def unload(server: WardenServer, instance_id: str) -> Any:
    return server.finished(server.post(f"/api/v1/instances/{instance_id}/unload").json()["id"])


@pytest.mark.parametrize("asked", [["gpu-0"], ["gpu-1"], ["gpu-0", "gpu-1"]])
def test_container_asks_for_the_chosen_gpus_and_a_share_with_which_vllm_starts(
    gpu_server: WardenServer, engine: PrivateEngine, asked: list[str]
) -> None:
    before = {d["id"]: d for d in gpu_server.status()["devices"]}
    load(gpu_server, "lab/one", devices=asked)
    (container,) = engine.containers()
    (request,) = inspect(engine, container)["HostConfig"]["DeviceRequests"]
    uuids = [f"GPU-{int(name.removeprefix('gpu-')):08x}-0000-0000-0000-000000000000" for name in asked]
    assert (request["Driver"], request["DeviceIDs"]) == ("nvidia", uuids)
    environment = (Path("/proc") / str(engine_process(container)) / "environ").read_bytes().split(b"\0")
    assert f"NVIDIA_VISIBLE_DEVICES={','.join(uuids)}".encode() in environment
    share = float(flag(engine, container, "--gpu-memory-utilization"))
    context = CONTEXT if len(asked) == 1 else gib(2.1)
    for name in asked:
        device = before[name]
        total = device["total_bytes"] - device["reserved_bytes"]
        assert device["free_bytes"] - context >= math.ceil(total * share)
    if len(asked) > 1:
        assert flag(engine, container, "--tensor-parallel-size") == str(len(asked))
    (instance,) = gpu_server.status()["instances"]
    assert instance["devices"] == asked
    unload(gpu_server, instance["id"])
    assert engine.containers() == []


def test_what_a_container_holds_is_its_models_and_comes_back_with_a_receipt(
    gpu_server: WardenServer, engine: PrivateEngine, stub: NvmlStub
) -> None:
    instance = load(gpu_server, "lab/one", devices=["gpu-1"])
    (container,) = engine.containers()
    stub.set_process(1, engine_process(container), 5 * GIB)

    def held() -> list[dict[str, object]]:
        device = gpu_server.status()["devices"][1]
        return [h for h in device["holders"] if h["instance_id"] == instance["id"]]

    (holder,) = wait_for(held, 10, lambda: "the container's process is not seen")
    assert (holder["kind"], holder["bytes"], holder["container_id"]) == ("container", 5 * GIB, container)
    operation = unload(gpu_server, instance["id"])
    assert operation["state"] == "succeeded", operation
    (receipt,) = operation["receipts"]
    assert (receipt["expected_bytes"], receipt["freed_bytes"]) == (5 * GIB, 5 * GIB)
