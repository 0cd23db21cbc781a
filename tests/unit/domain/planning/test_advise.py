"""The advice for a chosen model: it fits, one step more would not, and it is never more than the founding table's row."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.control.fakes import FakeMachine, model
from tests.unit.domain.planning.test_alternatives import NEW, SHAPE, gpus, holding, planning_state
from webapp.domain.model import CachedModel, ModelProblem
from webapp.domain.modes import LaunchOptions, Mode, Precision
from webapp.domain.plan import Plan, SwitchRequest, Verdict
from webapp.domain.planning.advise import advise
from webapp.domain.planning.planner import plan_switch
from webapp.domain.planning.state import PlanningState
from webapp.domain.recommend import Advice, Mark, Row, row_for
from webapp.domain.units import gib
from webapp.errors import UnknownModel
from webapp.message import Message

NO_VLLM = {Mode.VLLM: Message("engine_missing")}
ASKED = SwitchRequest(Mode.TRANSFORMERS, NEW.id)


def there(free: float, weights: float, *, vllm: bool = True, total: float = 80, **changes: object) -> PlanningState:
    """One GPU with so much free memory, in GiB."""
    machine = FakeMachine(totals={"gpu-0": gib(total)}, foreign={"gpu-0": gib(total) - gib(free)})
    cached = replace(model(NEW.id, weights_bytes=gib(weights), shape=SHAPE, context_length=131072), **changes)  # type: ignore[arg-type]
    return planning_state(machine, cached=cached, mode_problems={} if vllm else NO_VLLM)


def advised(here: PlanningState, asked: SwitchRequest = ASKED) -> Advice:
    found = advise(asked, here)
    assert found is not None
    return found


def applied(advice: Advice, asked: SwitchRequest = ASKED) -> SwitchRequest:
    precision = advice.precision
    options = LaunchOptions(precision.dtype, precision.quantization, advice.max_tokens, advice.batch_size)
    return replace(asked, mode=advice.usable_mode, options=options)


def is_refused(request: SwitchRequest, here: PlanningState) -> bool:
    return plan_switch(request, here).verdict is Verdict.REFUSED


def codes(advice: Advice) -> list[str]:
    return [reason.code for reason in advice.reasons]


def row_of(plan: Plan) -> Row:
    (device,) = plan.devices
    assert device.available_bytes is not None
    return row_for(device.available_bytes)


LADDER = (Precision.INT4, Precision.INT8, Precision.FP16)


def larger(advice: Advice, row: Row, cached: CachedModel) -> list[Advice]:
    """One step more of each, where the table and the model allow it."""
    most = min(row.max_tokens, cached.context_length or row.max_tokens)
    steps = []
    if advice.precision in LADDER[: LADDER.index(row.precision)] and advice.usable_mode is Mode.TRANSFORMERS:
        steps.append(replace(advice, precision=LADDER[LADDER.index(advice.precision) + 1]))
    if advice.max_tokens < most:
        steps.append(replace(advice, max_tokens=min(2 * advice.max_tokens, most)))
    if advice.batch_size < row.batch_size:
        steps.append(replace(advice, batch_size=advice.batch_size + 1))
    return steps


@pytest.mark.parametrize("vllm", [True, False])
@pytest.mark.parametrize("weights", [0.1, 0.5, 1, 2, 3, 5, 7, 14, 30])
@pytest.mark.parametrize("free", [0.4, 1, 2, 3, 3.9, 4, 5, 5.99, 6, 7, 8, 10, 12, 24, 79])
def test_the_advice_fits_and_one_step_more_does_not(free: float, weights: float, *, vllm: bool) -> None:
    here = there(free, weights, vllm=vllm)
    advice, cached = advised(here), here.models[NEW.id]
    plan = plan_switch(applied(advice), here)
    row = row_of(plan)
    if advice.mark is Mark.NONE:
        assert plan.verdict is Verdict.REFUSED
        assert (advice.precision, advice.max_tokens, advice.batch_size) == (Precision.INT4, 256, 1)
        return

    assert plan.refusal is None
    assert advice.max_tokens <= row.max_tokens
    assert advice.batch_size <= row.batch_size
    assert all(is_refused(applied(more), here) for more in larger(advice, row, cached))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    free=st.floats(0.3, 79),
    weights=st.floats(0.05, 60),
    length=st.sampled_from([None, 100, 300, 1000, 131072]),
    quantization=st.sampled_from([None, None, "gptq"]),
    vllm=st.booleans(),
    held=st.floats(0, 12),
    keep=st.booleans(),
)
def test_an_advice_is_refused_only_where_it_says_so(
    free: float, weights: float, length: int | None, quantization: str | None, vllm: bool, held: float, keep: bool
) -> None:
    machine = FakeMachine(totals={"gpu-0": gib(80), "gpu-1": gib(16)}, foreign={"gpu-0": gib(80 - free)})
    old = holding("old", "gpu-1", gib(held), machine)
    cached = replace(
        model(NEW.id, weights_bytes=gib(weights), shape=SHAPE), context_length=length, quantization=quantization
    )
    here = planning_state(machine, old, cached=cached, mode_problems={} if vllm else NO_VLLM)
    asked = replace(ASKED, keep_others=keep)
    advice = advised(here, asked)
    plan = plan_switch(applied(advice, asked), here)
    assert (plan.refusal is None) is (advice.mark is not Mark.NONE)
    assert plan.request.options.max_tokens == advice.max_tokens


def test_with_room_enough_the_advice_is_the_tables_row() -> None:
    advice = advised(there(79, 1))
    assert (advice.mode, advice.precision, advice.max_tokens, advice.batch_size) == (Mode.VLLM, Precision.FP16, 2048, 4)
    assert (advice.mark, codes(advice)) == (Mark.OK, ["advice_free"])


def test_what_the_memory_holds_back_is_said() -> None:
    advice = advised(there(12, 9, vllm=False))
    assert (advice.precision, advice.mark) == (Precision.INT8, Mark.LIMITED)
    assert "advice_precision_short" in codes(advice)


def test_where_nothing_fits_the_least_is_named_with_what_lacks() -> None:
    here = there(12, 60)
    advice = advised(here)
    said = dict(advice.reasons[0].params)
    (device,) = plan_switch(applied(advice), here).devices
    assert (advice.mark, advice.reasons[0].code) == (Mark.NONE, "advice_nothing")
    assert said["needed_bytes"] == device.footprint.required_bytes
    assert said["missing_bytes"] == device.footprint.required_bytes + device.reserve_bytes - (
        device.available_bytes or 0
    )


def test_files_that_are_quantized_stay_as_they_are() -> None:
    advice = advised(there(79, 5, quantization="gptq"))
    assert (advice.precision, advice.mark) == (Precision.AUTO, Mark.OK)
    assert "advice_quantized" in codes(advice)


def test_a_short_context_is_the_models_own_and_holds_nothing_back() -> None:
    advice = advised(there(79, 1, context_length=300))
    assert (advice.max_tokens, advice.batch_size, advice.mark) == (300, 4, Mark.OK)
    assert "advice_context" in codes(advice)


def test_where_vllm_cannot_be_chosen_the_advice_is_for_transformers_and_says_why() -> None:
    advice = advised(there(79, 1, vllm=False))
    assert (advice.mode, advice.usable_mode) == (Mode.VLLM, Mode.TRANSFORMERS)
    assert codes(advice) == ["advice_free", "advice_vllm_unavailable", "engine_missing"]


def test_a_model_too_large_for_one_gpu_is_advised_for_several() -> None:
    here = planning_state(gpus(4), cached=replace(NEW, weights=model(weights_bytes=gib(28)).weights))
    advice = advised(here)
    plan = plan_switch(applied(advice), here)
    assert (advice.precision, advice.mark, plan.refusal, len(plan.devices)) == (Precision.FP16, Mark.OK, None, 2)
    alone = replace(ASKED, devices=("gpu-0",))
    assert plan_switch(applied(advised(here, alone), alone), here).refusal is None
    assert advised(here, alone).precision is not Precision.FP16


def test_memory_that_will_be_free_counts_unless_the_others_stay() -> None:
    machine = FakeMachine(totals={"gpu-0": gib(24)})
    here = planning_state(machine, holding("old", "gpu-0", gib(19), machine))
    beside, instead = (advised(here, replace(ASKED, keep_others=keep)) for keep in (True, False))
    assert (beside.mark, instead.mark) == (Mark.NONE, Mark.OK)


def test_a_model_that_cannot_be_loaded_has_its_reason_for_an_advice() -> None:
    advice = advised(there(79, 1, problem=Message(ModelProblem.NO_TOKENIZER)))
    assert (advice.mark, codes(advice)) == (Mark.NONE, ["model_no_tokenizer"])


def test_on_unknown_memory_there_is_no_advice_and_an_unknown_model_is_an_error() -> None:
    lost = planning_state(FakeMachine(lost={"gpu-0"}))
    assert advise(ASKED, lost) is None
    with pytest.raises(UnknownModel):
        advise(replace(ASKED, model_id="lab/gone"), lost)
