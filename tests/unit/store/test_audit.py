"""The audit repository adds entries, finds them, drops old ones; nothing changes one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from webapp.domain.audit import (
    Action,
    ActionGroup,
    AuditActor,
    AuditChannel,
    AuditEntry,
    AuditFilter,
    Detail,
    Kind,
    Result,
    Target,
)
from webapp.errors import StoreUnavailable
from webapp.store.audit import AuditRepository
from webapp.store.database import Database

OLGA = AuditActor("olga", AuditChannel.TOKEN, "p1", "ночной запуск")
SWITCH = AuditEntry(
    at=100.5,
    doer=OLGA,
    action=Action.SWITCH,
    target=Target(Kind.MODEL, "i1", "Qwen/Qwen3-1.7B"),
    result=Result.REFUSED,
    address="10.0.0.7",
    problem="not_enough_memory",
    details=((Detail.MODE, "vllm"), (Detail.LOAD_ANYWAY, "yes")),
    operation_id="o1",
)
SIGN_IN = AuditEntry(
    200.0, AuditActor("", AuditChannel.NOBODY), Action.SIGN_IN, Target(Kind.PERSON, "p2", "anna"), Result.REFUSED
)
CLEAN = AuditEntry(300.0, AuditActor("anna", AuditChannel.SESSION, "p2"), Action.CLEAN, Target(Kind.SERVER))


@pytest.fixture
def record(database: Database) -> AuditRepository:
    record = AuditRepository(database)
    record.add([SWITCH, SIGN_IN])
    record.add([CLEAN])
    return record


def ids(record: AuditRepository, **what: object) -> list[int]:
    return [entry.id for entry in record.entries(10, AuditFilter(**what))]  # type: ignore[arg-type]


def test_entries_come_back_as_they_were_newest_first(record: AuditRepository) -> None:
    assert record.entries(10) == (replace(CLEAN, id=3), replace(SIGN_IN, id=2), replace(SWITCH, id=1))


def test_pages_follow_each_other_by_the_last_one_seen_whatever_comes_meanwhile(record: AuditRepository) -> None:
    first = record.entries(2)
    record.add([CLEAN])

    assert [entry.id for entry in record.entries(2, before=first[-1].id)] == [1]


def test_filters_hold_together(record: AuditRepository) -> None:
    assert ids(record, person="olga") == [1]
    assert ids(record, person="") == [2]
    assert ids(record, group=ActionGroup.SERVER) == [3]
    assert ids(record, result=Result.REFUSED) == [2, 1]
    assert ids(record, since=200.0) == [3, 2]
    assert ids(record, since=100.0, until=200.0) == [1]
    assert ids(record, result=Result.REFUSED, person="anna") == []


@pytest.mark.parametrize(
    ("text", "found"), [("qwen3", [1]), ("ANN", [2]), ("i1", [1]), ("%", []), ("_", []), ("p2", [2]), ("x\0y", [])]
)
def test_a_target_is_found_by_a_part_of_its_name_or_id(record: AuditRepository, text: str, found: list[int]) -> None:
    assert ids(record, text=text) == found


def test_entry_that_repeats_a_stored_one_is_found(record: AuditRepository) -> None:
    assert record.has(replace(CLEAN, at=999.0, address="192.0.2.1"))
    assert not record.has(replace(CLEAN, operation_id="o9"))
    assert not record.has(replace(CLEAN, result=Result.REFUSED))


def test_people_are_all_who_did_something(record: AuditRepository) -> None:
    assert record.people() == ("", "anna", "olga")


def test_old_entries_are_dropped_and_no_number_is_given_twice(record: AuditRepository) -> None:
    assert record.prune(before=1000.0) == 3
    record.add([CLEAN])

    assert [entry.id for entry in record.entries(10)] == [4]


def test_no_entry_can_be_changed_whoever_asks(record: AuditRepository, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, pytest.raises(sqlite3.IntegrityError, match="never changed"):
        connection.execute("UPDATE audit SET doer = 'somebody' WHERE id = 1")
    assert ids(record, person="olga") == [1]


def test_the_store_offers_nothing_that_changes_an_entry() -> None:
    calls = {name for name in vars(AuditRepository) if not name.startswith("_")}
    assert calls == {"add", "entries", "has", "people", "prune"}


def test_text_that_a_column_cannot_hold_does_not_keep_an_entry_out(database: Database) -> None:
    odd = replace(SWITCH, target=Target(Kind.MODEL, "\ud800", "a\0b"), details=((Detail.REASON, "\ud800"),))
    record = AuditRepository(database)
    record.add([odd])

    assert record.entries(1)[0].target == Target(Kind.MODEL, "?", "a?b")


def test_what_a_later_version_wrote_is_left_out(record: AuditRepository, file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute(
            "INSERT INTO audit (at, doer, came, action, target_kind, target_id, target_name, result, address, details) "
            "VALUES (1, 'x', 'session', 'teleport', 'server', '', '', 'done', '', '{}')"
        )
    assert [entry.id for entry in record.entries(10)] == [3, 2, 1]


def test_a_closed_store_says_so(record: AuditRepository, database: Database) -> None:
    database.close()

    with pytest.raises(StoreUnavailable):
        record.add([CLEAN])
    with pytest.raises(StoreUnavailable):
        record.entries(1)
