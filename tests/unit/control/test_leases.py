"""A leased model stays with its owner until it is given up, and an idle one goes when nobody minds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import FakeStore, Gate, loaded, model
from webapp.control.leases import IDLE_ACTOR
from webapp.domain.audit import WARDEN, Action, Detail
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import LONGEST_S, TEXT_LIMIT, Lease, ReleaseAnswer, Terms
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib
from webapp.errors import (
    InstanceInUse,
    InstanceLeased,
    InstanceStopping,
    InvalidRequest,
    NothingAsked,
    NotOwner,
    ReleasePending,
    UnknownInstance,
)
from webapp.message import Message
from webapp.runtimes.base import Discovered, LaunchSpec

HOUR = 3600.0


def load_of_maria(bench: Bench, **changes: object) -> Instance:
    """Load ``lab/one`` as Maria, for an hour."""
    terms = {"lease_until": bench.context.clock() + HOUR, "reason": "eval", **changes}
    operation = bench.wait(bench.controller.switch(bench.request("lab/one", **terms), "maria"))
    assert operation.state is OperationState.SUCCEEDED
    bench.fill()
    return instance_of(bench)


def for_ivan(bench: Bench, **changes: Any) -> SwitchRequest:
    """What Ivan asks for who has confirmed that Maria's model may go: there is room for one of the two."""
    return bench.request("lab/two", **{"unload": (instance_of(bench).id,), **changes})


def runs_already(bench: Bench, **changes: Any) -> None:
    """A model that an earlier Warden has loaded, and that lives."""
    instance, cached = loaded(model("lab/one"), **changes), model("lab/one")
    bench.runtime.found = (Discovered(instance, adoptable=True),)
    bench.runtime.alive[instance.id] = LaunchSpec(
        instance_id=instance.id,
        operation_id="before",
        model_id=cached.id,
        revision=cached.revision,
        snapshot=cached.snapshot,
        options=instance.options,
        devices=(),
        owner=instance.owner,
    )


def instance_of(bench: Bench, model_id: str = "lab/one") -> Instance:
    return next(i for i in bench.state_store.state.instances.values() if i.model_id == model_id)


def told(bench: Bench, actor: str) -> list[str]:
    return [notice.message.code for notice in bench.controller.snapshot().notices if notice.to == actor]


def wait_written(bench: Bench, condition: Callable[[FakeStore], bool]) -> None:
    bench.until(lambda: condition(bench.store))


# Leases


def test_a_model_is_loaded_on_the_terms_that_were_asked_for(bench: Bench) -> None:
    instance = load_of_maria(bench, idle_minutes=15)
    assert (instance.lease.reason, instance.lease.idle_minutes) == ("eval", 15)
    assert instance.lease.runs(bench.context.clock())
    wait_written(bench, lambda store: store.terms.get(instance.id) == instance.lease)


def test_a_leased_model_is_not_evicted_until_its_lease_is_over(bench: Bench) -> None:
    load_of_maria(bench)
    with pytest.raises(InstanceLeased) as refusal:
        bench.controller.switch(for_ivan(bench), "ivan")
    assert (refusal.value.params["owner"], refusal.value.params["reason"]) == ("maria", "eval")
    with pytest.raises(InstanceLeased):
        bench.controller.unload(instance_of(bench).id, "ivan")
    bench.later_s = HOUR + 1
    assert bench.load("lab/two", unload=(instance_of(bench).id,)).state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/two"]
    assert told(bench, "maria") == ["unloaded_for"]


def test_its_owner_is_not_hindered_by_a_lease(bench: Bench) -> None:
    load_of_maria(bench)
    operation = bench.wait(bench.controller.switch(bench.request("lab/two"), "maria"))
    assert operation.state is OperationState.SUCCEEDED
    assert told(bench, "maria") == []


def test_a_lease_that_begins_between_plan_and_unloading_is_seen_at_the_gate(bench: Bench) -> None:
    """The operation has been accepted: what it would unload is asked for once more."""
    bench.wait(bench.controller.switch(bench.request("lab/one"), "maria"))
    instance = instance_of(bench)
    bench.fill()
    begun = threading.Event()
    journal = bench.context.journal
    record = journal.record

    def held(operation: Operation) -> None:
        if operation.actor == "ivan" and not begun.is_set():
            begun.set()
            bench.controller.leases.set(instance.id, Terms.longer(), "maria")
        record(operation)

    journal.record = held  # type: ignore[method-assign]
    operation = bench.load("lab/two", unload=(instance.id,))
    assert operation.state is OperationState.FAILED
    assert operation.error is not None
    assert operation.error.code == "instance_leased"
    assert bench.loaded == ["lab/one"]


Taking = Callable[[Bench, Instance], Operation]


def unloaded_by_ivan(bench: Bench, instance: Instance) -> Operation:
    return bench.controller.unload(instance.id, "ivan")


def replaced_by_ivan(bench: Bench, instance: Instance) -> Operation:
    return bench.controller.switch(for_ivan(bench, interrupt_busy=True), "ivan")


@pytest.mark.parametrize("take", [unloaded_by_ivan, replaced_by_ivan])
def test_a_lease_that_is_confirmed_while_the_memory_is_read_keeps_the_model(bench: Bench, take: Taking) -> None:
    """The reading that an unload begins with may take seconds: nothing that was seen before it counts."""
    instance = load_of_maria(bench, lease_until=None)
    bench.monitor.gate = Gate()
    operation = take(bench, instance)
    bench.monitor.gate.wait_reached()
    bench.controller.leases.set(instance.id, Terms.longer(), "maria")
    bench.monitor.gate.open()
    ended = bench.wait(operation)
    assert (ended.state, ended.error and ended.error.code) == (OperationState.FAILED, "instance_leased")
    assert ended.outcome == Message("nothing_changed")
    assert (bench.loaded, instance_of(bench).state) == (["lab/one"], InstanceState.READY)
    assert not bench.runtime.stopping.is_set()
    assert told(bench, "maria") == []


@pytest.mark.parametrize("take", [unloaded_by_ivan, replaced_by_ivan])
@pytest.mark.parametrize("reads_first", [False, True], ids=["before the reading", "after it"])
def test_an_answer_that_has_just_begun_is_not_cut_off(bench: Bench, take: Taking, reads_first: bool) -> None:
    """The list does not know it yet: the model itself is asked, and asked again after the reading."""
    instance = load_of_maria(bench, lease_until=None)
    bench.controller._watcher.stop()
    bench.monitor.gate = Gate()
    if not reads_first:
        bench.runtime.in_flight["lab/one"] = 1
        bench.monitor.gate.open()
    operation = take(bench, instance)
    if reads_first:
        bench.monitor.gate.wait_reached()
        bench.runtime.in_flight["lab/one"] = 1
        bench.monitor.gate.open()
    ended = bench.wait(operation)
    assert (ended.state, ended.error and ended.error.code) == (OperationState.FAILED, "instance_in_use")
    assert not bench.runtime.stopping.is_set()
    assert (bench.loaded, told(bench, "maria")) == (["lab/one"], [])


def test_where_one_of_several_has_to_stay_none_goes(bench: Bench) -> None:
    bench.wait(bench.controller.switch(bench.request("lab/two"), "ivan"))
    maria = bench.wait(bench.controller.switch(bench.request("lab/one", keep_others=True), "maria"))
    assert (maria.state, bench.loaded) == (OperationState.SUCCEEDED, ["lab/one", "lab/two"])
    bench.machine.foreign["gpu-0"] = gib(19.5)
    bench.catalog.models = (*bench.catalog.models, model("lab/wide", weights_bytes=gib(2.4)))
    bench.monitor.gate = Gate()
    operation = bench.controller.switch(bench.request("lab/wide", unload=(instance_of(bench).id,)), "ivan")
    bench.monitor.gate.wait_reached()
    bench.controller.leases.set(instance_of(bench).id, Terms.longer(), "maria")
    bench.monitor.gate.open()
    assert bench.wait(operation).state is OperationState.FAILED
    assert not bench.runtime.stopping.is_set()
    assert {i.state for i in bench.state_store.state.instances.values()} == {InstanceState.READY}


def test_a_rollback_brings_back_the_lease_of_the_last_moment(bench: Bench) -> None:
    instance = load_of_maria(bench)
    bench.runtime.fails["lab/two"] = "dies"
    bench.monitor.gate = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "maria")
    bench.monitor.gate.wait_reached()
    longer = bench.controller.leases.set(instance.id, Terms.longer(), "maria").lease
    bench.monitor.gate.open()
    bench.wait(operation)
    assert instance_of(bench).lease == longer


def test_terms_of_a_model_that_is_being_ended_are_refused_and_not_confirmed(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.controller.leases.ask(instance.id, "", "ivan")
    before = instance_of(bench).lease
    bench.runtime.stop_gate = threading.Event()
    operation = bench.controller.unload(instance.id, "olga")
    assert bench.runtime.stopping.wait(10)
    acts: tuple[Callable[[], object], ...] = (
        lambda: bench.controller.leases.set(instance.id, Terms.longer(), "maria"),
        lambda: bench.controller.leases.keep(instance.id, "maria"),
        lambda: bench.controller.leases.ask(instance.id, "", "ivan"),
        lambda: bench.controller.leases.answer(instance.id, ReleaseAnswer.KEEP, "", "maria"),
    )
    for act in acts:
        with pytest.raises(InstanceStopping) as refusal:
            act()
        assert dict(refusal.value.params) == {"model": "lab/one", "instance": instance.id}
    assert instance_of(bench).lease == before
    bench.runtime.stop_gate.set()
    bench.wait(operation)


def test_an_override_takes_the_model_and_is_written_down(bench: Bench) -> None:
    load_of_maria(bench)
    operation = bench.load("lab/two", override_reason="  the review is now ", unload=(instance_of(bench).id,))
    assert operation.state is OperationState.SUCCEEDED
    (finding,) = [f for f in operation.findings if f.message.code == "lease_overridden"]
    assert (finding.message.params["actor"], finding.message.params["reason"]) == ("ivan", "the review is now")
    assert told(bench, "maria") == ["lease_overridden"]


def test_an_empty_reason_overrides_nothing(bench: Bench) -> None:
    load_of_maria(bench)
    with pytest.raises(InstanceLeased):
        bench.controller.switch(for_ivan(bench, override_reason="  "), "ivan")


def test_an_unload_against_the_lease_is_written_down_too(bench: Bench) -> None:
    instance = load_of_maria(bench)
    operation = bench.wait(bench.controller.unload(instance.id, "ivan", "fire"))
    assert [f.message.code for f in operation.findings] == ["lease_overridden"]
    assert bench.loaded == []


def test_a_strangers_busy_model_is_not_unloaded(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.runtime.in_flight["lab/one"] = 1
    bench.state_store.change(instance.id, lambda i: replace(i, in_flight=1))
    with pytest.raises(InstanceInUse):
        bench.controller.unload(instance.id, "ivan")
    with pytest.raises(InstanceInUse):
        bench.controller.switch(for_ivan(bench, interrupt_busy=True), "ivan")
    bench.wait(bench.controller.unload(instance.id, "maria"))
    assert bench.loaded == []


def test_a_strangers_free_model_is_unloaded_and_he_is_told(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.wait(bench.controller.unload(instance.id, "ivan"))
    assert bench.loaded == []
    assert told(bench, "maria") == ["unloaded_by"]


def test_a_lease_is_extended_changed_and_ended_by_its_owner_alone(bench: Bench) -> None:
    instance = load_of_maria(bench)
    before = instance.lease.until
    assert before is not None
    assert bench.controller.leases.set(instance.id, Terms.longer(), "maria").lease.until == before + HOUR
    with pytest.raises(NotOwner):
        bench.controller.leases.set(instance.id, Terms.longer(), "ivan")
    changed = bench.controller.leases.set(instance.id, Terms(until=None, reason="done"), "maria")
    assert (changed.lease.until, changed.lease.reason) == (None, "done")
    only_idle = bench.controller.leases.set(
        instance.id, Terms(sets_until=False, idle_minutes=60, sets_idle=True), "maria"
    )
    assert (only_idle.lease.reason, only_idle.lease.idle_minutes) == ("done", 60)


@pytest.mark.parametrize(
    "changes",
    [{"lease_until": 1.0}, {"lease_until": 1e12}, {"reason": "x" * (TEXT_LIMIT + 1)}, {"idle_minutes": -1.0}],
    ids=["past", "for ever", "long", "negative"],
)
def test_terms_that_cannot_be_meant_are_refused(bench: Bench, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        bench.controller.switch(bench.request(**changes), "maria")


def test_no_lease_is_extended_past_the_longest_one(bench: Bench) -> None:
    """As the JSON interface asks: the end of the lease is not set, it is moved."""
    instance = load_of_maria(bench)
    before = instance.lease
    with pytest.raises(InvalidRequest) as refusal:
        bench.controller.leases.set(instance.id, Terms(extend_s=LONGEST_S, sets_until=False), "maria")
    assert refusal.value.params["field"] == "lease_until"
    assert instance_of(bench).lease == before


def test_other_terms_change_beside_a_lease_that_is_over(bench: Bench) -> None:
    instance = load_of_maria(bench)
    bench.later_s = 2 * HOUR
    terms = Terms(sets_until=False, reason="paper")
    assert bench.controller.leases.set(instance.id, terms, "maria").lease.reason == "paper"


def test_what_a_rollback_brings_back_has_its_lease_again(bench: Bench) -> None:
    lease = load_of_maria(bench).lease
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.wait(bench.controller.switch(bench.request("lab/two"), "maria"))
    assert operation.state is OperationState.FAILED
    assert instance_of(bench).lease == lease


def test_terms_changed_while_the_model_loads_are_kept(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    operation = bench.controller.switch(bench.request("lab/one"), "maria")
    bench.until(lambda: bench.loaded == ["lab/one"])
    bench.controller.leases.set(instance_of(bench).id, Terms.longer(), "maria")
    bench.runtime.gate.set()
    bench.wait(operation)
    assert instance_of(bench).lease.until is not None


def test_what_has_gone_leaves_no_lease_behind(bench: Bench) -> None:
    instance = load_of_maria(bench)
    wait_written(bench, lambda store: instance.id in store.terms)
    bench.wait(bench.controller.unload(instance.id, "maria"))
    wait_written(bench, lambda store: instance.id not in store.terms)


def test_a_lease_survives_a_restart(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    lease = Lease(until=time.time() + HOUR, reason="eval").asked_by("ivan", "paper", time.time())
    bench.store.terms["old"] = lease
    runs_already(bench)
    bench.controller.start()
    assert instance_of(bench).lease == lease
    with pytest.raises(InstanceLeased):
        bench.controller.unload("old", "ivan")


# Release requests


def test_a_kept_model_stays_and_the_asker_reads_the_owners_word(bench: Bench) -> None:
    instance = load_of_maria(bench)
    bench.controller.leases.ask(instance.id, "paper", "ivan")
    kept = bench.controller.leases.answer(instance.id, ReleaseAnswer.KEEP, "until noon", "maria")
    assert kept.lease.asked is None
    (notice,) = [n for n in bench.controller.snapshot().notices if n.to == "ivan"]
    assert (notice.message.code, notice.message.params["word"]) == ("release_kept", "until noon")
    with pytest.raises(InstanceLeased):
        bench.controller.switch(for_ivan(bench), "ivan")
    bench.controller.dismiss(notice.number, "maria")  # another person's
    assert told(bench, "ivan") == ["release_kept"]
    bench.controller.dismiss(notice.number, "ivan")
    assert told(bench, "ivan") == []


def test_a_released_model_stays_until_the_asker_takes_its_place(bench: Bench) -> None:
    instance = load_of_maria(bench)
    bench.controller.leases.ask(instance.id, "paper", "ivan")
    bench.controller.leases.answer(instance.id, ReleaseAnswer.RELEASE, "", "maria")
    assert bench.loaded == ["lab/one"]
    assert told(bench, "ivan") == ["release_given"]
    assert bench.load("lab/two").state is OperationState.SUCCEEDED


def test_only_the_owner_answers_and_only_what_was_asked(bench: Bench) -> None:
    instance = load_of_maria(bench)
    with pytest.raises(NothingAsked):
        bench.controller.leases.answer(instance.id, ReleaseAnswer.KEEP, "", "maria")
    bench.controller.leases.ask(instance.id, "", "ivan")
    with pytest.raises(NotOwner):
        bench.controller.leases.answer(instance.id, ReleaseAnswer.RELEASE, "", "ivan")


def test_one_person_asks_at_a_time(bench: Bench) -> None:
    instance = load_of_maria(bench)
    first = bench.controller.leases.ask(instance.id, "one", "ivan")
    assert bench.controller.leases.ask(instance.id, "two", "ivan").lease == first.lease
    with pytest.raises(ReleasePending):
        bench.controller.leases.ask(instance.id, "", "olga")
    with pytest.raises(InvalidRequest):
        bench.controller.leases.ask(instance.id, "", "maria")
    with pytest.raises(UnknownInstance):
        bench.controller.leases.ask("nobody", "", "ivan")


def test_answer_is_announced_once_and_later_terms_announce_nothing(bench: Bench) -> None:
    instance = load_of_maria(bench)
    bench.controller.leases.ask(instance.id, "", "ivan")
    bench.controller.leases.answer(instance.id, ReleaseAnswer.KEEP, "", "maria")
    bench.controller.leases.keep(instance.id, "maria")
    bench.controller.leases.set(instance.id, Terms.longer(), "maria")
    bench.wait(bench.controller.unload(instance.id, "maria"))
    assert (told(bench, "ivan"), told(bench, "maria"), bench.recorded) == (["release_kept"], [], [])


def test_silence_gives_up_an_idle_model_without_a_lease(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.controller.leases.ask(instance.id, "", "ivan")
    bench.at(61)
    bench.until(lambda: told(bench, "maria") == ["released_in_silence"])
    assert instance_of(bench).lease.asked is None
    assert told(bench, "ivan") == ["release_given_silently"]
    bench.until(lambda: bool(bench.recorded))
    (entry,) = bench.recorded
    assert (entry.action, entry.doer, entry.target.name) == (Action.RELEASED_IN_SILENCE, WARDEN, "lab/one")
    assert entry.details == ((Detail.OWNER, "maria"),)


@pytest.mark.parametrize("held", ["leased", "busy"])
def test_silence_gives_up_nothing_that_is_leased_or_busy(bench: Bench, held: str) -> None:
    instance = load_of_maria(bench, lease_until=bench.context.clock() + HOUR if held == "leased" else None)
    if held == "busy":
        bench.runtime.in_flight["lab/one"] = 1
        bench.state_store.change(instance.id, lambda i: replace(i, in_flight=1))
    bench.controller.leases.ask(instance.id, "", "ivan")
    bench.at(600)
    bench.controller.leases.look()
    assert instance_of(bench).lease.asked is not None


# Idle models


def idle_operation(bench: Bench) -> Operation | None:
    return next((o for o in bench.state_store.state.recent if o.actor == IDLE_ACTOR), None)


def test_an_idle_model_is_unloaded_and_its_operation_says_why(bench: Bench) -> None:
    load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.at(16 * 60)
    bench.until(lambda: idle_operation(bench) is not None)
    operation = idle_operation(bench)
    assert operation is not None
    assert (operation.kind, operation.state) == (OperationKind.UNLOAD, OperationState.SUCCEEDED)
    assert [f.message.code for f in operation.findings] == ["unloaded_idle"]
    assert told(bench, "maria") == ["unloaded_idle"]
    bench.until(lambda: bool(bench.recorded))
    (entry,) = bench.recorded
    assert (entry.action, entry.doer, entry.target.name) == (Action.IDLE_UNLOAD, WARDEN, "lab/one")
    assert (entry.details, entry.operation_id) == (((Detail.OWNER, "maria"),), operation.id)
    assert bench.loaded == []


def test_no_model_goes_for_being_idle_unless_that_was_chosen(bench: Bench) -> None:
    load_of_maria(bench, lease_until=None)
    bench.at(30 * 86400)
    assert bench.controller.leases.look() == ()


def test_the_servers_idle_time_counts_where_none_was_chosen(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(idle_unload_minutes=10.0)
    bench.controller.start()
    instance = load_of_maria(bench, lease_until=None)
    bench.at(11 * 60)
    bench.until(lambda: idle_operation(bench) is not None)
    never = load_of_maria(bench, lease_until=None, idle_minutes=0.0)
    bench.at(22 * 60)
    assert bench.controller.leases.look() == ()
    assert never.id != instance.id


def test_a_click_keeps_an_idle_model(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.at(14 * 60 + 30)
    bench.controller.leases.keep(instance.id, "ivan")
    bench.at(16 * 60)
    assert bench.controller.leases.look() == ()
    assert bench.loaded == ["lab/one"]


def test_a_slow_load_is_no_idleness(bench: Bench) -> None:
    bench.runtime.gate = threading.Event()
    operation = bench.controller.switch(bench.request("lab/one", idle_minutes=15.0), "maria")
    bench.until(lambda: bench.loaded == ["lab/one"])
    bench.at(20 * 60)
    bench.runtime.gate.set()
    bench.wait(operation)
    assert bench.controller.leases.look() == ()


@pytest.mark.parametrize("held", ["leased", "busy"])
def test_an_idle_model_that_is_leased_or_busy_stays(bench: Bench, held: str) -> None:
    until = bench.context.clock() + HOUR if held == "leased" else None
    load_of_maria(bench, lease_until=until, idle_minutes=15)
    if held == "busy":
        bench.runtime.in_flight["lab/one"] = 1
        bench.until(lambda: instance_of(bench).in_flight == 1)
    bench.at(20 * 60)
    assert bench.controller.leases.look() == ()


def test_an_idle_model_waits_for_the_operation_on_its_device(bench: Bench) -> None:
    load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.machine.foreign.clear()
    bench.runtime.gate = threading.Event()
    beside = bench.controller.switch(bench.request("lab/two", keep_others=True), "ivan")
    bench.runtime.launching.wait(10)
    bench.at(16 * 60)
    bench.controller._each_round()
    assert {o.actor for o in bench.state_store.state.running.values()} == {"ivan"}
    bench.runtime.gate.set()
    bench.wait(beside)
    bench.until(lambda: bench.loaded == ["lab/two"])


def test_a_model_that_is_asked_in_its_last_moment_stays(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.controller._watcher.stop()
    bench.at(16 * 60)
    bench.runtime.in_flight["lab/one"] = 1  # the list does not know it yet
    bench.controller._each_round()
    bench.until(lambda: idle_operation(bench) is not None)
    operation = idle_operation(bench)
    assert operation is not None
    assert (operation.state, operation.outcome and operation.outcome.code) == (
        OperationState.CANCELLED,
        "idle_used_again",
    )
    assert instance.id in bench.state_store.state.instances


@pytest.mark.parametrize("late", ["kept", "leased", "asked"])
def test_an_idle_model_that_is_kept_while_the_memory_is_read_stays(bench: Bench, late: str) -> None:
    instance = load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.controller._watcher.stop()
    bench.at(16 * 60)
    bench.monitor.gate = Gate()
    bench.controller._each_round()
    bench.monitor.gate.wait_reached()
    if late == "kept":
        bench.controller.leases.keep(instance.id, "ivan")
    elif late == "leased":
        bench.controller.leases.set(instance.id, Terms.longer(), "maria")
    else:
        bench.runtime.in_flight["lab/one"] = 1
    bench.monitor.gate.open()
    bench.until(lambda: idle_operation(bench) is not None)
    operation = idle_operation(bench)
    assert operation is not None
    assert (operation.state, operation.outcome) == (
        OperationState.CANCELLED,
        Message("idle_used_again", {"model": "lab/one"}),
    )
    assert (operation.findings, told(bench, "maria")) == ((), [])
    assert bench.loaded == ["lab/one"]


def test_a_restart_unloads_nothing_at_once(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(idle_unload_minutes=15.0)
    runs_already(bench, started_at=time.time() - 86400)
    bench.controller.start()
    assert bench.controller.leases.look() == ()
    bench.runtime.used_at = time.time() - HOUR
    bench.until(lambda: instance_of(bench).last_used_at is not None)
    assert bench.controller.leases.look() == ()


# A time of day that is set


@pytest.mark.parametrize("jump_s", [3 * HOUR, 90 * 86400.0, -3 * HOUR])
def test_no_jump_of_the_clock_takes_an_idle_models_last_minute(bench: Bench, jump_s: float) -> None:
    load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.at(5 * 60)
    bench.later_s += jump_s
    assert bench.controller.leases.look() == ()
    left_s = bench.controller.snapshot().idle_unload_at[instance_of(bench).id] - bench.context.clock()
    assert left_s == pytest.approx(600, abs=10)
    bench.ahead_s += 590
    assert bench.controller.leases.look() == ()


def test_an_idle_model_goes_after_its_time_although_the_clock_was_set_back(bench: Bench) -> None:
    load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.at(5 * 60)
    bench.at(16 * 60)
    bench.later_s -= 3 * HOUR
    bench.until(lambda: idle_operation(bench) is not None)


def test_warden_that_stood_still_counts_the_last_minute_down_again(bench: Bench) -> None:
    """Nobody could see the countdown, nor stop it: the machine was suspended, or the process was."""
    instance = load_of_maria(bench, lease_until=None, idle_minutes=15)
    bench.controller._watcher.stop()
    bench.controller.leases.look()
    bench.ahead_s = bench.later_s = 8 * HOUR
    assert bench.controller.leases.look() == ()
    assert bench.controller.snapshot().idle_unload_at[instance.id] - bench.context.clock() == pytest.approx(60, abs=2)
    bench.at(8 * HOUR + 61)
    assert bench.controller.leases.look() == (instance.id,)


def test_a_lease_that_a_jump_has_ended_leaves_the_last_minute(bench: Bench) -> None:
    """A lease ends by the time of day, as people read it; the model still does not go at once."""
    instance = load_of_maria(bench, lease_until=bench.context.clock() + 2 * HOUR, idle_minutes=15)
    bench.at(HOUR)
    bench.later_s += 2 * HOUR
    assert bench.controller.leases.look() == ()
    assert not instance_of(bench).lease.runs(bench.context.clock())
    assert bench.controller.snapshot().idle_unload_at[instance.id] - bench.context.clock() == pytest.approx(60, abs=5)


@pytest.mark.parametrize("jump_s", [3 * HOUR, -3 * HOUR])
def test_no_jump_of_the_clock_is_an_owners_silence(bench: Bench, jump_s: float) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.controller.leases.ask(instance.id, "", "ivan")
    bench.controller.leases.look()
    bench.later_s += jump_s
    bench.controller.leases.look()
    assert instance_of(bench).lease.asked is not None
    bench.ahead_s = 61
    bench.until(lambda: instance_of(bench).lease.asked is None)


def test_no_jump_of_the_clock_sends_anybody_away(bench: Bench) -> None:
    bench.controller.see("maria")
    for jump_s in (HOUR, -HOUR):
        bench.later_s = jump_s
        assert bench.controller.snapshot().present == {"maria"}


# Who is there


def test_who_has_asked_for_a_page_a_moment_ago_is_present(bench: Bench) -> None:
    bench.monitor.miss(100)
    bench.controller.see("maria")
    before = bench.controller.snapshot()
    assert before.present == {"maria"}
    bench.at(60)
    after = bench.controller.snapshot()
    assert after.present == frozenset()
    assert after.version != before.version
    bench.monitor.miss(0)


def test_blanks_are_no_reason_to_override(bench: Bench) -> None:
    load_of_maria(bench)
    request: SwitchRequest = for_ivan(bench, override_reason=" ")
    with pytest.raises(InstanceLeased):
        bench.controller.switch(request, "ivan")
    with pytest.raises(InstanceLeased):
        bench.controller.unload(instance_of(bench).id, "ivan", " ")
