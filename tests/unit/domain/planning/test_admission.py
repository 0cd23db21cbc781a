"""Verdicts at their boundaries, the reserve and the memory limit."""

from __future__ import annotations

import pytest

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy, judge, within_limit
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.state import PlanningState
from webapp.domain.units import MIB, gib


@pytest.mark.parametrize(
    ("needed", "available", "reserve", "verdict"),
    [
        (80, 100, 10, Verdict.FITS),
        (81, 100, 10, Verdict.TIGHT),
        (90, 100, 10, Verdict.TIGHT),
        (91, 100, 10, Verdict.REFUSED),
        (75, 100, 30, Verdict.REFUSED),
        (0, 0, 0, Verdict.FITS),
        (0, 5, 10, Verdict.REFUSED),
    ],
)
def test_verdict_changes_exactly_at_its_boundaries(needed: int, available: int, reserve: int, verdict: Verdict) -> None:
    assert judge(needed, available, reserve, 80.0) is verdict


def test_reserve_is_512_mib_or_five_percent_whichever_is_more() -> None:
    assert AdmissionPolicy().reserve_on(gib(4)) == 512 * MIB
    assert AdmissionPolicy().reserve_on(gib(80)) == gib(4)


@pytest.mark.parametrize(
    ("free", "own", "limit", "takeable"), [(10, 4, None, 10), (10, 4, 20, 10), (10, 4, 6, 2), (10, 9, 6, 0)]
)
def test_limit_leaves_what_it_leaves_beside_our_own(free: int, own: int, limit: int | None, takeable: int) -> None:
    assert within_limit(free, own, limit) == takeable


def test_unloading_gives_back_within_the_limit_too() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(4)})
    cached = model("lab/new", weights_bytes=gib(4))
    planning_state = PlanningState(
        now=0.0,
        sample=FakeMonitor(machine).latest(),
        sample_is_stale=False,
        instances=(loaded(model("lab/old"), measured_bytes={"gpu-0": gib(4)}),),
        models={cached.id: cached},
        policy=AdmissionPolicy(memory_limit_bytes=gib(6.5)),
    )
    plan = plan_switch(SwitchRequest(Mode.TRANSFORMERS, cached.id, LaunchOptions()), planning_state)
    (device,) = plan.devices
    assert device.free_before_bytes == gib(2.5)
    assert device.available_bytes == gib(6.5)
    assert plan.verdict is not Verdict.REFUSED
    beside = plan_switch(SwitchRequest(Mode.TRANSFORMERS, cached.id, LaunchOptions(), keep_others=True), planning_state)
    assert beside.verdict is Verdict.REFUSED
    assert "way_out_unload" in [way.message.code for way in beside.ways_out]
