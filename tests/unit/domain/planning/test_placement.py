"""The place of a launch for which no device is named: one that has room, else several GPUs, and never the host next to
GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, model
from tests.unit.domain.planning.test_alternatives import (
    NEW,
    SHAPE,
    asked,
    codes,
    gpus,
    holding,
    planning_state,
    planning_states,
    requests,
)
from webapp.domain.lease import Lease
from webapp.domain.memory import DeviceKind, Reading
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.domain.plan import Plan, SwitchRequest, Verdict
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.sharing import can_share, counts
from webapp.domain.planning.state import PlanningState
from webapp.domain.units import gib
from webapp.errors import DeviceUnreadable
from webapp.message import Param

LARGE = replace(model(NEW.id, weights_bytes=gib(30), shape=SHAPE), context_length=8192)
"""Too large for one GPU of 24 GiB, not for two."""


def devices_of(plan: Plan) -> list[str]:
    return [device.device_id for device in plan.devices]


def why(plan: Plan) -> Mapping[str, Param]:
    return dict(next(r.params for r in plan.reasons if r.code.startswith("plan_spread")))


def names(there: PlanningState, *taken: tuple[str, str]) -> PlanningState:
    """The world with GPUs of these models, by id."""
    assert there.sample is not None
    known = dict(taken)
    readings = tuple(replace(r, name=known.get(r.device_id, r.name)) for r in there.sample.readings)
    return replace(there, sample=replace(there.sample, readings=readings))


@pytest.mark.parametrize("mode", Mode)
def test_model_too_large_for_one_gpu_goes_to_two_and_it_is_said_why(mode: Mode) -> None:
    machine = FakeMachine(totals={f"gpu-{n}": gib(24) for n in range(4)}, foreign={"gpu-0": gib(12)})
    plan = plan_switch(asked(mode=mode), planning_state(machine, cached=LARGE))

    assert (plan.verdict is Verdict.REFUSED, plan.anywhere) == (False, True)
    assert devices_of(plan) == ["gpu-1", "gpu-2"]
    assert (plan.reasons[0].code, why(plan)["count"], why(plan)["devices"]) == ("plan_spread", 2, "gpu-1, gpu-2")
    assert int(str(why(plan)["needed_bytes"])) > gib(30) > int(str(why(plan)["free_bytes"]))


def test_model_that_fits_on_one_gpu_stays_there() -> None:
    plan = plan_switch(asked(), planning_state(gpus(4)))
    assert len(plan.devices) == 1
    assert not [reason for reason in plan.reasons if reason.code.startswith("plan_spread")]


def test_transformers_takes_three_where_two_are_too_small_and_vllm_four() -> None:
    there = planning_state(gpus(4), cached=replace(LARGE, weights=model(weights_bytes=gib(46)).weights))
    taken = [len(plan_switch(asked(mode=mode), there).devices) for mode in (Mode.TRANSFORMERS, Mode.VLLM)]
    assert taken == [3, 4]


def test_gpus_where_nobody_has_to_go_are_taken_before_fewer_where_somebody_has() -> None:
    machine = gpus(4, gib(16))
    there = planning_state(
        machine,
        holding("old", "gpu-0", gib(12), machine),
        cached=replace(LARGE, weights=model(weights_bytes=gib(26)).weights),
    )
    plan = plan_switch(asked(), there)
    assert (plan.unload, devices_of(plan)) == ((), ["gpu-1", "gpu-2"])


def test_busy_model_is_not_interrupted_where_several_gpus_are_free() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(80), "gpu-1": gib(24), "gpu-2": gib(24)})
    there = planning_state(machine, holding("busy", "gpu-0", gib(60), machine, in_flight=1), cached=LARGE)
    plan = plan_switch(asked(), there)
    assert (plan.refusal, plan.unload, devices_of(plan)) == (None, (), ["gpu-1", "gpu-2"])
    assert plan.reasons[0].code == "plan_spread_in_use"
    assert devices_of(plan_switch(asked(interrupt_busy=True), there)) == ["gpu-0"]


def test_operation_is_not_waited_for_where_several_gpus_are_free() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(80), "gpu-1": gib(24), "gpu-2": gib(24)})
    there = planning_state(machine, cached=LARGE, claims={"gpu-0": "another"})
    plan = plan_switch(asked(), there)
    assert (plan.refusal, devices_of(plan), plan.reasons[0].code) == (None, ["gpu-1", "gpu-2"], "plan_spread_claimed")
    assert devices_of(plan_switch(asked(), replace(there, claims={}))) == ["gpu-0"]
    assert devices_of(plan_switch(asked(), replace(there, claims=dict.fromkeys(there.device_ids, "another")))) == [
        "gpu-0"
    ]


def test_operation_is_waited_for_rather_than_a_model_interrupted() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(80), "gpu-1": gib(24), "gpu-2": gib(24)})
    busy = holding("busy", "gpu-1", gib(4), machine, in_flight=1)
    plan = plan_switch(asked(), planning_state(machine, busy, cached=LARGE, claims={"gpu-0": "another"}))
    assert (plan.refusal, devices_of(plan), codes(plan)) == (None, ["gpu-0"], [])


def test_strangers_leased_model_stays_where_several_gpus_are_free() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(80), "gpu-1": gib(24), "gpu-2": gib(24)})
    held = holding("held", "gpu-0", gib(60), machine, lease=Lease(until=1e12))
    there = planning_state(machine, held, cached=LARGE)
    plan = plan_switch(asked(), there, "ivan")
    assert (plan.refusal, plan.unload, devices_of(plan)) == (None, (), ["gpu-1", "gpu-2"])
    assert plan.reasons[0].code == "plan_spread_leased"
    assert devices_of(plan_switch(asked(interrupt_busy=True), there, "ivan")) == ["gpu-1", "gpu-2"]
    assert devices_of(plan_switch(asked(override_reason="a demo"), there, "ivan")) == ["gpu-1", "gpu-2"]
    assert devices_of(plan_switch(asked(), there, held.owner)) == ["gpu-0"]


def test_like_gpus_share_a_model_in_vllm_and_any_do_in_transformers() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(26), "gpu-1": gib(24), "gpu-2": gib(24)})
    small = planning_state(machine, cached=replace(LARGE, weights=model(weights_bytes=gib(28)).weights))
    there = names(small, ("gpu-0", "B"), ("gpu-1", "A"), ("gpu-2", "A"))
    assert devices_of(plan_switch(asked(mode=Mode.VLLM), there)) == ["gpu-1", "gpu-2"]
    assert devices_of(plan_switch(asked(), there)) == ["gpu-0", "gpu-1"]


def test_lost_gpus_are_said_to_be_unreadable_and_the_host_is_not_taken() -> None:
    there = planning_state(FakeMachine(totals={"gpu-0": gib(24), "gpu-1": gib(24)}, lost={"gpu-0", "gpu-1"}))
    assert isinstance(refusal_of(plan_switch(asked(), there), there), DeviceUnreadable)


def test_host_is_never_chosen_beside_a_gpu_and_may_be_named() -> None:
    there = planning_state(FakeMachine(lost={"gpu-0"}))
    assert there.sample is not None
    (whole,) = FakeMachine().readings()
    host = replace(whole, device_id="host", kind=DeviceKind.HOST, name=None)
    both = replace(there, sample=replace(there.sample, readings=(*there.sample.readings, host)))
    plan = plan_switch(asked(), both)
    assert (devices_of(plan), type(refusal_of(plan, both))) == (["gpu-0"], DeviceUnreadable)
    assert plan_switch(asked(devices=("host",)), both).refusal is None


@pytest.mark.parametrize(
    ("mode", "heads", "kv_heads", "gpus_there", "numbers"),
    [
        (Mode.VLLM, 32, 8, 8, (2, 4, 8)),
        (Mode.VLLM, 32, 8, 7, (2, 4)),
        (Mode.VLLM, 28, 4, 8, (2, 4)),
        (Mode.VLLM, 32, 2, 8, (2, 4, 8)),
        (Mode.VLLM, 9, 3, 8, ()),
        (Mode.VLLM, None, None, 4, (2, 4)),
        (Mode.TRANSFORMERS, 9, 3, 4, (2, 3, 4)),
        (Mode.TRANSFORMERS, 9, 3, 1, ()),
    ],
)
def test_a_model_is_divided_as_far_as_it_divides(
    mode: Mode, heads: int | None, kv_heads: int | None, gpus_there: int, numbers: tuple[int, ...]
) -> None:
    cached = replace(NEW, shape=replace(SHAPE, heads=heads, kv_heads=kv_heads))
    assert counts(mode, cached, gpus_there) == numbers


def test_no_gpu_is_left_without_a_layer() -> None:
    assert counts(Mode.TRANSFORMERS, replace(NEW, shape=replace(SHAPE, layers=3)), 8) == (2, 3)


# Over random worlds

over_worlds = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def is_allowed(plan: Plan, there: PlanningState) -> bool:
    """Whether it could be carried out at once."""
    return plan.refusal is None and not any(device in there.claims for device in devices_of(plan))


def model_of(there: PlanningState) -> CachedModel:
    return there.models[NEW.id]


@over_worlds
@given(there=planning_states(), request=requests(), data=st.data())
def test_more_free_memory_never_makes_a_plan_a_refused_one(
    there: PlanningState, request: SwitchRequest, data: st.DataObject
) -> None:
    before = plan_switch(request, there)
    assert there.sample is not None
    device = data.draw(st.sampled_from([r.device_id for r in there.sample.readings]))

    def freed(reading: Reading) -> Reading:
        used = sum(there.held_bytes.get((i.id, device), 0) for i in there.instances)
        most = (reading.total_bytes or 0) - used
        free = data.draw(st.integers(reading.free_bytes or 0, max(most, reading.free_bytes or 0)))
        return replace(reading, free_bytes=free, used_bytes=(reading.total_bytes or 0) - free)

    readings = tuple(freed(r) if r.device_id == device else r for r in there.sample.readings)
    after = plan_switch(request, replace(there, sample=replace(there.sample, readings=readings)))
    assert not is_allowed(before, there) or is_allowed(after, there)


@over_worlds
@given(there=planning_states(), request=requests())
def test_no_allowed_choice_is_passed_over_for_a_refused_one(there: PlanningState, request: SwitchRequest) -> None:
    anywhere = replace(request, devices=None)
    chosen = plan_switch(anywhere, there)
    ids = there.device_ids
    assert len(set(devices_of(chosen))) == len(chosen.devices) > 0
    assert set(devices_of(chosen)) <= set(ids)
    if is_allowed(chosen, there) or refusal_is_of_the_model(chosen):
        return
    sizes = (1, *counts(request.mode, model_of(there), len(ids)))
    for named in (c for n in sizes for c in combinations(ids, n)):
        assert not is_allowed(plan_switch(replace(anywhere, devices=named), there), there)


@over_worlds
@given(there=planning_states(alike=True), request=requests())
def test_no_several_gpus_that_are_allowed_cost_people_less(there: PlanningState, request: SwitchRequest) -> None:
    anywhere = replace(request, devices=None)
    chosen = plan_switch(anywhere, there)
    if len(chosen.devices) < 2 or not is_allowed(chosen, there):
        return
    sizes = counts(request.mode, model_of(there), len(there.device_ids))
    for named in (c for n in sizes for c in combinations(there.device_ids, n)):
        other = plan_switch(replace(anywhere, devices=named), there)
        if is_allowed(other, there):
            assert (len(other.unload), len(other.devices)) >= (len(chosen.unload), len(chosen.devices))


def refusal_is_of_the_model(plan: Plan) -> bool:
    return plan.refusal is not None and plan.refusal.code not in ("not_enough_memory", "instance_in_use")


@over_worlds
@given(there=planning_states(), request=requests())
def test_a_choice_is_made_twice_alike_and_stands_by_its_devices(there: PlanningState, request: SwitchRequest) -> None:
    chosen = plan_switch(replace(request, devices=None), there)
    assert plan_switch(replace(request, devices=None), there) == chosen
    named = plan_switch(replace(request, devices=tuple(devices_of(chosen))), there)
    assert (named.devices, {e.instance_id for e in named.unload}) == (
        chosen.devices,
        {e.instance_id for e in chosen.unload},
    )


@pytest.mark.parametrize("count", [0, 1])
def test_one_gpu_shares_nothing(count: int) -> None:
    assert can_share(replace(NEW, shape=replace(SHAPE, heads=9)), count)


@pytest.mark.parametrize("mode", Mode)
def test_a_machine_without_devices_is_refused_as_unreadable(mode: Mode) -> None:
    there = replace(planning_state(gpus(1)), sample=None)
    assert isinstance(refusal_of(plan_switch(asked(mode=mode), there), there), DeviceUnreadable)
