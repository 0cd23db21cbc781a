"""The arithmetic of a switch next to other models: what is unloaded, what stays, what is promised, and what is loaded
already.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.unit.control.fakes import FakeMachine, FakeMonitor, loaded, model
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.model import CachedModel, ModelShape
from webapp.domain.modes import LaunchOptions, Mode, Quantization
from webapp.domain.plan import Plan, SwitchRequest, Verdict
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.planner import plan_switch, refusal_of
from webapp.domain.planning.state import Cooldown, PlanningState
from webapp.domain.units import gib
from webapp.errors import (
    AlreadyLoaded,
    CoolingDown,
    DeviceUnreadable,
    InstanceInUse,
    InvalidRequest,
    ModeUnavailable,
    NotEnoughMemory,
    WardenError,
)
from webapp.message import Message

OLD, NEW = model("lab/old"), model("lab/new", weights_bytes=gib(9))


def planning_state(machine: FakeMachine, *instances: Instance, **changes: Any) -> PlanningState:
    return PlanningState(
        now=0.0,
        sample=FakeMonitor(machine).latest(),
        sample_is_stale=False,
        instances=instances,
        models={cached.id: cached for cached in (OLD, NEW)},
        policy=AdmissionPolicy(),
        **changes,
    )


def request(model_id: str = NEW.id, **changes: object) -> SwitchRequest:
    return SwitchRequest(Mode.TRANSFORMERS, model_id, LaunchOptions(), **changes)  # type: ignore[arg-type]


def codes(plan: Plan) -> list[str]:
    return [reason.code for reason in plan.reasons]


def test_no_more_is_available_than_the_device_has() -> None:
    """Nothing was measured of the old model, and its prediction exceeds the shortfall of the device."""
    machine = FakeMachine(foreign={"gpu-0": gib(4)})
    plan = plan_switch(request(), planning_state(machine, loaded(OLD, predicted_bytes={"gpu-0": gib(10)})))
    (device,) = plan.devices
    assert device.available_bytes == device.total_bytes == gib(24)


def test_model_that_stays_keeps_what_it_was_promised() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(12)})
    old = loaded(OLD, predicted_bytes={"gpu-0": gib(20)}, measured_bytes={"gpu-0": gib(12)})
    plan = plan_switch(request(keep_others=True), planning_state(machine, old))
    (device,) = plan.devices
    assert (device.promised_bytes, device.available_bytes) == (gib(8), gib(4))
    assert plan.verdict is Verdict.REFUSED
    assert "way_out_unload" in [alternative.message.code for alternative in plan.ways_out]


def test_model_that_goes_is_promised_nothing() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(12)})
    plan = plan_switch(request(), planning_state(machine, loaded(OLD, predicted_bytes={"gpu-0": gib(20)})))
    (device,) = plan.devices
    assert (device.promised_bytes, device.freed_bytes, device.available_bytes) == (0, gib(12), gib(24))
    assert plan.verdict is Verdict.FITS


def test_promise_to_a_model_that_stays_is_said() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(1)})
    old = loaded(OLD, predicted_bytes={"gpu-0": gib(3)})
    plan = plan_switch(request(keep_others=True), planning_state(machine, old))
    assert plan.verdict is not Verdict.REFUSED
    assert "plan_promised" in codes(plan)


def test_stuck_model_is_not_unloaded_again_and_what_it_holds_is_said() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(2)})
    stuck = loaded(OLD, state=InstanceState.STUCK, predicted_bytes={"gpu-0": gib(10)})
    plan = plan_switch(request(), planning_state(machine, stuck))
    (device,) = plan.devices
    assert plan.unload == ()
    assert (device.promised_bytes, device.available_bytes) == (0, gib(22))
    (said,) = [reason for reason in plan.reasons if reason.code == "plan_stuck_holds"]
    assert dict(said.params) == {"model": OLD.id, "held_bytes": gib(2)}


def test_stuck_model_that_holds_too_much_refuses_the_plan() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(20)})
    plan = plan_switch(request(), planning_state(machine, loaded(OLD, state=InstanceState.STUCK)))
    assert (plan.verdict, plan.unload) == (Verdict.REFUSED, ())


NEWER = "f" * 40


def evicting(old: CachedModel | None = OLD, problem: Message | None = None, **changes: Any) -> Plan:
    """The plan of a switch that unloads the old model, of which the cache has ``old`` and whose mode has ``problem``."""
    running = loaded(OLD, **changes)
    around = planning_state(FakeMachine(held={("gpu-0", "old"): gib(2)}), running)
    models = {NEW.id: NEW} | ({} if old is None else {old.id: old})
    return plan_switch(request(), replace(around, models=models, mode_problems={Mode.VLLM: problem}))


def said_of_the_return(plan: Plan) -> list[object]:
    return [reason.params["reason"] for reason in plan.reasons if reason.code == "plan_no_return"]


def test_model_that_can_come_back_has_nothing_said_of_it() -> None:
    plan = evicting()
    assert (said_of_the_return(plan), plan.unload[0].no_return) == ([], None)


def test_model_whose_files_are_gone_is_said_not_to_come_back() -> None:
    plan = evicting(old=None)
    assert said_of_the_return(plan) == ["files_gone"]
    assert plan.unload[0].no_return == Message("files_gone", {"model": OLD.id})
    assert plan.verdict is not Verdict.REFUSED


def test_model_whose_revision_is_gone_is_said_not_to_come_back() -> None:
    assert said_of_the_return(evicting(old=replace(OLD, revision=NEWER))) == ["revision_gone"]


def test_model_whose_revision_is_still_there_comes_back_whatever_the_cache_names_by_now() -> None:
    assert said_of_the_return(evicting(old=replace(OLD, revision=NEWER, revisions=frozenset({OLD.revision})))) == []


def test_model_whose_files_were_damaged_is_said_not_to_come_back() -> None:
    broken = replace(OLD, problem=Message("model_incomplete", {"missing": "model.safetensors"}))
    assert said_of_the_return(evicting(old=broken)) == ["model_incomplete"]


def test_model_that_has_ended_by_itself_is_not_expected_back() -> None:
    assert said_of_the_return(evicting(old=None, state=InstanceState.DEAD)) == []


AWAY = Message("engine_unreachable", {"socket": "/run/docker.sock", "detail": "timed out"})


def test_model_that_docker_cannot_end_now_is_not_unloaded() -> None:
    plan = evicting(problem=AWAY, mode=Mode.VLLM)
    assert plan.refusal is not None
    assert plan.refusal.code == "cannot_end"
    assert plan.refusal.params["reason"] == "engine_unreachable"


def test_model_whose_image_is_gone_can_be_ended_and_does_not_come_back() -> None:
    plan = evicting(problem=Message("image_missing", {"image": "lab/vllm:1"}), mode=Mode.VLLM)
    assert (plan.refusal, said_of_the_return(plan)) == (None, ["image_missing"])


def test_who_wants_no_return_may_unload_what_docker_cannot_end_now_and_is_told() -> None:
    running = loaded(OLD, mode=Mode.VLLM)
    around = planning_state(FakeMachine(held={("gpu-0", "old"): gib(2)}), running)
    plan = plan_switch(request(restore_on_failure=False), replace(around, mode_problems={Mode.VLLM: AWAY}))
    assert (plan.refusal, said_of_the_return(plan)) == (None, ["engine_unreachable"])


def test_dead_model_is_cleared_away_and_gives_nothing_back() -> None:
    plan = plan_switch(request(), planning_state(FakeMachine(), loaded(OLD, state=InstanceState.DEAD)))
    (eviction,) = plan.unload
    assert (eviction.instance_id, dict(eviction.freed_bytes)) == ("old", {"gpu-0": 0})


def test_claimed_device_is_said_and_does_not_change_the_arithmetic() -> None:
    free = plan_switch(request(), planning_state(FakeMachine()))
    claimed = plan_switch(request(), planning_state(FakeMachine(), claims={"gpu-0": "other"}))
    assert "plan_device_claimed" in codes(claimed)
    assert (claimed.devices, claimed.verdict) == (free.devices, free.verdict)


@pytest.mark.parametrize(("devices", "refused"), [(None, True), (("gpu-0",), True), (("gpu-1",), False)])
def test_second_copy_is_made_only_on_a_device_that_was_named(devices: tuple[str, ...] | None, refused: bool) -> None:
    machine = FakeMachine(totals={"gpu-0": gib(24), "gpu-1": gib(24)}, held={("gpu-0", "old"): gib(1)})
    there = planning_state(machine, loaded(OLD))
    plan = plan_switch(request(OLD.id, devices=devices), there)
    assert isinstance(refusal_of(plan, there), AlreadyLoaded) is refused


@pytest.mark.parametrize("quantization", [Quantization.INT8, Quantization.INT4])
def test_vllm_quantizes_nothing_while_it_loads(quantization: Quantization) -> None:
    asked = replace(request(), mode=Mode.VLLM, options=LaunchOptions(quantization=quantization))
    here = planning_state(FakeMachine())
    refusal = refusal_of(plan_switch(asked, here), here)
    assert isinstance(refusal, InvalidRequest)
    assert refusal.params["field"] == "quantization"


@pytest.mark.parametrize(
    ("heads", "kv_heads", "cards", "fits"),
    [(32, 2, 2, True), (32, 2, 3, False), (30, 6, 3, True), (None, 2, 3, True), (32, 2, 4, True), (24, 6, 4, False)],
)
def test_vllm_shares_a_model_only_where_the_heads_divide(
    heads: int | None, kv_heads: int, cards: int, fits: bool
) -> None:
    shape = ModelShape(2, 64, 128, heads, kv_heads, 16, 512)
    cached = replace(NEW, shape=shape)
    machine = FakeMachine(totals={f"gpu-{n}": gib(24) for n in range(cards)})
    here = replace(planning_state(machine), models={cached.id: cached})
    asked = replace(request(), mode=Mode.VLLM, devices=tuple(f"gpu-{n}" for n in range(cards)))
    refusal = refusal_of(plan_switch(asked, here), here)
    assert (refusal is None) is fits
    assert fits or (isinstance(refusal, InvalidRequest) and refusal.params["field"] == "devices")


# Against the estimate

HUGE = model("lab/huge", weights_bytes=gib(40))


def with_huge(machine: FakeMachine, *instances: Instance, **changes: object) -> PlanningState:
    there = planning_state(machine, *instances, **changes)
    return replace(there, models={**there.models, HUGE.id: HUGE})


def test_lack_of_memory_is_passed_over_where_that_was_asked_for_and_stays_said() -> None:
    there = with_huge(FakeMachine())
    refused, anyway = (plan_switch(request(HUGE.id, load_anyway=each), there) for each in (False, True))
    assert isinstance(refusal_of(refused, there), NotEnoughMemory)
    assert (refusal_of(anyway, there), anyway.refusal, anyway.ways_out) == (None, None, ())
    assert anyway.verdict is Verdict.REFUSED
    assert anyway.devices == refused.devices
    assert anyway.overruled is not None
    assert refused.refusal is not None
    assert anyway.overruled.params == refused.refusal.params
    assert anyway.overruled in anyway.reasons
    assert refused.overruled is None


def test_what_fits_has_nothing_to_pass_over() -> None:
    there = planning_state(FakeMachine())
    plain, anyway = (plan_switch(request(load_anyway=each), there) for each in (False, True))
    assert (anyway.overruled, anyway.reasons, anyway.verdict) == (None, plain.reasons, plain.verdict)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"cooldowns": {HUGE.id: Cooldown(1, 60.0)}}, CoolingDown),
        ({"sample_is_stale": True}, DeviceUnreadable),
        ({"mode_problems": {Mode.TRANSFORMERS: Message("worker_command_missing")}}, ModeUnavailable),
    ],
)
def test_nothing_but_the_memory_is_passed_over(changes: dict[str, object], error: type[WardenError]) -> None:
    there = replace(with_huge(FakeMachine()), **changes)  # type: ignore[arg-type]
    plan = plan_switch(request(HUGE.id, load_anyway=True), there)
    assert isinstance(refusal_of(plan, there), error)


def test_answer_under_way_is_not_cut_off_by_passing_over_the_memory() -> None:
    machine = FakeMachine(held={("gpu-0", "old"): gib(2)})
    there = with_huge(machine, loaded(OLD, in_flight=1))
    plan = plan_switch(request(HUGE.id, load_anyway=True), there)
    assert isinstance(refusal_of(plan, there), InstanceInUse)


def test_device_where_it_fits_comes_before_one_where_it_does_not() -> None:
    there = with_huge(FakeMachine(totals={"gpu-0": gib(24), "gpu-1": gib(80)}))
    plan = plan_switch(request(HUGE.id, load_anyway=True), there)
    assert ([device.device_id for device in plan.devices], plan.overruled) == (["gpu-1"], None)
