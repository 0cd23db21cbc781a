"""Events: each change once, in order, outside of the lock, whatever a subscriber does."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, loaded, model
from webapp.control.events import (
    Event,
    InstanceChanged,
    InstanceListed,
    InstanceRemoved,
    OperationBegun,
    OperationChanged,
    OperationEnded,
    OperationStored,
)
from webapp.control.state import StateStore
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.errors import Busy
from webapp.message import Message

KINDS = (
    OperationBegun,
    OperationChanged,
    OperationEnded,
    OperationStored,
    InstanceListed,
    InstanceChanged,
    InstanceRemoved,
)
ONE = loaded(model("lab/one"), "i1")


def operation(operation_id: str = "o1", started_at: float = 1.0) -> Operation:
    return Operation(operation_id, OperationKind.CLEAN, "ivan", OperationState.RUNNING, started_at)


def closed(running: Operation, ended_at: float = 2.0) -> Operation:
    return running.closed(OperationState.SUCCEEDED, ended_at, Message("done"))


def cancelled(running: Operation) -> Operation:
    return running.closed(OperationState.CANCELLED, 2.0, Message("taken_over"))


@pytest.fixture
def state_store() -> StateStore:
    made = StateStore()
    made.accept(True)
    return made


@pytest.fixture
def told(state_store: StateStore) -> list[Event]:
    heard: list[Event] = []
    for kind in KINDS:
        state_store.events.subscribe(kind, heard.append)
    return heard


def names(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


# What is told


def test_an_operation_begins_gets_on_and_ends(state_store: StateStore, told: list[Event]) -> None:
    state_store.begin(operation(), ["gpu-0"])
    begun_at = state_store.state.version
    state_store.claim("o1", ["gpu-1"])
    state_store.update("o1", lambda o: replace(o, evicted=("i1",)))
    state_store.request_cancel("o1", "ivan")
    ended = state_store.end("o1", closed)
    assert names(told) == ["OperationBegun", "OperationChanged", "OperationChanged", "OperationEnded"]
    assert told[0] == OperationBegun(begun_at, operation())
    assert told[-1] == OperationEnded(state_store.state.version, ended)
    state_store.amend(replace(ended, evicted=("i2",)))
    assert names(told)[4:] == ["OperationChanged"]


def test_of_a_pending_operation_nothing_is_told_before_it_is_accepted(
    state_store: StateStore, told: list[Event]
) -> None:
    state_store.begin(operation("o1"), ["gpu-0"], is_pending=True)
    state_store.begin(operation("o2"), ["gpu-1"], is_pending=True)
    assert told == []
    state_store.withdraw("o1")
    assert told == []
    accepted = state_store.confirm("o2")
    assert told == [OperationBegun(state_store.state.version, accepted)]


def test_what_was_refused_is_not_told(state_store: StateStore, told: list[Event]) -> None:
    state_store.begin(operation("o1"), ["gpu-0"])
    with pytest.raises(Busy):
        state_store.begin(operation("o2"), ["gpu-0"])
    assert names(told) == ["OperationBegun"]


def test_an_emergency_ends_all_others_before_it_begins(state_store: StateStore, told: list[Event]) -> None:
    state_store.begin(operation("o1"), ["gpu-0"])
    state_store.begin(operation("o2"), ["gpu-1"], is_pending=True)
    told.clear()
    state_store.take_over(replace(operation("o3"), kind=OperationKind.EMERGENCY), ["gpu-0"], cancelled)
    assert names(told) == ["OperationEnded", "OperationEnded", "OperationBegun"]
    assert {event.version for event in told} == {state_store.state.version}


def test_the_end_of_an_old_operation_is_told_although_the_list_has_newer_ones(
    state_store: StateStore, told: list[Event]
) -> None:
    state_store.set_recent([closed(operation(f"new{number}"), 1000.0 + number) for number in range(30)])
    state_store.begin(operation(), [])
    state_store.end("o1", closed)
    assert names(told) == ["OperationBegun", "OperationEnded"]


def test_an_instance_is_listed_changes_and_goes(state_store: StateStore, told: list[Event]) -> None:
    state_store.put(ONE)
    changed = state_store.change("i1", lambda i: replace(i, in_flight=3))
    state_store.change("i1", lambda i: i)
    state_store.remove("i1")
    state_store.remove("i1")
    version = state_store.state.version
    assert told == [
        InstanceListed(version - 2, ONE),
        InstanceChanged(version - 1, ONE, changed),
        InstanceRemoved(version, changed),
    ]


def test_what_the_store_has_is_told(bench: Bench) -> None:
    stored: list[OperationStored] = []
    bench.state_store.events.subscribe(OperationStored, stored.append)
    ended = bench.load("lab/one")
    assert stored[-1].operation == ended
    assert [event.operation for event in stored] == bench.store.written
    versions = [event.version for event in stored]
    assert versions == sorted(versions)


# How it is told


def test_a_subscriber_that_fails_is_logged_and_nobody_else_notices(
    state_store: StateStore, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[InstanceListed] = []

    def fail(event: InstanceListed) -> None:
        raise ValueError("a defect")

    state_store.events.subscribe(InstanceListed, fail)
    state_store.events.subscribe(InstanceListed, heard.append)
    with caplog.at_level(logging.ERROR):
        state_store.put(ONE)
    assert [event.instance for event in heard] == [ONE]
    assert "a subscriber of InstanceListed failed" in caplog.text


def test_a_subscriber_reads_and_changes_the_state_itself(state_store: StateStore, told: list[Event]) -> None:
    """It is called outside of the lock; what it changes is told after what it was told of."""
    state_store.events.subscribe(InstanceListed, lambda event: state_store.remove(event.instance.id))
    state_store.put(ONE)
    assert names(told) == ["InstanceListed", "InstanceRemoved"]


def test_nobody_waits_for_a_subscriber_that_hangs_and_the_order_stays(
    state_store: StateStore, told: list[Event]
) -> None:
    gate = Gate()
    state_store.events.subscribe(InstanceListed, lambda event: gate.pass_through())
    first = threading.Thread(target=lambda: state_store.put(ONE))
    first.start()
    gate.wait_reached()
    state_store.change("i1", lambda i: replace(i, in_flight=1))
    state_store.remove("i1")
    assert names(told) == ["InstanceListed"]
    gate.open()
    first.join(10)
    assert names(told) == ["InstanceListed", "InstanceChanged", "InstanceRemoved"]


def test_no_event_is_lost_or_doubled_among_threads_that_commit_together(
    state_store: StateStore, told: list[Event]
) -> None:
    """What is told makes, one after the other, the very state that the threads have made together."""
    threads_at_once, turns = 6, 60
    start = threading.Barrier(threads_at_once)

    def work(number: int) -> None:
        start.wait()
        for turn in range(turns):
            instance, running = replace(ONE, id=f"i{number}"), operation(f"o{number}-{turn}")
            state_store.begin(running, [])
            state_store.put(instance)
            state_store.change(instance.id, lambda i: replace(i, in_flight=7))
            if turn % 2:
                state_store.remove(instance.id)
            state_store.end(running.id, closed)

    everybody = [threading.Thread(target=work, args=(number,)) for number in range(threads_at_once)]
    for each in everybody:
        each.start()
    for each in everybody:
        each.join(10)

    versions = [event.version for event in told]
    assert versions == sorted(versions)
    assert len(set(versions)) == len(versions)
    instances, begun, ended = replayed(told)
    assert instances == state_store.state.instances
    assert len(begun) == len(set(begun)) == threads_at_once * turns
    assert sorted(begun) == sorted(ended)


def replayed(events: list[Event]) -> tuple[dict[str, object], list[str], list[str]]:
    """The instances that are left, and the operations that began and ended, as the events say."""
    instances: dict[str, object] = {}
    begun: list[str] = []
    ended: list[str] = []
    for event in events:
        if isinstance(event, InstanceListed):
            assert event.instance.id not in instances
            instances[event.instance.id] = event.instance
        elif isinstance(event, InstanceChanged):
            assert instances[event.instance.id] == event.before
            instances[event.instance.id] = event.instance
        elif isinstance(event, InstanceRemoved):
            assert instances.pop(event.instance.id) == event.instance
        elif isinstance(event, OperationBegun):
            begun.append(event.operation.id)
        elif isinstance(event, OperationEnded):
            assert event.operation.id in begun
            ended.append(event.operation.id)
    return instances, begun, ended
