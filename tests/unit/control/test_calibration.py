"""What a launch took is kept, and the next plan counts with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import FakeStore, Gate, model
from webapp.control.calibration import Calibrator
from webapp.control.keeping import Keeper
from webapp.domain.calibration import Measurement
from webapp.domain.footprint import GPU_CONTEXT_BYTES, MeasuredSpread
from webapp.domain.footprint.activation import CUDA_WORKSPACE_BYTES
from webapp.domain.instance import MemoryReport
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import StepName
from webapp.domain.plan import Plan
from webapp.domain.planning.requirement import needed_bytes
from webapp.domain.units import MIB, gib
from webapp.errors import StoreUnavailable, WorkerSilent
from webapp.runtimes.base import Probe

AT_REST = gib(1) + 300 * MIB
"""What the fake model of 1 GiB takes here: less than the estimate, which counts with the largest context that is published."""


def learned(bench: Bench) -> list[Measurement]:
    """What was written down, once all of it is."""
    bench.until(lambda: len(bench.store.measured) == bench.context.calibration.version - 1)
    return bench.store.measured


def plan(bench: Bench, model_id: str = "lab/one", **changes: object) -> Plan:
    return bench.controller.plan(bench.request(model_id, **changes))


def seen(found: Plan) -> MeasuredSpread | None:
    (device,) = found.devices
    return device.footprint.seen


def reload(bench: Bench) -> None:
    """Load another model in its place and then the first again."""
    bench.load("lab/two")
    bench.load("lab/one")


def test_second_plan_counts_with_what_the_first_load_took(bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    before = plan(bench)
    assert seen(before) is None
    operation = bench.load("lab/one")
    (kept,) = learned(bench)
    assert (kept.measured_bytes, kept.predicted_bytes) == (AT_REST, gib(1) + GPU_CONTEXT_BYTES + CUDA_WORKSPACE_BYTES)
    step = next(step for step in operation.steps if step.name is StepName.MEASURE)
    assert step.message is not None
    assert step.message.params["expected_bytes"] == kept.predicted_bytes
    bench.load("lab/two")
    after = plan(bench)
    assert seen(after) == MeasuredSpread(1, 0.0)
    saved = before.devices[0].footprint.total_bytes - after.devices[0].footprint.total_bytes
    assert saved == kept.predicted_bytes - AT_REST
    assert "plan_measured_once" in [reason.code for reason in after.reasons]


def test_several_loads_tell_their_count_and_spread(bench: Bench) -> None:
    for mib in (300, 320, 310):
        bench.runtime.takes_bytes = gib(1) + mib * MIB
        reload(bench)
    assert seen(plan(bench)) == MeasuredSpread(3, 0.7)
    (message,) = [reason for reason in plan(bench).reasons if reason.code == "plan_measured"]
    assert (message.params["count"], message.params["spread_percent"]) == (3, 0.7)


def test_list_of_models_counts_with_it_as_the_plan_does(bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    bench.load("lab/one")
    bench.load("lab/two")
    (room,) = bench.controller.headrooms()
    (needed,) = needed_bytes(bench.request(), model("lab/one"), [room])
    assert needed == plan(bench).devices[0].footprint.required_bytes


def test_other_options_are_corrected_and_said_to_be_others(bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    bench.load("lab/one")
    shorter = replace(bench.request(), options=LaunchOptions(max_tokens=512))
    found = bench.controller.plan(shorter)
    assert seen(found) == MeasuredSpread(1, 0.0, same_options=False)
    assert "plan_measured_otherwise_once" in [reason.code for reason in found.reasons]


def test_what_was_started_otherwise_than_the_next_would_be_teaches_nothing_of_that(bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    bench.runtime.libraries_of = {"lab/one": "alone"}
    reload(bench)

    assert {(kept.kind.setup.model_id, kept.kind.setup.engine) for kept in learned(bench)} == {
        ("lab/one", f"fake {Mode.TRANSFORMERS} alone"),
        ("lab/two", f"fake {Mode.TRANSFORMERS} 1"),
    }


def test_model_that_was_used_before_it_was_measured_teaches_nothing(bench: Bench) -> None:
    bench.runtime.used_at = time.time()
    bench.load("lab/one")
    assert learned(bench) == []


def test_model_that_cannot_be_asked_whether_it_was_used_teaches_nothing(bench: Bench) -> None:
    probe = bench.runtime.probe
    calls: list[str] = []

    def once(instance_id: str) -> Probe:
        calls.append(instance_id)
        if len(calls) > 1:
            raise WorkerSilent(instance=instance_id, seconds=2.0)
        return probe(instance_id)

    bench.runtime.probe = once  # type: ignore[method-assign]
    operation = bench.load("lab/one")
    assert operation.state == "succeeded"
    assert learned(bench) == []


def test_device_that_tells_nothing_teaches_nothing(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    operation = bench.controller.switch(bench.request(), "ivan")
    assert bench.runtime.launching.wait(10)
    bench.machine.lost.add("gpu-0")
    bench.runtime.gate.set()
    bench.wait(operation)
    assert learned(bench) == []


def test_vllm_is_learned_from_its_log(bench: Bench) -> None:
    bench.vllm.problem = None
    bench.vllm.told = MemoryReport(weights_bytes=gib(1), activation_bytes=gib(0.5))
    request = replace(bench.request(), mode=Mode.VLLM)
    bench.wait(bench.controller.switch(request, "ivan"))
    (kept,) = learned(bench)
    assert kept.told == bench.vllm.told
    bench.vllm.told = None
    bench.load("lab/two")
    assert seen(bench.controller.plan(request)) == MeasuredSpread(1, 0.0)


def test_what_was_learned_outlives_a_restart(make_bench: Callable[..., Bench], bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    bench.load("lab/one")
    kept = learned(bench)
    bench.controller.stop()
    again = make_bench()
    again.store.measured = kept
    again.controller.start()
    assert seen(plan(again)) == MeasuredSpread(1, 0.0)


def test_other_libraries_are_not_taken_for_the_same_and_the_list_of_models_hears_of_them(bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    bench.load("lab/one")
    learned(bench)
    (before,) = bench.controller.headrooms()
    bench.runtime.libraries = "2"
    assert seen(plan(bench, "lab/one", devices=("gpu-0",))) is None
    (after,) = bench.controller.headrooms()
    assert after.calibration.version > before.calibration.version
    bench.runtime.libraries = "1"
    assert seen(plan(bench, "lab/one", devices=("gpu-0",))) == MeasuredSpread(1, 0.0)


def test_rollback_counts_with_what_was_learned(bench: Bench) -> None:
    bench.runtime.takes_bytes = AT_REST
    bench.load("lab/one")
    learned(bench)
    bench.runtime.fails["lab/two"] = "dies"
    bench.load("lab/two")
    (again,) = bench.state_store.state.instances.values()
    assert again.model_id == "lab/one"
    assert dict(again.resting_bytes) == {"gpu-0": AT_REST}


def test_store_that_is_slow_or_fails_keeps_no_load_waiting() -> None:
    store = FakeStore()
    store.raises = StoreUnavailable(reason="gone")
    keeper = Keeper(store)
    calibrator = Calibrator(store, keeper)
    calibrator.start({Mode.TRANSFORMERS: "transformers 5"})
    store.raises, store.gate = None, Gate()
    keeper.start()
    kind = calibrator.calibration.kind_of("lab/one", "r", Mode.TRANSFORMERS, LaunchOptions(), ["Card"])
    calibrator.record(Measurement(kind, 1.0, 0, gib(1)))
    store.gate.wait_reached()
    assert calibrator.calibration.about(kind) is not None
    store.gate.open()
    keeper.stop()
    assert len(store.measured) == 1
