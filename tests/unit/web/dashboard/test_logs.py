"""The place in a log up to which a page has read."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from webapp.web.dashboard.presenters.logs import log_view


@given(st.integers(0, 200), st.integers(0, 60), st.integers(10, 120))
@example(before=0, come=11, kept=10)
def test_lines_follow_without_a_gap_as_long_as_the_place_is_kept(before: int, come: int, kept: int) -> None:
    whole = [f"line {number}" for number in range(before + come)]
    known = whole[:before][-kept:]
    now = whole[-kept:]

    view = log_view(now, log_view(known).cursor)

    if view.follows:
        assert [*known, *view.lines][-kept:] == now
        assert list(view.lines) == whole[before:]
    else:
        assert list(view.lines) == now


@given(st.integers(32, 200), st.integers(0, 60))
def test_a_place_is_found_while_its_lines_are_kept(before: int, come: int) -> None:
    whole = [f"line {number}" for number in range(before + come)]

    view = log_view(whole[come:], log_view(whole[:before]).cursor)

    assert view.follows == (before - come >= 32 or come == 0)


def test_the_signs_of_a_terminal_are_left_out() -> None:
    assert log_view(["\x1b[32mINFO\x1b[0m \x07ready\tnow"]).lines == ("INFO ready\tnow",)


def test_nothing_has_come_is_no_news() -> None:
    lines = ["one", "two"]

    assert not log_view(lines, log_view(lines).cursor).is_news
    assert log_view([], log_view(lines).cursor).is_news
