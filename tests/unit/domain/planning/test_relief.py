"""A clean-up and an emergency are a way out only where what they give back would make the launch fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.web.fakes import foreign, instance, model, reading, sample, worker
from webapp.domain.instance import Instance, InstanceState, MemoryReport
from webapp.domain.memory import Reading
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.relief import Relief, relief_of
from webapp.domain.planning.state import PlanningState
from webapp.domain.units import gib

NOTHING = Relief(by_clean=False, by_emergency=False)


def relief(weights_bytes: int, there: Reading, *instances: Instance, keep_others: bool = True) -> Relief:
    """Relief for a model of ``weights_bytes`` that does not fit on GPU 0 of 24 GiB."""
    new = model("lab/new", weights_bytes=weights_bytes)
    planning_state = PlanningState(
        now=0.0,
        sample=sample(there),
        sample_is_stale=False,
        instances=instances,
        models={new.id: new},
        policy=AdmissionPolicy(),
        mode_problems={},
    )
    asked = SwitchRequest(Mode.TRANSFORMERS, new.id, LaunchOptions(), ("gpu-0",), keep_others=keep_others)
    plan = plan_switch(asked, planning_state, "maria")
    assert plan.refusal is not None
    assert plan.refusal.code == "not_enough_memory"
    return relief_of(plan, instances, planning_state.sample)


def held(size: int, **changes: object) -> tuple[Reading, Instance]:
    """GPU 0 with a model of Maria's that holds ``size``."""
    known = {"measured_bytes": {"gpu-0": size}, "predicted_bytes": {"gpu-0": size}, **changes}
    return reading(held=(worker("i1", size),)), instance("i1", "lab/old", **known)


def test_a_model_larger_than_the_device_is_helped_by_nothing() -> None:
    assert relief(gib(132), *held(gib(10))) == NOTHING


def test_memory_of_other_programs_is_not_given_back() -> None:
    assert relief(gib(9), reading(held=(foreign("alice", "train.py", gib(20)),))) == NOTHING


def test_an_emergency_helps_where_warden_itself_holds_the_memory() -> None:
    assert relief(gib(9), *held(gib(20))) == Relief(by_clean=False, by_emergency=True)


def test_what_the_plan_unloads_already_is_not_counted_twice() -> None:
    assert relief(gib(30), *held(gib(10)), keep_others=False) == NOTHING


def test_a_model_that_survives_every_signal_keeps_its_memory_in_an_emergency_too() -> None:
    assert relief(gib(9), *held(gib(20), state=InstanceState.STUCK)) == NOTHING


@pytest.mark.parametrize(("unused", "helps"), [(gib(9), True), (gib(1), False)])
def test_a_clean_up_helps_where_a_model_holds_enough_that_it_does_not_use(unused: int, helps: bool) -> None:
    memory = MemoryReport(allocated_bytes=gib(20) - unused, reserved_bytes=gib(20))

    assert relief(gib(9), *held(gib(20), memory=memory)).by_clean is helps


def test_what_a_model_does_not_say_is_no_promise() -> None:
    assert not relief(gib(9), *held(gib(20), memory=MemoryReport(process_bytes=gib(20)))).by_clean


def test_both_help_where_a_process_was_left_behind() -> None:
    there = reading(held=(worker("gone", gib(20)),))

    assert relief(gib(9), there) == Relief(by_clean=True, by_emergency=True)


def test_without_a_reading_nothing_is_promised() -> None:
    there, old = held(gib(20))
    new = model("lab/new", weights_bytes=gib(9))
    planning_state = PlanningState(0.0, sample(there), False, (old,), {new.id: new}, AdmissionPolicy())
    plan = plan_switch(SwitchRequest(Mode.TRANSFORMERS, new.id, keep_others=True), planning_state, "maria")

    assert relief_of(plan, (old,), None) == NOTHING
    lost = sample(replace(there, device_id="gpu-7"))
    assert relief_of(plan, (old,), lost) == NOTHING
