"""The record is written without anybody waiting, loses nothing that it can keep, and cannot be flooded."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pytest

from webapp.audit.trail import COUNTED_LIMIT, PENDING_LIMIT, REPEAT_S, TIDY_S, Audit
from webapp.domain.audit import (
    EVERYTHING,
    NOBODY,
    THE_SERVER,
    Action,
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

OLGA = AuditActor("olga", AuditChannel.SESSION, "p1")
CLEAN = AuditEntry(0.0, OLGA, Action.CLEAN, THE_SERVER)
BUSY = replace(CLEAN, result=Result.REFUSED, problem="busy")
WRONG = AuditEntry(
    0.0, NOBODY, Action.SIGN_IN, Target(Kind.PERSON, "p1", "olga"), Result.REFUSED, "10.0.0.7", "sign_in_failed"
)


@dataclass
class Record:
    """Entries in memory. ``fails`` is a database that does not answer; ``gate`` holds a write until it is set."""

    kept: list[AuditEntry] = field(default_factory=list)
    fails: bool = False
    gate: threading.Event | None = None
    entered: threading.Event = field(default_factory=threading.Event)
    written: threading.Event = field(default_factory=threading.Event)
    pruned: list[float] = field(default_factory=list)

    def add(self, entries: Sequence[AuditEntry]) -> None:
        if self.fails:
            raise StoreUnavailable(reason="a test")
        self.entered.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        self.kept += entries
        if entries:
            self.written.set()

    def entries(self, limit: int, where: AuditFilter = EVERYTHING, before: int | None = None) -> tuple[AuditEntry, ...]:
        return tuple(reversed(self.kept))[:limit]

    def has(self, entry: AuditEntry) -> bool:
        return any(entry.repeats(kept) for kept in self.kept)

    def people(self) -> tuple[str, ...]:
        return ()

    def prune(self, before: float) -> int:
        self.pruned.append(before)
        return 0


@pytest.fixture
def record() -> Record:
    return Record()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(record: Record, clock: Clock) -> Iterator[Audit]:
    audit = Audit(record, keep_s=1000.0, clock=clock)
    yield audit
    if record.gate is not None:
        record.gate.set()
    audit.stop()


def test_an_entry_is_written_by_the_thread_of_the_record(audit: Audit, record: Record) -> None:
    audit.start()
    audit.record(CLEAN)

    assert record.written.wait(10)
    assert record.kept == [CLEAN]


def test_whoever_acts_does_not_wait_for_the_database(audit: Audit, record: Record) -> None:
    record.gate = threading.Event()
    audit.start()
    audit.record(CLEAN)
    assert record.entered.wait(10)

    audit.record(CLEAN)  # returns although a write hangs

    record.gate.set()
    audit.stop()
    assert record.kept == [CLEAN, CLEAN]


def test_a_stop_writes_what_is_left(audit: Audit, record: Record) -> None:
    audit.start()
    for number in range(100):
        audit.record(replace(CLEAN, at=float(number)))
    audit.record(WRONG)
    audit.record(WRONG)

    audit.stop()

    assert [entry.at for entry in record.kept[:100]] == list(range(100))
    assert record.kept[100:] == [WRONG, replace(WRONG, details=((Detail.REPEATED, "1"),))]


def test_what_cannot_be_written_waits_in_its_order(audit: Audit, record: Record) -> None:
    record.fails = True
    audit.record(CLEAN)
    audit.look()
    audit.record(BUSY)
    with pytest.raises(StoreUnavailable):
        audit.entries(10)
    assert record.kept == []

    record.fails = False

    assert audit.entries(10) == (BUSY, CLEAN)


def test_a_database_that_stays_away_costs_no_endless_memory(audit: Audit, record: Record) -> None:
    record.fails = True
    for number in range(PENDING_LIMIT + 5):
        audit.record(replace(CLEAN, at=float(number)))
    record.fails = False

    assert len(audit.entries(2 * PENDING_LIMIT)) == PENDING_LIMIT


def test_what_was_just_done_is_found(audit: Audit) -> None:
    audit.record(CLEAN)

    assert audit.entries(1) == (CLEAN,)


def test_what_somebody_does_is_always_written(audit: Audit) -> None:
    for _ in range(3):
        audit.record(CLEAN)

    assert len(audit.entries(10)) == 3


def test_entry_of_a_request_that_is_sent_again_is_queued_once(audit: Audit, record: Record) -> None:
    begun = replace(CLEAN, operation_id="o1")
    for entry in (begun, replace(begun, at=9.0), replace(begun, operation_id="o2")):
        audit.record_once(entry)
    audit.flush()
    assert [entry.operation_id for entry in record.kept] == ["o1", "o2"]


def test_entry_is_not_lost_if_the_database_cannot_say_whether_it_has_it(audit: Audit, record: Record) -> None:
    record.fails = True
    audit.record_once(CLEAN)
    record.fails = False
    audit.flush()
    assert record.kept == [CLEAN]


@pytest.mark.parametrize("entry", [BUSY, WRONG])
def test_a_refusal_over_and_over_is_written_once_and_counted(audit: Audit, clock: Clock, entry: AuditEntry) -> None:
    for second in range(5):
        audit.record(replace(entry, at=float(second)))
    assert audit.entries(10) == (entry,)

    clock.now = REPEAT_S
    audit.look()

    assert audit.entries(10) == (replace(entry, at=4.0, details=((Detail.REPEATED, "4"),)), entry)


def test_after_a_minute_it_is_written_again_with_the_count_before_it(audit: Audit) -> None:
    audit.record(WRONG)
    audit.record(WRONG)
    audit.record(replace(WRONG, at=REPEAT_S))

    assert [(entry.at, entry.details) for entry in audit.entries(10)] == [
        (REPEAT_S, ()),
        (0.0, ((Detail.REPEATED, "1"),)),
        (0.0, ()),
    ]


@pytest.mark.parametrize(
    "other",
    [
        replace(BUSY, doer=AuditActor("ivan", AuditChannel.SESSION, "p2")),
        replace(BUSY, action=Action.EMERGENCY),
        replace(BUSY, problem="stopping"),
        replace(BUSY, target=Target(Kind.MODEL, "i1", "lab/m")),
        replace(BUSY, address="10.0.0.8"),
    ],
)
def test_what_differs_is_not_counted_together(audit: Audit, other: AuditEntry) -> None:
    audit.record(BUSY)
    audit.record(other)

    assert audit.entries(10) == (other, BUSY)


def test_strangers_cannot_fill_the_disk_by_naming_many_things(audit: Audit) -> None:
    for number in range(1000):
        audit.record(replace(WRONG, target=Target(Kind.PERSON, "", str(number))))

    assert len(audit.entries(5000)) == 1


def test_nor_from_many_addresses(audit: Audit) -> None:
    for number in range(5000):
        audit.record(replace(WRONG, address=f"2001:db8::{number:x}"))

    assert len(audit.entries(5000)) == COUNTED_LIMIT + 1


def test_old_entries_go_once_a_day(audit: Audit, record: Record, clock: Clock) -> None:
    clock.now = 5000.0
    audit.look()
    audit.look()
    clock.now += TIDY_S
    audit.look()

    assert record.pruned == [4000.0, 4000.0 + TIDY_S]
