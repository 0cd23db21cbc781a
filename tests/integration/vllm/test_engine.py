"""Containers on a real engine: the stop sequence, other people's, adoption, and an engine that hangs, dies and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.engine import images
from tests.engine.dockerd import PrivateEngine
from tests.engine.engine_fixtures import need, variables
from tests.engine.server import WardenServer, wait_for
from tests.integration.vllm.conftest import (
    ACTOR,
    ENDED,
    MODELS,
    StartServer,
    StartWarden,
    Witness,
    engine_process,
    inspect,
    load,
    processes_of,
    standin,
    switch_request,
)
from webapp.domain.instance import InstanceState
from webapp.domain.operation import Operation, OperationState, StepName
from webapp.domain.units import MIB
from webapp.errors import NotConfirmed, UnknownContainer
from webapp.runtimes.base import ForeignContainer, StopStage

ONE, TWO, _ = MODELS
HELD_MB = 1500
FREEZER = Path("/sys/fs/cgroup/freezer")
HUNG_S = 3
"""How long a hanging engine is waited for…"""
PAGE_S = 2.5
"""…which a page never does."""


def stage_of(operation: Operation, step: StepName = StepName.UNLOAD) -> object:
    (found,) = [s for s in operation.steps if s.name is step]
    assert found.message is not None, operation
    return found.message.params.get("stage")


def only(engine: PrivateEngine) -> str:
    """The one container that there is."""
    (container,) = engine.containers()
    return container


# The end


def test_plain_stop_leaves_nothing_and_its_receipt_is_what_the_container_held(
    warden: StartWarden, witness: Witness
) -> None:
    one = warden(vllm_env=standin(mb=HELD_MB))
    before = witness.traces()
    instance = one.load(ONE)
    held = instance.measured_bytes["host"]
    assert held >= HELD_MB * MIB
    operation = one.unload(instance)
    assert operation.state in ENDED, operation
    assert stage_of(operation) == StopStage.TERMINATE
    (receipt,) = operation.receipts
    assert receipt.freed_bytes is not None
    assert abs(receipt.freed_bytes - held) <= held * 0.25, receipt  # the host's RAM has other users too
    assert witness.traces() == before
    assert one.instances == ()


def test_container_that_is_deaf_to_sigterm_is_killed_and_the_operation_says_so(
    warden: StartWarden, witness: Witness
) -> None:
    one = warden(vllm_env=standin("deaf"))
    before = witness.traces()
    instance = one.load(ONE)
    operation = one.unload(instance)
    assert operation.state in ENDED, operation
    assert stage_of(operation) == StopStage.KILL
    assert witness.traces() == before


def test_engine_process_that_outlives_its_server_is_ended_too(
    warden: StartWarden, engine: PrivateEngine, witness: Witness
) -> None:
    one = warden(vllm_env=standin())
    before = witness.traces()
    # among the host's processes the kernel ends none with the first one
    theirs = engine.cli(
        "run", "--detach", "--rm", "--pid=host", "--name=alice-vllm", "--env=STANDIN_FAULT=leave_engine", images.STANDIN, "alice/model",
    )  # fmt: skip
    wait_for(lambda: one.controller.snapshot().containers, 5, lambda: "it is not listed")
    left = engine_process(theirs)
    operation = one.finished(one.controller.stop_container(theirs, "alice-vllm", ACTOR))
    assert operation.state in ENDED, operation
    assert not Path(f"/proc/{left}").exists()
    wait_for(lambda: witness.traces() == before, 5, lambda: f"{witness.traces()}")


def test_shared_memory_of_a_killed_container_is_given_back(warden: StartWarden, witness: Witness) -> None:
    one = warden(vllm_env=standin("shm"))
    before = witness.traces()
    one.load(ONE)
    assert len(witness.traces().shared) == len(before.shared) + 1
    assert one.finished(one.controller.emergency(ACTOR)).state in ENDED
    assert witness.traces() == before


def test_paused_container_is_ended(warden: StartWarden, engine: PrivateEngine, witness: Witness) -> None:
    one = warden(vllm_env=standin())
    before = witness.traces()
    instance = one.load(ONE)
    engine.cli("pause", only(engine))
    operation = one.unload(instance)
    assert operation.state in ENDED, operation
    assert witness.traces() == before


def test_process_that_nobody_can_end_is_named_and_the_model_stays_listed_until_it_is_gone(
    warden: StartWarden, engine: PrivateEngine, witness: Witness
) -> None:
    if not (FREEZER / "cgroup.procs").exists():
        need("needs the freezer of control groups v1: what is frozen there cannot be killed")
    one = warden(vllm_env=standin(), vllm_term_s=0.5, vllm_kill_s=1, docker_timeout_s=1)
    before = witness.traces()
    instance = one.load(ONE)
    pid = engine_process(only(engine))
    with frozen(pid):
        operation = one.unload(instance)
        assert operation.state is OperationState.FAILED
        assert operation.error is not None
        assert operation.error.code == "stop_failed", operation.error
        assert operation.error.params["pid"] == pid
        assert operation.error.params["user"] == "root"
        assert operation.error.params["state"] in ("D", "T")
        (stuck,) = one.instances
        assert stuck.state is InstanceState.STUCK
        assert stuck.problem is not None
        assert stuck.problem.params["pid"] == pid
    again = one.unload(stuck)
    assert again.state in ENDED, again
    assert witness.traces() == before
    assert one.instances == ()


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Keep a process from running and from being killed."""
    group = FREEZER / f"warden-test-{os.getpid()}"
    group.mkdir()
    (group / "cgroup.procs").write_text(str(pid))
    (group / "freezer.state").write_text("FROZEN")
    wait_for(lambda: "FROZEN" in (group / "freezer.state").read_text(), 5, lambda: "it does not freeze")
    try:
        yield
    finally:
        (group / "freezer.state").write_text("THAWED")
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 10, lambda: "the process does not end")
        group.rmdir()


def test_start_that_is_cancelled_leaves_nothing(warden: StartWarden, engine: PrivateEngine, witness: Witness) -> None:
    one = warden(vllm_env=standin("slow", seconds=60))
    before = witness.traces()
    operation = one.controller.switch(switch_request(ONE), ACTOR)
    wait_for(lambda: engine.containers(running=True), 15, lambda: "no container runs")
    one.controller.cancel(operation.id, ACTOR)
    assert one.finished(operation).state is OperationState.CANCELLED
    assert witness.traces() == before
    assert one.instances == ()


# Other people's


def test_foreign_container_is_listed_and_stopped_only_by_its_very_name_and_kept(
    warden: StartWarden, engine: PrivateEngine
) -> None:
    one = warden(vllm_env=standin())
    ours = one.load(ONE)
    theirs = engine.cli(
        "run", "--detach", "--init", "--name=alice-vllm", "--publish=127.0.0.1:18390:8000",
        "--env=STANDIN_FAULT=silent", images.STANDIN, "alice/model",
    )  # fmt: skip
    listed = wait_for(lambda: one.controller.snapshot().containers, 5, lambda: "it is not listed")
    (seen,) = listed
    assert (seen.id, seen.name, seen.image, seen.state) == (theirs, "alice-vllm", images.STANDIN, "running")
    assert seen.ports == ("127.0.0.1:18390",)
    assert (seen.model, seen.of_warden) == ("alice/model", None)
    with pytest.raises(NotConfirmed):
        one.controller.stop_container(theirs, "alice-vll", ACTOR)
    own = next(c for c in engine.containers() if c != theirs)
    with pytest.raises(UnknownContainer):
        one.controller.stop_container(own, f"warden-{ours.id}", ACTOR)
    assert processes_of(theirs)
    operation = one.finished(one.controller.stop_container(theirs, "alice-vllm", ACTOR))
    assert operation.state in ENDED, operation
    assert processes_of(theirs) == []
    assert inspect(engine, theirs)["State"]["Status"] == "exited"
    assert [i.model_id for i in one.instances] == [ONE]


def test_another_wardens_container_is_foreign_with_its_home(
    warden: StartWarden, engine: PrivateEngine, tmp_path: Path
) -> None:
    mine = warden(vllm_env=standin())
    theirs = warden(vllm_env=standin(), state_dir=tmp_path / "other")
    instance = theirs.load(ONE)

    def seen() -> tuple[ForeignContainer, ...]:
        return mine.controller.snapshot().containers

    (foreign,) = wait_for(seen, 5, lambda: "it is not listed")
    assert (foreign.name, foreign.owner, foreign.model) == (f"warden-{instance.id}", ACTOR, ONE)
    assert foreign.of_warden == str(tmp_path / "other")
    assert mine.finished(mine.controller.emergency(ACTOR)).state is not OperationState.FAILED
    assert processes_of(foreign.id)


# The engine goes and comes back


def test_engine_that_is_restarted_underneath_ends_in_a_dead_model_and_works_again(
    warden: StartWarden, engine: PrivateEngine
) -> None:
    one = warden(vllm_env=standin())
    instance = one.load(ONE)
    engine.restart()
    dead = one.becomes(instance, InstanceState.DEAD)
    assert dead.problem is not None
    assert dead.problem.code == "container_exited"
    one.becomes_possible(None)
    assert one.unload(dead).state in ENDED
    assert one.load(ONE).state is InstanceState.READY
    assert len(engine.containers()) == 1


def test_engine_that_is_killed_is_said_and_works_again_when_it_is_back(
    warden: StartWarden, engine: PrivateEngine
) -> None:
    one = warden(vllm_env=standin())
    instance = one.load(ONE)
    engine.kill()
    one.becomes_possible("engine_unreachable")
    engine.restart()
    one.becomes_possible(None)
    # an engine without live-restore ends what its predecessor left running
    dead = one.becomes(instance, InstanceState.DEAD)
    assert dead.problem is not None
    assert one.unload(dead).state in ENDED
    assert one.load(TWO).state is InstanceState.READY


def test_container_that_a_hanging_engine_keeps_is_said_and_removed_when_the_engine_is_back(
    warden: StartWarden, engine: PrivateEngine, witness: Witness
) -> None:
    one = warden(vllm_env=standin(), docker_timeout_s=1)
    before = witness.traces()
    instance = one.load(ONE)
    container = only(engine)
    engine.pause()
    operation = one.unload(instance)
    assert operation.state is OperationState.WARNING
    assert [f.message.code for f in operation.findings] == ["container_not_removed"]
    assert processes_of(container) == []
    assert one.instances == ()
    engine.resume()
    wait_for(lambda: witness.traces() == before, 15, lambda: f"{witness.traces()} are left")


def test_container_that_the_engine_fails_to_remove_is_said_and_removed_when_it_can(
    warden: StartWarden, engine: PrivateEngine, witness: Witness
) -> None:
    one = warden(vllm_env=standin(), vllm_kill_s=1)
    before = witness.traces()
    instance = one.load(ONE)
    container = only(engine)
    with immutable(engine.data_root / "containers" / container / "hostname"):
        operation = one.unload(instance)
        assert operation.state is OperationState.WARNING
        (finding,) = operation.findings
        assert finding.message.code == "container_not_removed"
        assert finding.message.params["name"] == f"warden-{instance.id}"
        assert processes_of(container) == []
    wait_for(lambda: witness.traces() == before, 15, lambda: f"{witness.traces()} are left")
    assert one.load(TWO).state is InstanceState.READY


@contextmanager
def immutable(path: Path) -> Iterator[None]:
    """Keep a file from being removed, even by root."""
    subprocess.run(["chattr", "+i", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(path)], check=True)


# The whole server


def test_ready_container_is_adopted_after_a_kill_and_a_half_started_one_removed(
    server: StartServer, engine: PrivateEngine
) -> None:
    one = server(vllm_env=variables(standin_fault="silent", standin_fault_model=TWO), launch_stall_s=60)
    before = load(one, ONE)
    ready = only(engine)
    one.switch(TWO, mode="vllm", keep_others=True, options={"max_tokens": 256})
    wait_for(lambda: len(engine.containers(running=True)) == 2, 15, lambda: "the second does not start")
    one.kill()
    one.start()
    wait_for(lambda: engine.containers() == [ready], 15, lambda: f"{engine.containers()} are there")
    after = one.instance_of(ONE)
    assert (after["id"], after["state"]) == (before["id"], "ready")
    assert [i["model"] for i in one.status()["instances"]] == [ONE]
    answer = one.post(f"/api/v1/instances/{after['id']}/ask", {"prompt": "hello"})
    assert answer.status_code == 200, answer.text
    assert "stand-in" in answer.text
    unloaded = one.finished(one.post(f"/api/v1/instances/{after['id']}/unload").json()["id"])
    assert unloaded["state"] in ENDED, unloaded
    assert engine.containers() == []


def test_model_that_is_too_busy_to_answer_is_adopted_as_silent_and_is_ready_when_it_answers(
    server: StartServer, engine: PrivateEngine
) -> None:
    one = server()
    before = load(one, ONE)
    container = only(engine)
    one.kill()
    busy = processes_of(container)
    for pid in busy:
        os.kill(pid, signal.SIGSTOP)
    one.start()
    one.becomes(before["id"], "silent")
    for pid in busy:
        os.kill(pid, signal.SIGCONT)
    one.becomes(before["id"], "ready")
    assert engine.containers() == [container]
    one.finished(one.post(f"/api/v1/instances/{before['id']}/unload").json()["id"])
    assert engine.containers() == []


def test_model_that_died_while_no_warden_ran_is_listed_with_its_reason_until_it_is_taken_away(
    server: StartServer, engine: PrivateEngine
) -> None:
    one = server()
    before = load(one, ONE)
    one.kill()
    engine.cli("kill", only(engine))
    one.start()
    dead = one.becomes(before["id"], "dead")
    assert dead["problem"]["code"] == "container_exited"
    assert dead["problem"]["params"]["exit"] == "SIGKILL"
    assert "Application startup complete" in dead["problem"]["params"]["log"]
    one.finished(one.post(f"/api/v1/instances/{before['id']}/unload").json()["id"])
    assert engine.containers() == []
    assert one.status()["instances"] == []


def test_engine_that_hangs_keeps_no_page_and_no_emergency_waiting(
    server: StartServer, engine: PrivateEngine, witness: Witness
) -> None:
    worker = f"{sys.executable} -m webapp.worker --torch-device cpu"
    one = server(worker_command=worker, launch_stall_s=60, docker_timeout_s=HUNG_S)
    load(one, TWO, "transformers")
    load(one, ONE, keep_others=True)
    container = only(engine)
    engine.pause()
    wait_for(
        lambda: (one.status()["mode_problems"]["vllm"] or {}).get("code") == "engine_unreachable",
        10,
        lambda: f"the page says nothing: {one.status()['mode_problems']}",
    )
    assert slowest_page(one) < PAGE_S
    operation = one.finished(one.post("/api/v1/emergency").json()["id"])
    assert operation["state"] == "warning", operation
    assert one.worker_pids() == []
    assert processes_of(container) == []
    told = {(finding["ok"], finding["message"]["code"]) for finding in operation["findings"]}
    assert {(True, "ended_instance"), (False, "runtime_unreachable")} <= told, operation
    assert slowest_page(one) < PAGE_S
    engine.resume()
    clean = one.finished(one.post("/api/v1/clean").json()["id"])
    assert clean["state"] != "failed", clean
    wait_for(lambda: engine.containers() == [], 10, lambda: f"{engine.containers()} stay")
    assert one.status()["instances"] == []


def slowest_page(server: WardenServer) -> float:
    """The longest of five requests for the page, in seconds."""
    times = []
    for _ in range(5):
        began = time.monotonic()
        assert httpx.get(server.url + "/", timeout=10).status_code == 200
        times.append(time.monotonic() - began)
    return max(times)
