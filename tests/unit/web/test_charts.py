"""The geometry of the bar and the line."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from webapp.web import charts

SIZES = st.lists(st.integers(0, 10**12), max_size=12)


@given(SIZES)
def test_a_bar_never_leaves_its_width_and_slices_never_overlap(sizes: list[int]) -> None:
    slices = charts.bar([("worker", size) for size in sizes], max(1, sum(sizes)))

    assert len(slices) == sum(size > 0 for size in sizes)
    for left, right in pairwise(slices):
        assert left.x + left.width <= right.x + 0.2
    assert all(piece.width > 0 and piece.x + piece.width <= charts.BAR_WIDTH + 0.2 for piece in slices)


def test_a_little_stays_visible() -> None:
    (piece,) = charts.bar([("worker", 1)], 10**12)

    assert piece.width == charts.LEAST_WIDTH


def test_without_a_total_there_is_no_bar() -> None:
    assert charts.bar([("worker", 5)], 0) == ()


def test_a_steady_line_is_one_stroke() -> None:
    points = [(1000.0 + i, 500) for i in range(600)]

    line = charts.line(points, 1000, 600.0)

    assert line is not None
    assert re.fullmatch(r"M0 [\d.]+H600", line.path)
    assert line.area.endswith("V44Z")


def test_the_line_stands_still_within_a_bucket() -> None:
    points = [(1000.0 + i, 500) for i in range(600)]

    assert charts.line(points, 1000, 600.0) == charts.line([*points, (1600.0, 500), (1601.0, 500)][2:], 1000, 600.0)


def test_a_gap_is_not_drawn_over() -> None:
    points = [(float(i), None if 200 <= i < 400 else 500) for i in range(600)]

    line = charts.line(points, 1000, 600.0)

    assert line is not None
    assert line.path.count("M") == 2
    assert line.area.count("Z") == 2


def test_moments_outside_of_the_window_are_not_marked() -> None:
    points = [(1000.0 + i, 500) for i in range(600)]

    line = charts.line(points, 1000, 600.0, moments=(10.0, 1300.0))

    assert line is not None
    assert line.marks.count("M") == 1


def test_nothing_known_draws_nothing() -> None:
    assert charts.line([], 1000, 600.0) is None
    assert charts.line([(1.0, None)], 1000, 600.0) is None
    assert charts.line([(1.0, 5)], None, 600.0) is None


@given(st.lists(st.tuples(st.floats(0, 5000), st.one_of(st.none(), st.integers(0, 2000))), max_size=80))
def test_every_line_is_a_path_inside_its_frame(points: list[tuple[float, int | None]]) -> None:
    line = charts.line(sorted(points, key=lambda p: p[0]), 1000, 600.0)

    if line is not None:
        assert re.fullmatch(r"(?:M[\d.]+ [\d.]+(?:H[\d.]+V[\d.]+)*H[\d.]+)+", line.path)
        assert all(float(x) <= charts.LINE_WIDTH for x in re.findall(r"H([\d.]+)", line.path))
