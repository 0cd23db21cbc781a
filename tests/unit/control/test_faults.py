"""What the controller does when its parts fail, hang, are late or lie, and when operations overlap."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, loaded, model
from webapp.control.context import Expired, within
from webapp.control.emergency import _Tally, _terminate_all
from webapp.control.run import Run
from webapp.domain.instance import InstanceState
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions
from webapp.domain.operation import Operation, OperationState, StepName, StepState
from webapp.domain.units import gib
from webapp.errors import AlreadyLoaded, DiskFull, NotCancellable, StoreUnavailable, Unavailable
from webapp.runtimes.base import Discovered, LaunchDevice, LaunchSpec

MakeBench = Callable[..., Bench]


def error_of(operation: Operation) -> str | None:
    return None if operation.error is None else operation.error.code


def outcome_of(operation: Operation) -> str | None:
    return None if operation.outcome is None else operation.outcome.code


def codes(operation: Operation) -> list[str]:
    return [finding.message.code for finding in operation.findings]


def load_instance(bench: Bench, model_id: str = "lab/one", **changes: object) -> str:
    instance_id = bench.load(model_id, **changes).instance_id
    assert instance_id is not None
    return instance_id


def make_stuck(bench: Bench, instance_id: str) -> None:
    """Let an unload fail, so that the instance stays listed as stuck."""
    bench.runtime.survives.add(bench.state_store.state.instances[instance_id].model_id)
    bench.wait(bench.controller.unload(instance_id, "maria"))
    assert bench.state_store.state.instances[instance_id].state is InstanceState.STUCK


def left_by_an_earlier_warden(instance_id: str, model_id: str = "lab/one") -> LaunchSpec:
    return LaunchSpec(
        instance_id=instance_id,
        operation_id="earlier",
        model_id=model_id,
        revision="a" * 40,
        snapshot=Path("/nowhere"),
        options=LaunchOptions(),
        devices=(LaunchDevice("gpu-0", DeviceKind.GPU, 0, "GPU-gpu-0"),),
        owner="ivan",
    )


@contextmanager
def no_more_threads() -> Iterator[None]:
    """Ask for stacks that no address space has room for: the kernel then refuses every new thread."""
    usual = threading.stack_size(2**47 - 2**12)
    try:
        yield
    finally:
        threading.stack_size(usual)


# What a start needs is made before anything goes for it


def test_a_switch_that_cannot_be_prepared_unloads_nothing_and_blames_no_model(bench: Bench) -> None:
    kept = load_instance(bench)
    bench.runtime.raises["prepare lab/two"] = DiskFull(model="lab/two", path="/state/workers", mount="/state")

    operation = bench.load("lab/two")

    assert error_of(operation) == "disk_full"
    assert outcome_of(operation) == "nothing_changed"
    assert bench.state_store.state.instances[kept].state is InstanceState.READY
    assert bench.state_store.state.cooldowns == {}
    assert bench.runtime.launched[-1].model_id == "lab/one"


def test_what_was_prepared_is_given_up_when_the_switch_ends_before_its_launch(bench: Bench) -> None:
    load_instance(bench)
    reaping = bench.runtime.gates["reap"] = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    reaping.wait_reached()
    bench.catalog.models = (model("lab/one"),)
    reaping.open()

    assert error_of(bench.wait(operation)) == "unknown_model"
    assert bench.runtime.prepared == set()


@pytest.mark.parametrize("by", ["a cancel", "an emergency"])
def test_a_switch_that_is_being_prepared_ends_at_once_and_what_is_prepared_late_is_given_up(
    bench: Bench, by: str
) -> None:
    preparing = bench.runtime.gates["prepare"] = Gate()
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")
    preparing.wait_reached()
    if by == "a cancel":
        bench.controller.cancel(operation.id, "ivan")
    else:
        bench.wait(bench.controller.emergency("maria"))
    bench.until(lambda: not bench.controller.operation(operation.id).is_running)
    assert f"warden-prepare-{operation.id}" in {thread.name for thread in threading.enumerate()}
    preparing.open()

    bench.until(lambda: bench.thread_of(operation) is None)
    assert bench.controller.operation(operation.id).state is OperationState.CANCELLED
    assert bench.runtime.prepared == set()


def test_what_is_prepared_in_the_moment_of_a_cancel_is_given_up(bench: Bench) -> None:
    class Cancels(Gate):
        def pass_through(self) -> None:
            (operation,) = bench.state_store.state.running
            bench.controller.cancel(operation, "ivan")

    bench.runtime.gates["prepare"] = Cancels()
    assert bench.load("lab/one").state is OperationState.CANCELLED
    assert (bench.runtime.prepared, bench.runtime.launched) == (set(), [])


def test_memory_that_preparing_took_refuses_a_switch_before_anything_is_unloaded(bench: Bench) -> None:
    """The libraries come into memory with the first model that needs them."""
    kept = load_instance(bench)
    bench.runtime.prepared_takes = {"gpu-0": gib(22.9)}

    operation = bench.load("lab/two")

    assert error_of(operation) == "not_enough_memory"
    assert bench.state_store.state.instances[kept].state is InstanceState.READY
    assert bench.runtime.prepared == set()


# At the start


def test_live_model_outlives_a_start_that_could_not_list_it(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.runtime.raises["discover"] = OSError("one unreadable instance.json")
    bench.runtime.launch(left_by_an_earlier_warden("live"))
    bench.controller.start()
    assert "live" in bench.runtime.alive


def test_broken_instance_that_cannot_be_removed_is_listed_as_stuck(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.runtime.launch(left_by_an_earlier_warden("half", "lab/two"))
    bench.runtime.survives.add("lab/two")
    bench.runtime.found = (Discovered(loaded(model("lab/two"), "half"), adoptable=False),)
    bench.controller.start()
    assert bench.state_store.state.instances["half"].state is InstanceState.STUCK


def test_instance_whose_removal_breaks_is_listed_as_stuck(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.runtime.launch(left_by_an_earlier_warden("half"))
    bench.runtime.raises["kill"] = OSError("no such control group")
    bench.runtime.fails["lab/one"] = "silent"
    bench.runtime.found = (Discovered(loaded(model("lab/one"), "half"), adoptable=False),)
    bench.controller.start()
    assert bench.state_store.state.instances["half"].state is InstanceState.STUCK


def test_start_works_while_the_store_is_away(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.store.raises = StoreUnavailable(reason="disk full")
    bench.controller.start()
    assert bench.wait(bench.controller.clean("maria")).state is OperationState.SUCCEEDED
    bench.store.raises = None
    assert bench.load("lab/one").state is OperationState.SUCCEEDED


# Side by side


def test_model_that_starts_beside_is_not_reaped(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(24)}
    bench.load("lab/one", devices=("gpu-0",))
    reap = bench.runtime.gates["reap"] = Gate()
    first = bench.controller.switch(bench.request("lab/two", devices=("gpu-0",)), "ivan")
    reap.wait_reached()
    second = bench.load("lab/three", devices=("gpu-1",))
    reap.open()
    assert bench.wait(first).state is second.state is OperationState.SUCCEEDED
    assert sorted(spec.model_id for spec in bench.runtime.alive.values()) == ["lab/three", "lab/two"]


def test_automatic_choice_does_not_load_a_second_copy(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(24)}
    bench.load("lab/one")
    with pytest.raises(AlreadyLoaded):
        bench.controller.switch(bench.request("lab/one"), "maria")
    assert bench.loaded == ["lab/one"]


def test_thread_that_cannot_start_gives_the_claims_back(bench: Bench) -> None:
    with no_more_threads(), pytest.raises(Unavailable):
        bench.controller.clean("maria")
    assert bench.state_store.state.claims == {}
    assert bench.load("lab/one").state is OperationState.SUCCEEDED


# Emergency


def test_late_thread_of_an_ended_emergency_spares_the_next_model(bench: Bench) -> None:
    emergency = bench.wait(bench.controller.emergency("maria"))
    hangs = bench.runtime.gates["processes"] = Gate()
    ended, late = threading.Event(), Run(emergency.id, bench.context)

    def terminate_all(expired: Expired) -> None:
        try:
            _terminate_all(late, bench.runtime, _Tally(), expired, {})
        finally:
            ended.set()

    assert within(0.01, terminate_all, "end") is None
    bench.load("lab/one")
    hangs.open()
    assert ended.wait(10)
    assert [spec.model_id for spec in bench.runtime.alive.values()] == ["lab/one"]


def test_reaping_of_an_ended_emergency_spares_what_is_listed(bench: Bench) -> None:
    emergency = bench.wait(bench.controller.emergency("maria"))
    bench.load("lab/one")
    bench.runtime.raises["kill"] = OSError("too late to kill anything")
    _terminate_all(Run(emergency.id, bench.context), bench.runtime, _Tally(), Expired(), {})
    assert [spec.model_id for spec in bench.runtime.alive.values()] == ["lab/one"]


def test_emergency_names_a_runtime_that_does_not_answer(bench: Bench) -> None:
    bench.runtime.raises["processes"] = OSError("no socket")
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.WARNING
    assert "runtime_unreachable" in codes(operation)


@pytest.mark.parametrize("fault", [StoreUnavailable(reason="disk full"), ValueError("surprise")])
def test_emergency_takes_over_while_the_store_fails(
    bench: Bench, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    bench.runtime.gate = threading.Event()
    switch = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.store.raises = fault
    assert bench.wait(bench.controller.emergency("maria")).state is OperationState.SUCCEEDED
    bench.until(lambda: bench.thread_of(switch) is None)
    assert (bench.state_store.state.running, bench.state_store.state.claims, bench.runtime.alive) == ({}, {}, {})


def test_emergency_kills_before_a_hanging_store_answers(bench: Bench) -> None:
    bench.load("lab/one")
    bench.store.gate = Gate()
    operation = bench.controller.emergency("maria")
    bench.store.gate.wait_reached()
    bench.until(lambda: not bench.state_store.state.running)
    assert not bench.runtime.alive
    bench.store.gate.open()
    assert bench.wait(operation).state is OperationState.SUCCEEDED


def test_operation_that_was_taken_over_is_stored_as_cancelled(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    switch = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.store.gate = Gate()
    emergency = bench.controller.emergency("maria")
    bench.until(lambda: not bench.state_store.state.running and bench.thread_of(switch) is None)
    bench.store.gate.open()
    bench.wait(emergency)
    states = [operation.state for operation in bench.store.written if operation.id == switch.id]
    assert (set(states[:-1]), states[-1]) == ({OperationState.RUNNING}, OperationState.CANCELLED)


def test_operation_that_was_taken_over_shows_no_step_that_still_runs(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    switch = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.wait(bench.controller.emergency("maria"))
    states = {step.name: step.state for step in bench.controller.operation(switch.id).steps}
    assert states[StepName.LAUNCH] is StepState.FAILED
    assert states[StepName.READY] is StepState.SKIPPED
    assert not {StepState.RUNNING, StepState.WAITING} & set(states.values())


def test_emergency_does_not_wait_for_memory_that_a_start_has_not_taken(bench: Bench) -> None:
    bench.runtime.takes_bytes = 0
    bench.runtime.gate = threading.Event()
    bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    assert bench.wait(bench.controller.emergency("maria")).state is OperationState.SUCCEEDED


def test_emergency_counts_its_last_look(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.survives_once.add("lab/one")
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.SUCCEEDED
    assert "stop_failed" not in codes(operation)
    assert bench.loaded == []
    assert not bench.runtime.alive


def test_emergency_says_what_it_could_not_end(bench: Bench) -> None:
    instance_id = load_instance(bench)
    bench.runtime.raises["kill"] = OSError("no such control group")
    bench.runtime.fails["lab/one"] = "silent"
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.WARNING
    assert "end_failed" in codes(operation)
    assert bench.state_store.state.instances[instance_id].state is InstanceState.STUCK


# What is stuck or dead


def test_dead_model_with_a_live_process_stays_listed_after_a_clean(bench: Bench) -> None:
    instance_id = load_instance(bench)
    bench.runtime.died.add(instance_id)
    bench.until(lambda: bench.state_store.state.instances[instance_id].state is InstanceState.DEAD)
    bench.runtime.survives.add("lab/one")
    operation = bench.wait(bench.controller.clean("maria"))
    assert operation.state is OperationState.WARNING
    assert codes(operation) == ["dead_not_removed"]
    assert bench.state_store.state.instances[instance_id].state is InstanceState.STUCK


def test_stuck_model_is_neither_evicted_nor_restored(bench: Bench) -> None:
    instance_id = load_instance(bench)
    make_stuck(bench, instance_id)
    bench.runtime.survives.clear()
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.load("lab/two")
    assert (operation.evicted, outcome_of(operation)) == ((), "nothing_changed")
    assert bench.state_store.state.instances[instance_id].state is InstanceState.STUCK
    assert [spec.model_id for spec in bench.runtime.launched] == ["lab/one", "lab/two"]


def test_dead_model_is_cleared_away_by_a_switch_and_not_restored(bench: Bench) -> None:
    instance_id = load_instance(bench)
    bench.runtime.died.add(instance_id)
    bench.until(lambda: bench.state_store.state.instances[instance_id].state is InstanceState.DEAD)
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.load("lab/two")
    assert (operation.evicted, outcome_of(operation)) == ((), "nothing_changed")
    assert bench.loaded == []


def test_switch_beside_a_stuck_model_unloads_the_healthy_one_once(bench: Bench) -> None:
    instance_id = load_instance(bench)
    bench.load("lab/two", keep_others=True)
    make_stuck(bench, instance_id)
    operation = bench.load("lab/three")
    assert (operation.state, operation.evicted) == (OperationState.SUCCEEDED, ("lab/two",))
    assert [spec.model_id for spec in bench.runtime.launched] == ["lab/one", "lab/two", "lab/three"]
    assert bench.loaded == ["lab/one", "lab/three"]


def test_failed_launch_that_cannot_be_removed_stays_listed_and_keeps_its_error(bench: Bench) -> None:
    bench.runtime.fails["lab/one"] = "oom"
    bench.runtime.raises["kill"] = OSError("no such control group")
    operation = bench.load("lab/one")
    assert error_of(operation) == "out_of_memory"
    bench.until(lambda: [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.STUCK])
    assert bench.state_store.state.cooldowns["lab/one"].failures == 1


# Rollback


def test_rollback_waits_until_the_failed_launch_has_given_its_memory_back(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(14)}
    bench.machine.late_readings = 5
    bench.runtime.takes_bytes = gib(10)
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.load("lab/two")
    assert (error_of(operation), outcome_of(operation)) == ("worker_died", "rolled_back")
    assert bench.loaded == ["lab/one"]


def test_model_that_cannot_be_brought_back_leaves_the_next_its_turn(bench: Bench) -> None:
    bench.load("lab/one")
    bench.load("lab/two", keep_others=True)
    bench.runtime.raises["launch lab/one"] = OSError("fork: retry")
    bench.runtime.fails["lab/three"] = "dies"
    operation = bench.load("lab/three")
    assert (error_of(operation), outcome_of(operation)) == ("worker_died", "restore_failed")
    assert sorted(codes(operation)) == ["restore_failed_because", "restored"]
    assert bench.loaded == ["lab/two"]


def test_rollback_does_not_forget_that_the_model_failed(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.most_tokens = 2048
    larger = replace(bench.request("lab/one"), options=LaunchOptions(max_tokens=4096))
    operation = bench.wait(bench.controller.switch(larger, "ivan"))
    assert (error_of(operation), outcome_of(operation)) == ("out_of_memory", "rolled_back")
    assert "lab/one" in bench.state_store.state.cooldowns
    assert bench.loaded == ["lab/one"]


def test_switch_cannot_be_cancelled_once_the_model_is_ready(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.monitor.gate = Gate()
    bench.runtime.gate.set()
    bench.monitor.gate.wait_reached()
    with pytest.raises(NotCancellable):
        bench.controller.cancel(operation.id, "maria")
    bench.monitor.gate.open()
    ended = bench.wait(operation)
    assert (ended.state, ended.cancel_requested_by) == (OperationState.SUCCEEDED, None)


def test_launch_that_takes_too_long_in_all_says_how_long_it_took(make_bench: MakeBench) -> None:
    bench = make_bench(launch_stall_s=30.0, launch_deadline_s=20.0)
    bench.controller.start()
    bench.runtime.fails["lab/one"] = "crawls"
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.ahead_s = 25.0
    ended = bench.wait(operation)
    assert error_of(ended) == "launch_too_slow"
    assert ended.error is not None
    assert ended.error.params["seconds"] == pytest.approx(25, abs=5)


# The store


@pytest.mark.parametrize("fault", [StoreUnavailable(reason="disk full"), ValueError("surprise")])
def test_operation_ends_and_gives_its_claims_back_while_the_store_fails(
    bench: Bench, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    bench.load("lab/one")
    bench.runtime.launching.clear()
    bench.runtime.gate = threading.Event()
    switch = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.store.raises = fault
    bench.runtime.gate.set()
    operation = bench.wait(switch)
    assert operation.state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/two"]
    assert bench.state_store.state.claims == {}


# Figures


def test_switch_whose_memory_did_not_come_back_ends_with_a_warning(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.leaks.add("lab/one")
    operation = bench.load("lab/two")
    assert (operation.state, outcome_of(operation)) == (OperationState.WARNING, "switch_done_memory_held")
    assert [receipt.settled for receipt in operation.receipts] == [False]


def test_receipt_is_unknown_when_nothing_was_read_before_the_stop(bench: Bench) -> None:
    bench.machine.foreign["gpu-0"] = gib(15)
    instance_id = load_instance(bench)
    bench.monitor.miss(1)
    bench.machine.foreign["gpu-0"] = gib(1)
    operation = bench.wait(bench.controller.unload(instance_id, "maria"))
    (receipt,) = operation.receipts
    assert (receipt.freed_bytes, receipt.settled) == (None, False)
    assert operation.state is OperationState.WARNING
    assert bench.loaded == []


def test_clean_says_of_each_model_what_went_wrong(bench: Bench) -> None:
    bench.load("lab/one")
    bench.load("lab/two", keep_others=True)
    bench.runtime.raises["clean lab/one"] = OSError("broken pipe")
    operation = bench.wait(bench.controller.clean("maria"))
    assert (operation.state, operation.error) == (OperationState.WARNING, None)
    assert sorted(codes(operation)) == ["clean_failed", "clean_worker"]


def test_clean_goes_on_when_leftovers_cannot_be_looked_for(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.raises["reap"] = OSError("no such folder")
    operation = bench.wait(bench.controller.clean("maria"))
    assert (operation.state, operation.error) == (OperationState.WARNING, None)
    assert codes(operation) == ["clean_worker", "runtime_unreachable"]


def test_free_memory_of_a_device_that_cannot_be_read_is_unknown_and_not_zero(bench: Bench) -> None:
    bench.machine.lost.add("gpu-0")
    operation = bench.wait(bench.controller.clean("maria"))
    assert operation.outcome is not None
    assert dict(operation.outcome.params) == {"freed_bytes": None, "free_bytes": None}


# The stop of Warden


def test_stop_that_unloads_names_what_is_still_alive(make_bench: MakeBench) -> None:
    bench = make_bench(on_stop="unload")
    bench.controller.start()
    bench.load("lab/one")
    bench.runtime.survives.add("lab/one")
    assert bench.controller.stop() == ("lab/one: still alive: pid 4242 of me (state D)",)


def test_stop_that_unloads_says_what_ended(make_bench: MakeBench) -> None:
    bench = make_bench(on_stop="unload")
    bench.controller.start()
    bench.load("lab/one")
    assert bench.controller.stop() == ("lab/one: ended",)


def test_stop_waits_for_an_emergency_to_say_how_it_ended(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.leaks.add("lab/one")
    kill = bench.runtime.gates["kill"] = Gate()
    operation = bench.controller.emergency("maria")
    kill.wait_reached()
    kill.open()
    bench.controller.stop()
    ended = bench.store.saved[operation.id]
    assert (ended.state, outcome_of(ended)) == (OperationState.WARNING, "emergency_incomplete")


def test_stop_puts_the_evicted_model_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.launching.clear()
    bench.runtime.fails["lab/two"] = "crawls"
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.controller.stop()
    ended = bench.store.saved[operation.id]
    assert (ended.state, error_of(ended)) == (OperationState.CANCELLED, "cancelled_by_stop")
    assert bench.loaded == ["lab/one"]


def test_stop_does_not_wait_for_ever_nor_call_a_half_started_model_loaded(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    kill = bench.runtime.gates["kill"] = Gate()
    operation = bench.controller.switch(bench.request("lab/one"), "ivan")
    assert bench.runtime.launching.wait(10)
    lines: list[tuple[str, ...]] = []
    stop = threading.Thread(target=lambda: lines.append(bench.controller.stop()))
    stop.start()
    kill.wait_reached()
    bench.ahead_s = 60.0
    stop.join(10)
    assert lines == [()]
    kill.open()
    bench.until(lambda: bench.thread_of(operation) is None)
    assert bench.loaded == []


# A call that may hang


def test_call_that_takes_too_long_gives_none_and_finds_that_nobody_waits() -> None:
    gate, seen, ended = Gate(), [], threading.Event()

    def call(expired: Expired) -> str:
        gate.pass_through()
        seen.append(expired.is_set())
        ended.set()
        return "too late"

    assert within(0.01, call, "slow") is None
    gate.open()
    assert ended.wait(10)
    assert seen == [True]


def test_call_that_fails_gives_none_and_one_in_time_its_result() -> None:
    def fail(expired: Expired) -> str:
        raise OSError("no socket")

    assert within(10, fail, "failing") is None
    assert within(10, lambda expired: expired.is_set(), "quick") is False
