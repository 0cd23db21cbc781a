"""Points in the store: exact, found again by device and time, replaced, dropped, and small."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine

from tests.unit.domain.test_timeline import point, unknown
from tests.unit.store.samples import edit, operation, url
from webapp.domain.memory import LedgerKind
from webapp.domain.operation import OperationKind, OperationState, Receipt
from webapp.domain.timeline import BUCKET_S, POINT_S, SCALES, Held, Point, Span, Who
from webapp.errors import StoreUnavailable
from webapp.store.database import Database
from webapp.store.documents import DocumentError
from webapp.store.migrate import MIGRATIONS
from webapp.store.operations import OperationRepository
from webapp.store.timeline import TimelineRepository, dump_point, load_point

EVERYTHING = Point(
    5.0,
    10,
    (
        Held(Who(LedgerKind.WORKER, "i1", "lab/one", "transformers"), 4, 5),
        Held(Who(LedgerKind.WORKER, "i2"), 1, 1),
        Held(Who(LedgerKind.FOREIGN, user="анна \ud800"), 2, 2),
        Held(Who(LedgerKind.FOREIGN), 1, 2),
        Held(Who(LedgerKind.FREE), 2, 9),
    ),
    44,
    7,
)


@pytest.mark.parametrize("kept", [EVERYTHING, unknown(5.0), point(5.0, 1)])
def test_a_point_comes_back_as_it_was(timeline: TimelineRepository, kept: Point) -> None:
    timeline.save_points(POINT_S, {"gpu-0": (kept,)})

    assert timeline.points("gpu-0", POINT_S, 0.0) == (kept,)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1,2,3,4]", '[1,0,1,[["later",1,1]]]', '[1,0,1,[["free",1]]]'])
def test_what_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(DocumentError):
        load_point(1.0, text)


def test_an_unreadable_point_does_not_hide_the_others(timeline: TimelineRepository, file: Path) -> None:
    timeline.save_points(POINT_S, {"gpu-0": (point(1.0), point(2.0))})
    edit(file, "UPDATE timeline SET document = 'x' WHERE taken_at = 1")

    assert [p.taken_at for p in timeline.points("gpu-0", POINT_S, 0.0)] == [2.0]


def test_points_are_found_by_device_distance_and_time_oldest_first(timeline: TimelineRepository) -> None:
    timeline.save_points(POINT_S, {"gpu-0": (point(30.0), point(10.0), point(20.0)), "gpu-1": (point(15.0),)})
    timeline.save_points(BUCKET_S, {"gpu-0": (point(0.0),)})

    assert [p.taken_at for p in timeline.points("gpu-0", POINT_S, 20.0)] == [20.0, 30.0]
    assert [p.taken_at for p in timeline.points("gpu-0", BUCKET_S, 0.0)] == [0.0]
    assert timeline.points("gpu-9", POINT_S, 0.0) == ()
    assert sorted(timeline.recorded(POINT_S)) == ["gpu-0", "gpu-1"]
    assert timeline.recorded(BUCKET_S) == ("gpu-0",)


def test_saving_a_moment_again_replaces_it(timeline: TimelineRepository) -> None:
    timeline.save_points(POINT_S, {"gpu-0": (point(10.0, 1), point(20.0, 1))})
    timeline.save_points(POINT_S, {"gpu-0": (point(10.0, 2),)})
    timeline.save_points(POINT_S, {})

    assert timeline.points("gpu-0", POINT_S, 0.0) == (point(10.0, 2), point(20.0, 1))


def test_the_newest_moment_of_a_device_is_known(timeline: TimelineRepository) -> None:
    timeline.save_points(POINT_S, {"gpu-0": (point(30.0), point(10.0)), "gpu-1": (point(40.0),)})

    assert timeline.newest("gpu-0", POINT_S) == 30.0
    assert timeline.newest("gpu-0", BUCKET_S) is None


def test_old_points_are_dropped_of_one_distance_alone(timeline: TimelineRepository) -> None:
    timeline.save_points(POINT_S, {"gpu-0": (point(10.0), point(20.0)), "gpu-1": (point(10.0),)})
    timeline.save_points(BUCKET_S, {"gpu-0": (point(0.0),)})

    assert timeline.drop_points(POINT_S, 20.0) == 2
    assert timeline.points("gpu-0", POINT_S, 0.0) == (point(20.0),)
    assert timeline.points("gpu-0", BUCKET_S, 0.0) == (point(0.0),)


def test_events_are_what_ended_in_the_span_with_the_devices_that_it_touched(operations: OperationRepository) -> None:
    receipt = Receipt("gpu-1", 1, 1, 1, 1.0, settled=True)
    operations.save_operation(operation(1))
    operations.save_operation(operation(2, devices=("gpu-0",), receipts=(receipt,), evicted=("org/old",)))
    operations.save_operation(operation(3, state=OperationState.RUNNING, ended_at=None))
    operations.save_operation(operation(4, kind=OperationKind.CLEAN, mode=None, model_id=None))

    ids = operations.ended(2002.0, 10)
    found = {event.id: event for event in operations.events(ids)}

    assert ids == ("op-002", "op-004")
    event = found["op-002"]
    assert (event.devices, event.evicted, event.actor) == (("gpu-0", "gpu-1"), ("org/old",), "anna")
    assert operations.ended(0.0, 1) == ("op-004",)
    assert operations.events(()) == ()


def test_an_unreadable_operation_is_no_event(operations: OperationRepository, file: Path) -> None:
    operations.save_operation(operation(1))
    operations.save_operation(operation(2))
    edit(file, "UPDATE operations SET document = '[]' WHERE id = 'op-002'")

    assert [event.id for event in operations.events(operations.ended(0.0, 10))] == ["op-001"]


def test_a_broken_table_is_unavailable(timeline: TimelineRepository, file: Path) -> None:
    edit(file, "DROP TABLE timeline")

    for call in (
        lambda: timeline.save_points(POINT_S, {"gpu-0": (point(1.0),)}),
        lambda: timeline.points("gpu-0", POINT_S, 0.0),
        lambda: timeline.drop_points(POINT_S, 1.0),
        lambda: timeline.newest("gpu-0", POINT_S),
        lambda: timeline.recorded(POINT_S),
    ):
        with pytest.raises(StoreUnavailable, match="no such table"):
            call()


def test_a_week_of_eight_gpus_is_a_few_megabytes(database: Database, timeline: TimelineRepository, file: Path) -> None:
    scale = SCALES[Span.WEEK]
    parts = (
        Held(Who(LedgerKind.DRIVER), 434_110_464, 434_110_464),
        Held(Who(LedgerKind.CONTAINER, "0123456789ab", "Qwen/Qwen3-14B-AWQ", "vllm"), 41_234_567_890, 41_234_567_890),
        Held(Who(LedgerKind.WORKER, "ba9876543210", "Qwen/Qwen3-1.7B", "transformers"), 3_434_110_464, 3_634_110_464),
        Held(Who(LedgerKind.FOREIGN, user="alice"), 12_434_110_464, 12_434_110_464),
        Held(Who(LedgerKind.FREE), 32_434_110_464, 52_434_110_464),
    )
    week = tuple(Point(1e9 + BUCKET_S * n, 85_899_345_920, parts, 10**13 + n, 60) for n in range(1008))

    timeline.save_points(BUCKET_S, {f"gpu-{n}": week for n in range(8)})
    database.close()

    assert scale.span_s // BUCKET_S == len(week)
    assert len(dump_point(week[0])) < 400
    assert file.stat().st_size < 4 * 2**20


def test_an_earlier_database_keeps_its_operations_and_gets_the_timeline(tmp_path: Path) -> None:
    file = tmp_path / "earlier.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(url(file))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(file)) as plain:
        assert "timeline" not in {name for (name,) in plain.execute("SELECT name FROM sqlite_master")}

    again = Database(url(file))
    again.open()
    OperationRepository(again).save_operation(replace(operation(1), ended_at=5.0))
    TimelineRepository(again).save_points(POINT_S, {"gpu-0": (point(1.0, 2),)})

    assert OperationRepository(again).ended(5.0, 10) == ("op-001",)
    assert TimelineRepository(again).points("gpu-0", POINT_S, 0.0) == (point(1.0, 2),)
    again.close()
