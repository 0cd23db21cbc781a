"""The journal: the newest value of each operation is written, and a store that hangs or fails holds up none that acts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.unit.control.fakes import FakeStore, Gate
from webapp.control.journal import Journal
from webapp.control.keeping import PENDING_LIMIT, Keeper
from webapp.control.state import StateStore
from webapp.domain.operation import Operation, OperationFilter, OperationKind, OperationState
from webapp.errors import NotStored, StoreUnavailable
from webapp.message import Message

RUNNING = Operation("one", OperationKind.SWITCH, "ivan", OperationState.RUNNING, started_at=1.0)
ENDED = RUNNING.closed(OperationState.SUCCEEDED, 2.0, Message("switch_done"))


def on_way(mode: str) -> Operation:
    return replace(RUNNING, mode=mode)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def keeper(store: FakeStore) -> Iterator[Keeper]:
    made = Keeper(store, deadline_s=0.2, retry_s=0.02)
    made.start()
    yield made
    if store.gate is not None:
        store.gate.open()
    made.stop()


@pytest.fixture
def journal(store: FakeStore, keeper: Keeper) -> Journal:
    return Journal(store, keeper, StateStore())


def hold(store: FakeStore, journal: Journal) -> Gate:
    """Let the journal's thread hang in the write of another operation."""
    store.gate = Gate()
    journal.record(replace(RUNNING, id="other"))
    store.gate.wait_reached()
    return store.gate


def of_one(store: FakeStore) -> list[Operation]:
    return [operation for operation in store.written if operation.id == "one"]


def test_what_is_recorded_is_written(store: FakeStore, journal: Journal) -> None:
    journal.record(RUNNING)
    assert journal.flush()
    journal.record(ENDED)
    assert journal.flush()
    assert store.written == [RUNNING, ENDED]


def test_of_several_values_only_the_newest_is_written(store: FakeStore, journal: Journal) -> None:
    gate = hold(store, journal)
    for mode in ("first", "second", "third"):
        journal.record(on_way(mode))
    gate.open()
    assert journal.flush()
    assert of_one(store) == [on_way("third")]


def test_running_value_is_never_written_after_an_ended_one(store: FakeStore, journal: Journal) -> None:
    gate = hold(store, journal)
    journal.record(ENDED)
    journal.record(RUNNING)
    gate.open()
    assert journal.flush()
    journal.record(RUNNING)
    assert journal.flush()
    assert of_one(store) == [ENDED]


def test_value_that_comes_while_its_operation_is_being_written_is_written_after(
    store: FakeStore, journal: Journal
) -> None:
    store.gate = Gate()
    journal.record(RUNNING)
    store.gate.wait_reached()
    journal.record(ENDED)
    store.gate.open()
    assert journal.flush()
    assert store.written == [RUNNING, ENDED]


def test_operations_are_written_in_the_order_in_which_they_came(store: FakeStore, journal: Journal) -> None:
    gate = hold(store, journal)
    for name in ("a", "b", "c"):
        journal.record(replace(RUNNING, id=name))
    journal.record(replace(ENDED, id="a"))
    gate.open()
    assert journal.flush()
    assert [operation.id for operation in store.written] == ["other", "a", "b", "c"]


def test_hanging_store_keeps_nobody_waiting(store: FakeStore, journal: Journal) -> None:
    gate = hold(store, journal)
    journal.record(RUNNING)
    assert not journal.flush(0.01)
    assert store.written == []
    assert journal.find("one") == RUNNING
    gate.open()
    assert journal.flush()
    assert store.saved["one"] == RUNNING


def test_what_the_store_refuses_is_kept_at_hand_and_written_once_it_can(store: FakeStore, journal: Journal) -> None:
    store.raises = StoreUnavailable(reason="disk full")
    journal.record(RUNNING)
    journal.record(ENDED)
    assert not journal.flush(0.1)
    assert (journal.is_written("one"), journal.find("one")) == (False, ENDED)
    store.raises = None
    assert journal.flush()
    assert (store.written, journal.is_written("one")) == ([ENDED], True)


def test_a_value_that_cannot_be_written_at_all_is_logged_and_holds_up_no_other(
    store: FakeStore, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    store.raises = ValueError("surprise")
    with caplog.at_level(logging.ERROR):
        journal.record(RUNNING)
        assert journal.flush()
    assert "operation one" in caplog.text
    store.raises = None
    assert (journal.find("one"), journal.is_written("one")) == (None, False)
    journal.record(ENDED)
    assert journal.flush()
    assert store.written == [ENDED]


def test_what_is_lost_is_not_called_written(store: FakeStore, keeper: Keeper, journal: Journal) -> None:
    gate = hold(store, journal)
    for number in range(PENDING_LIMIT):
        keeper.later(f"other {number}", lambda: None)
    journal.record(RUNNING)
    journal.settle(RUNNING.id)
    gate.open()
    assert journal.flush()
    assert (of_one(store), journal.is_written("one")) == ([], False)
    journal.record(ENDED)
    assert journal.flush()
    assert (of_one(store), journal.is_written("one")) == ([ENDED], True)


def test_what_is_kept_is_in_the_store_when_that_returns(store: FakeStore, journal: Journal) -> None:
    journal.keep(RUNNING)
    assert store.written == [RUNNING]


@pytest.mark.parametrize("fault", [StoreUnavailable(reason="disk full"), ValueError("surprise")])
def test_what_cannot_be_kept_is_refused_and_dropped(store: FakeStore, journal: Journal, fault: Exception) -> None:
    store.raises = fault
    with pytest.raises(NotStored):
        journal.keep(RUNNING)
    journal.drop(RUNNING)
    store.raises = None
    assert journal.flush()
    assert (store.written, journal.find("one")) == ([], None)


def test_what_came_through_after_it_was_refused_is_taken_back(store: FakeStore, journal: Journal) -> None:
    store.gate = Gate()
    with pytest.raises(NotStored):
        journal.keep(RUNNING)
    journal.drop(RUNNING)
    store.gate.open()
    assert journal.flush()
    assert (store.written, store.saved) == ([RUNNING], {})


def test_an_operation_that_acts_first_waits_for_its_newest_value(store: FakeStore, journal: Journal) -> None:
    gate = hold(store, journal)
    journal.record(RUNNING)
    journal.record(ENDED)
    journal.settle("one")
    assert not journal.is_written("one")
    gate.open()
    journal.settle("one")
    assert (journal.is_written("one"), of_one(store)) == (True, [ENDED])


def test_stop_writes_what_is_left(store: FakeStore, keeper: Keeper, journal: Journal) -> None:
    gate = hold(store, journal)
    journal.record(ENDED)
    gate.open()
    keeper.stop()
    assert store.saved["one"] == ENDED


def test_what_was_cut_off_is_what_the_store_calls_running(store: FakeStore, journal: Journal) -> None:
    store.save_operation(RUNNING)
    store.save_operation(replace(ENDED, id="two"))
    assert journal.cut_off() == (RUNNING,)
    assert {operation.id for operation in journal.recent(5)} == {"one", "two"}


def test_unreadable_store_is_empty_at_the_start_and_an_error_to_who_asks(store: FakeStore, journal: Journal) -> None:
    store.raises = StoreUnavailable(reason="no such table")
    assert (journal.cut_off(), journal.recent(5)) == ((), ())
    with pytest.raises(StoreUnavailable):
        journal.find("one")
    with pytest.raises(StoreUnavailable):
        journal.newest(5)
    with pytest.raises(StoreUnavailable):
        journal.values()


def test_a_filter_and_a_place_reach_the_store(store: FakeStore, journal: Journal) -> None:
    for number, actor in enumerate(("ivan", "maria", "ivan", "ivan")):
        store.save_operation(replace(ENDED, id=f"op{number}", actor=actor, started_at=float(number)))

    found = journal.newest(5, OperationFilter(actor="ivan"), "op3")

    assert [operation.id for operation in found] == ["op2", "op0"]
    assert journal.values().actors == ("ivan", "maria")
