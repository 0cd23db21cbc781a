"""Another person's model goes only once its name was confirmed and its seconds are over; until then it can be saved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, model
from webapp.control.leases import IDLE_ACTOR
from webapp.domain.instance import Instance
from webapp.domain.lease import ReleaseAnswer
from webapp.domain.operation import Operation, OperationState, StepName, StepState
from webapp.domain.units import gib
from webapp.errors import ConfirmationNeeded, NotYours, TooLate
from webapp.message import Message

LONG = 600.0
"""More than any test waits: it ends by being stopped."""


@pytest.fixture
def slow(make_bench: Callable[..., Bench]) -> Bench:
    """Models of Maria's and little room; what ends one of them waits for long."""
    return begun(make_bench(undo_s=LONG))


@pytest.fixture
def quick(make_bench: Callable[..., Bench]) -> Bench:
    return begun(make_bench(undo_s=0.05))


def begun(bench: Bench) -> Bench:
    bench.controller.start()
    bench.wait(bench.controller.switch(bench.request("lab/one"), "maria"))
    bench.fill()
    return bench


def marias(bench: Bench) -> Instance:
    return next(i for i in bench.state_store.state.instances.values() if i.owner == "maria")


def unloading(bench: Bench, **reason: str) -> Operation:
    return bench.controller.unload(marias(bench).id, "ivan", **reason)


def replacing(bench: Bench) -> Operation:
    return bench.controller.switch(bench.request("lab/two", unload=(marias(bench).id,)), "ivan")


def now(bench: Bench, operation: Operation) -> Operation:
    return bench.controller.operation(operation.id)


def told(bench: Bench, actor: str) -> list[str]:
    return [notice.message.code for notice in bench.controller.snapshot().notices if notice.to == actor]


@pytest.mark.parametrize("begin", [unloading, replacing])
@pytest.mark.parametrize("who", ["ivan", "maria"])
def test_nothing_is_touched_before_the_seconds_are_over_and_either_stops_it(
    slow: Bench, begin: Callable[[Bench], Operation], who: str
) -> None:
    instance = marias(slow)
    operation = begin(slow)
    slow.until(lambda: (step := now(slow, operation).current_step) is not None and step.name is StepName.GRACE)
    grace = now(slow, operation).grace
    assert grace is not None
    assert (grace.instances, grace.owners) == ((instance.id,), ("maria",))
    assert grace.until == pytest.approx(slow.context.clock() + LONG, abs=30)
    slow.controller.cancel(operation.id, who, as_owner=who == "maria")
    ended = slow.wait(operation)
    assert (ended.state, ended.outcome, ended.error) == (
        OperationState.CANCELLED,
        Message("nothing_changed"),
        Message("cancelled", {"actor": who}),
    )
    assert (slow.loaded, marias(slow)) == (["lab/one"], instance)
    assert not slow.runtime.stopping.is_set()


@pytest.mark.parametrize("begin", [unloading, replacing])
def test_once_they_are_over_it_runs_and_the_owner_is_told(quick: Bench, begin: Callable[[Bench], Operation]) -> None:
    ended = quick.wait(begin(quick))
    assert ended.state is OperationState.SUCCEEDED
    assert StepName.GRACE in [step.name for step in ended.steps if step.state is StepState.DONE]
    assert "lab/one" not in quick.loaded
    assert len(told(quick, "maria")) == 1


def test_a_stranger_stops_nothing(slow: Bench) -> None:
    operation = unloading(slow)
    with pytest.raises(NotYours):
        slow.controller.cancel(operation.id, "olga", as_owner=True)
    assert now(slow, operation).cancel_requested_by is None
    slow.controller.cancel(operation.id, "ivan")


def test_the_owner_stops_it_no_more_once_the_model_is_being_ended(quick: Bench) -> None:
    quick.runtime.stop_gate = threading.Event()
    operation = unloading(quick)
    assert quick.runtime.stopping.wait(10)
    with pytest.raises(TooLate):
        quick.controller.cancel(operation.id, "maria", as_owner=True)
    quick.runtime.stop_gate.set()
    assert quick.wait(operation).state is OperationState.SUCCEEDED


def test_an_owner_does_not_undo_what_an_administrator_takes_against_the_owners_will(slow: Bench) -> None:
    slow.state_store.change(marias(slow).id, lambda i: replace(i, in_flight=1))
    operation = unloading(slow, override_reason="fire")
    with pytest.raises(NotYours):
        slow.controller.cancel(operation.id, "maria", as_owner=True)
    slow.controller.cancel(operation.id, "ivan")
    assert slow.wait(operation).state is OperationState.CANCELLED


def test_ones_own_model_goes_at_once(slow: Bench) -> None:
    ended = slow.wait(slow.controller.unload(marias(slow).id, "maria"))
    assert (ended.state, ended.grace) == (OperationState.SUCCEEDED, None)
    assert StepName.GRACE not in [step.name for step in ended.steps]


def test_a_switch_of_own_models_waits_for_nothing(slow: Bench) -> None:
    ended = slow.wait(slow.controller.switch(slow.request("lab/two"), "maria"))
    assert (ended.state, slow.loaded) == (OperationState.SUCCEEDED, ["lab/two"])


def test_an_emergency_does_not_wait(slow: Bench) -> None:
    operation = unloading(slow)
    assert slow.wait(slow.controller.emergency("olga")).state is OperationState.SUCCEEDED
    assert slow.loaded == []
    assert now(slow, operation).state is OperationState.CANCELLED


def test_an_idle_model_that_had_its_last_minute_goes_at_once(make_bench: Callable[..., Bench]) -> None:
    bench = begun(make_bench(undo_s=LONG, idle_unload_minutes=1.0))
    bench.at(3600.0)
    bench.until(lambda: [o.actor for o in bench.controller.snapshot().recent][:1] == [IDLE_ACTOR])
    assert bench.loaded == []


def test_what_the_owner_began_to_use_meanwhile_stays(quick: Bench) -> None:
    operation = replacing(quick)
    quick.runtime.in_flight["lab/one"] = 1
    ended = quick.wait(operation)
    assert (ended.state, ended.error and ended.error.code) == (OperationState.FAILED, "instance_in_use")
    assert quick.loaded == ["lab/one"]


def test_where_room_came_free_meanwhile_nothing_of_another_persons_goes(quick: Bench) -> None:
    operation = replacing(quick)
    quick.machine.foreign.clear()
    assert quick.wait(operation).state is OperationState.SUCCEEDED
    assert quick.loaded == ["lab/one", "lab/two"]
    assert told(quick, "maria") == []


def test_a_model_that_was_named_for_nothing_and_has_gone_is_not_missed(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(undo_s=0.05)
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(24)}
    bench.controller.start()
    for name, device in (("lab/one", "gpu-0"), ("lab/three", "gpu-1")):
        bench.wait(bench.controller.switch(bench.request(name, devices=(device,)), "maria"))
    bench.fill()
    needed, elsewhere = (i.id for i in sorted(bench.state_store.state.instances.values(), key=lambda i: i.devices))
    preparing = bench.runtime.gates["prepare"] = Gate()
    request = bench.request("lab/two", devices=("gpu-0",), unload=(needed, elsewhere))
    operation = bench.controller.switch(request, "ivan")
    preparing.wait_reached()
    bench.wait(bench.controller.unload(elsewhere, "maria"))
    preparing.open()
    assert bench.wait(operation).state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/two"]


def test_where_what_was_to_go_may_go_no_more_ones_own_stays_too(make_bench: Callable[..., Bench]) -> None:
    """Another model was named as well; nobody has told its owner that it goes."""
    bench = make_bench(undo_s=0.05)
    bench.catalog.models = (*bench.catalog.models, model("lab/four"))
    bench.controller.start()
    for name, actor in (("lab/one", "maria"), ("lab/three", "maria"), ("lab/two", "ivan")):
        bench.wait(bench.controller.switch(bench.request(name, keep_others=True), actor))
    bench.machine.foreign["gpu-0"] = gib(19)
    named = tuple(i.id for i in bench.state_store.state.instances.values() if i.owner == "maria")
    (going,) = (e for e in bench.controller.plan(bench.request("lab/four", unload=named), "ivan").unload if e.is_others)
    preparing = bench.runtime.gates["prepare"] = Gate()
    operation = bench.controller.switch(bench.request("lab/four", unload=named), "ivan")
    preparing.wait_reached()
    bench.runtime.in_flight[going.model_id] = 1
    bench.until(lambda: bench.state_store.state.instances[going.instance_id].in_flight == 1)
    preparing.open()
    ended = bench.wait(operation)
    assert (ended.state, ended.error and ended.error.code) == (OperationState.FAILED, "instance_in_use")
    assert bench.loaded == ["lab/one", "lab/three", "lab/two"]
    assert not bench.runtime.stopping.is_set()


def test_a_switch_that_would_end_another_persons_model_needs_its_name(slow: Bench) -> None:
    instance = marias(slow)
    with pytest.raises(ConfirmationNeeded) as refusal:
        slow.controller.switch(slow.request("lab/two"), "ivan")
    assert dict(refusal.value.params) == {"model": "lab/two", "models": "lab/one (maria)", "instances": instance.id}
    assert slow.controller.plan(slow.request("lab/two"), "ivan").refusal == refusal.value.message


def test_where_there_is_room_another_persons_model_stays_and_the_own_one_goes(quick: Bench) -> None:
    quick.machine.foreign.clear()
    quick.wait(quick.controller.switch(quick.request("lab/two"), "ivan"))
    assert quick.loaded == ["lab/one", "lab/two"]
    quick.wait(quick.controller.switch(quick.request("lab/three"), "ivan"))
    assert quick.loaded == ["lab/one", "lab/three"]
    assert told(quick, "maria") == []


def test_a_request_that_waits_takes_what_was_confirmed_when_it_came_and_nothing_else(quick: Bench) -> None:
    take = quick.controller.enqueue
    waits = take(quick.request("lab/two"), "ivan", starts_by_itself=True)
    assert waits.why is not None
    assert waits.why.code == "waits_others"
    confirmed = take(quick.request("lab/three", unload=(marias(quick).id,)), "olga", starts_by_itself=True)
    assert confirmed.behind is not None
    quick.controller.queue.cancel(waits.launch.id, "ivan")
    quick.until(lambda: quick.loaded == ["lab/three"])


def test_what_was_given_up_for_a_person_who_waits_needs_no_other_word(quick: Bench) -> None:
    instance = marias(quick)
    waits = quick.controller.enqueue(quick.request("lab/two"), "ivan", starts_by_itself=True)
    assert waits.why is not None
    quick.controller.leases.ask(instance.id, "", "ivan")
    quick.controller.leases.answer(instance.id, ReleaseAnswer.RELEASE, "", "maria")
    quick.until(lambda: quick.loaded == ["lab/two"])
