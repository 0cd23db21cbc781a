"""The controller's promises, each on a machine with memory that really is taken and given back."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, loaded, model
from webapp.domain.instance import InstanceState
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.operation import (
    Operation,
    OperationFilter,
    OperationKind,
    OperationState,
    Step,
    StepName,
    StepState,
)
from webapp.domain.plan import Verdict
from webapp.domain.units import gib
from webapp.errors import (
    AlreadyLoaded,
    AlreadyRunning,
    Busy,
    CoolingDown,
    DeviceUnreadable,
    InstanceInUse,
    ModeUnavailable,
    NotCancellable,
    NotEnoughMemory,
    NotReady,
    Stopping,
    UnknownDevice,
    UnknownInstance,
    UnknownModel,
    UnknownOperation,
)
from webapp.runtimes.base import Discovered


def steps(operation: Operation) -> dict[StepName, StepState]:
    return {step.name: step.state for step in operation.steps}


def test_switch_loads_the_model_and_measures_it(bench: Bench) -> None:
    operation = bench.load("lab/one")
    assert operation.state is OperationState.SUCCEEDED
    (instance,) = bench.state_store.state.instances.values()
    assert (instance.state, instance.owner, instance.pid) == (InstanceState.READY, "ivan", 4242)
    assert instance.measured_bytes == {"gpu-0": gib(1)}
    assert steps(operation)[StepName.UNLOAD] is StepState.SKIPPED
    assert steps(operation)[StepName.LAUNCH] is StepState.DONE
    assert bench.store.saved[operation.id] == operation


def test_switch_unloads_the_other_first_and_gives_a_receipt(bench: Bench) -> None:
    bench.load("lab/one")
    operation = bench.load("lab/two")
    assert operation.state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/two"]
    (receipt,) = operation.receipts
    assert (receipt.freed_bytes, receipt.expected_bytes, receipt.settled) == (gib(1), gib(1), True)
    assert operation.evicted == ("lab/one",)


def test_keep_others_loads_beside(bench: Bench) -> None:
    bench.load("lab/one")
    bench.load("lab/two", keep_others=True)
    assert bench.loaded == ["lab/one", "lab/two"]


def test_a_named_model_goes_and_the_others_stay(bench: Bench) -> None:
    bench.load("lab/one")
    bench.load("lab/two", keep_others=True)
    one = next(i.id for i in bench.controller.snapshot().instances if i.model_id == "lab/one")
    operation = bench.load("lab/three", keep_others=True, unload=(one,))
    assert operation.state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/three", "lab/two"]
    assert operation.evicted == ("lab/one",)


def test_a_named_model_comes_back_when_the_new_one_fails(bench: Bench) -> None:
    bench.load("lab/one")
    bench.load("lab/two", keep_others=True)
    one = next(i.id for i in bench.controller.snapshot().instances if i.model_id == "lab/one")
    bench.runtime.fails["lab/three"] = "dies"
    operation = bench.load("lab/three", keep_others=True, unload=(one,))
    assert operation.state is OperationState.FAILED
    assert bench.loaded == ["lab/one", "lab/two"]


def test_fifty_simultaneous_switches_are_one_operation(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    start = threading.Barrier(50)

    def press(_: int) -> Operation | Exception:
        start.wait(10)
        try:
            return bench.controller.switch(bench.request(), "ivan")
        except Busy as exc:
            return exc

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(press, range(50)))
    accepted = [a for a in answers if isinstance(a, Operation)]
    assert len(accepted) == 1
    assert {a.params["operation"] for a in answers if isinstance(a, Busy)} == {accepted[0].id}
    bench.runtime.gate.set()
    bench.wait(accepted[0])
    assert len(bench.runtime.launched) == 1


def test_disjoint_devices_run_side_by_side(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(24)}
    bench.runtime.gate = threading.Event()
    first = bench.controller.switch(bench.request("lab/one", devices=("gpu-0",)), "ivan")
    second = bench.controller.switch(bench.request("lab/two", devices=("gpu-1",)), "maria")
    with pytest.raises(Busy) as refusal:
        bench.controller.switch(bench.request("lab/three", devices=("gpu-1",)), "olga")
    assert refusal.value.params["actor"] == "maria"
    bench.runtime.gate.set()
    assert bench.wait(first).state is bench.wait(second).state is OperationState.SUCCEEDED
    assert not bench.runtime.overlapped
    assert bench.loaded == ["lab/one", "lab/two"]


def test_automatic_choice_takes_the_device_that_nobody_has_claimed(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(20)}
    bench.runtime.gate = threading.Event()
    first = bench.controller.switch(bench.request("lab/one"), "ivan")
    second = bench.controller.switch(bench.request("lab/two"), "maria")
    assert (first.devices, second.devices) == (("gpu-0",), ("gpu-1",))
    bench.runtime.gate.set()
    bench.wait(first)
    bench.wait(second)


def test_what_does_not_fit_is_refused_before_anything_is_unloaded(bench: Bench) -> None:
    bench.load("lab/one")
    bench.catalog.models = (*bench.catalog.models, model("lab/huge", weights_bytes=gib(24)))
    with pytest.raises(NotEnoughMemory) as refusal:
        bench.controller.switch(bench.request("lab/huge"), "ivan")
    missing = refusal.value.params["missing_bytes"]
    assert isinstance(missing, int) and missing > 0
    assert bench.loaded == ["lab/one"]
    plan = bench.controller.plan(bench.request("lab/huge"))
    assert plan.verdict is Verdict.REFUSED
    assert plan.ways_out
    for way in plan.ways_out:
        assert bench.controller.plan(way.request).verdict is not Verdict.REFUSED


@pytest.mark.parametrize(
    ("fault", "code"), [("dies", "worker_died"), ("oom", "out_of_memory"), ("garbled", "worker_garbled")]
)
def test_failed_switch_brings_back_what_was_evicted(bench: Bench, fault: str, code: str) -> None:
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = fault
    operation = bench.load("lab/two")
    assert operation.state is OperationState.FAILED
    assert operation.error is not None
    assert operation.error.code == code
    assert operation.outcome is not None
    assert operation.outcome.code == "rolled_back"
    assert bench.loaded == ["lab/one"]
    assert sum(bench.machine.held.values()) == gib(1)
    assert steps(operation)[StepName.ROLLBACK] is StepState.DONE


@pytest.mark.parametrize("fault", ["hangs", "silent"])
def test_launch_without_activity_is_a_stall(bench: Bench, fault: str) -> None:
    bench.runtime.fails["lab/two"] = fault
    operation = bench.load("lab/two")
    assert operation.error is not None
    assert operation.error.code == "launch_stalled"
    assert bench.loaded == []
    assert not bench.machine.held


def test_failed_switch_restores_nothing_when_the_person_chose_so(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.load("lab/two", restore_on_failure=False)
    assert operation.state is OperationState.FAILED
    assert bench.loaded == []


def test_model_that_failed_cools_down_and_success_clears_it(bench: Bench) -> None:
    bench.runtime.fails["lab/two"] = "dies"
    bench.load("lab/two")
    with pytest.raises(CoolingDown) as refusal:
        bench.controller.switch(bench.request("lab/two"), "ivan")
    assert refusal.value.params["failures"] == 1
    bench.load("lab/one")
    assert "lab/two" in bench.state_store.state.cooldowns
    bench.state_store.set_cooldown("lab/two", None)
    bench.runtime.fails.clear()
    assert bench.load("lab/two").state is OperationState.SUCCEEDED


def test_pause_after_a_failure_is_ended_and_the_next_failure_counts_on(bench: Bench) -> None:
    bench.runtime.fails["lab/two"] = "dies"
    bench.load("lab/two")
    assert bench.controller.end_pause("lab/two").id == "lab/two"
    assert bench.load("lab/two").state is OperationState.FAILED, "it was tried at once"
    with pytest.raises(CoolingDown) as refusal:
        bench.controller.switch(bench.request("lab/two"), "ivan")
    assert refusal.value.params["failures"] == 2
    bench.runtime.fails.clear()
    bench.controller.end_pause("lab/two")
    assert bench.load("lab/two").state is OperationState.SUCCEEDED


def test_pause_of_an_unknown_model_is_refused_and_none_is_no_error(bench: Bench) -> None:
    with pytest.raises(UnknownModel):
        bench.controller.end_pause("lab/gone")
    before = bench.state_store.state.version
    assert bench.controller.end_pause("lab/one").id == "lab/one"
    assert bench.state_store.state.version == before, "nothing has changed"


@pytest.mark.parametrize("jump_s", [3 * 3600.0, -3 * 3600.0])
def test_cool_down_lasts_what_it_should_whatever_the_time_of_day_does(bench: Bench, jump_s: float) -> None:
    bench.runtime.fails["lab/one"] = "dies"
    bench.load("lab/one")
    bench.later_s = jump_s
    with pytest.raises(CoolingDown) as refusal:
        bench.controller.switch(bench.request("lab/one"), "maria")
    assert 0 < refusal.value.params["seconds"] <= bench.settings.launch.cooldown_s  # type: ignore[operator]
    bench.ahead_s = bench.settings.launch.cooldown_s
    assert bench.load("lab/one").error is not None


def test_unload_gives_a_receipt(bench: Bench) -> None:
    instance_id = bench.load("lab/one").instance_id
    assert instance_id is not None
    operation = bench.wait(bench.controller.unload(instance_id, "maria"))
    assert operation.state is OperationState.SUCCEEDED
    (receipt,) = operation.receipts
    assert (receipt.freed_bytes, receipt.model_freed_bytes, receipt.settled) == (gib(1), gib(1), True)
    assert bench.loaded == []
    with pytest.raises(UnknownInstance):
        bench.controller.unload(instance_id, "maria")


def test_unload_warns_when_the_memory_does_not_come_back(bench: Bench) -> None:
    instance_id = bench.load("lab/one").instance_id
    assert instance_id is not None
    bench.runtime.leaks.add("lab/one")
    operation = bench.wait(bench.controller.unload(instance_id, "maria"))
    assert operation.state is OperationState.WARNING
    (receipt,) = operation.receipts
    assert not receipt.settled
    assert receipt.freed_bytes == 0
    assert receipt.still_held_by[0].used_bytes == gib(1)


def test_process_that_survives_stays_listed_as_stuck(bench: Bench) -> None:
    instance_id = bench.load("lab/one").instance_id
    assert instance_id is not None
    bench.runtime.survives.add("lab/one")
    operation = bench.wait(bench.controller.unload(instance_id, "maria"))
    assert operation.state is OperationState.FAILED
    assert operation.error is not None
    assert (operation.error.code, operation.error.params["pid"]) == ("stop_failed", 4242)
    assert bench.state_store.state.instances[instance_id].state is InstanceState.STUCK
    bench.runtime.survives.clear()
    assert bench.wait(bench.controller.unload(instance_id, "maria")).state is OperationState.SUCCEEDED


def test_cancelled_switch_puts_the_evicted_model_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.gate = threading.Event()
    bench.runtime.launching.clear()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.controller.cancel(operation.id, "maria")
    bench.until(lambda: len(bench.runtime.launched) == 3)
    bench.runtime.gate.set()
    ended = bench.wait(operation)
    assert ended.state is OperationState.CANCELLED
    assert ended.error is not None
    assert ended.error.params["actor"] == "maria"
    assert bench.loaded == ["lab/one"]
    with pytest.raises(NotCancellable):
        bench.controller.cancel(operation.id, "maria")
    with pytest.raises(UnknownOperation):
        bench.controller.cancel("none", "maria")


def test_double_click_on_cancel_does_not_end_the_rollback(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.gate = threading.Event()
    bench.runtime.launching.clear()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.controller.cancel(operation.id, "ivan")
    bench.controller.cancel(operation.id, "ivan")
    bench.until(lambda: len(bench.runtime.launched) == 3)
    bench.controller.cancel(operation.id, "maria")
    bench.runtime.gate.set()
    bench.wait(operation)
    assert bench.loaded == ["lab/one"]


def test_rollback_ends_when_that_is_what_is_cancelled(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.gate = threading.Event()
    bench.runtime.launching.clear()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.controller.cancel(operation.id, "ivan")
    bench.until(lambda: len(bench.runtime.launched) == 3)
    bench.controller.cancel(operation.id, "ivan", rollback=True)
    ended = bench.wait(operation)
    assert ended.outcome is not None
    assert ended.outcome.code == "rollback_cancelled"
    assert bench.loaded == []


def test_emergency_works_while_another_operation_hangs(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.stop_gate = threading.Event()
    bench.runtime.stopping.clear()
    hanging = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.stopping.wait(10)
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.SUCCEEDED
    assert not bench.machine.held
    assert bench.loaded == []
    ended = bench.controller.operation(hanging.id)
    assert ended.state is OperationState.CANCELLED
    assert ended.error is not None
    assert ended.error.code == "cancelled_by_emergency"
    bench.runtime.stop_gate.set()
    bench.until(lambda: not any(hanging.id in t.name for t in threading.enumerate()))
    assert bench.loaded == []
    assert not bench.runtime.alive


def test_emergency_during_a_launch_leaves_nothing(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    switch = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.launching.wait(10)
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.kind is OperationKind.EMERGENCY
    bench.until(lambda: not any(switch.id in t.name for t in threading.enumerate()))
    assert not bench.runtime.alive
    assert not bench.machine.held
    assert bench.state_store.state.claims == {}


def test_emergency_reports_what_survives_and_what_is_not_ours(bench: Bench) -> None:
    bench.load("lab/one")
    bench.machine.foreign["gpu-0"] = gib(3)
    bench.runtime.survives.add("lab/one")
    operation = bench.wait(bench.controller.emergency("maria"))
    assert operation.state is OperationState.WARNING
    codes = [finding.message.code for finding in operation.findings]
    assert "stop_failed" in codes
    assert "stays_foreign" in codes
    bench.runtime.survives.clear()


def test_clean_says_what_each_model_gave_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.machine.foreign["gpu-0"] = gib(3)
    operation = bench.wait(bench.controller.clean("maria"))
    assert operation.state is OperationState.SUCCEEDED
    codes = [finding.message.code for finding in operation.findings]
    assert codes == ["clean_worker", "stays_foreign"]
    assert bench.loaded == ["lab/one"]


def test_dead_model_is_noticed_and_cleaned_away(bench: Bench) -> None:
    instance_id = bench.load("lab/one").instance_id
    assert instance_id is not None
    bench.runtime.died.add(instance_id)
    bench.until(lambda: bench.state_store.state.instances[instance_id].state is InstanceState.DEAD)
    with pytest.raises(NotReady):
        bench.controller.ask(instance_id, None)  # type: ignore[arg-type]
    bench.wait(bench.controller.clean("maria"))
    assert bench.loaded == []


def test_busy_model_is_evicted_only_on_purpose(bench: Bench) -> None:
    instance_id = bench.load("lab/one").instance_id
    assert instance_id is not None
    bench.runtime.in_flight["lab/one"] = 2
    bench.state_store.change(instance_id, lambda i: replace(i, in_flight=2))
    with pytest.raises(InstanceInUse) as refusal:
        bench.controller.switch(bench.request("lab/two"), "ivan")
    assert refusal.value.params["in_flight"] == 2
    assert bench.load("lab/two", interrupt_busy=True).state is OperationState.SUCCEEDED


def in_use_as_far_as_the_list_knows(bench: Bench) -> str:
    """A loaded model whose last answer has ended a moment ago; the list will not know it until somebody looks."""
    instance_id = bench.load("lab/one").instance_id
    assert instance_id is not None
    bench.controller._watcher.stop()
    bench.state_store.change(instance_id, lambda i: replace(i, in_flight=1))
    return instance_id


def test_answer_that_has_just_ended_refuses_no_switch(bench: Bench) -> None:
    in_use_as_far_as_the_list_knows(bench)
    assert bench.wait(bench.controller.switch(bench.request("lab/two"), "ivan")).state is OperationState.SUCCEEDED


def test_answer_that_has_just_ended_refuses_no_unload(bench: Bench) -> None:
    instance_id = in_use_as_far_as_the_list_knows(bench)
    assert bench.wait(bench.controller.unload(instance_id, "maria")).state is OperationState.SUCCEEDED


def test_model_that_says_nothing_at_the_last_look_counts_as_the_list_knows_it(bench: Bench) -> None:
    in_use_as_far_as_the_list_knows(bench)
    bench.runtime.fails["lab/one"] = "silent"
    with pytest.raises(InstanceInUse):
        bench.controller.switch(bench.request("lab/two"), "ivan")


def test_same_model_with_the_same_options_is_not_loaded_twice(bench: Bench) -> None:
    bench.load("lab/one")
    with pytest.raises(AlreadyLoaded):
        bench.controller.switch(bench.request("lab/one"), "ivan")


def test_refusals_name_what_is_wrong(bench: Bench) -> None:
    with pytest.raises(UnknownModel):
        bench.controller.switch(bench.request("lab/none"), "ivan")
    with pytest.raises(UnknownDevice):
        bench.controller.switch(bench.request(devices=("gpu-9",)), "ivan")
    with pytest.raises(ModeUnavailable):
        bench.controller.switch(replace(bench.request(), mode=Mode.VLLM), "ivan")
    bench.machine.lost.add("gpu-0")
    with pytest.raises(DeviceUnreadable):
        bench.controller.switch(bench.request(), "ivan")


def test_nothing_is_decided_on_a_stale_figure(bench: Bench) -> None:
    bench.monitor.stale = True
    with pytest.raises(DeviceUnreadable):
        bench.controller.switch(bench.request(), "ivan")
    assert bench.controller.recommend() is None
    assert not bench.controller.health().ok


def test_context_beyond_the_model_is_cut_and_said(bench: Bench) -> None:
    plan = bench.controller.plan(replace(bench.request(), options=LaunchOptions(max_tokens=100_000)))
    assert plan.request.options.max_tokens == 8192
    assert plan.reasons[0].code == "context_capped"


def test_world_that_changes_after_the_unload_is_seen_by_the_check(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.stop_gate = threading.Event()
    bench.runtime.stopping.clear()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    assert bench.runtime.stopping.wait(10)
    bench.machine.foreign["gpu-0"] = gib(21.5)
    bench.runtime.stop_gate.set()
    ended = bench.wait(operation)
    assert ended.state is OperationState.FAILED
    assert ended.error is not None
    assert ended.error.code == "not_enough_memory"
    assert [spec.model_id for spec in bench.runtime.launched] == ["lab/one", "lab/one"]


def test_advice_follows_the_free_memory_of_the_chosen_device(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(5)}
    advice = bench.controller.recommend("gpu-1")
    assert advice is not None
    assert (advice.mode, advice.precision, advice.max_tokens) == (Mode.TRANSFORMERS, Precision.FP16, 1024)
    best = bench.controller.recommend()
    assert best is not None
    assert best.max_tokens == 2048
    assert (best.mode, best.usable_mode) == (Mode.VLLM, Mode.TRANSFORMERS)
    assert "advice_vllm_unavailable" in [reason.code for reason in best.reasons]


def test_demo_model_is_made_once(bench: Bench) -> None:
    operation = bench.wait(bench.controller.make_demo("ivan"))
    assert operation.state is OperationState.SUCCEEDED
    assert bench.controller.snapshot().model("warden/demo") is not None


def test_start_adopts_the_living_and_removes_the_broken(bench: Bench) -> None:
    bench.controller.stop()
    other = Bench(bench.settings)
    cut_off = Operation(
        id="cut",
        kind=OperationKind.SWITCH,
        actor="ivan",
        state=OperationState.RUNNING,
        started_at=1.0,
        steps=(Step(StepName.PLAN, StepState.DONE), Step(StepName.LAUNCH, StepState.RUNNING), Step(StepName.READY)),
    )
    other.store.save_operation(cut_off)
    other.runtime.found = (
        Discovered(loaded(model("lab/one"), "alive"), adoptable=True),
        Discovered(loaded(model("lab/two"), "half"), adoptable=False),
    )
    other.controller.start()
    try:
        (instance,) = other.state_store.state.instances.values()
        assert (instance.id, instance.adopted) == ("alive", True)
        operation = other.controller.operation("cut")
        assert operation.state is OperationState.ABANDONED
        assert steps(operation) == {
            StepName.PLAN: StepState.DONE,
            StepName.LAUNCH: StepState.FAILED,
            StepName.READY: StepState.SKIPPED,
        }
        assert [f.message.code for f in operation.findings] == ["adopted", "removed_half_started"]
    finally:
        other.controller.stop()


def test_second_controller_on_the_same_state_folder_is_refused(bench: Bench) -> None:
    with pytest.raises(AlreadyRunning):
        Bench(bench.settings).controller.start()


def test_stop_says_which_models_stay_and_refuses_new_operations(bench: Bench) -> None:
    bench.load("lab/one")
    lines = bench.controller.stop()
    assert "lab/one" in lines[0]
    with pytest.raises(Stopping):
        bench.controller.clean("ivan")


def test_switch_of_the_version_shows_every_change(bench: Bench) -> None:
    bench.load("lab/one")
    before = bench.controller.snapshot()
    bench.load("lab/two")
    assert bench.controller.snapshot().version != before.version
    assert before.mode == "transformers"


def test_operations_are_filtered_and_paged_over_what_runs_and_what_is_kept(bench: Bench) -> None:
    first, second = bench.load("lab/one"), bench.load("lab/two")
    clean = bench.wait(bench.controller.clean("maria"))
    bench.runtime.gates["launch"] = Gate()
    running = bench.controller.switch(bench.request("lab/three"), "maria")

    def listed(limit: int = 10, before: str | None = None, **where: object) -> list[str]:
        return [o.id for o in bench.controller.operations(limit, OperationFilter(**where), before)]  # type: ignore[arg-type]

    assert listed() == [running.id, clean.id, second.id, first.id]
    assert listed(2, running.id) == [clean.id, second.id]
    assert listed(actor="maria", kind=OperationKind.SWITCH) == [running.id]
    assert listed(model_id="lab/one", before=second.id) == [first.id]
    assert listed(state=OperationState.RUNNING, before=running.id) == []
    with pytest.raises(UnknownOperation):
        listed(before="gone")


def test_what_the_store_did_not_take_is_listed_all_the_same(bench: Bench) -> None:
    bench.load("lab/one")
    bench.store.saved.clear()

    (found,) = bench.controller.operations(10, OperationFilter(model_id="lab/one"))

    assert found.model_id == "lab/one"
    assert bench.controller.operations(10, OperationFilter(model_id="lab/two")) == ()
    assert bench.controller.operation_values().models == ()
