"""The geometry of the timeline: layers add up in every column, gaps stay gaps, marks do not cover each other."""

from __future__ import annotations

import re
from datetime import datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.web.timeline import stacked_area

TOTAL = 1000
COLUMN = st.one_of(st.none(), st.tuples(st.integers(0, 400), st.integers(0, 300), st.integers(0, 300)))
COLUMNS = st.lists(COLUMN, min_size=1, max_size=40)


def with_free(columns: list[tuple[int, ...] | None]) -> list[tuple[int, ...] | None]:
    """Columns that add up to TOTAL: the rest is the last layer."""
    return [None if column is None else (*column, TOTAL - sum(column)) for column in columns]


def heights(path: str, x: float) -> int:
    """How much of the vertical line at ``x`` is inside a path of horizontal and vertical strokes."""
    crossed = []
    for outline in re.findall(r"M([^M]+)Z", path):
        start, *moves = re.findall(r"[HV]?-?[\d.]+", outline)
        at, y = float(start), float(moves.pop(0))
        for move in moves:
            value = float(move[1:])
            if move[0] == "V":
                y = value
                continue
            if min(at, value) < x < max(at, value):
                crossed.append(y)
            at = value
    crossed.sort()
    return sum(round(lower - upper) for upper, lower in zip(crossed[::2], crossed[1::2], strict=True))


@settings(deadline=None)
@given(COLUMNS)
def test_the_layers_of_every_known_column_fill_the_whole_and_nothing_is_drawn_in_a_gap(
    columns: list[tuple[int, ...] | None],
) -> None:
    layers = stacked_area.stack(with_free(columns), TOTAL)

    for index, column in enumerate(columns):
        middle = (index + 0.5) * stacked_area.UNITS / len(columns)
        drawn = [heights(layer.path, middle) for layer in layers]
        assert sum(drawn) == (0 if column is None else stacked_area.UNITS)
        if column is not None:
            assert all(abs(height - size) <= 1 for height, size in zip(drawn, column, strict=False))


@settings(deadline=None)
@given(COLUMNS)
def test_gaps_and_known_columns_are_the_whole_width(columns: list[tuple[int, ...] | None]) -> None:
    missing = sum(gap.width for gap in stacked_area.gaps(columns))

    assert missing == pytest.approx(100 * sum(column is None for column in columns) / len(columns), abs=0.3)


@settings(deadline=None)
@given(COLUMNS)
def test_a_name_stands_inside_its_layer(columns: list[tuple[int, ...] | None]) -> None:
    for layer, size in zip(stacked_area.stack(with_free(columns), TOTAL), range(4), strict=False):
        if layer.room is None:
            continue
        half = layer.room.width / 2
        first = round((layer.room.x - half) * len(columns) / 100)
        end = round((layer.room.x + half) * len(columns) / 100)
        assert end > first
        for column in with_free(columns)[first:end]:
            assert column is not None
            lower, upper = sum(column[:size]), sum(column[: size + 1])
            assert lower - 1 <= TOTAL * (1 - layer.room.y / 100) <= upper + 1


def test_a_steady_layer_is_one_rectangle() -> None:
    (layer,) = stacked_area.stack([(500,)] * 10, TOTAL)

    assert layer.path == "M0 500H1000V1000H0Z"


def test_a_layer_that_is_away_for_a_while_is_two_outlines() -> None:
    _, upper = stacked_area.stack([(100, 50), (100, 0), (100, 50)], TOTAL)

    assert upper.path.count("M") == 2


def test_nothing_known_is_no_layer() -> None:
    assert stacked_area.stack([None, None], TOTAL) == ()
    assert stacked_area.gaps([None, None]) == (stacked_area.Stretch(0, 100),)


@given(st.lists(st.floats(0, 100), max_size=60).map(sorted))
def test_marks_of_a_lane_keep_apart_and_every_moment_has_one(shares: list[float]) -> None:
    found = stacked_area.places(shares)

    assert sorted(moment for place in found for moment in place.moments) == list(range(len(shares)))
    for lane in range(stacked_area.LANES):
        spots = [place.x for place in found if place.lane == lane]
        assert all(later - earlier >= stacked_area.MARK_PERCENT - 0.02 for earlier, later in pairwise(spots))
    assert all(place.lane < stacked_area.LANES for place in found)


def test_a_crowd_of_moments_is_one_mark_that_counts_them() -> None:
    found = stacked_area.places([50.0 + n / 100 for n in range(10)])

    assert [len(place.moments) for place in found] == [1, 1, 8]


@pytest.mark.parametrize("top", [0.3, 0.5, 1, 2, 7.6, 8, 16, 24, 47.4, 79.2, 141, 755, 2048, 9000])
def test_an_axis_has_a_handful_of_round_figures(top: float) -> None:
    steps = stacked_area.round_steps(top)

    assert 2 <= len(steps) <= stacked_area.MOST_STEPS + 1
    assert steps[0] == 0
    assert steps[-1] <= top


def test_hours_are_marked_at_round_minutes() -> None:
    moments = stacked_area.round_minutes(1_000_000.0, 1_003_600.0, 600)

    assert len(moments) == 6
    assert all(moment % 600 == 0 and 1_000_000 <= moment <= 1_003_600 for moment in moments)


@pytest.mark.parametrize("begin", [1_700_000_000.0, 1_711_800_000.0, 1_729_900_000.0])
def test_a_week_is_marked_where_its_days_begin(begin: float) -> None:
    moments = stacked_area.midnights(begin, begin + 7 * 86400)

    assert len(moments) == 7
    assert {datetime.fromtimestamp(moment).hour for moment in moments} == {0}
