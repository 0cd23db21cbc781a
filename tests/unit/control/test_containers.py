"""What the controller does with containers: Warden's own in vLLM mode, other people's, and a Docker that is away or hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, foreign_container, loaded, model
from webapp.control.reconcile import reconcile
from webapp.domain.instance import InstanceState
from webapp.domain.memory import HolderKind
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, StepName, StepState
from webapp.domain.units import gib
from webapp.errors import Busy, CannotEnd, EngineMissing, EngineUnreachable, NotConfirmed, UnknownContainer, WardenError
from webapp.message import Message
from webapp.runtimes.base import Discovered, Leftover, Survivor

MakeBench = Callable[..., Bench]
AWAY = EngineUnreachable(socket="/run/docker.sock", detail="timed out")


def codes(operation: Operation) -> list[str]:
    return [finding.message.code for finding in operation.findings]


def error_of(operation: Operation) -> str | None:
    return None if operation.error is None else operation.error.code


def outcome_of(operation: Operation) -> str | None:
    return None if operation.outcome is None else operation.outcome.code


def load_in_container(bench: Bench, model_id: str = "lab/one", **changes: object) -> Operation:
    bench.vllm.problem = None
    request = replace(bench.request(model_id, **changes), mode=Mode.VLLM)
    return bench.wait(bench.controller.switch(request, "ivan"))


# Launch


def test_launch_gets_the_plans_footprint_and_the_fresh_figures_of_its_device(bench: Bench) -> None:
    bench.machine.foreign["gpu-0"] = gib(3)
    plan = bench.controller.plan(bench.request("lab/one"))
    bench.load("lab/one")
    (spec,) = bench.runtime.launched
    (device,) = spec.devices
    assert (device.total_bytes, device.reserved_bytes, device.free_bytes) == (gib(24), 0, gib(21))
    assert spec.footprints == tuple(planned.footprint for planned in plan.devices)
    assert spec.predicted_bytes == {"gpu-0": plan.devices[0].footprint.total_bytes}


def test_model_that_comes_back_is_estimated_and_measured_out_again(bench: Bench) -> None:
    bench.load("lab/one")
    (planned,) = bench.controller.plan(bench.request("lab/one")).devices
    bench.runtime.fails["lab/two"] = "dies"
    bench.machine.foreign["gpu-0"] = gib(2)
    bench.load("lab/two")
    _, _, again = bench.runtime.launched
    assert again.model_id == "lab/one"
    assert again.footprints == (planned.footprint,)
    assert planned.footprint.seen is not None
    assert again.devices[0].free_bytes == gib(22)


def test_stage_that_changes_nothing_but_the_message_is_told(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")

    def told() -> str | None:
        step = bench.controller.operation(operation.id).current_step
        return None if step is None or step.message is None else step.message.code

    for code in ("vllm_weights", "vllm_profiling"):
        bench.runtime.message = Message(code)
        bench.until(lambda code=code: told() == code)  # type: ignore[misc]
    bench.runtime.gate.set()
    assert bench.wait(operation).state is OperationState.SUCCEEDED


def test_docker_that_is_away_while_a_launch_is_watched_is_silence(bench: Bench) -> None:
    bench.runtime.fails["lab/one"] = "no_engine"
    assert error_of(bench.load("lab/one")) == "launch_stalled"


def test_docker_that_comes_back_while_a_launch_is_watched_does_not_fail_it(make_bench: MakeBench) -> None:
    bench = make_bench(launch_stall_s=30.0)
    bench.controller.start()
    bench.runtime.fails["lab/one"] = "no_engine"
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.runtime.fails.clear()
    assert bench.wait(operation).state is OperationState.SUCCEEDED


@pytest.mark.parametrize("fault", ["no_image", "disturbed"])
def test_server_that_is_in_no_state_to_start_it_sets_no_pause(bench: Bench, fault: str) -> None:
    bench.runtime.fails["lab/one"] = fault
    assert bench.load("lab/one").state is OperationState.FAILED
    assert bench.state_store.state.cooldowns == {}


def test_error_and_history_keep_the_last_lines_of_a_failed_start(bench: Bench) -> None:
    bench.runtime.fails["lab/one"] = "exited"
    operation = bench.load("lab/one")
    stored = bench.store.saved[operation.id]
    assert stored.error is not None
    assert (stored.error.code, stored.error.params["log"]) == ("container_exited", "line 1\nline 2")


def test_disturbed_start_is_made_once_more_under_another_id(bench: Bench) -> None:
    bench.runtime.disturbed_once.add("lab/one")
    operation = bench.load("lab/one")
    assert operation.state is OperationState.SUCCEEDED
    first, second = bench.runtime.launched
    assert first.instance_id != second.instance_id == operation.instance_id
    assert list(bench.runtime.alive) == [second.instance_id]
    (finding,) = operation.findings
    assert finding.message == Message(
        "launch_again_disturbed", {"model": "lab/one", "before_bytes": gib(9), "after_bytes": gib(10)}
    )


def test_start_that_lost_its_port_is_made_once_more_and_says_so(bench: Bench) -> None:
    bench.vllm.disturbed_once.add("lab/one")
    bench.vllm.disturbance = "port_lost"
    operation = load_in_container(bench)
    assert operation.state is OperationState.SUCCEEDED, operation
    (finding,) = operation.findings
    assert (finding.message.code, finding.message.params["port"]) == ("launch_again_port", 8100)
    assert len({spec.instance_id for spec in bench.vllm.launched}) == 2


def test_disturbed_start_is_planned_again_on_a_fresh_reading(bench: Bench) -> None:
    bench.runtime.disturbed_once.add("lab/one")
    bench.runtime.gates["kill"] = gate = Gate()
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")
    gate.wait_reached()
    bench.machine.foreign["gpu-0"] = gib(5)
    gate.open()
    assert bench.wait(operation).state is OperationState.SUCCEEDED
    assert [spec.devices[0].free_bytes for spec in bench.runtime.launched] == [gib(24), gib(19)]


def test_disturbed_start_that_no_longer_fits_is_refused_and_rolled_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.disturbed_once.add("lab/two")
    bench.runtime.gates["kill"] = gate = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    gate.wait_reached()
    bench.machine.foreign["gpu-0"] = gib(22.5)
    gate.open()
    ended = bench.wait(operation)
    assert error_of(ended) == "not_enough_memory"
    assert [spec.model_id for spec in bench.runtime.launched][:2] == ["lab/one", "lab/two"]


def test_start_that_is_disturbed_twice_fails_and_is_rolled_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = "disturbed"
    operation = bench.load("lab/two")
    assert (error_of(operation), outcome_of(operation)) == ("profile_disturbed", "rolled_back")
    assert [spec.model_id for spec in bench.runtime.launched] == ["lab/one", "lab/two", "lab/two", "lab/one"]
    assert bench.loaded == ["lab/one"]


def test_disturbed_start_that_cannot_be_removed_is_not_made_again(bench: Bench) -> None:
    bench.runtime.disturbed_once.add("lab/one")
    bench.runtime.survives.add("lab/one")
    operation = bench.load("lab/one")
    assert error_of(operation) == "profile_disturbed"
    assert len(bench.runtime.launched) == 1


def test_model_that_comes_back_may_be_disturbed_once_too(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = "dies"
    bench.runtime.disturbed_once.add("lab/one")
    operation = bench.load("lab/two")
    assert outcome_of(operation) == "rolled_back"
    assert bench.loaded == ["lab/one"]


# Containers of Warden's own are what workers are


def test_container_gets_a_receipt_as_a_worker_does(bench: Bench) -> None:
    bench.machine.own_kind = HolderKind.CONTAINER
    load_in_container(bench)
    (instance,) = bench.state_store.state.instances.values()
    operation = bench.wait(bench.controller.unload(instance.id, "maria"))
    (receipt,) = operation.receipts
    assert (receipt.freed_bytes, receipt.settled, receipt.others_bytes) == (gib(1), True, 0)


def test_container_is_evicted_for_a_worker_and_is_not_called_foreign(bench: Bench) -> None:
    bench.machine.own_kind = HolderKind.CONTAINER
    load_in_container(bench)
    assert bench.controller.emergency_preview().foreign == ()
    operation = bench.load("lab/two")
    assert (operation.state, operation.evicted) == (OperationState.SUCCEEDED, ("lab/one",))
    assert bench.loaded == ["lab/two"]


# Docker keeps what has ended


def test_unload_whose_container_stays_with_docker_is_a_warning_that_names_it(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.keeps.add("lab/one")
    (instance,) = bench.state_store.state.instances.values()
    operation = bench.wait(bench.controller.unload(instance.id, "maria"))
    assert operation.state is OperationState.WARNING
    assert operation.receipts[0].settled
    (finding,) = operation.findings
    assert (finding.message.code, finding.ok) == ("container_not_removed", False)
    assert finding.message.params["name"] == f"warden-{instance.id}"
    assert not bench.state_store.state.instances


def test_switch_away_from_a_container_that_stays_with_docker_is_a_warning(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.keeps.add("lab/one")
    operation = bench.load("lab/two")
    assert operation.state is OperationState.WARNING
    assert codes(operation) == ["container_not_removed"]
    assert bench.loaded == ["lab/two"]


def test_emergency_says_what_has_ended_and_is_not_removed(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.keeps.add("lab/one")
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.WARNING
    assert [(f.message.code, f.ok) for f in operation.findings] == [("ended_not_removed", False)]


def test_clean_says_what_of_the_dead_docker_keeps(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.fails["lab/one"] = "exited"
    bench.until(lambda: [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.DEAD])
    bench.vllm.keeps.add("lab/one")
    operation = bench.wait(bench.controller.clean("maria"))
    assert operation.state is OperationState.WARNING
    assert "container_not_removed" in codes(operation)


def test_emergency_tells_what_belonged_to_nobody(bench: Bench) -> None:
    bench.vllm.strays = (Leftover(Message("leftover_container", {"name": "warden-x"}), ok=False),)
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.WARNING
    assert [(f.message.code, f.ok) for f in operation.findings] == [("leftover_container", False)]


def test_what_ended_or_fell_silent_while_no_warden_ran_is_listed_as_that(make_bench: MakeBench) -> None:
    bench = make_bench()
    why = Message("container_exited", {"model": "lab/one", "exit": "SIGKILL", "log": ""})
    dead = replace(loaded(model("lab/one"), "dead", mode=Mode.VLLM), state=InstanceState.DEAD, problem=why)
    silent = replace(loaded(model("lab/two"), "silent", mode=Mode.VLLM), state=InstanceState.SILENT)
    bench.vllm.found = (Discovered(dead, adoptable=True), Discovered(silent, adoptable=True))
    findings = reconcile(bench.context).findings
    assert [(f.message.code, f.ok) for f in findings] == [("found_dead", False), ("adopted", True)]
    assert findings[0].message.params["reason"] == "container_exited"
    states = {name: (i.state, i.adopted) for name, i in bench.state_store.state.instances.items()}
    assert states == {"dead": (InstanceState.DEAD, True), "silent": (InstanceState.SILENT, True)}


# Docker is away


def test_docker_that_is_away_does_not_make_a_model_dead(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.fails["lab/one"] = "no_engine"
    bench.until(lambda: [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.SILENT])
    bench.vllm.fails.clear()
    bench.until(lambda: [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.READY])


def test_container_that_has_ended_is_dead(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.fails["lab/one"] = "exited"
    bench.until(lambda: [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.DEAD])


def test_hanging_docker_does_not_keep_an_emergency_from_ending_the_workers(make_bench: MakeBench) -> None:
    bench = make_bench(emergency_runtime_s=0.2)
    bench.controller.start()
    load_in_container(bench, "lab/one")
    bench.load("lab/two", keep_others=True)
    bench.vllm.gates["kill"] = Gate()
    bench.vllm.fails["lab/one"] = "no_engine"
    operation = bench.wait(bench.controller.emergency("maria"))
    assert not bench.runtime.alive
    assert operation.state is OperationState.WARNING
    not_reached = [f.message.params["name"] for f in operation.findings if f.message.code == "not_reached"]
    assert not_reached == ["lab/one"]
    assert "runtime_unreachable" in codes(operation)
    assert [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.STUCK]


def test_docker_that_is_away_keeps_a_switch_from_ending_what_it_could_not_bring_back(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.raises["reach"] = AWAY
    operation = bench.load("lab/two")
    assert (error_of(operation), outcome_of(operation)) == ("engine_unreachable", "nothing_changed")
    assert [(i.model_id, i.state) for i in bench.state_store.state.instances.values()] == [
        ("lab/one", InstanceState.READY)
    ]
    assert (bench.runtime.prepared, bench.runtime.launched) == (set(), [])


def test_docker_that_is_known_to_be_away_refuses_the_switch_at_once(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.problem = AWAY.message
    with pytest.raises(CannotEnd):
        bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.loaded == ["lab/one"]


def test_who_wants_no_return_may_switch_while_docker_is_away(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.problem = AWAY.message
    bench.vllm.raises |= {"reach": AWAY, "reap": AWAY}
    operation = bench.load("lab/two", restore_on_failure=False)
    assert (operation.state, outcome_of(operation)) == (OperationState.WARNING, "switch_done")
    assert bench.loaded == ["lab/two"]


def test_docker_that_goes_after_the_unload_does_not_fail_the_switch(bench: Bench) -> None:
    load_in_container(bench)
    bench.vllm.raises["reap"] = AWAY
    operation = bench.load("lab/two")
    assert (operation.state, outcome_of(operation)) == (OperationState.WARNING, "switch_done")
    assert codes(operation) == ["runtime_unreachable"]
    assert next(s for s in operation.steps if s.name is StepName.CLEAN).state is StepState.WARNING
    assert bench.loaded == ["lab/two"]


def test_dead_docker_does_not_keep_an_emergency_from_ending_the_workers(bench: Bench) -> None:
    load_in_container(bench, "lab/one")
    bench.load("lab/two", keep_others=True)
    bench.vllm.raises |= {"kill": AWAY, "reap": AWAY}
    operation = bench.wait(bench.controller.emergency("maria"))
    assert not bench.runtime.alive
    assert operation.state is OperationState.WARNING
    failed = {f.message.code: f.message.params.get("name") for f in operation.findings if not f.ok}
    assert failed == {"end_failed": "lab/one", "runtime_unreachable": None}


def test_docker_that_hangs_keeps_nobody_else_from_being_taken_in(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.vllm.gates["discover"] = Gate()
    bench.runtime.found = (Discovered(loaded(model("lab/one"), "left"), adoptable=True),)
    found = reconcile(bench.context, discover_s=0.1)
    assert found.unanswered == (bench.vllm,)
    assert sorted(finding.message.code for finding in found.findings) == ["adopted", "runtime_unreachable"]
    assert bench.loaded == ["lab/one"]


def test_server_without_docker_is_nothing_to_report(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.vllm.raises["discover"] = EngineMissing(socket="/run/docker.sock")
    found = reconcile(bench.context)
    assert (found.findings, found.unanswered) == ((), (bench.vllm,))


@pytest.mark.parametrize("fault", [AWAY, EngineMissing(socket="/run/docker.sock")])
def test_container_is_adopted_when_docker_comes_late(
    make_bench: MakeBench, fault: WardenError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    bench = make_bench()
    bench.vllm.raises["discover"] = fault
    bench.vllm.found = (Discovered(loaded(model("lab/one"), "left", mode=Mode.VLLM), adoptable=True),)
    bench.controller.start()
    assert bench.loaded == []
    bench.vllm.raises.clear()
    bench.ahead_s = 60.0
    bench.until(lambda: bench.loaded == ["lab/one"])
    assert bench.state_store.state.instances["left"].adopted


def test_late_docker_does_not_take_a_start_that_is_under_way_for_a_leftover(make_bench: MakeBench) -> None:
    bench = make_bench(launch_stall_s=1000.0)
    bench.vllm.raises["discover"] = AWAY
    bench.controller.start()
    bench.vllm.problem, bench.vllm.gate = None, threading.Event()
    operation = bench.controller.switch(replace(bench.request("lab/one"), mode=Mode.VLLM), "ivan")
    assert bench.vllm.launching.wait(10)
    assert operation.instance_id is not None
    half = loaded(model("lab/one"), operation.instance_id, mode=Mode.VLLM)
    bench.vllm.found = (Discovered(half, adoptable=False, reason=Message("half_started")),)
    bench.vllm.gates["reap"] = gate = Gate()
    bench.vllm.raises.clear()
    bench.ahead_s = 60.0
    gate.wait_reached()
    assert list(bench.vllm.alive) == [operation.instance_id]
    gate.open()
    bench.vllm.gate.set()
    assert bench.wait(operation).state is OperationState.SUCCEEDED


# Containers of other people


def test_snapshot_lists_them_under_a_version_of_its_own(bench: Bench) -> None:
    bench.monitor.miss(100)
    before = bench.controller.snapshot()
    bench.host.containers = (foreign_container(),)
    listed = bench.controller.snapshot()
    bench.vllm.problem = None
    usable = bench.controller.snapshot()
    assert (before.containers, listed.containers) == ((), (foreign_container(),))
    assert len({before.version, listed.version, usable.version}) == 3
    bench.monitor.miss(0)


def test_container_is_stopped_with_a_receipt(bench: Bench) -> None:
    container = foreign_container()
    bench.host.containers = (container,)
    bench.machine.contained["gpu-0", container.id] = gib(6)
    begun = bench.controller.stop_container(container.id, container.name, "maria")
    assert (begun.kind, begun.actor, begun.devices) == (OperationKind.STOP_CONTAINER, "maria", ("gpu-0",))
    operation = bench.wait(begun)
    assert (operation.state, outcome_of(operation)) == (OperationState.SUCCEEDED, "container_ended_freed")
    (receipt,) = operation.receipts
    assert (receipt.expected_bytes, receipt.freed_bytes, receipt.others_bytes) == (gib(6), gib(6), 0)
    assert [step.name for step in operation.steps] == [StepName.END, StepName.SETTLE]
    assert not bench.host.containers


def test_container_that_holds_nothing_is_stopped_without_a_receipt(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)
    operation = bench.wait(bench.controller.stop_container("c" * 64, "alices-vllm", "maria"))
    assert (operation.state, outcome_of(operation)) == (OperationState.SUCCEEDED, "container_ended")
    assert (operation.devices, operation.receipts) == ((), ())


def test_container_is_stopped_only_under_its_very_name(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)
    for name in ("", "alices", "alices-vllm "):
        with pytest.raises(NotConfirmed) as refusal:
            bench.controller.stop_container("c" * 64, name, "maria")
        assert refusal.value.params == {"container": "c" * 64, "name": "alices-vllm", "owner": "alice"}
    for container_id in ("c" * 12, "d" * 64):
        with pytest.raises(UnknownContainer):
            bench.controller.stop_container(container_id, "alices-vllm", "maria")
    assert bench.host.containers == (foreign_container(),)


def test_container_is_stopped_once_and_not_while_its_device_is_claimed(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)
    bench.machine.contained["gpu-0", "c" * 64] = gib(1)
    bench.runtime.gate = threading.Event()
    switch = bench.controller.switch(bench.request("lab/one"), "ivan")
    with pytest.raises(Busy):
        bench.controller.stop_container("c" * 64, "alices-vllm", "maria")
    bench.runtime.gate.set()
    bench.wait(switch)
    bench.monitor.gate = Gate()
    first = bench.controller.stop_container("c" * 64, "alices-vllm", "maria")
    with pytest.raises(Busy):
        bench.controller.stop_container("c" * 64, "alices-vllm", "maria")
    bench.monitor.gate.open()
    assert bench.wait(first).state is OperationState.SUCCEEDED


def test_container_whose_process_survives_is_not_called_stopped(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)
    bench.host.survivors = (Survivor(77, "alice", "vllm", "D"),)
    operation = bench.wait(bench.controller.stop_container("c" * 64, "alices-vllm", "maria"))
    assert operation.error is not None
    assert operation.error.code == "stop_failed"
    assert operation.error.params == {"model": "alices-vllm", "pid": 77, "user": "alice", "state": "D"}


def test_container_whose_memory_stays_ends_with_a_warning(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)
    bench.machine.contained["gpu-0", "c" * 64] = gib(6)
    bench.host.machine = replace(bench.machine)  # what it holds is not given back
    operation = bench.wait(bench.controller.stop_container("c" * 64, "alices-vllm", "maria"))
    assert (operation.state, outcome_of(operation)) == (OperationState.WARNING, "container_ended_held")
    assert operation.receipts[0].still_held_by[0].used_bytes == gib(6)


def test_emergency_leaves_them_alone_and_says_so(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)
    bench.load("lab/one")
    assert bench.controller.emergency_preview().containers == (foreign_container(),)
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.SUCCEEDED
    assert "stays_container" in codes(operation)
    assert bench.host.containers == (foreign_container(),)
