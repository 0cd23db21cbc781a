"""The alternatives to a refused request: each fits, nothing larger would, and the cheapest for people is first."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.model import AttentionFacts, CachedModel, CacheKind, CacheLayers, ModelShape
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.plan import Eviction, Plan, SwitchRequest, Verdict, WayOut
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.alternatives import SMALLEST_TOKENS, TOKENS_STEP, Alternative, Cost, largest, price
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import PlanningState
from webapp.domain.units import gib
from webapp.errors import InvalidRequest, UnknownInstance
from webapp.message import Message

OLD = model("lab/old")
SHAPE = ModelShape(32, 4096, 14336, 32, 8, 128, 128256)
"""Llama-3.1-8B: 131072 bytes of KV cache a token."""
NEW = model("lab/new", weights_bytes=gib(16), shape=SHAPE, context_length=131072)
HOUR = 3600.0


def planning_state(
    machine: FakeMachine, *instances: Instance, cached: CachedModel = NEW, **changes: Any
) -> PlanningState:
    fields: dict[str, Any] = {
        "now": HOUR,
        "sample": FakeMonitor(machine).latest(),
        "sample_is_stale": False,
        "instances": instances,
        "models": {OLD.id: OLD, cached.id: cached},
        "policy": AdmissionPolicy(),
    }
    return PlanningState(**fields | changes)


def gpus(count: int, total: int = gib(24)) -> FakeMachine:
    return FakeMachine(totals={f"gpu-{n}": total for n in range(count)})


def asked(tokens: int = 2048, batch: int = 1, mode: Mode = Mode.TRANSFORMERS, **changes: object) -> SwitchRequest:
    return SwitchRequest(mode, NEW.id, LaunchOptions(max_tokens=tokens, batch_size=batch), **changes)  # type: ignore[arg-type]


def holding(instance_id: str, device: str, size: int, machine: FakeMachine, **changes: object) -> Instance:
    """A ready model that holds ``size`` on ``device``."""
    machine.held[device, instance_id] = size
    return loaded(
        replace(OLD, id=f"lab/{instance_id}"),
        instance_id,
        **{"devices": (device,), "predicted_bytes": {device: size}, "measured_bytes": {device: size}, **changes},
    )


def codes(plan: Plan) -> list[str]:
    return [alternative.message.code for alternative in plan.ways_out]


def alternative(plan: Plan, code: str) -> WayOut:
    return next(each for each in plan.ways_out if each.message.code == code)


def is_refused(request: SwitchRequest, there: PlanningState) -> bool:
    return plan_switch(request, there).verdict is Verdict.REFUSED


def with_options(request: SwitchRequest, **changes: int) -> SwitchRequest:
    return replace(request, options=replace(request.options, **changes))  # type: ignore[arg-type]


# Over random worlds

SIZES = st.floats(0, 20).map(gib)
STATES = st.sampled_from([InstanceState.READY] * 4 + [InstanceState.LOADING, InstanceState.STUCK, InstanceState.DEAD])
WINDOWS = AttentionFacts(
    (CacheLayers(CacheKind.FULL, 16, 8, 256), CacheLayers(CacheKind.WINDOW, 16, 8, 256, window=1024))
)


@st.composite
def planning_states(draw: st.DrawFn, *, alike: bool = False) -> PlanningState:
    names = [f"gpu-{n}" for n in range(draw(st.integers(1, 4)))]
    total = st.sampled_from([gib(12), gib(24), gib(80)])
    total = st.just(draw(total)) if alike else total
    machine = FakeMachine(
        totals={name: draw(total) for name in names}, foreign={name: draw(SIZES) // 4 for name in names}
    )
    instances = []
    for n in range(draw(st.integers(0, 5))):
        device = draw(st.sampled_from(names))
        size = min(draw(SIZES), machine.totals[device] - machine.readings()[names.index(device)].used_bytes)  # type: ignore[operator]
        made = holding(
            f"old{n}",
            device,
            size,
            machine,
            predicted_bytes={device: size + draw(st.sampled_from([0, gib(1)]))},
            owner=draw(st.sampled_from(["ivan", "maria"])),
            state=draw(STATES),
            in_flight=draw(st.sampled_from([0, 0, 0, 2])),
            last_used_at=draw(st.none() | st.floats(0, HOUR)),
        )
        instances.append(made)
    cached = replace(
        model(NEW.id, weights_bytes=draw(st.floats(0.5, 60).map(gib)), shape=SHAPE),
        context_length=draw(st.sampled_from([None, 300, 8192, 131072])),
        quantization=draw(st.sampled_from([None, None, None, "gptq"])),
        attention=draw(st.sampled_from([None, WINDOWS])),
    )
    return planning_state(
        machine,
        *instances,
        cached=cached,
        policy=AdmissionPolicy(memory_limit_bytes=draw(st.sampled_from([None, None, gib(30), gib(10)]))),
        claims=draw(st.sampled_from([{}, {}, {"gpu-0": "other"}])),
        mode_problems=draw(st.sampled_from([{}, {Mode.VLLM: Message("engine_missing")}])),
    )


@st.composite
def requests(draw: st.DrawFn) -> SwitchRequest:
    precision = draw(st.sampled_from([Precision.AUTO, Precision.AUTO, Precision.FP32, Precision.INT8, Precision.INT4]))
    options = LaunchOptions(
        precision.dtype,
        precision.quantization,
        draw(st.sampled_from([1, 100, 257, 2048, 8192, 100_000, 4_194_304])),
        draw(st.sampled_from([1, 1, 2, 7, 64, 1024])),
    )
    return SwitchRequest(
        draw(st.sampled_from(Mode)),
        NEW.id,
        options,
        devices=draw(st.sampled_from([None, None, ("gpu-0",)])),
        keep_others=draw(st.booleans()),
        interrupt_busy=draw(st.booleans()),
    )


over_worlds = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])


@over_worlds
@given(there=planning_states(), request=requests())
def test_no_way_out_is_refused_but_for_a_name_to_confirm(there: PlanningState, request: SwitchRequest) -> None:
    for each in plan_switch(request, there, "ivan").ways_out:
        again = plan_switch(each.request, there, "ivan")

        assert again.refusal is None or again.refusal.code == "confirmation_needed"
        assert Verdict.REFUSED not in [device.verdict for device in again.devices]
        assert again.request.options.max_tokens == each.request.options.max_tokens
        assert set(each.request.unload) <= {eviction.instance_id for eviction in again.unload}
        assert request.interrupt_busy or not any(eviction.in_flight for eviction in again.unload)


@over_worlds
@given(there=planning_states(), request=requests())
def test_nothing_larger_than_what_is_offered_would_fit(there: PlanningState, request: SwitchRequest) -> None:
    idle = replace(there, instances=tuple(replace(i, in_flight=0) for i in there.instances), claims={})
    plan = plan_switch(request, idle)
    for each in plan.ways_out:
        if each.message.code in ("way_out_tokens", "way_out_tokens_batch"):
            tokens = each.request.options.max_tokens
            assert tokens >= SMALLEST_TOKENS
            assert tokens % TOKENS_STEP == 0
            longer = with_options(each.request, max_tokens=tokens + TOKENS_STEP)
            assert tokens + TOKENS_STEP >= plan.request.options.max_tokens or is_refused(longer, idle)
        if each.message.code == "way_out_batch":
            assert is_refused(with_options(each.request, batch_size=each.request.options.batch_size + 1), idle)


# Own options


def test_the_longest_context_that_fits_is_the_very_one() -> None:
    here = planning_state(gpus(1))
    plan = plan_switch(asked(tokens=100_000), here)
    request = alternative(plan, "way_out_tokens").request

    assert request.options.max_tokens % TOKENS_STEP == 0
    assert not is_refused(request, here)
    assert is_refused(with_options(request, max_tokens=request.options.max_tokens + TOKENS_STEP), here)


def test_the_largest_batch_that_fits_is_the_very_one() -> None:
    here = planning_state(gpus(1))
    request = alternative(plan_switch(asked(batch=100), here), "way_out_batch").request

    assert 1 < request.options.batch_size < 100
    assert is_refused(with_options(request, batch_size=request.options.batch_size + 1), here)


def test_context_and_batch_are_cut_together_only_where_neither_is_enough() -> None:
    plan = plan_switch(asked(tokens=100_000, batch=1024), planning_state(gpus(1)))

    assert "way_out_tokens" not in codes(plan)
    assert "way_out_batch" not in codes(plan)
    both = alternative(plan, "way_out_tokens_batch").request.options
    assert (both.batch_size, both.max_tokens > SMALLEST_TOKENS) == (1, True)


def test_a_context_under_256_tokens_is_not_offered() -> None:
    here = planning_state(FakeMachine(foreign={"gpu-0": gib(6.8)}), cached=replace(NEW, context_length=257))
    plan = plan_switch(asked(tokens=257, batch=64), here)

    assert plan.verdict is Verdict.REFUSED
    assert "way_out_tokens" not in codes(plan)


def test_the_smallest_of_all_comes_only_where_four_bits_are_not_enough() -> None:
    here = planning_state(gpus(1, gib(12.5)))

    assert "way_out_smallest" not in codes(plan_switch(asked(), here))
    smallest = alternative(plan_switch(asked(tokens=100_000, batch=4), here), "way_out_smallest").request.options
    assert (smallest.precision, smallest.batch_size) == (Precision.INT4, 1)


@pytest.mark.parametrize(("least", "most"), [(4, 65535), (1, 1023), (3, 3), (5, 4)])
@pytest.mark.parametrize("limit", [0, 2, 900, 70000])
def test_the_search_is_exact_and_asks_little(least: int, most: int, limit: int) -> None:
    calls: list[int] = []

    def fits(n: int) -> bool:
        calls.append(n)
        return n <= limit

    fitting = [n for n in range(least, most + 1) if n <= limit]

    assert largest(fits, least, most) == (fitting[-1] if fitting else None)
    assert len(calls) <= 18


# Devices and modes


@pytest.mark.parametrize("mode", Mode)
def test_as_few_gpus_as_do_are_taken_together_and_those_with_the_most_room(mode: Mode) -> None:
    machine = FakeMachine(totals={f"gpu-{n}": gib(24) for n in range(4)}, foreign={"gpu-0": gib(12)})
    cached = replace(model(NEW.id, weights_bytes=gib(30), shape=SHAPE), context_length=8192)

    plan = plan_switch(asked(mode=mode, devices=("gpu-1",)), planning_state(machine, cached=cached))

    request = alternative(plan, "way_out_devices").request
    assert request.devices is not None
    assert (len(request.devices), "gpu-0" in request.devices) == (2, False)


def test_vllm_takes_only_as_many_gpus_as_divide_the_heads() -> None:
    cached = replace(model(NEW.id, weights_bytes=gib(30)), shape=replace(SHAPE, heads=9))

    for devices in (None, ("gpu-0",)):
        plan = plan_switch(asked(mode=Mode.VLLM, devices=devices), planning_state(gpus(4), cached=cached))
        assert plan.verdict is Verdict.REFUSED
        assert "way_out_devices" not in codes(plan)


def test_another_device_is_offered_where_one_is_enough_and_several_where_it_is_not() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(12), "gpu-1": gib(24), "gpu-2": gib(24)})
    small, large = (replace(NEW, weights=model(weights_bytes=gib(size)).weights) for size in (16, 30))

    offered = [
        codes(plan_switch(asked(devices=("gpu-0",)), planning_state(machine, cached=cached)))
        for cached in (small, large)
    ]

    assert ["way_out_other_device" in each for each in offered] == [True, False]
    assert all("way_out_devices" in each for each in offered)


def test_the_other_mode_is_offered_where_it_can_be_chosen_and_fits() -> None:
    """With long prompts transformers needs more than vLLM, which takes them in by pieces."""
    here, request = planning_state(gpus(1)), asked(tokens=40_000)

    assert alternative(plan_switch(request, here), "way_out_mode").request.mode is Mode.VLLM
    missing = replace(here, mode_problems={Mode.VLLM: Message("engine_missing")})
    assert "way_out_mode" not in codes(plan_switch(request, missing))


# Models that go


def beside(*instances: Instance, machine: FakeMachine, actor: str | None = None, **changes: object) -> Plan:
    return plan_switch(asked(keep_others=True, **changes), planning_state(machine, *instances), actor)  # type: ignore[arg-type]


def test_one_named_model_goes_instead_of_all_and_it_is_said_whose_and_for_how_long_it_is_idle() -> None:
    machine = gpus(1)
    one, two = (holding(name, "gpu-0", gib(4), machine) for name in ("one", "two"))
    plan = beside(one, replace(two, last_used_at=HOUR - 60), machine=machine)

    said = alternative(plan, "way_out_unload")
    assert dict(said.message.params) == {"model": "lab/one", "instance": "one", "owner": "maria", "idle_s": HOUR}
    assert (said.request.keep_others, said.request.unload) == (True, ("one",))
    here = planning_state(machine, one, two)
    assert [eviction.instance_id for eviction in plan_switch(said.request, here).unload] == ["one"]
    assert "way_out_unload_others" not in codes(plan)


def test_own_models_are_asked_first_and_the_longest_idle_of_others() -> None:
    machine = gpus(1)
    loads = [
        holding("fresh", "gpu-0", gib(2.5), machine, last_used_at=HOUR - 60),
        holding("quiet", "gpu-0", gib(2.5), machine, last_used_at=60.0),
        holding("own", "gpu-0", gib(2.5), machine, owner="ivan", last_used_at=HOUR - 5),
    ]
    plan = beside(*loads, machine=machine, actor="ivan")

    offered = [each.request.unload for each in plan.ways_out if each.message.code == "way_out_unload"]
    assert offered == [("own",), ("quiet",), ("fresh",)]


def test_two_go_where_one_is_not_enough() -> None:
    machine = gpus(1)
    plan = beside(*(holding(name, "gpu-0", gib(5), machine) for name in ("a", "b", "c")), machine=machine)

    assert "way_out_unload" not in codes(plan)
    assert alternative(plan, "way_out_unload_two").request.unload == ("a", "b")


def test_all_go_where_two_are_not_enough() -> None:
    machine = gpus(1)
    plan = beside(*(holding(f"old{n}", "gpu-0", gib(3.9), machine) for n in range(6)), machine=machine)

    assert [code for code in codes(plan) if "unload" in code] == ["way_out_unload_others"]
    assert not alternative(plan, "way_out_unload_others").request.keep_others


@pytest.mark.parametrize(
    ("interrupt", "offered"), [(False, []), (True, ["way_out_unload_busy"])], ids=["kept", "interrupted"]
)
def test_a_model_in_use_is_asked_to_go_only_where_that_is_allowed_and_last(interrupt: bool, offered: list[str]) -> None:
    machine = gpus(1)
    busy = holding("busy", "gpu-0", gib(20), machine, in_flight=2)
    plan = beside(busy, machine=machine, interrupt_busy=interrupt)

    assert [code for code in codes(plan) if "unload" in code] == offered
    assert not offered or codes(plan)[-1] == offered[0]


def test_a_model_on_a_device_that_is_not_taken_stays() -> None:
    machine = gpus(2)
    there = holding("there", "gpu-1", gib(4), machine)
    plan = plan_switch(asked(devices=("gpu-0",), keep_others=True, unload=("there",)), planning_state(machine, there))

    assert plan.unload == ()


@pytest.mark.parametrize(("unload", "error"), [(("gone",), UnknownInstance), (("one", "one"), InvalidRequest)])
def test_a_model_to_unload_is_named_once_and_runs(unload: tuple[str, ...], error: type[Exception]) -> None:
    machine = gpus(1)
    here = planning_state(machine, holding("one", "gpu-0", gib(4), machine))

    with pytest.raises(error):
        plan_switch(asked(keep_others=True, unload=unload), here)


def test_a_named_model_that_has_become_busy_is_not_interrupted() -> None:
    machine = gpus(1)
    here = planning_state(machine, holding("one", "gpu-0", gib(8), machine, in_flight=1))
    refusal = refusal_of(plan_switch(asked(keep_others=True, unload=("one",)), here), here)

    assert refusal is not None
    assert refusal.code == "instance_in_use"


# The price


def made(cost: Cost, lost: float = 0.0, *victims: tuple[str, int]) -> Alternative:
    evicted = tuple(Eviction("i", "m", Mode.VLLM, owner, in_flight, {}) for owner, in_flight in victims)
    return Alternative(Message("way"), asked(), cost, lost, evicted)


def test_ways_stand_by_what_they_cost_people() -> None:
    cheapest_first = [
        made(Cost.NOTHING),
        made(Cost.SEVERAL_DEVICES),
        made(Cost.OWN_OPTIONS, 0.1),
        made(Cost.OWN_OPTIONS, 0.9),
        made(Cost.OTHERS_MODEL, -60, ("ivan", 0)),
        made(Cost.OTHERS_MODEL, -HOUR, ("maria", 0)),
        made(Cost.NOTHING, 0, ("maria", 0)),
        made(Cost.ALL_MODELS, 0, ("ivan", 0)),
        made(Cost.HALF_PRECISION),
        made(Cost.INT8),
        made(Cost.OTHER_MODE),
        made(Cost.INT4),
        made(Cost.SMALLEST),
        made(Cost.NOTHING, 0, ("ivan", 1)),
    ]

    prices = [price(each, "ivan") for each in cheapest_first]

    assert prices == sorted(prices)
    assert len(set(prices)) == len(prices)
