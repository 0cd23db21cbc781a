"""The list's word on a model is the plan's word."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.fit import Fit, Needs, fit_of, needs_of
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.state import Headroom, PlanningState, headrooms
from webapp.domain.units import gib

OLD = model("lab/old")
GIB = st.floats(0, 30).map(gib)


def headroom(beside: int | None, alone: int | None) -> Headroom:
    return Headroom("gpu-0", DeviceKind.GPU, gib(24), beside, alone)


@settings(deadline=None)
@given(
    weights=st.floats(0.1, 40).map(gib),
    held=GIB,
    foreign=GIB,
    limit=st.none() | GIB,
    mode=st.sampled_from(Mode),
    tokens=st.integers(1, 100_000),
    chosen=st.sampled_from([None, ("gpu-0",), ("gpu-1",), ("gpu-1", "gpu-0")]),
)
def test_what_the_list_says_of_a_model_is_what_its_plan_says(
    weights: int,
    held: int,
    foreign: int,
    limit: int | None,
    mode: Mode,
    tokens: int,
    chosen: tuple[str, ...] | None,
) -> None:
    new = model("lab/new", weights_bytes=weights)
    machine = FakeMachine(
        totals={"gpu-0": gib(24), "gpu-1": gib(12)}, held={("gpu-0", "old"): held}, foreign={"gpu-1": foreign}
    )
    planning_state = PlanningState(
        now=0.0,
        sample=FakeMonitor(machine).latest(),
        sample_is_stale=False,
        instances=(loaded(OLD, "old", measured_bytes={"gpu-0": held}, predicted_bytes={"gpu-0": held}),),
        models={OLD.id: OLD, new.id: new},
        policy=AdmissionPolicy(memory_limit_bytes=limit),
    )
    request = SwitchRequest(mode, new.id, LaunchOptions(max_tokens=tokens), devices=chosen)
    there = headrooms(planning_state, request)

    fit = fit_of(needs_of(request, new, there), there)

    assert fit is expected(request, planning_state)


def expected(request: SwitchRequest, planning_state: PlanningState) -> Fit:
    """The word that follows from two whole plans."""
    beside, alone = (_fits(request, planning_state, keep_others=keep) for keep in (True, False))
    return Fit.NOW if beside else Fit.AFTER_UNLOADING if alone else Fit.TOO_LARGE


def _fits(request: SwitchRequest, planning_state: PlanningState, *, keep_others: bool) -> bool:
    asked = SwitchRequest(
        request.mode, request.model_id, request.options, request.devices, keep_others=keep_others, interrupt_busy=True
    )
    verdicts = [device.verdict for device in plan_switch(asked, planning_state).devices]
    return Verdict.REFUSED not in verdicts


@pytest.mark.parametrize(
    ("beside", "alone", "fit"),
    [
        (gib(4), gib(8), Fit.NOW),
        (gib(4) - 1, gib(4), Fit.AFTER_UNLOADING),
        (0, gib(4) - 1, Fit.TOO_LARGE),
        (None, None, Fit.UNKNOWN),
    ],
)
def test_the_very_byte_decides(beside: int | None, alone: int | None, fit: Fit) -> None:
    assert fit_of(Needs((gib(4),)), [headroom(beside, alone)]) is fit


def test_the_best_device_counts_and_one_that_is_lost_does_not() -> None:
    assert fit_of(Needs((gib(4), gib(4))), [headroom(None, None), headroom(0, gib(5))]) is Fit.AFTER_UNLOADING


def test_no_device_is_unknown() -> None:
    assert fit_of(Needs(()), []) is Fit.UNKNOWN
