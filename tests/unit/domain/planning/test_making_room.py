"""What goes for a launch, over random worlds: another person's model only where nothing else has the room, and only by its name."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

import pytest

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import Lease, ReleaseAnswer
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import Eviction, Plan, Reach, SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.fit import Fit, fit_of, needs_of
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.state import PlanningState, headrooms
from webapp.domain.queue import QueuedLaunch, judge
from webapp.domain.units import gib

NOW = 100_000.0
DEVICES = [("gpu-0",), ("gpu-1",), ("gpu-0", "gpu-1")]
ME = "ivan"
OLD = model("lab/old")
SIZES = [gib(size) for size in (1, 3, 7, 12, 18)]


@dataclass(frozen=True)
class Case:
    """One world, what is asked for in it, and its plan."""

    seed: int
    planning_state: PlanningState
    request: SwitchRequest
    plan: Plan


def instances(some: random.Random) -> Iterator[Instance]:
    """Models of several people, some used, some leased, some given up, some not there yet; on one GPU or both."""
    for number in range(some.randint(0, 6)):
        devices, size = some.choice(DEVICES), some.choice([gib(2), gib(4), gib(6)])
        lease = Lease(until=some.choice([None, None, NOW - 1, NOW + 600]))
        if some.random() < 0.1:
            lease = lease.asked_by(ME, "", NOW - 60).answered(ReleaseAnswer.RELEASE, NOW - 30, "the owner")
        yield loaded(
            OLD,
            f"i{number}",
            owner=some.choice([ME, "maria", "olga"]),
            devices=devices,
            state=some.choice([InstanceState.READY] * 6 + [InstanceState.LOADING, InstanceState.DEAD]),
            lease=lease,
            in_flight=some.choice([0, 0, 0, 0, 1]),
            last_used_at=some.uniform(0, NOW),
            predicted_bytes=dict.fromkeys(devices, size),
            options=LaunchOptions(max_tokens=100 + number),
        )


def world_of(some: random.Random) -> PlanningState:
    there = tuple(instances(some))
    machine = FakeMachine(
        totals=dict.fromkeys(("gpu-0", "gpu-1"), gib(24)),
        held={(d, i.id): size for i in there if i.is_live for d, size in i.predicted_bytes.items()},
        foreign={device: some.choice([0, gib(3), gib(8)]) for device in ("gpu-0", "gpu-1")},
    )
    cached = [model(f"lab/{size}", weights_bytes=size) for size in SIZES]
    return PlanningState(
        now=NOW,
        sample=FakeMonitor(machine).latest(),
        sample_is_stale=False,
        instances=there,
        models={each.id: each for each in (OLD, *cached)},
        policy=AdmissionPolicy(),
        actor=ME,
    )


def case_of(seed: int) -> Case:
    some = random.Random(seed)
    here = world_of(some)
    ids = [instance.id for instance in here.instances]
    request = SwitchRequest(
        Mode.TRANSFORMERS,
        f"lab/{some.choice(SIZES)}",
        LaunchOptions(),
        devices=some.choice([None, *DEVICES]),
        keep_others=some.random() < 0.3,
        interrupt_busy=some.random() < 0.5,
        unload=tuple(some.sample(ids, some.randint(0, len(ids)))) if some.random() < 0.5 else (),
    )
    return Case(seed, here, request, plan_switch(request, here, with_ways_out=False))


@cache
def cases() -> tuple[Case, ...]:
    return tuple(case_of(seed) for seed in range(600))


def met(condition: Callable[[Case], bool]) -> list[Case]:
    """The cases that a property is about: it would prove nothing where there are hardly any."""
    found = [case for case in cases() if condition(case)]
    assert len(found) >= 8
    return found


def others_of(plan: Plan) -> tuple[Eviction, ...]:
    return tuple(eviction for eviction in plan.unload if eviction.is_others)


def code_of(plan: Plan) -> str | None:
    return None if plan.refusal is None else plan.refusal.code


def fit_in(case: Case) -> Fit:
    there = headrooms(case.planning_state, case.request)
    return fit_of(needs_of(case.request, case.planning_state.models[case.request.model_id], there), there)


def test_what_the_list_says_fits_now_is_not_refused_and_touches_nobody_else() -> None:
    for case in met(lambda case: fit_in(case) is Fit.NOW):
        assert (case.plan.refusal, others_of(case.plan)) == (None, ()), case.seed


def test_what_the_list_says_is_too_large_is_refused_for_its_memory() -> None:
    for case in met(lambda case: fit_in(case) is Fit.TOO_LARGE):
        assert code_of(case.plan) == "not_enough_memory", case.seed


def test_other_peoples_models_go_only_by_name_while_idle_and_not_leased() -> None:
    for case in met(lambda case: bool(others_of(case.plan)) and code_of(case.plan) in (None, "confirmation_needed")):
        going = others_of(case.plan)
        assert all(e.is_resting and e.lease_until is None for e in going), case.seed
        assert not any(e.in_flight for e in going if e.is_foreign), case.seed
        named = {e.instance_id for e in going if e.is_confirmed_by(case.request)}
        assert (named == {e.instance_id for e in going}) is (case.plan.refusal is None), case.seed


def test_who_keeps_the_own_models_unloads_nothing_but_what_was_named() -> None:
    for case in met(lambda case: case.request.keep_others and bool(case.plan.unload)):
        assert {e.instance_id for e in case.plan.unload} <= set(case.request.unload), case.seed


def test_who_does_not_keep_them_replaces_all_the_own_models_there() -> None:
    for case in met(lambda case: not case.request.keep_others and case.plan.refusal is None):
        devices = {device.device_id for device in case.plan.devices}
        own = {
            e.instance_id for e in case.planning_state.evictions if not e.is_others and devices & e.freed_bytes.keys()
        }
        assert own == {e.instance_id for e in case.plan.unload if not e.is_others}, case.seed


def test_as_few_of_other_peoples_models_go_as_leave_the_room() -> None:
    """With one fewer of the idle ones there, whichever they are, there is no room."""
    for case in met(lambda case: bool(others_of(case.plan)) and code_of(case.plan) in (None, "confirmation_needed")):
        plan, devices = case.plan, {device.device_id for device in case.plan.devices}
        own = tuple(e.instance_id for e in plan.unload if not e.is_others)
        idle = [e for e in case.planning_state.evictions if e.goes(case.request, Reach.IDLE) and e.is_others]
        confirmed = [e for e in idle if e.is_confirmed_by(case.request)]
        there = [e for e in (confirmed if plan.refusal is None else idle) if devices & e.freed_bytes.keys()]
        for fewer in combinations(there, len(others_of(plan)) - 1):
            named = tuple(e.instance_id for e in fewer)
            tried = replace(plan.request, keep_others=True, unload=(*own, *named))
            assert code_of(plan_switch(tried, case.planning_state, with_ways_out=False)) == "not_enough_memory", (
                case.seed
            )


def test_who_confirms_what_the_plan_names_gets_that_very_plan() -> None:
    for case in met(lambda case: code_of(case.plan) == "confirmation_needed"):
        assert case.plan.refusal is not None
        named = str(case.plan.refusal.params["instances"]).split(",")
        confirmed = plan_switch(replace(case.request, unload=(*case.request.unload, *named)), case.planning_state)
        assert confirmed.refusal is None, case.seed
        assert {e.instance_id for e in confirmed.unload} == {e.instance_id for e in case.plan.unload}, case.seed
        assert confirmed.devices == case.plan.devices, case.seed


@pytest.mark.parametrize(
    "code", [None, "confirmation_needed", "instance_leased", "instance_in_use", "not_enough_memory"]
)
def test_the_queue_starts_what_the_form_would(code: str | None) -> None:
    for case in met(lambda case: code_of(case.plan) == code):
        judged = judge(QueuedLaunch("t1", 1, case.request, ME, NOW - 10), frozenset(), case.planning_state, {})
        assert (judged.why is None) is (code is None), case.seed
        assert judged.why is None or code != "confirmation_needed" or judged.why.code == "waits_others", case.seed


def test_every_way_out_leads_to_a_plan_that_asks_for_names_at_most() -> None:
    for case in met(lambda case: code_of(case.plan) == "not_enough_memory")[:150]:
        for way in plan_switch(case.request, case.planning_state, ME).ways_out:
            assert code_of(plan_switch(way.request, case.planning_state)) in (None, "confirmation_needed"), (
                case.seed,
                way,
            )


def test_without_people_it_is_the_plain_switch_of_all_that_is_there() -> None:
    for case in met(lambda case: not case.request.keep_others)[:300]:
        here = replace(case.planning_state, actor=None)
        plan = plan_switch(case.request, here)
        devices = {device.device_id for device in plan.devices}
        there = {e.instance_id for e in here.evictions if devices & e.freed_bytes.keys()}
        assert {e.instance_id for e in plan.unload} == there, case.seed


def test_of_very_many_models_no_more_go_than_have_to() -> None:
    there = [
        loaded(
            OLD, f"i{n}", devices=("host",), predicted_bytes={"host": gib(4)}, options=LaunchOptions(max_tokens=100 + n)
        )
        for n in range(30)
    ]
    machine = FakeMachine(totals={"host": gib(128)}, held={("host", instance.id): gib(4) for instance in there})
    large = model("lab/large", weights_bytes=gib(50))
    here = PlanningState(
        NOW, FakeMonitor(machine).latest(), False, tuple(there), {large.id: large}, AdmissionPolicy(), actor=ME
    )
    plan = plan_switch(SwitchRequest(Mode.TRANSFORMERS, large.id), here)
    (device,) = plan.devices
    lacks = device.footprint.required_bytes + device.reserve_bytes - gib(8)
    assert (code_of(plan), len(plan.unload)) == ("confirmation_needed", -(-lacks // gib(4)))
