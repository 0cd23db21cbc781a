"""The worker on CUDA: what NVML says is what the receipts say, and bitsandbytes' kernels answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.engine.server import WardenServer, wait_for
from webapp.domain.units import GIB, MIB

Start = Callable[..., WardenServer]
Figures = Callable[[str], None]
Document = dict[str, Any]

NOISE = 32 * MIB
"""What the driver itself may give or take between two looks at an idle GPU."""


def gpu(server: WardenServer, device_id: str = "gpu-0") -> Document:
    device: Document
    (device,) = [d for d in server.status()["devices"] if d["id"] == device_id]
    return device


def load(server: WardenServer, model: str, **options: object) -> Document:
    operation = server.load(model, devices=["gpu-0"], options={"max_tokens": 256, **options})
    assert operation["state"] == "succeeded", operation
    instance: Document = server.instance_of(model)
    return instance


def unload(server: WardenServer, instance: Document) -> Document:
    operation = server.finished(server.post(f"/api/v1/instances/{instance['id']}/unload").json()["id"])
    assert operation["state"] == "succeeded", operation
    receipt: Document = operation["receipt"]
    return receipt


def ask(server: WardenServer, instance: Document) -> None:
    """Fail unless the model answers; random weights may say anything, nothing included."""
    asked = server.post(f"/api/v1/instances/{instance['id']}/ask", {"prompt": "Hello", "max_tokens": 8})
    assert asked.status_code == 200, asked.text


HOLD = """
import sys, torch
free = torch.cuda.mem_get_info()[0]
held = torch.empty(free - int(sys.argv[1]), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""
"""Somebody else's process that leaves so many bytes of the GPU free."""


@contextmanager
def neighbour(leaves_bytes: int) -> Iterator[int]:
    command = [sys.executable, "-c", HOLD, str(leaves_bytes)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()


def weights_of(server: WardenServer, model: str) -> int:
    (found,) = [m for m in server.models(2) if m["id"] == model]
    return int(found["size_bytes"])


def test_memory_that_a_load_took_is_on_the_receipt_and_back_on_the_gpu(start_server: Start, figures: Figures) -> None:
    server = start_server()
    before = gpu(server)["used_bytes"]
    instance = load(server, "lab/big")
    taken = gpu(server)["used_bytes"] - before
    assert taken >= weights_of(server, "lab/big")
    receipt = unload(server, instance)
    left = wait_for(lambda: gpu(server), 5, lambda: "no reading")["used_bytes"] - before
    figures(
        f"- load of {weights_of(server, 'lab/big') / MIB:.0f} MiB of weights took {taken / MIB:.0f} MiB by NVML; the receipt says "
        f"{receipt['freed_bytes'] / MIB:.0f} MiB in {receipt['seconds']:.2f} s; {left / MIB:+.0f} MiB against the beginning"
    )
    assert receipt["freed_bytes"] == pytest.approx(taken, abs=max(NOISE, taken // 100))
    assert abs(left) <= NOISE
    assert server.worker_pids() == []


def test_the_launcher_touches_no_gpu_and_a_fork_of_it_works(start_server: Start) -> None:
    """It asks itself before every fork whether CUDA is initialised, and makes none then."""
    server = start_server(launcher="start")
    server.launcher_ready()
    launcher = json.loads((server.state / "launcher" / "process.json").read_text())["pid"]

    for quantization in ("none", "int8"):
        instance = load(server, "lab/tiny", quantization=quantization)
        ask(server, instance)
        assert launcher not in {holder["pid"] for holder in gpu(server)["holders"] or ()}
        said = (server.state / "workers" / instance["id"] / "log").read_text()
        assert "imported the libraries in 0.0" in said, "it was forked"
        unload(server, instance)


@pytest.mark.parametrize(("quantization", "most"), [("int8", 0.75), ("int4", 0.55)])
def test_bitsandbytes_kernels_answer_in_less_memory(
    start_server: Start, figures: Figures, quantization: str, most: float
) -> None:
    server = start_server()
    before = gpu(server)["used_bytes"]
    plain = load(server, "lab/big")
    whole = gpu(server)["used_bytes"] - before
    unload(server, plain)
    instance = load(server, "lab/big", quantization=quantization)
    taken = gpu(server)["used_bytes"] - before
    ask(server, instance)
    context = whole - weights_of(server, "lab/big")
    figures(
        f"- {quantization}: {taken / MIB:.0f} MiB by NVML, against {whole / MIB:.0f} in bfloat16 (context {context / MIB:.0f})"
    )
    assert taken - context < most * (whole - context)


def test_layers_on_two_gpus_take_no_more_on_each_than_planned(start_server: Start, figures: Figures) -> None:
    server = start_server()
    devices = [d["id"] for d in server.status()["devices"] if d["id"].startswith("gpu-")][:2]
    if len(devices) < 2:
        pytest.skip("there is one GPU")
    before = [gpu(server, device)["used_bytes"] for device in devices]
    operation = server.load("lab/big", devices=devices, options={"max_tokens": 256})
    assert operation["state"] == "succeeded", operation
    instance = server.instance_of("lab/big")
    ask(server, instance)
    for device, free in zip(devices, before, strict=True):
        taken, planned = gpu(server, device)["used_bytes"] - free, instance["predicted_bytes_by_device"][device]
        figures(f"- {device}, one of two: {taken / MIB:.0f} MiB by NVML, planned {planned / MIB:.0f} MiB")
        assert weights_of(server, "lab/big") // 3 < taken <= planned + NOISE


def test_load_that_the_gpu_has_no_room_for_is_refused_and_the_loaded_model_stays(start_server: Start) -> None:
    server = start_server(memory_limit_gib=2, reserve_mib=0, reserve_percent=0)
    instance = load(server, "lab/tiny")
    body = {
        "mode": "transformers",
        "model": "lab/big",
        "devices": ["gpu-0"],
        "options": {"max_tokens": 2048, "batch_size": 1024},
    }
    refused = server.post("/api/v1/switch", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "not_enough_memory")
    ask(server, instance)


def test_lack_of_memory_on_the_gpu_is_refused_first_and_explained_when_it_happens_anyway(
    start_server: Start, figures: Figures
) -> None:
    server = start_server(cooldown_s=0.1)
    before = gpu(server)["used_bytes"]
    with neighbour(leaves_bytes=GIB) as pid:
        wait_for(lambda: [h for h in gpu(server)["holders"] if h["pid"] == pid], 10, lambda: "he is not listed")
        body = {"mode": "transformers", "model": "lab/big", "devices": ["gpu-0"], "options": {"max_tokens": 256}}
        refused = server.post("/api/v1/switch", body)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_enough_memory")

        failed = server.load("lab/big", devices=["gpu-0"], options={"max_tokens": 256}, load_anyway=True)
        assert (failed["state"], failed["error"]["code"]) == ("failed", "out_of_memory"), failed
        (device,) = failed["post_mortem"]["devices"]
        (held,) = [h["bytes"] for h in device["holders"] if h["pid"] == pid]
        figures(f"- a load that finds 1 GiB: {failed['error']['text']} ({failed['post_mortem']['cause']})")
        assert held > 10 * GIB
        assert server.worker_pids() == []
    wait_for(lambda: abs(gpu(server)["used_bytes"] - before) <= NOISE, 10, lambda: f"not given back: {gpu(server)}")
    ask(server, load(server, "lab/big"))


def test_emergency_in_the_middle_of_a_load_gives_the_gpu_back(start_server: Start) -> None:
    server = start_server()
    before = gpu(server)["used_bytes"]
    server.switch("lab/big", devices=["gpu-0"])
    wait_for(lambda: gpu(server)["used_bytes"] - before > 256 * MIB, 60, lambda: "nothing is loaded")
    emergency = server.finished(server.post("/api/v1/emergency").json()["id"])
    assert emergency["state"] == "succeeded", emergency
    assert server.worker_pids() == []
    assert abs(gpu(server)["used_bytes"] - before) <= NOISE


def test_models_on_the_gpu_outlive_a_killed_server_and_are_taken_back(start_server: Start) -> None:
    server = start_server()
    instance = load(server, "lab/big")
    server.kill()
    server.start()
    adopted = server.becomes(instance["id"], "ready")
    assert adopted["measured_bytes"] > weights_of(server, "lab/big")
    ask(server, adopted)


def test_twenty_loads_leave_the_gpu_as_it_was(start_server: Start, figures: Figures) -> None:
    server = start_server(launcher="start")
    before = gpu(server)["used_bytes"]
    for _ in range(20):
        unload(server, load(server, "lab/tiny"))
    left = gpu(server)["used_bytes"] - before
    figures(f"- 20 loads and unloads of a tiny model: {left / MIB:+.0f} MiB against the beginning")
    assert abs(left) <= NOISE
