"""The choices of a lease mean moments in the server's time zone."""

from __future__ import annotations

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.domain.lease import Terms
from webapp.errors import InvalidRequest
from webapp.web.leases.form import AS_IT_IS, LEASES, evening_is_ahead, idle_choice, idle_minutes, lease_until, terms_of

NOON = datetime(2026, 3, 4, 12, 0).timestamp()
NIGHT = datetime(2026, 3, 4, 22, 30).timestamp()


def shown(moment: float | None) -> str:
    assert moment is not None
    return datetime.fromtimestamp(moment).strftime("%d %H:%M")


@pytest.mark.parametrize(
    ("choice", "time_of_day", "now", "until"),
    [
        ("1h", "", NOON, "04 13:00"),
        ("2h", "", NIGHT, "05 00:30"),
        ("18:00", "", NOON, "04 18:00"),
        ("18:00", "", NIGHT, "05 18:00"),
        ("tomorrow", "", NOON, "05 09:00"),
        ("time", "12:30", NOON, "04 12:30"),
        ("time", "12:00", NOON, "05 12:00"),
        ("time", "02:15", NIGHT, "05 02:15"),
    ],
)
def test_a_choice_is_the_next_such_moment(choice: str, time_of_day: str, now: float, until: str) -> None:
    assert shown(lease_until(choice, time_of_day, now)) == until


def test_no_lease_ends_never() -> None:
    assert lease_until("", "", NOON) is None


@given(
    choice=st.sampled_from(LEASES[1:]), now=st.floats(1.6e9, 2e9), hour=st.integers(0, 23), minute=st.integers(0, 59)
)
def test_every_choice_lies_ahead_and_within_two_days(choice: str, now: float, hour: int, minute: int) -> None:
    until = lease_until(choice, f"{hour:02}:{minute:02}", now)
    assert until is not None
    assert now < until <= now + 2 * 86400


@given(choice=st.text(), time_of_day=st.text())
def test_whatever_is_typed_is_a_moment_or_refused(choice: str, time_of_day: str) -> None:
    for typed in (choice, "time"):
        try:
            lease_until(typed, time_of_day, NOON)
        except InvalidRequest as error:
            assert error.params["field"] in ("lease", "lease_time")


@given(text=st.text())
def test_whatever_is_typed_is_minutes_or_refused(text: str) -> None:
    try:
        minutes = idle_minutes(text)
    except InvalidRequest:
        return
    assert minutes is None or minutes >= 0


@pytest.mark.parametrize("minutes", [None, 0.0, 15.0, 60.0, 7.0, 0.5])
def test_minutes_are_a_choice_and_back(minutes: float | None) -> None:
    assert idle_minutes(idle_choice(minutes)) == minutes


def test_the_evening_is_offered_only_while_it_lies_ahead() -> None:
    assert evening_is_ahead(NOON)
    assert not evening_is_ahead(NIGHT)


def test_what_the_form_does_not_say_stays() -> None:
    assert terms_of({}, NOON) == Terms(sets_until=False)
    assert terms_of({"lease": AS_IT_IS, "reason": " x "}, NOON) == Terms(sets_until=False, reason="x")
