"""Every way in which a start of vLLM mode can fail: a named error, its reason in the log's words, and nothing left behind."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.dockerd import PrivateEngine
from tests.engine.engine_fixtures import engine_settings
from tests.engine.server import wait_for
from tests.integration.vllm.conftest import (
    ACTOR,
    MODELS,
    PORTS,
    FaultTable,
    StartWarden,
    Witness,
    launch_spec,
    standin,
    switch_request,
)
from webapp.domain.footprint import Footprint, Part, PartName
from webapp.domain.instance import InstanceState
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationState
from webapp.domain.units import GIB, MIB
from webapp.errors import GpuRuntimeMissing, ModeUnavailable, NameTaken
from webapp.runtimes.base import LaunchDevice
from webapp.runtimes.vllm.runtime import VllmRuntime

ONE = MODELS[0]
StartRuntime = Callable[..., VllmRuntime]


TRIED = 1
"""Containers that a switch creates and removes before anything is unloaded, to find out whether it may."""
HELD_MB = 1500
"""What the stand-in takes with its weights: more than what others take of the host's RAM in the same seconds."""


def seconds_of(operation: Operation) -> float:
    assert operation.ended_at is not None
    return operation.ended_at - operation.started_at


# The container ends, or never comes so far


IN_THE_CONTAINER: Mapping[str, tuple[str, str, Mapping[str, object], str]] = {
    "short_memory": ("less memory free than vLLM was to take", "start_memory_short", {}, "Available memory on node 0"),
    "kv_small": (
        "one request does not fit the KV cache (the length that fits is named)",
        "kv_cache_too_small",
        {"max_tokens": 256, "fits_tokens": 64},
        "estimated maximum model length is 64",
    ),
    "no_kv": (
        "no memory left for a KV cache",
        "kv_cache_too_small",
        {"available_bytes": 0},
        "No available memory for the cache blocks",
    ),
    "architecture": (
        "architecture that vLLM does not know",
        "architecture_unsupported",
        {"architecture": "FunnyForCausalLM"},
        "are not supported for now",
    ),
    "oom": ("out of memory while the weights load", "out_of_memory", {}, "can't allocate memory"),
    "oom_warmup": ("out of memory while it warms up", "out_of_memory", {}, "_dummy_sampler_run"),
    "long_context": (
        "a context that the model is not made for (the limit is named)",
        "context_too_long",
        {"max_tokens": 256, "limit_tokens": 128},
        "is greater than the derived max_model_len",
    ),
    "exit_code": ("ends at once with code 3 and not a word", "container_exited", {"exit": 3}, ""),
    "crash": ("an exception nobody caught", "container_exited", {"exit": 1}, "the stand-in was told to crash"),
    "killed": ("killed by SIGKILL while it loads", "container_exited", {"exit": "SIGKILL"}, "checkpoint shards"),
    "missing_model": ("model files are not there", "launch_failed", {}, "Repo id must be in the form"),
    "disturbed": (
        "a neighbour's memory moves while vLLM measures, at both starts",
        "profile_disturbed",
        {"before_bytes": round(70.5 * GIB)},
        "Error in memory profiling",
    ),
    "wrong_model": ("serves another model", "server_garbled", {}, "Application startup complete"),
    "garbage_http": ("answers what is no HTTP", "server_garbled", {}, "Application startup complete"),
    "hang_http": (
        "its HTTP server never answers (stall set to 3 s)",
        "launch_stalled",
        {},
        "Application startup complete",
    ),
    "silent": ("not a word after the first lines (stall set to 3 s)", "launch_stalled", {}, "version 0.32.0"),
}
"""By the stand-in's fault: what it is, the error, some of its parameters, and words that the last lines of the log have."""


@pytest.mark.parametrize("fault", IN_THE_CONTAINER)
def test_start_that_fails_ends_in_its_error_with_the_log_and_leaves_nothing(
    warden: StartWarden, witness: Witness, fault_table: FaultTable, fault: str
) -> None:
    one = warden(vllm_env=standin(fault, mb=HELD_MB))
    before, free_bytes = witness.traces(), one.free_bytes()
    operation = one.switch(ONE)
    left = witness.traces()
    title, code, params, words = IN_THE_CONTAINER[fault]
    assert operation.state is OperationState.FAILED
    assert operation.error is not None
    assert operation.error.code == code, operation.error
    assert params.items() <= operation.error.params.items()
    assert operation.error.params["model"] == ONE
    assert words in str(operation.error.params["log"])
    assert operation.outcome is not None
    assert operation.outcome.code == "nothing_changed"
    assert left == before
    wait_for(lambda: free_bytes - one.free_bytes() < HELD_MB * MIB * 2 / 3, 10, lambda: "the memory does not come back")
    assert len(witness.ids()) == TRIED + (2 if fault == "disturbed" else 1)
    assert one.instances == ()
    fault_table.add(title, code, seconds_of(operation), left)


def test_start_that_was_disturbed_once_is_made_again_and_says_so(
    warden: StartWarden, witness: Witness, tmp_path: Path
) -> None:
    (tmp_path / "counted").mkdir()
    one = warden(
        vllm_env=standin("disturbed", fault_times=1, state="/counted"),
        vllm_mounts=(f"{tmp_path / 'counted'}:/counted",),
    )
    operation = one.switch(ONE)
    assert operation.state is OperationState.SUCCEEDED, operation
    assert [finding.message.code for finding in operation.findings] == ["launch_again_disturbed"]
    assert len(witness.ids()) == TRIED + 2
    assert len(witness.traces().containers) == 1


def test_argument_that_vllm_does_not_know_is_named(
    warden: StartWarden, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden(vllm_args="--no-such-flag 7", vllm_env=standin())
    before = witness.traces()
    operation = one.switch(ONE)
    assert operation.error is not None
    assert operation.error.code == "argument_rejected", operation.error
    assert "--no-such-flag" in str(operation.error.params["argument"])
    assert "unrecognized arguments" in str(operation.error.params["log"])
    assert witness.traces() == before
    fault_table.add("argument that vLLM does not take", operation.error.code, seconds_of(operation), before)


def test_container_that_somebody_removes_while_it_starts_fails_the_switch(
    warden: StartWarden, engine: PrivateEngine, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden(vllm_env=standin("slow", seconds=60))
    before = witness.traces()
    running = one.controller.switch(switch_request(ONE), ACTOR)
    wait_for(lambda: engine.containers(running=True), 15, lambda: "no container runs")
    began = time.time()
    engine.cli("rm", "--force", *engine.containers())
    operation = one.finished(running)
    assert operation.error is not None
    assert operation.error.code == "container_removed", operation.error
    assert witness.traces() == before
    assert one.instances == ()
    fault_table.add(
        "somebody removes the container while it starts",
        operation.error.code,
        (operation.ended_at or 0) - began,
        before,
    )


def test_model_that_dies_while_it_is_loaded_is_dead_with_its_reason(
    warden: StartWarden, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden(vllm_env=standin("dies_later", die_after_s=1))
    before = witness.traces()
    instance = one.load(ONE)
    ready = time.time()
    dead = one.becomes(instance, InstanceState.DEAD)
    said_after = time.time() - ready
    assert dead.problem is not None
    assert dead.problem.code == "container_exited"
    assert "told to die" in str(dead.problem.params["log"])
    assert one.unload(dead).state is OperationState.SUCCEEDED
    assert witness.traces() == before
    assert one.instances == ()
    fault_table.add("dies 1 s after it was ready (then removed)", dead.problem.code, said_after, witness.traces())


def test_start_that_says_nothing_but_takes_memory_is_no_stall(warden: StartWarden) -> None:
    one = warden(vllm_env=standin("grows", grow_s=5), launch_stall_s=2.5)
    assert one.switch(ONE).state is OperationState.SUCCEEDED


def test_failed_switch_brings_the_transformers_model_back(warden: StartWarden, witness: Witness) -> None:
    worker = f"{sys.executable} -m webapp.worker --torch-device cpu"
    one = warden(vllm_env=standin("kv_small"), worker_command=worker, launch_stall_s=60)
    before = witness.traces()
    one.load("lab/two", Mode.TRANSFORMERS)
    operation = one.switch(ONE)
    assert operation.error is not None
    assert operation.error.code == "kv_cache_too_small"
    assert operation.outcome is not None
    assert operation.outcome.code == "rolled_back"
    (back,) = one.instances
    assert (back.model_id, back.mode, back.state) == ("lab/two", Mode.TRANSFORMERS, InstanceState.READY)
    assert witness.traces() == before


# The engine, or what it would need


def test_without_a_socket_the_mode_cannot_be_chosen(
    warden: StartWarden, witness: Witness, fault_table: FaultTable, tmp_path: Path
) -> None:
    seconds = refused(warden(docker_socket=tmp_path / "no" / "docker.sock"), "engine_missing")
    fault_table.add("no Docker socket", "engine_missing", seconds, witness.traces())


def test_socket_that_nobody_serves_is_an_engine_that_cannot_be_reached(
    warden: StartWarden, witness: Witness, fault_table: FaultTable, tmp_path: Path
) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    seconds = refused(warden(docker_socket=path), "engine_unreachable")
    fault_table.add("socket without an engine", "engine_unreachable", seconds, witness.traces())


def test_engine_that_hangs_is_said_within_its_time(
    warden: StartWarden, engine: PrivateEngine, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden()
    one.becomes_possible(None)
    engine.pause()
    began = time.monotonic()
    one.becomes_possible("engine_unreachable")
    seconds = time.monotonic() - began
    refused(one, "engine_unreachable")
    engine.resume()
    one.becomes_possible(None)
    fault_table.add("engine hangs", "engine_unreachable", seconds, witness.traces())


def test_engine_that_is_slow_to_create_a_container_is_waited_for(warden: StartWarden, engine: PrivateEngine) -> None:
    one = warden(vllm_env=standin(), docker_poll_s=60, docker_timeout_s=1, docker_start_timeout_s=30)
    engine.pause()
    running = one.controller.switch(switch_request(ONE), ACTOR)
    again = threading.Timer(3.0, engine.resume)
    again.start()
    assert one.finished(running).state is OperationState.SUCCEEDED
    again.join()


def test_network_that_is_not_there_is_named_and_the_created_container_removed(
    warden: StartWarden, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden(vllm_env=standin(), vllm_network="nowhere")
    before = witness.traces()
    operation = one.switch(ONE)
    assert operation.error is not None
    assert operation.error.code == "launch_blocked", operation.error
    assert "network nowhere not found" in str(operation.error.params["detail"])
    assert len(witness.ids()) == TRIED + 1
    assert witness.traces() == before
    fault_table.add("network that is not there", operation.error.code, seconds_of(operation), before)


def test_image_that_is_not_there_is_named_with_what_fetches_it(
    warden: StartWarden, witness: Witness, fault_table: FaultTable
) -> None:
    one = warden(vllm_image="vllm/vllm-openai:none")
    seconds = refused(one, "image_missing")
    problem = one.controller.snapshot().mode_problems[Mode.VLLM]
    assert problem is not None
    assert problem.params["command"] == "docker pull vllm/vllm-openai:none"
    fault_table.add("image missing", "image_missing", seconds, witness.traces())


def refused(one: Any, problem: str) -> float:
    """Ask for a switch that the mode's problem forbids; return how long the answer took."""
    one.becomes_possible(problem)
    began = time.monotonic()
    with pytest.raises(ModeUnavailable) as refusal:
        one.controller.switch(switch_request(ONE), ACTOR)
    assert refusal.value.params["reason"] == problem
    assert one.instances == ()
    return time.monotonic() - began


WITHOUT_RIGHTS = """
import os, sys
from pathlib import Path
from webapp.errors import EngineForbidden
from webapp.runtimes.vllm.docker.engine import DockerEngine
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    DockerEngine(Path(sys.argv[1]), 2).containers()
except EngineForbidden as exc:
    print(exc.code, exc.params["user"])
"""


def test_user_without_rights_to_the_socket_is_told_so(
    engine: PrivateEngine, witness: Witness, fault_table: FaultTable
) -> None:
    engine.folder.chmod(0o711)
    began = time.monotonic()
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_RIGHTS, str(engine.socket)],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    engine.folder.chmod(0o700)
    assert said.stdout.split() == ["engine_forbidden", "nobody"], said.stderr
    fault_table.add("no rights to the socket", "engine_forbidden", time.monotonic() - began, witness.traces())


def test_port_range_that_is_taken_is_named(warden: StartWarden, witness: Witness, fault_table: FaultTable) -> None:
    port = PORTS.split("-", maxsplit=1)[0]
    one = warden(vllm_ports=f"{port}-{port}")
    with socket.create_server(("127.0.0.1", int(port))):
        before = witness.traces()
        operation = one.switch(ONE)
        assert operation.error is not None
        assert operation.error.code == "port_taken", operation.error
        assert operation.error.params["ports"] == f"{port}-{port}"
        assert witness.traces() == before
    fault_table.add("every port taken", "port_taken", seconds_of(operation), witness.traces())
    assert one.switch(ONE).state is OperationState.SUCCEEDED


def test_container_of_the_same_name_is_left_alone(
    runtime: StartRuntime, engine: PrivateEngine, witness: Witness, fault_table: FaultTable, cache: Path
) -> None:
    one = runtime()
    spec = launch_spec(cache)
    engine.cli("create", "--name", f"warden-{spec.instance_id}", one._settings.vllm.image, "/nothing")
    before = witness.traces()
    began = time.monotonic()
    with pytest.raises(NameTaken) as taken:
        one.launch(spec)
    seconds = time.monotonic() - began
    assert taken.value.params["name"] == f"warden-{spec.instance_id}"
    assert witness.traces() == before
    fault_table.add("name taken (the other container stays)", "name_taken", seconds, before)


def test_engine_without_a_gpu_runtime_is_named_and_the_created_container_removed(
    runtime: StartRuntime, bare_engine: PrivateEngine, fault_table: FaultTable, cache: Path
) -> None:
    witness = Witness(bare_engine)
    one = runtime(**{**engine_settings(bare_engine), "vllm_ports": PORTS})
    gpu = LaunchDevice("gpu-0", DeviceKind.GPU, 0, "GPU-1", 24 * GIB, 0, 20 * GIB)
    spec = launch_spec(cache, gpu)
    footprint = Footprint("gpu-0", (Part(PartName.WEIGHTS, GIB), Part(PartName.KV_CACHE, GIB)))
    before = witness.traces()
    began = time.monotonic()
    with pytest.raises(GpuRuntimeMissing):
        one.launch(replace(spec, footprints=(footprint,)))
    seconds = time.monotonic() - began
    assert len(witness.ids()) == 1
    assert witness.traces() == before
    fault_table.add("no GPU runtime", "gpu_runtime_missing", seconds, witness.traces())
