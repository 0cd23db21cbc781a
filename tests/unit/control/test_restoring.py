"""What was unloaded to make room comes back as it ran: in a rollback, after Warden was killed, or on a click."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from tests.unit.control.conftest import NO_DOCKER, Bench
from tests.unit.control.fakes import Gate, loaded, model
from tests.unit.control.test_faults import left_by_an_earlier_warden
from webapp.control.reconcile import LATE_INTERVAL_S
from webapp.control.restoring import DYING_S, PATIENCE_S
from webapp.domain.instance import Instance, InstanceState
from webapp.domain.lease import Lease
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Evicted, Operation, OperationKind, OperationState, StepName
from webapp.domain.units import gib
from webapp.errors import EngineUnreachable, NothingToRestore
from webapp.message import Message
from webapp.runtimes.base import Discovered

MakeBench = Callable[..., Bench]
THEN, NOW = "b" * 40, "a" * 40
"""The revision that ran, and the one that ``refs/main`` names by now."""
LEASE = Lease(until=time.time() + 7200, reason="a demo")


def codes(operation: Operation) -> list[str]:
    return [finding.message.code for finding in operation.findings]


def outcome_of(operation: Operation) -> str | None:
    return None if operation.outcome is None else operation.outcome.code


def evicted(**changes: object) -> Evicted:
    """Maria's leased model."""
    made = Evicted("gone", "lab/one", Mode.TRANSFORMERS, NOW, LaunchOptions(), ("gpu-0",), "maria", LEASE)
    return replace(made, **changes)  # type: ignore[arg-type]


def cut_off(bench: Bench, *owed: Evicted, **changes: object) -> Operation:
    """A switch of Ivan's that was under way when Warden was killed."""
    operation = Operation(
        id="cutoff",
        kind=OperationKind.SWITCH,
        actor="ivan",
        state=OperationState.RUNNING,
        started_at=time.time(),
        model_id="lab/two",
        instance_id="new",
        to_restore=owed,
    )
    bench.store.saved[operation.id] = replace(operation, **changes)  # type: ignore[arg-type]
    return operation


def restored(bench: Bench) -> Operation:
    """The operation that loads again, once it has ended."""

    def found() -> list[Operation]:
        return [o for o in bench.state_store.state.recent if o.kind is OperationKind.RESTORE and o.id != "cutoff"]

    bench.until(lambda: bool(found()))
    return found()[0]


def rounds(bench: Bench, count: int = 2) -> None:
    """Wait until the watcher has made some more rounds."""
    for _ in range(count):
        begun = time.monotonic()
        bench.until(partial(_has_looked_since, bench, begun))


def _has_looked_since(bench: Bench, moment: float) -> bool:
    age_s = bench.controller.health().controller_age_s
    return age_s is not None and age_s < time.monotonic() - moment


def ran_at(bench: Bench, revision: str) -> Instance:
    """Load a model, and have it be of ``revision``."""
    bench.load("lab/one")
    (instance,) = bench.state_store.state.instances.values()
    return bench.state_store.change(instance.id, lambda i: replace(i, revision=revision))


def moved_on(bench: Bench, *others: str) -> None:
    """Let ``refs/main`` name another revision of every model; ``others`` are still in the cache."""
    bench.catalog.models = tuple(replace(each, revisions=frozenset(others)) for each in bench.catalog.models)


# The very revision that ran


def test_rollback_loads_the_revision_that_ran_although_the_cache_has_moved_on(bench: Bench) -> None:
    ran_at(bench, THEN)
    moved_on(bench, THEN)
    bench.runtime.fails["lab/two"] = "dies"
    assert outcome_of(bench.load("lab/two")) == "rolled_back"
    again = bench.runtime.launched[-1]
    assert (again.model_id, again.revision, again.snapshot.name) == ("lab/one", THEN, THEN)


def test_rollback_loads_no_other_revision_than_the_one_that_ran(bench: Bench) -> None:
    ran_at(bench, THEN)
    moved_on(bench)
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.load("lab/two")
    assert outcome_of(operation) == "restore_failed"
    assert codes(operation) == ["restore_revision_gone"]
    assert [spec.model_id for spec in bench.runtime.launched] == ["lab/one", "lab/two"]
    assert [e.model_id for e in operation.to_restore] == ["lab/one"]


# What is owed


def test_what_goes_is_written_down_before_anything_of_it_ends(bench: Bench) -> None:
    instance = ran_at(bench, NOW)
    bench.state_store.change(instance.id, lambda i: replace(i, lease=LEASE, owner="ivan"))
    ends = bench.runtime.gates["ask"] = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    ends.wait_reached()
    (owed,) = bench.store.saved[operation.id].to_restore
    assert (owed.instance_id, owed.revision, owed.owner, owed.lease) == (instance.id, NOW, "ivan", LEASE)
    assert dict(owed.held_bytes) == {"gpu-0": gib(1)}
    ends.open()
    assert bench.wait(operation).to_restore == ()


def test_switch_that_was_refused_at_the_last_moment_owes_nothing(bench: Bench) -> None:
    instance = ran_at(bench, NOW)
    reading = bench.monitor.gate = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    reading.wait_reached()
    bench.runtime.in_flight["lab/one"] = 1
    reading.open()
    ended = bench.wait(operation)
    assert (ended.state, ended.to_restore) == (OperationState.FAILED, ())
    assert bench.state_store.state.instances[instance.id].state is InstanceState.READY


def test_rollback_that_succeeds_owes_nothing(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = "dies"
    assert bench.load("lab/two").to_restore == ()


def test_model_whose_end_could_not_be_proved_is_owed_still(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.survives_once.add("lab/one")
    failed = bench.load("lab/two")
    assert (outcome_of(failed), [e.model_id for e in failed.to_restore]) == ("ended_early", ["lab/one"])
    (instance,) = bench.state_store.state.instances
    bench.runtime.alive.pop(instance)  # the last of it has ended
    bench.until(lambda: bench.loaded == [])
    bench.until(lambda: not bench.state_store.state.claims)
    bench.machine.give_back("gpu-0", instance)
    assert bench.wait(bench.controller.restore(failed.id, "ivan")).state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/one"]


def test_who_did_not_want_a_return_is_owed_none(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.fails["lab/two"] = "dies"
    operation = bench.load("lab/two", restore_on_failure=False)
    assert (outcome_of(operation), operation.to_restore) == ("not_restored_by_choice", ())


# On a click


def failed_rollback(bench: Bench) -> Operation:
    """A switch that failed, and whose rollback failed."""
    bench.load("lab/one")
    (instance,) = bench.state_store.state.instances.values()
    bench.state_store.change(instance.id, lambda i: replace(i, lease=LEASE, owner="ivan"))
    bench.runtime.fails |= {"lab/one": "no_image", "lab/two": "dies"}
    operation = bench.load("lab/two")
    assert outcome_of(operation) == "restore_failed"
    assert bench.loaded == []
    bench.runtime.fails.clear()
    return operation


def test_one_click_loads_again_what_could_not_come_back_with_its_owner_and_lease(bench: Bench) -> None:
    failed = failed_rollback(bench)
    again = bench.wait(bench.controller.restore(failed.id, "maria"))
    assert (again.kind, again.actor, again.state) == (OperationKind.RESTORE, "maria", OperationState.SUCCEEDED)
    (instance,) = bench.state_store.state.instances.values()
    assert (instance.model_id, instance.owner, instance.lease) == ("lab/one", "ivan", LEASE)
    assert again.to_restore == ()


def test_second_click_finds_nothing_to_load(bench: Bench) -> None:
    failed = failed_rollback(bench)
    bench.wait(bench.controller.restore(failed.id, "maria"))
    told = bench.controller.operation(failed.id)
    assert (told.to_restore, codes(told)[-1]) == ((), "restore_begun")
    with pytest.raises(NothingToRestore):
        bench.controller.restore(failed.id, "maria")


def test_model_that_does_not_fit_by_now_stays_one_click_away(bench: Bench) -> None:
    failed = failed_rollback(bench)
    bench.machine.foreign["gpu-0"] = gib(23)
    again = bench.wait(bench.controller.restore(failed.id, "maria"))
    assert (again.state, outcome_of(again)) == (OperationState.FAILED, "restore_failed")
    assert again.findings[0].message.params["code"] == "not_enough_memory"
    assert [e.model_id for e in again.to_restore] == ["lab/one"]
    bench.machine.foreign.clear()
    assert bench.wait(bench.controller.restore(again.id, "maria")).state is OperationState.SUCCEEDED


def test_model_that_somebody_loaded_meanwhile_is_not_loaded_twice(bench: Bench) -> None:
    failed = failed_rollback(bench)
    bench.later_s = 3600.0  # the pause after a failed load is over
    bench.load("lab/one")
    again = bench.wait(bench.controller.restore(failed.id, "maria"))
    assert (again.state, codes(again)) == (OperationState.SUCCEEDED, ["restore_not_needed"])
    assert bench.loaded == ["lab/one"]


# After Warden was killed


def test_switch_that_was_cut_off_has_what_it_unloaded_loaded_again_with_its_lease(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted())
    bench.controller.start()
    again = restored(bench)
    assert (again.actor, again.state) == ("warden", OperationState.SUCCEEDED)
    (instance,) = bench.state_store.state.instances.values()
    assert (instance.model_id, instance.owner, instance.lease) == ("lab/one", "maria", LEASE)
    told = bench.controller.operation("cutoff")
    assert (told.state, told.to_restore, codes(told)) == (OperationState.ABANDONED, (), ["restore_begun"])


def test_switch_whose_model_was_ready_when_warden_was_killed_owes_nothing(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted())
    bench.runtime.found = (Discovered(loaded(model("lab/two"), "new"), adoptable=True),)
    bench.controller.start()
    assert bench.controller.operation("cutoff").to_restore == ()
    rounds(bench)
    assert bench.runtime.launched == []


def test_model_that_lives_is_not_loaded_a_second_time(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted())
    bench.runtime.found = (Discovered(loaded(model("lab/one"), "gone"), adoptable=True),)
    bench.runtime.launch(left_by_an_earlier_warden("gone"))
    bench.controller.start()
    assert bench.controller.operation("cutoff").to_restore == ()
    rounds(bench)
    bench.ahead_s = DYING_S + 1
    rounds(bench)
    assert [spec.instance_id for spec in bench.runtime.launched] == ["gone"]


def test_model_that_was_on_its_way_out_comes_back_once_it_is_dead(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted())
    bench.runtime.found = (Discovered(loaded(model("lab/one"), "gone"), adoptable=True),)
    bench.controller.start()  # nothing runs there any more: the first look finds it dead
    assert restored(bench).state is OperationState.SUCCEEDED
    (instance,) = bench.state_store.state.instances.values()
    assert (instance.id != "gone", instance.model_id, instance.state) == (True, "lab/one", InstanceState.READY)


def lives_again(bench: Bench) -> None:
    """Kill Warden between the word that a model goes and its stop: it runs on at the next start."""
    cut_off(bench, evicted())
    bench.runtime.found = (Discovered(loaded(model("lab/one"), "gone"), adoptable=True),)
    bench.runtime.launch(left_by_an_earlier_warden("gone"))
    bench.controller.start()


def test_model_that_a_person_unloads_after_the_start_stays_unloaded(make_bench: MakeBench) -> None:
    bench = make_bench()
    lives_again(bench)
    bench.wait(bench.controller.unload("gone", "maria"))
    rounds(bench)
    assert bench.loaded == []
    assert [spec.instance_id for spec in bench.runtime.launched] == ["gone"]


def test_model_of_a_mode_that_answers_late_stays_unloaded_once_a_person_unloads_it(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted())
    bench.runtime.launch(left_by_an_earlier_warden("gone"))
    bench.runtime.raises["discover"] = EngineUnreachable(socket="docker.sock", detail="away")
    bench.controller.start()
    bench.runtime.raises.clear()
    bench.runtime.found = (Discovered(loaded(model("lab/one"), "gone"), adoptable=True),)
    bench.ahead_s = LATE_INTERVAL_S + 1
    bench.until(lambda: bench.loaded == ["lab/one"])
    rounds(bench)
    bench.wait(bench.controller.unload("gone", "maria"))
    rounds(bench)
    assert bench.loaded == []
    assert [spec.instance_id for spec in bench.runtime.launched] == ["gone"]


def test_emergency_after_the_start_leaves_nothing_to_come_back_by_itself(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted(mode=Mode.VLLM))
    bench.controller.start()  # the model waits for its mode
    bench.wait(bench.controller.emergency("ivan"))
    bench.vllm.problem = None
    rounds(bench)
    assert bench.vllm.launched == []
    assert bench.wait(bench.controller.restore("cutoff", "maria")).state is OperationState.SUCCEEDED


def test_model_that_does_not_fit_after_the_start_is_one_click_away(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted())
    bench.machine.foreign["gpu-0"] = gib(23)
    bench.controller.start()
    again = restored(bench)
    assert (outcome_of(again), [e.model_id for e in again.to_restore]) == ("restore_failed", ["lab/one"])
    assert bench.runtime.launched == []


def test_model_of_a_mode_that_is_away_waits_for_it(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted(mode=Mode.VLLM))
    assert bench.vllm.problem is NO_DOCKER
    bench.controller.start()
    rounds(bench)
    assert bench.vllm.launched == []
    bench.vllm.problem = None
    assert restored(bench).state is OperationState.SUCCEEDED
    assert [spec.model_id for spec in bench.vllm.launched] == ["lab/one"]


def test_model_of_a_mode_that_stays_away_is_left_to_a_click(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted(mode=Mode.VLLM))
    bench.controller.start()
    bench.ahead_s = PATIENCE_S + 1
    rounds(bench)
    bench.vllm.problem = None
    rounds(bench)
    assert bench.vllm.launched == []
    assert [e.model_id for e in bench.controller.operation("cutoff").to_restore] == ["lab/one"]
    assert bench.wait(bench.controller.restore("cutoff", "maria")).state is OperationState.SUCCEEDED


def test_one_model_that_cannot_come_back_keeps_no_other_from_it(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted(model_id="lab/deleted", instance_id="first"), evicted())
    bench.controller.start()
    again = restored(bench)
    assert again.state is OperationState.WARNING
    assert codes(again) == ["restore_model_gone", "restored"]
    assert [e.model_id for e in again.to_restore] == ["lab/deleted"]
    assert bench.loaded == ["lab/one"]


def test_dead_model_that_cannot_be_removed_keeps_no_other_from_coming_back(make_bench: MakeBench) -> None:
    bench = make_bench()
    bench.vllm.problem = None
    cut_off(bench, evicted(model_id="lab/two", instance_id="first", mode=Mode.VLLM), evicted())
    bench.vllm.found = (Discovered(loaded(model("lab/two"), "first", mode=Mode.VLLM), adoptable=True),)
    bench.vllm.raises["kill"] = EngineUnreachable(socket="docker.sock", detail="away")
    bench.controller.start()  # the first look finds the container ended
    again = restored(bench)
    assert codes(again)[-1] == "restored"
    assert again.state is not OperationState.FAILED


def test_return_that_was_cut_off_itself_is_tried_at_the_next_start(make_bench: MakeBench) -> None:
    bench = make_bench()
    cut_off(bench, evicted(), kind=OperationKind.RESTORE, instance_id=None)
    bench.controller.start()
    assert restored(bench).state is OperationState.SUCCEEDED
    assert bench.loaded == ["lab/one"]


def test_return_can_be_cancelled_and_stays_one_click_away(bench: Bench) -> None:
    failed = failed_rollback(bench)
    bench.runtime.fails["lab/one"] = "hangs"
    bench.runtime.launching.clear()
    again = bench.controller.restore(failed.id, "maria")
    bench.runtime.launching.wait(10)
    bench.controller.cancel(again.id, "maria")
    ended = bench.wait(again)
    assert ended.state is OperationState.CANCELLED
    assert [e.model_id for e in ended.to_restore] == ["lab/one"]
    assert next(s.name for s in ended.steps) is StepName.LAUNCH
    assert isinstance(ended.outcome, Message)
