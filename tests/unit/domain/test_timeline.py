"""Readings become points, points become one by their fullest moment, and nothing unknown becomes a number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.web.fakes import foreign, instance, reading, worker
from webapp.domain.memory import LedgerKind
from webapp.domain.operation import OperationKind, OperationState
from webapp.domain.timeline import (
    BUCKET_S,
    SCALES,
    EventMark,
    Held,
    Point,
    Span,
    TimelineEvent,
    Track,
    Who,
    fold,
    folded,
    point_of,
)
from webapp.domain.units import gib
from webapp.message import Message

FREE = Who(LedgerKind.FREE)
PEOPLE = tuple(Who(LedgerKind.FOREIGN, user=name) for name in ("alice", "bob", "carol"))
TOTAL = 1000


def point(taken_at: float, *used: int, total: int = TOTAL) -> Point:
    """A known point: what each of the people holds, and the rest is free."""
    free = total - sum(used)
    held = tuple(Held(who, size, size) for who, size in zip(PEOPLE, used, strict=False) if size)
    return Point(taken_at, total, (*held, Held(FREE, free, free)), free, 1)


def unknown(taken_at: float) -> Point:
    return Point(taken_at, None)


def used(of: Point) -> dict[str, int]:
    return {held.who.user or held.who.kind: held.used_bytes for held in of.held}


POINTS = st.lists(
    st.one_of(
        st.builds(unknown, st.integers(0, 5000)),
        st.builds(point, st.integers(0, 5000), st.integers(0, 400), st.integers(0, 300), st.integers(0, 300)),
    ),
    max_size=40,
)


def test_a_reading_is_kept_as_its_ledger_with_the_models_names() -> None:
    held = (worker("i1", gib(3)), foreign("alice", "python", gib(2)), foreign("alice", "python", gib(1), pid=8))

    made = point_of(reading(held=held), 100.0, {"i1": instance("i1", "lab/one")})

    assert [(h.who, h.used_bytes) for h in made.held] == [
        (Who(LedgerKind.DRIVER), gib(0.4)),
        (Who(LedgerKind.WORKER, "i1", "lab/one", "transformers"), gib(3)),
        (Who(LedgerKind.FOREIGN, user="alice"), gib(3)),
        (FREE, gib(24) - gib(6) - gib(0.4)),
    ]
    assert (made.free_bytes, made.mean_free_bytes, made.total_bytes) == (made.held[-1].used_bytes,) * 2 + (gib(24),)


def test_a_device_that_cannot_be_read_is_an_unknown_point() -> None:
    lost = reading(total_bytes=None, free_bytes=None, problem=Message("device_lost"))

    made = point_of(lost, 100.0, {})

    assert (made.is_known, made.free_bytes, made.mean_free_bytes, made.held) == (False, None, None, ())


def test_several_points_become_the_fullest_with_everybody_s_most_and_the_mean_of_the_free() -> None:
    made = fold([point(0, 100), unknown(10), point(20, 300, 500), point(30, 400, 0, 50)], 0.0)

    assert used(made) == {"alice": 300, "bob": 500, "carol": 0, "free": 200}
    assert {h.who.user: h.most_bytes for h in made.held if h.who.user} == {"alice": 400, "bob": 500, "carol": 50}
    assert made.mean_free_bytes == round((900 + 200 + 550) / 3)


def test_unknown_points_alone_stay_unknown() -> None:
    assert fold([unknown(0), unknown(10)], 0.0) == unknown(0.0)
    assert fold([], 7.0) == unknown(7.0)


@settings(deadline=None)
@given(POINTS)
def test_the_parts_of_every_fold_add_up_and_nobody_s_peak_is_lost(points: list[Point]) -> None:
    made = fold(points, 0.0)

    assert made.is_known == any(p.is_known for p in points)
    if made.is_known:
        assert sum(held.used_bytes for held in made.held) == made.total_bytes
        assert all(held.used_bytes <= held.most_bytes for held in made.held)
        assert made.free_bytes == min(p.free_bytes for p in points if p.free_bytes is not None)
    for p in points:
        for held in p.held:
            assert held.most_bytes <= next(h.most_bytes for h in made.held if h.who == held.who)


@settings(deadline=None)
@given(POINTS, st.integers(0, 40))
def test_folding_in_two_steps_is_folding_at_once(points: list[Point], cut: int) -> None:
    assert fold([fold(points[:cut], 0.0), fold(points[cut:], 5.0)], 0.0) == fold(points, 0.0)


@settings(deadline=None)
@given(POINTS)
def test_folding_by_stretches_loses_no_reading_and_is_in_order(points: list[Point]) -> None:
    made = folded(points, 60)

    assert sum(p.readings for p in made) == sum(p.readings for p in points)
    assert [p.taken_at for p in made] == sorted({p.taken_at // 60 * 60 for p in points})


@pytest.mark.parametrize("span", Span)
def test_a_span_is_whole_columns_and_whole_points(span: Span) -> None:
    scale = SCALES[span]
    begin, end = scale.window(1_000_003.5)

    assert scale.columns <= 300
    assert (end - begin, end % scale.column_s) == (scale.span_s, 0)
    assert end - scale.column_s <= 1_000_003.5 < end
    assert scale.column_s % scale.step_s == 0


def test_a_column_without_a_point_is_unknown() -> None:
    begin, end = SCALES[Span.HOUR].window(3600.0)
    track = Track("gpu-0", Span.HOUR, begin, end, (point(begin + 3, 10), point(begin + 13, 30), point(begin + 45, 20)))

    columns = track.columns()

    assert len(columns) == 180
    assert [column.is_known for column in columns[:4]] == [True, False, True, False]
    assert used(columns[0])["alice"] == 30


def test_a_week_is_drawn_by_the_fullest_of_its_buckets() -> None:
    begin, end = SCALES[Span.WEEK].window(1e6)
    buckets = [point(begin + BUCKET_S * n, n + 1) for n in range(8)]

    columns = Track("gpu-0", Span.WEEK, begin, end, tuple(buckets)).columns()

    assert [used(column).get("alice") for column in columns[:3]] == [4, 8, None]


@pytest.mark.parametrize("state", OperationState)
@pytest.mark.parametrize("kind", OperationKind)
def test_every_operation_has_one_mark_but_those_that_touch_no_memory(
    kind: OperationKind, state: OperationState
) -> None:
    mark = TimelineEvent("1", kind, state, "anna", 1.0, evicted=("lab/old",)).mark

    if kind is OperationKind.DEMO:
        assert mark is None
    elif state in (OperationState.FAILED, OperationState.ABANDONED):
        assert mark is EventMark.FAILURE
    elif state is OperationState.CANCELLED:
        assert mark is EventMark.CANCELLED
    else:
        assert mark is not None
        assert mark.value in (kind.value, "container", "load")


def test_a_switch_that_unloaded_nothing_is_a_load() -> None:
    switch = TimelineEvent("1", OperationKind.SWITCH, OperationState.WARNING, "anna", 1.0)

    assert (switch.mark, replace(switch, evicted=("lab/old",)).mark) == (EventMark.LOAD, EventMark.SWITCH)


def test_an_operation_is_for_the_devices_that_it_names_else_for_all() -> None:
    event = TimelineEvent("1", OperationKind.SWITCH, OperationState.SUCCEEDED, "anna", 1.0, devices=("gpu-1",))

    assert (event.touches("gpu-1"), event.touches("gpu-0")) == (True, False)
    assert TimelineEvent("1", OperationKind.CLEAN, OperationState.SUCCEEDED, "anna", 1.0).touches("gpu-0")
