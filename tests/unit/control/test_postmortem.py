"""What is kept of a model that ran out of memory: the holders, the likely cause, and what would have fitted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import loaded, model
from tests.unit.runtimes.test_chat import HEAD, Server, piece, refusal
from webapp.control import postmortem
from webapp.control.contract import Question
from webapp.domain.instance import InstanceState
from webapp.domain.operation import Operation, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.planner import plan_switch
from webapp.domain.postmortem import Cause, Phase, PostMortem
from webapp.domain.units import gib
from webapp.errors import GenerationFailed, OutOfMemory
from webapp.runtimes.base import Endpoint
from webapp.store.documents import dump, load


def gate_of(bench: Bench, request: SwitchRequest) -> int:
    (device,) = plan_switch(request, bench.context.planning_state()).devices
    return device.footprint.required_bytes


def failed(
    bench: Bench,
    *,
    takes_bytes: int = gib(1),
    grown_bytes: int = 0,
    fault: str = "oom",
    model_id: str = "lab/two",
    **changes: object,
) -> Operation:
    """Load a model that takes so much, next to another process that grows by so much, until it runs out of memory."""
    bench.runtime.takes_bytes = takes_bytes
    bench.runtime.fails[model_id] = "crawls"
    operation = bench.controller.switch(bench.request(model_id, **changes), "ivan")
    bench.until(lambda: any(spec.model_id == model_id for spec in bench.runtime.alive.values()))
    bench.machine.foreign["gpu-0"] = bench.machine.foreign.get("gpu-0", 0) + grown_bytes
    bench.monitor.latest()
    bench.runtime.fails[model_id] = fault
    ended = bench.wait(operation)
    bench.runtime.fails.clear()
    bench.state_store.set_cooldown(model_id, None)
    return ended


def report_of(operation: Operation) -> PostMortem:
    assert operation.state is OperationState.FAILED
    assert operation.post_mortem is not None
    return operation.post_mortem


def test_neighbour_who_grew_is_the_cause_and_stands_in_the_account(bench: Bench) -> None:
    bench.machine.foreign["gpu-0"] = gib(2)
    report = report_of(failed(bench, grown_bytes=gib(21)))
    assert (report.cause, report.phase, report.device_id) == (Cause.NEIGHBOUR_GREW, Phase.LOADING, "gpu-0")
    assert report.account.grown_bytes == gib(21)
    assert [
        (line.is_own, line.user, line.model_id, line.before_bytes, line.after_bytes) for line in report.account.lines
    ] == [
        (True, "me", "lab/two", 0, gib(1)),
        (False, "alice", None, gib(2), gib(23)),
    ]


def test_model_that_took_more_than_planned_had_too_low_an_estimate(bench: Bench) -> None:
    bench.machine.totals = {"gpu-0": gib(4)}
    gate = gate_of(bench, bench.request("lab/two"))
    report = report_of(failed(bench, takes_bytes=gib(3.9)))
    assert (report.cause, report.account.gate_bytes, report.account.held_bytes) == (Cause.ESTIMATE_LOW, gate, gib(3.9))
    assert report.account.free_before_bytes == gib(4)
    assert report.since < report.taken_at


def test_way_out_is_counted_for_the_memory_that_there_was_and_loads(bench: Bench) -> None:
    bench.catalog.models = (model("lab/two", weights_bytes=gib(4)),)
    bench.machine.totals = {"gpu-0": gib(8), "gpu-1": gib(24)}
    report = report_of(failed(bench, takes_bytes=gib(7), devices=("gpu-0",)))
    assert report.way_out is not None
    assert report.way_out.message.code == "way_out_other_device"
    assert report.way_out.request.devices == ("gpu-1",)
    bench.runtime.takes_bytes = gib(4)
    operation = bench.wait(bench.controller.switch(report.way_out.request, "ivan"))
    assert (operation.state, operation.devices) == (OperationState.SUCCEEDED, ("gpu-1",))


def test_what_was_unloaded_for_it_goes_again_for_the_way_out(bench: Bench) -> None:
    bench.catalog.models = (model("lab/one"), model("lab/two", weights_bytes=gib(5)))
    bench.machine.totals = {"gpu-0": gib(8)}
    bench.load("lab/one")
    operation = failed(bench, takes_bytes=gib(7.5))
    assert operation.outcome is not None
    assert operation.outcome.code == "rolled_back"
    report = report_of(operation)
    assert report.way_out is not None
    assert not report.way_out.request.keep_others
    bench.runtime.takes_bytes = gib(2)
    again = bench.wait(bench.controller.switch(report.way_out.request, "ivan"))
    assert (again.state, again.evicted) == (OperationState.SUCCEEDED, ("lab/one",))


def test_load_against_the_estimate_is_told_what_would_have_fitted(bench: Bench) -> None:
    bench.catalog.models = (model("lab/two", weights_bytes=gib(7)),)
    bench.machine.totals = {"gpu-0": gib(8), "gpu-1": gib(24)}
    bench.machine.foreign["gpu-0"] = gib(2)
    report = report_of(failed(bench, takes_bytes=gib(6), devices=("gpu-0",), load_anyway=True))
    assert report.way_out is not None
    assert report.way_out.request.devices == ("gpu-1",)
    assert not report.way_out.request.load_anyway


def test_where_nothing_would_have_fitted_no_way_is_offered(bench: Bench) -> None:
    bench.machine.foreign["gpu-0"] = gib(2)
    assert report_of(failed(bench, grown_bytes=gib(22))).way_out is None


def test_fenced_load_has_its_account_too(bench: Bench) -> None:
    operation = failed(bench, grown_bytes=gib(23), fault="crawls")
    assert operation.error is not None
    assert operation.error.code == "load_fenced"
    report = report_of(operation)
    assert (report.cause, report.account.grown_bytes) == (Cause.NEIGHBOUR_GREW, gib(23))


def test_other_failures_have_no_account(bench: Bench) -> None:
    bench.runtime.fails["lab/two"] = "dies"
    assert bench.load("lab/two").post_mortem is None


def test_operation_keeps_what_was_asked_for_and_how_it_ended_in_the_store(bench: Bench) -> None:
    operation = failed(bench, grown_bytes=gib(22), devices=("gpu-0",))
    kept = bench.store.saved[operation.id]
    assert kept == operation
    assert kept.request == bench.request("lab/two", devices=("gpu-0",))
    assert load(Operation, dump(kept)) == kept


# Models that were ready


def test_model_that_dies_of_it_is_explained_by_the_operation_that_loaded_it(bench: Bench) -> None:
    operation = bench.load("lab/one")
    (instance_id,) = bench.state_store.state.instances
    bench.runtime.fails["lab/one"] = "oom"
    bench.until(lambda: bench.state_store.state.instances[instance_id].explained_by is not None)
    instance = bench.state_store.state.instances[instance_id]
    assert (instance.state, instance.explained_by) == (InstanceState.DEAD, operation.id)
    kept = bench.controller.operation(operation.id)
    assert kept.state is OperationState.SUCCEEDED
    assert kept.post_mortem is not None
    assert (kept.post_mortem.phase, kept.post_mortem.cause) == (Phase.ANSWERING, Cause.KV_CACHE)
    assert bench.context.journal.flush()
    assert bench.store.saved[operation.id].post_mortem == kept.post_mortem


@pytest.mark.parametrize(
    "script",
    [
        [refusal("503 No", "out_of_memory")],
        [HEAD, piece("so far"), b'data: {"error": {"code": "out_of_memory", "message": "m"}}\n\n'],
    ],
    ids=["at once", "on its way"],
)
def test_answer_that_does_not_fit_is_explained_and_the_model_goes_on(
    bench: Bench, tmp_path: Path, script: list[bytes]
) -> None:
    operation = bench.load("lab/one")
    (instance_id,) = bench.state_store.state.instances
    bench.runtime.answers_at = Endpoint("http://worker", str(tmp_path / "s"))
    bench.monitor.latest()
    server = Server(tmp_path / "s")
    server.scripts.append(script)
    try:
        with pytest.raises(OutOfMemory):
            list(bench.controller.ask(instance_id, Question("why?", max_tokens=5)))
    finally:
        server.close()
    instance = bench.state_store.state.instances[instance_id]
    assert (instance.state, instance.explained_by) == (InstanceState.READY, operation.id)
    report = bench.controller.operation(operation.id).post_mortem
    assert report is not None
    assert report.asked is not None
    assert (report.phase, report.asked.model_id, report.asked.keep_others) == (Phase.ANSWERING, "lab/one", True)


def test_answer_that_fails_otherwise_is_not_explained(bench: Bench, tmp_path: Path) -> None:
    bench.load("lab/one")
    (instance_id,) = bench.state_store.state.instances
    bench.runtime.answers_at = Endpoint("http://worker", str(tmp_path / "s"))
    server = Server(tmp_path / "s")
    server.scripts += [[refusal("503 No", "overloaded")], [HEAD, piece("well"), b"data: [DONE]\n\n"]]
    try:
        with pytest.raises(GenerationFailed):
            list(bench.controller.ask(instance_id, Question("why?", max_tokens=5)))
        assert list(bench.controller.ask(instance_id, Question("why?", max_tokens=5))) == ["well"]
    finally:
        server.close()
    assert bench.state_store.state.instances[instance_id].explained_by is None


def test_model_whose_load_nobody_knows_is_left_unexplained(bench: Bench) -> None:
    stranger = loaded(model("lab/one"), "stranger")
    bench.state_store.put(stranger)
    postmortem.explain(bench.context, stranger, OutOfMemory(model="lab/one", detail="CUDA", log=""))
    assert bench.state_store.state.instances["stranger"].explained_by is None
