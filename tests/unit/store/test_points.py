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
from tests.unit.store.test_store import edit, operation, url
from webapp.domain.memory import LedgerKind
from webapp.domain.operation import OperationKind, OperationState, Receipt
from webapp.domain.timeline import BUCKET_S, POINT_S, SCALES, Held, Point, Span, Who
from webapp.errors import StoreUnavailable
from webapp.store.documents import DocumentError
from webapp.store.migrate import MIGRATIONS
from webapp.store.points import dump_point, load_point
from webapp.store.store import Store

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
def test_a_point_comes_back_as_it_was(store: Store, kept: Point) -> None:
    store.save_points(POINT_S, {"gpu-0": (kept,)})

    assert store.points("gpu-0", POINT_S, 0.0) == (kept,)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1,2,3,4]", '[1,0,1,[["later",1,1]]]', '[1,0,1,[["free",1]]]'])
def test_what_cannot_be_read_says_so(text: str) -> None:
    with pytest.raises(DocumentError):
        load_point(1.0, text)


def test_an_unreadable_point_does_not_hide_the_others(store: Store, database: Path) -> None:
    store.save_points(POINT_S, {"gpu-0": (point(1.0), point(2.0))})
    edit(database, "UPDATE timeline SET document = 'x' WHERE taken_at = 1")

    assert [p.taken_at for p in store.points("gpu-0", POINT_S, 0.0)] == [2.0]


def test_points_are_found_by_device_distance_and_time_oldest_first(store: Store) -> None:
    store.save_points(POINT_S, {"gpu-0": (point(30.0), point(10.0), point(20.0)), "gpu-1": (point(15.0),)})
    store.save_points(BUCKET_S, {"gpu-0": (point(0.0),)})

    assert [p.taken_at for p in store.points("gpu-0", POINT_S, 20.0)] == [20.0, 30.0]
    assert [p.taken_at for p in store.points("gpu-0", BUCKET_S, 0.0)] == [0.0]
    assert store.points("gpu-9", POINT_S, 0.0) == ()
    assert sorted(store.recorded(POINT_S)) == ["gpu-0", "gpu-1"]
    assert store.recorded(BUCKET_S) == ("gpu-0",)


def test_saving_a_moment_again_replaces_it(store: Store) -> None:
    store.save_points(POINT_S, {"gpu-0": (point(10.0, 1), point(20.0, 1))})
    store.save_points(POINT_S, {"gpu-0": (point(10.0, 2),)})
    store.save_points(POINT_S, {})

    assert store.points("gpu-0", POINT_S, 0.0) == (point(10.0, 2), point(20.0, 1))


def test_the_newest_moment_of_a_device_is_known(store: Store) -> None:
    store.save_points(POINT_S, {"gpu-0": (point(30.0), point(10.0)), "gpu-1": (point(40.0),)})

    assert store.newest("gpu-0", POINT_S) == 30.0
    assert store.newest("gpu-0", BUCKET_S) is None


def test_old_points_are_dropped_of_one_distance_alone(store: Store) -> None:
    store.save_points(POINT_S, {"gpu-0": (point(10.0), point(20.0)), "gpu-1": (point(10.0),)})
    store.save_points(BUCKET_S, {"gpu-0": (point(0.0),)})

    assert store.drop_points(POINT_S, 20.0) == 2
    assert store.points("gpu-0", POINT_S, 0.0) == (point(20.0),)
    assert store.points("gpu-0", BUCKET_S, 0.0) == (point(0.0),)


def test_events_are_what_ended_in_the_span_with_the_devices_that_it_touched(store: Store) -> None:
    receipt = Receipt("gpu-1", 1, 1, 1, 1.0, settled=True)
    store.save_operation(operation(1))
    store.save_operation(operation(2, devices=("gpu-0",), receipts=(receipt,), evicted=("org/old",)))
    store.save_operation(operation(3, state=OperationState.RUNNING, ended_at=None))
    store.save_operation(operation(4, kind=OperationKind.CLEAN, mode=None, model_id=None))

    ids = store.ended(2002.0, 10)
    found = {event.id: event for event in store.events(ids)}

    assert ids == ("op-002", "op-004")
    event = found["op-002"]
    assert (event.devices, event.evicted, event.actor) == (("gpu-0", "gpu-1"), ("org/old",), "anna")
    assert store.ended(0.0, 1) == ("op-004",)
    assert store.events(()) == ()


def test_an_unreadable_operation_is_no_event(store: Store, database: Path) -> None:
    store.save_operation(operation(1))
    store.save_operation(operation(2))
    edit(database, "UPDATE operations SET document = '[]' WHERE id = 'op-002'")

    assert [event.id for event in store.events(store.ended(0.0, 10))] == ["op-001"]


def test_a_broken_table_is_unavailable(store: Store, database: Path) -> None:
    edit(database, "DROP TABLE timeline")

    for call in (
        lambda: store.save_points(POINT_S, {"gpu-0": (point(1.0),)}),
        lambda: store.points("gpu-0", POINT_S, 0.0),
        lambda: store.drop_points(POINT_S, 1.0),
        lambda: store.newest("gpu-0", POINT_S),
        lambda: store.recorded(POINT_S),
    ):
        with pytest.raises(StoreUnavailable, match="no such table"):
            call()


def test_a_week_of_eight_gpus_is_a_few_megabytes(store: Store, database: Path) -> None:
    scale = SCALES[Span.WEEK]
    parts = (
        Held(Who(LedgerKind.DRIVER), 434_110_464, 434_110_464),
        Held(Who(LedgerKind.CONTAINER, "0123456789ab", "Qwen/Qwen3-14B-AWQ", "vllm"), 41_234_567_890, 41_234_567_890),
        Held(Who(LedgerKind.WORKER, "ba9876543210", "Qwen/Qwen3-1.7B", "transformers"), 3_434_110_464, 3_634_110_464),
        Held(Who(LedgerKind.FOREIGN, user="alice"), 12_434_110_464, 12_434_110_464),
        Held(Who(LedgerKind.FREE), 32_434_110_464, 52_434_110_464),
    )
    week = tuple(Point(1e9 + BUCKET_S * n, 85_899_345_920, parts, 10**13 + n, 60) for n in range(1008))

    store.save_points(BUCKET_S, {f"gpu-{n}": week for n in range(8)})
    store.close()

    assert scale.span_s // BUCKET_S == len(week)
    assert len(dump_point(week[0])) < 400
    assert database.stat().st_size < 4 * 2**20


def test_an_earlier_database_keeps_its_operations_and_gets_the_timeline(store: Store, tmp_path: Path) -> None:
    database = tmp_path / "earlier.db"
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = create_engine(url(database))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    engine.dispose()
    with closing(sqlite3.connect(database)) as plain:
        assert "timeline" not in {name for (name,) in plain.execute("SELECT name FROM sqlite_master")}

    again = Store(url(database))
    again.open()
    again.save_operation(replace(operation(1), ended_at=5.0))
    again.save_points(POINT_S, {"gpu-0": (point(1.0, 2),)})

    assert again.ended(5.0, 10) == ("op-001",)
    assert again.points("gpu-0", POINT_S, 0.0) == (point(1.0, 2),)
    again.close()
