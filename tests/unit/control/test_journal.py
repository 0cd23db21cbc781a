"""The journal: its own thread writes, the newest value only, and a store that hangs or fails keeps nobody waiting."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.unit.control.fakes import FakeStore, Gate
from webapp.control.journal import Journal
from webapp.domain.operation import Operation, OperationFilter, OperationKind, OperationState
from webapp.errors import StoreUnavailable
from webapp.message import Message

RUNNING = Operation("one", OperationKind.SWITCH, "ivan", OperationState.RUNNING, started_at=1.0)
ENDED = RUNNING.closed(OperationState.SUCCEEDED, 2.0, Message("switch_done"))


def on_way(mode: str) -> Operation:
    return replace(RUNNING, mode=mode)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def journal(store: FakeStore) -> Iterator[Journal]:
    made = Journal(store)
    made.start()
    yield made
    if store.gate is not None:
        store.gate.open()
    made.stop()


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


@pytest.mark.parametrize("fault", [StoreUnavailable(reason="disk full"), ValueError("surprise")])
def test_write_that_fails_is_logged_and_the_next_one_is_made(
    store: FakeStore, journal: Journal, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    store.raises = fault
    with caplog.at_level(logging.WARNING):
        journal.record(RUNNING)
        assert journal.flush()
    assert "operation one" in caplog.text
    store.raises = None
    journal.record(ENDED)
    assert journal.flush()
    assert store.written == [ENDED]


def test_stop_writes_what_is_left(store: FakeStore, journal: Journal) -> None:
    gate = hold(store, journal)
    journal.record(ENDED)
    gate.open()
    journal.stop()
    assert store.saved["one"] == ENDED


def test_journal_that_was_stopped_can_start_again(store: FakeStore, journal: Journal) -> None:
    journal.stop()
    journal.stop()
    journal.record(RUNNING)
    assert not journal.flush(0.01)
    journal.start()
    assert journal.flush()
    assert store.written == [RUNNING]


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
