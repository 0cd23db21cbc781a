"""Leases, release requests, and idle models: who may take which model, and when."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.idle import LAST_MINUTE_S, Quiet, idle_unload_in, silence_releases
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import NO_LEASE, Lease, ReleaseAnswer
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import Plan, SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import PlanningState
from webapp.domain.units import gib

OLD, NEW = model("lab/old"), model("lab/new", weights_bytes=gib(9))
NOW = 1_000_000.0
HOUR = 3600.0

moments = st.floats(0, 2 * NOW, allow_nan=False)
maybe_moments = st.none() | moments


def planning_state(*instances: Instance, **changes: Any) -> PlanningState:
    machine = FakeMachine(held={("gpu-0", i.id): gib(20) for i in instances if i.is_live})
    return PlanningState(
        now=NOW,
        sample=FakeMonitor(machine).latest(),
        sample_is_stale=False,
        instances=instances,
        models={cached.id: cached for cached in (OLD, NEW)},
        policy=AdmissionPolicy(),
        **changes,
    )


def marias(**changes: Any) -> Instance:
    """A model of Maria's that nobody has used for a day."""
    return loaded(OLD, **{"predicted_bytes": {"gpu-0": gib(20)}, **changes})


def plan_of(actor: str | None, instance: Instance, **changes: object) -> Plan:
    """What ``actor`` meets who has confirmed that the model may go, and needs its room."""
    asked = {"unload": (instance.id,), **changes}
    request = SwitchRequest(Mode.TRANSFORMERS, NEW.id, LaunchOptions(), **asked)  # type: ignore[arg-type]
    return plan_switch(request, planning_state(instance), actor)


LEASED = Lease(until=NOW + HOUR, reason="eval")


# Who may take it


def test_another_persons_leased_model_is_not_taken_and_the_plan_says_whose_and_until_when() -> None:
    plan = plan_of("ivan", marias(lease=LEASED))
    assert plan.verdict is Verdict.REFUSED
    assert plan.refusal is not None
    assert (plan.refusal.code, dict(plan.refusal.params)) == (
        "instance_leased",
        {"model": OLD.id, "instance": "old", "owner": "maria", "until": NOW + HOUR, "reason": "eval"},
    )


@pytest.mark.parametrize("actor", ["maria", None], ids=["its owner", "nobody in particular"])
def test_a_lease_keeps_the_model_from_strangers_alone(actor: str | None) -> None:
    assert plan_of(actor, marias(lease=LEASED)).refusal is None


def test_once_the_lease_is_over_the_idle_model_may_be_taken() -> None:
    assert plan_of("ivan", marias(lease=Lease(until=NOW))).refusal is None


@pytest.mark.parametrize("lease", [NO_LEASE, LEASED], ids=["free", "leased"])
def test_an_override_with_a_reason_passes_over_the_lease(lease: Lease) -> None:
    assert plan_of("ivan", marias(lease=lease), override_reason="the demo is now").refusal is None


@pytest.mark.parametrize(
    ("actor", "interrupt", "override", "code"),
    [
        ("ivan", False, None, "instance_in_use"),
        ("ivan", True, None, "instance_in_use"),
        ("ivan", False, "fire", "instance_in_use"),
        ("ivan", True, "fire", None),
        ("maria", False, None, "instance_in_use"),
        ("maria", True, None, None),
    ],
)
def test_answers_of_a_strangers_model_are_cut_off_only_by_an_override(
    actor: str, interrupt: bool, override: str | None, code: str | None
) -> None:
    plan = plan_of(actor, marias(in_flight=2), interrupt_busy=interrupt, override_reason=override)
    assert (None if plan.refusal is None else plan.refusal.code) == code


@pytest.mark.parametrize(
    ("actor", "interrupt", "override", "code"),
    [
        ("ivan", True, None, "instance_in_use"),
        ("ivan", False, "fire", None),
        ("maria", False, None, None),
    ],
)
def test_strangers_model_counts_as_busy_while_that_is_unknown_and_ones_own_does_not(
    actor: str, interrupt: bool, override: str | None, code: str | None
) -> None:
    plan = plan_of(actor, marias(in_flight=None), interrupt_busy=interrupt, override_reason=override)
    assert (None if plan.refusal is None else plan.refusal.code) == code


def test_model_of_which_it_is_unknown_whether_it_is_used_is_not_unloaded_for_being_idle() -> None:
    assert idle_unload_in(marias(), 15, Quiet(), NOW) is not None
    assert idle_unload_in(marias(in_flight=None), 15, Quiet(), NOW) is None


def test_a_dead_model_is_nobodys_any_more() -> None:
    assert plan_of("ivan", marias(state=InstanceState.DEAD, lease=LEASED)).refusal is None


def test_the_refusal_of_a_plan_is_its_own_whatever_world_it_is_asked_in() -> None:
    plan = plan_of("ivan", marias(lease=LEASED))
    error = refusal_of(plan, planning_state())
    assert error is not None
    assert error.code == "instance_leased"


def test_a_leased_model_of_a_stranger_is_no_way_out() -> None:
    plan = plan_of("ivan", marias(lease=LEASED), keep_others=True, unload=())
    assert not [way for way in plan.ways_out if way.request.unload or not way.request.keep_others]


def test_a_free_device_is_chosen_before_one_with_a_leased_model() -> None:
    machine = FakeMachine(
        totals={"gpu-0": gib(24), "gpu-1": gib(24)}, held={("gpu-0", "old"): gib(20), ("gpu-1", "own"): gib(8)}
    )
    own = replace(marias(owner="ivan"), id="own", devices=("gpu-1",), predicted_bytes={"gpu-1": gib(8)})
    here = replace(planning_state(marias(lease=LEASED), own), sample=FakeMonitor(machine).latest())
    plan = plan_switch(SwitchRequest(Mode.TRANSFORMERS, NEW.id), here, "ivan")
    assert [device.device_id for device in plan.devices] == ["gpu-1"]
    assert plan.refusal is None


@given(until=maybe_moments, now=moments)
def test_a_lease_runs_or_is_over_and_never_both(until: float | None, now: float) -> None:
    lease = Lease(until=until)
    assert (lease.runs(now), lease.is_over(now)).count(True) == (0 if until is None else 1)


@given(until=maybe_moments, now=moments, by=st.floats(1, 10 * HOUR))
def test_an_extension_lasts_so_long_from_now_at_least(until: float | None, now: float, by: float) -> None:
    longer = Lease(until=until).extended(by, now)
    assert longer.until is not None
    assert longer.until >= now + by
    assert until is None or longer.until >= until
    assert longer.runs(now)


# Release requests


@given(until=maybe_moments, now=moments)
def test_a_release_ends_the_lease_and_never_lengthens_it(until: float | None, now: float) -> None:
    given_up = Lease(until=until).asked_by("ivan", "", now).answered(ReleaseAnswer.RELEASE, now, "maria")
    assert not given_up.runs(now)
    assert given_up.asked is None
    assert until is None or (given_up.until is not None and given_up.until <= until)


def test_what_the_owner_gave_up_the_asker_may_take_though_it_answers() -> None:
    lease = LEASED.asked_by("ivan", "paper", NOW).answered(ReleaseAnswer.RELEASE, NOW, "maria")
    busy = marias(lease=lease, in_flight=1)
    assert plan_of("ivan", busy, interrupt_busy=True).refusal is None
    assert plan_of("olga", busy, interrupt_busy=True).refusal is not None


def test_silence_gives_up_an_idle_model_alone() -> None:
    lease = NO_LEASE.asked_by("ivan", "", NOW).answered(ReleaseAnswer.RELEASE, NOW, None)
    assert plan_of("ivan", marias(lease=lease, in_flight=1), interrupt_busy=True).refusal is not None


def test_new_terms_take_back_what_was_given_up() -> None:
    given_up = LEASED.asked_by("ivan", "", NOW).answered(ReleaseAnswer.RELEASE, NOW, "maria")
    assert not given_up.extended(HOUR, NOW).is_given_to("ivan")


def test_an_open_ask_outlives_new_terms() -> None:
    asked = LEASED.asked_by("ivan", "", NOW).extended(HOUR, NOW)
    assert asked.asked is not None


durations = st.floats(0, 1e5)
quiets = st.builds(Quiet, durations, durations, durations)


@given(now=moments, until=maybe_moments, in_flight=st.integers(0, 3), silence=st.floats(1, 600), quiet=quiets)
def test_silence_counts_only_for_an_idle_model_whose_lease_is_over(
    now: float, until: float | None, in_flight: int, silence: float, quiet: Quiet
) -> None:
    lease = Lease(until=until).asked_by("ivan", "", NOW)
    instance = marias(lease=lease, in_flight=in_flight)
    if silence_releases(instance, now, silence, quiet):
        assert in_flight == 0
        assert until is None or now >= until
        assert quiet.asked_s >= silence
        assert quiet.unused_s >= silence


def test_silence_of_a_minute_counts_and_one_moment_less_does_not() -> None:
    instance = marias(lease=NO_LEASE.asked_by("ivan", "", NOW))
    assert silence_releases(instance, NOW, 60, Quiet(60, 0, 60))
    assert not silence_releases(instance, NOW, 60, Quiet(60, 0, 59.9))
    assert not silence_releases(instance, NOW, 60, Quiet(59.9, 0, 60))
    assert not silence_releases(marias(), NOW, 60, Quiet(60, 0, 60))


# Idle models


@given(
    minutes=st.floats(0, 600),
    chosen=st.none() | st.floats(0, 600),
    now=moments,
    until=maybe_moments,
    in_flight=st.integers(0, 2),
    quiet=quiets,
)
def test_an_idle_model_goes_only_when_everything_lets_it(
    minutes: float, chosen: float | None, now: float, until: float | None, in_flight: int, quiet: Quiet
) -> None:
    lease = Lease(until=until, idle_minutes=chosen)
    left_s = idle_unload_in(marias(lease=lease, in_flight=in_flight), minutes, quiet, now)
    in_force = minutes if chosen is None else chosen
    assert (left_s is None) == (in_force == 0 or in_flight > 0)
    if left_s is not None:
        countdown_s = min(LAST_MINUTE_S, in_force * 60)
        assert left_s >= 0
        assert quiet.unused_s + left_s >= in_force * 60
        assert quiet.counted_s + left_s >= countdown_s
        assert until is None or until <= now or now + left_s == pytest.approx(max(now + left_s, until + countdown_s))


def test_the_last_minute_is_counted_down_however_long_nobody_has_used_it() -> None:
    assert idle_unload_in(marias(), 15, Quiet(unused_s=HOUR, counted_s=0), NOW) == LAST_MINUTE_S
    assert idle_unload_in(marias(), 15, Quiet(unused_s=HOUR, counted_s=59), NOW) == 1
    assert idle_unload_in(marias(), 15, Quiet(unused_s=300, counted_s=HOUR), NOW) == 600
    assert idle_unload_in(marias(), 0.25, Quiet(), NOW) == 15


@pytest.mark.parametrize("state", [s for s in InstanceState if s is not InstanceState.READY])
def test_only_a_ready_model_goes_for_being_idle(state: InstanceState) -> None:
    assert idle_unload_in(marias(state=state), 15, Quiet(), NOW) is None
