"""The recorder: one point a round, buckets that outlive a restart, old rows that go, and a store that may fail."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.web.fakes import foreign, instance, reading, worker
from webapp.control.recorder import Recorder, Timeline
from webapp.domain.instance import Instance
from webapp.domain.memory import Reading, Sample
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.timeline import BUCKET_S, COLUMN_S, POINT_S, SCALES, Point, Span
from webapp.domain.units import gib
from webapp.errors import StoreUnavailable, UnknownDevice
from webapp.store.database import Database
from webapp.store.operations import OperationRepository
from webapp.store.timeline import TimelineRepository

BEGIN = 1_700_000_400.0
"""A moment at which a bucket and a column begin."""


class Clock:
    """A monitor of which each reading is one step later, and the clock of that moment."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.number = 0
        self.stale = False
        self.readings: tuple[Reading, ...] = ()

    def read(self, *readings: Reading, at: float | None = None) -> None:
        self.now = self.now + POINT_S if at is None else at
        self.number += 1
        self.readings = readings or (reading(held=(foreign("alice", "python", gib(1)),)),)

    def latest(self) -> Sample | None:
        return Sample(self.number, self.now, self.now, self.readings) if self.number else None

    def is_stale(self) -> bool:
        return self.stale


class FailingStore:
    """A store whose calls fail while they are told to, and which says when it was asked."""

    def __init__(self, store: TimelineRepository) -> None:
        self.store = store
        self.fails = True
        self.asked = threading.Event()

    def _meet(self) -> None:
        self.asked.set()
        if self.fails:
            raise StoreUnavailable(reason="disk is full")

    def save_points(self, step_s: int, points: Mapping[str, Sequence[Point]]) -> None:
        self._meet()
        self.store.save_points(step_s, points)

    def points(self, device_id: str, step_s: int, since: float) -> tuple[Point, ...]:
        self._meet()
        return self.store.points(device_id, step_s, since)

    def drop_points(self, step_s: int, before: float) -> int:
        self._meet()
        return self.store.drop_points(step_s, before)

    def recorded(self, step_s: int) -> tuple[str, ...]:
        self._meet()
        return self.store.recorded(step_s)

    def newest(self, device_id: str, step_s: int) -> float | None:
        self._meet()
        return self.store.newest(device_id, step_s)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/warden.db")
    database.open()
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> TimelineRepository:
    return TimelineRepository(database)


@pytest.fixture
def operations(database: Database) -> OperationRepository:
    return OperationRepository(database)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def recorder(clock: Clock, store: TimelineRepository | FailingStore, *instances: Instance) -> Recorder:
    return Recorder(clock, lambda: {one.id: one for one in instances}, store)


def record(made: Recorder, clock: Clock, rounds: int) -> None:
    for _ in range(rounds):
        clock.read()
        made.look()


def timeline(clock: Clock, store: TimelineRepository | FailingStore, operations: OperationRepository) -> Timeline:
    return Timeline(clock, store, operations, lambda: clock.now)


def test_each_round_keeps_a_point_for_each_device_with_the_models_names(
    clock: Clock, store: TimelineRepository
) -> None:
    clock.read(reading(held=(worker("i1", gib(2)),)), reading("gpu-1"))
    recorder(clock, store, instance("i1", "lab/one")).look()

    (point,) = store.points("gpu-0", POINT_S, 0.0)
    assert [h.who.model_id for h in point.held if h.who.instance_id] == ["lab/one"]
    assert len(store.points("gpu-1", POINT_S, 0.0)) == 1


def test_the_same_reading_and_an_old_one_are_kept_once_and_never(clock: Clock, store: TimelineRepository) -> None:
    made = recorder(clock, store)
    made.look()
    clock.read()
    made.look()
    made.look()
    clock.read()
    clock.stale = True
    made.look()

    assert len(store.points("gpu-0", POINT_S, 0.0)) == 1


def test_a_bucket_that_is_over_becomes_one_point(clock: Clock, store: TimelineRepository) -> None:
    made = recorder(clock, store)
    clock.now -= POINT_S
    record(made, clock, BUCKET_S // POINT_S)
    assert store.points("gpu-0", BUCKET_S, 0.0) == ()

    record(made, clock, 1)

    (bucket,) = store.points("gpu-0", BUCKET_S, 0.0)
    assert (bucket.taken_at, bucket.readings) == (BEGIN, 60)


def test_a_restart_in_the_middle_of_a_bucket_loses_nothing(clock: Clock, store: TimelineRepository) -> None:
    record(recorder(clock, store), clock, 30)
    record(recorder(clock, store), clock, 40)

    (bucket,) = store.points("gpu-0", BUCKET_S, 0.0)
    assert bucket.readings == 59


def test_a_bucket_that_ended_while_warden_was_stopped_is_folded_at_the_next_start(
    clock: Clock, store: TimelineRepository
) -> None:
    record(recorder(clock, store), clock, 30)
    clock.now += 2 * BUCKET_S
    record(recorder(clock, store), clock, 1)

    assert [p.readings for p in store.points("gpu-0", BUCKET_S, 0.0)] == [30]


def test_what_is_older_than_its_span_goes(clock: Clock, store: TimelineRepository) -> None:
    made = recorder(clock, store)
    record(made, clock, 70)
    clock.read(at=BEGIN + 4 * 3600)
    made.look()
    assert len(store.points("gpu-0", POINT_S, 0.0)) == 1
    assert len(store.points("gpu-0", BUCKET_S, 0.0)) == 2
    assert len(store.points("gpu-0", COLUMN_S, 0.0)) == 1

    clock.read(at=BEGIN + 8 * 86400)
    made.look()

    assert [p.readings for p in store.points("gpu-0", BUCKET_S, 0.0)] == []
    assert [p.readings for p in store.points("gpu-0", COLUMN_S, 0.0)] == []


def test_folding_again_after_a_restart_never_makes_a_bucket_poorer(clock: Clock, store: TimelineRepository) -> None:
    clock.now -= POINT_S
    record(recorder(clock, store), clock, 8 * BUCKET_S // POINT_S)
    record(recorder(clock, store), clock, 1)

    assert [p.readings for p in store.points("gpu-0", BUCKET_S, 0.0)] == [60] * 8


def test_the_last_hour_is_always_whole(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    made = recorder(clock, store)
    record(made, clock, 9 * BUCKET_S // POINT_S + 59)

    columns = timeline(clock, store, operations).track("gpu-0", Span.HOUR).columns()

    assert all(column.is_known for column in columns)


def test_the_week_has_the_bucket_under_way(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    record(recorder(clock, store), clock, 90)

    track = timeline(clock, store, operations).track("gpu-0", Span.WEEK)

    assert [point.readings for point in track.points] == [59, 31]
    assert (track.begun_at, track.ended_at) == SCALES[Span.WEEK].window(clock.now)


def test_what_is_drawn_of_a_week_is_what_was_recorded(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    """By its kept columns, the buckets since, and the readings since those: as if all had been folded for the page."""
    for rounds, pause_s in ((130, 3000), (300, 0), (1, 5 * COLUMN_S), (77, 0)):
        made = recorder(clock, store)
        for n in range(rounds):
            clock.read(reading(held=(foreign("alice", "python", gib(1 + (n * 7) % 11)),)))
            made.look()
        clock.now += pause_s

    whole = timeline(clock, store, operations).track("gpu-0", Span.WEEK)
    drawn = timeline(clock, store, operations).track("gpu-0", Span.WEEK, drawn=True)

    assert len(drawn.points) < len(whole.points)
    assert drawn.columns() == whole.columns()
    assert sum(point.readings for point in drawn.points) == 130 + 300 + 1 + 77


def test_an_operation_is_read_once_however_often_it_is_shown(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    record(recorder(clock, store), clock, 1)
    ended = Operation("op-1", OperationKind.CLEAN, "anna", OperationState.SUCCEEDED, BEGIN, ended_at=BEGIN + 1)
    operations.save_operation(ended)
    shown = timeline(clock, store, operations)
    first = shown.track("gpu-0", Span.HOUR).events
    operations.save_operation(replace(ended, actor="changed behind its back"))
    operations.save_operation(replace(ended, id="op-2"))

    assert [(event.id, event.actor) for event in first] == [("op-1", "anna")]
    assert [(event.id, event.actor) for event in shown.track("gpu-0", Span.WEEK).events] == [
        ("op-1", "anna"),
        ("op-2", "anna"),
    ]


def test_a_store_that_fails_costs_its_points_alone_and_is_told_once(
    clock: Clock, store: TimelineRepository, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failing = FailingStore(store)
    made = recorder(clock, failing)
    record(made, clock, 3)
    failing.fails = False
    record(made, clock, 2)

    assert len(store.points("gpu-0", POINT_S, 0.0)) == 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]


def test_the_thread_writes_and_ends_when_it_is_told_to(clock: Clock, store: TimelineRepository) -> None:
    failing = FailingStore(store)
    clock.read()
    made = recorder(clock, failing)
    made.start()
    assert failing.asked.wait(5)
    made.stop()

    assert not any(thread.name == "warden-recorder" for thread in threading.enumerate())


def test_stopping_does_not_wait_for_the_next_round(clock: Clock, store: TimelineRepository) -> None:
    made = recorder(clock, store)
    made.start()
    begun = time.monotonic()
    made.stop()
    made.stop()

    assert time.monotonic() - begun < POINT_S / 2


def test_devices_of_the_past_are_listed_and_numbers_are_in_order(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    made = recorder(clock, store)
    clock.read(reading("gpu-10"), reading("gpu-9"))
    made.look()
    clock.read(reading("gpu-2"), at=BEGIN + COLUMN_S)
    made.look()

    assert timeline(clock, store, operations).devices() == ("gpu-2", "gpu-9", "gpu-10")


def test_an_unknown_device_is_named_with_those_that_there_are(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    clock.read(reading("gpu-2"))

    with pytest.raises(UnknownDevice) as caught:
        timeline(clock, store, operations).track("gpu-7", Span.HOUR)
    assert caught.value.params["known"] == "gpu-2"


def test_without_the_store_the_devices_are_known_and_their_past_is_refused(
    clock: Clock, store: TimelineRepository, operations: OperationRepository
) -> None:
    clock.read(reading("gpu-2"))
    broken = timeline(clock, FailingStore(store), operations)

    assert broken.devices() == ("gpu-2",)
    with pytest.raises(StoreUnavailable):
        broken.track("gpu-2", Span.HOUR)
