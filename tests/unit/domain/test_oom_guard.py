"""When a load under way has to stop, and whose growth it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domain.readings import TOTAL, holder, reading, sample
from webapp.domain.memory import Reading
from webapp.domain.oom_guard import MemoryShortage, OomGuard, breach_of
from webapp.domain.units import gib

GATE = gib(10)
NEW = "new"


def judged(before: Reading, now: Reading, gate: int = GATE) -> MemoryShortage | None:
    return breach_of(gate, NEW, before, now)


@pytest.mark.parametrize(
    ("neighbour", "own", "missing"),
    [
        (gib(13), 0, None),  # 11 free, 10 needed: the reserve is eaten and the load goes well
        (gib(14), 0, None),  # to the byte
        (gib(14) + 1, 0, 1),
        (gib(15), gib(4), gib(1)),  # 5 free, 6 still needed
        (gib(15), gib(10), None),  # it has all that it needs
        (gib(13), gib(11), None),  # it took more than it said: its own fault, and its engine says so
    ],
)
def test_it_trips_only_when_less_is_free_than_is_still_needed(neighbour: int, own: int, missing: int | None) -> None:
    before = reading(holder(77, gib(2)))
    now = reading(holder(77, neighbour), holder(10, own, instance_id=NEW))

    breach = judged(before, now)

    assert (None if breach is None else breach.missing_bytes) == missing
    assert breach is None or (breach.grown.holder.pid, breach.grown.before_bytes) == (77, gib(2))


def test_memory_that_nobody_is_seen_to_take_stops_nothing() -> None:
    before = reading(holder(77, gib(2)))
    now = reading(holder(77, gib(2)), used_bytes=gib(20), free_bytes=gib(4))

    assert judged(before, now) is None


def test_growth_that_does_not_explain_what_lacks_stops_nothing() -> None:
    before = reading(holder(77, gib(15)))  # let through although it does not fit
    now = reading(holder(77, gib(15.5)))

    assert judged(before, now) is None


def test_a_neighbour_who_gave_back_as_much_as_another_took_stops_nothing() -> None:
    before = reading(holder(77, gib(14)), holder(78, 0))
    now = reading(holder(77, 0), holder(78, gib(14)), used_bytes=gib(15), free_bytes=gib(9))

    assert judged(before, now) is None


def test_without_a_figure_of_its_own_the_movement_that_nobody_else_explains_is_the_launch() -> None:
    before = reading(holder(77, gib(2)))
    fits = reading(holder(77, gib(13)), holder(10, None, instance_id=NEW), used_bytes=gib(17), free_bytes=gib(7))
    lacks = reading(holder(77, gib(15)), holder(10, None, instance_id=NEW), used_bytes=gib(19), free_bytes=gib(5))

    assert judged(before, fits) is None
    breach = judged(before, lacks)
    assert breach is not None
    assert (breach.needed_bytes, breach.missing_bytes) == (gib(6), gib(1))


@pytest.mark.parametrize(
    "now",
    [
        reading(holder(77, gib(20)), holders_known=False),
        reading(holder(77, gib(20)), free_bytes=None),
        reading(holder(77, None), free_bytes=gib(1)),
    ],
)
def test_what_cannot_be_read_stops_nothing(now: Reading) -> None:
    assert judged(reading(holder(77, gib(2))), now) is None


# In a row


def fence() -> OomGuard:
    return OomGuard(NEW, {"gpu-0": GATE}, sample(1, reading(holder(77, gib(2)))))


QUIET = reading(holder(77, gib(2)))
FULL = reading(holder(77, gib(16)))


def after(*readings: Reading) -> list[bool]:
    """Whether each of the readings trips the fence."""
    watching, tripped = fence(), []
    for number, one in enumerate(readings, start=2):
        watching, breach = watching.after(sample(number, one))
        tripped.append(breach is not None)
    return tripped


def test_one_reading_is_noise_and_two_in_a_row_are_not() -> None:
    assert after(FULL, QUIET, FULL, QUIET) == [False] * 4
    assert after(QUIET, FULL, FULL) == [False, False, True]


def test_a_reading_that_was_judged_is_not_judged_again() -> None:
    once, breach = fence().after(sample(2, FULL))
    again, same = once.after(sample(2, FULL))

    assert (breach, same) == (None, None)
    assert again is once
    assert fence().after(sample(1, FULL)) == (fence(), None), "the reading that it was decided on, or one from before"


def test_two_devices_that_take_turns_are_no_two_readings_in_a_row() -> None:
    def both(first: Reading, second: Reading) -> tuple[Reading, ...]:
        return first, reading(*second.holders, device_id="gpu-1")

    watching = OomGuard(NEW, {"gpu-0": GATE, "gpu-1": GATE}, sample(1, *both(QUIET, QUIET)))
    watching, first = watching.after(sample(2, *both(FULL, QUIET)))
    watching, second = watching.after(sample(3, *both(QUIET, FULL)))
    watching, third = watching.after(sample(4, *both(QUIET, FULL)))

    assert (first, second) == (None, None)
    assert third is not None
    assert third.device_id == "gpu-1"


# Whatever the figures are

SIZES = st.integers(0, TOTAL)


@given(then=SIZES, now=SIZES, own=SIZES, gate=SIZES)
def test_it_never_trips_unless_growth_of_others_alone_is_what_lacks(then: int, now: int, own: int, gate: int) -> None:
    breach = judged(reading(holder(77, then)), reading(holder(77, now), holder(10, own, instance_id=NEW)), gate)

    if breach is not None:
        assert own < gate
        assert 0 < breach.missing_bytes <= now - then
        assert breach.free_bytes < breach.needed_bytes


@given(then=SIZES, own=SIZES, gate=SIZES, shrinks=SIZES)
def test_a_load_beside_neighbours_who_do_not_grow_is_never_stopped(
    then: int, own: int, gate: int, shrinks: int
) -> None:
    now = max(0, then - shrinks)

    assert judged(reading(holder(77, then)), reading(holder(77, now), holder(10, own, instance_id=NEW)), gate) is None


@given(then=SIZES, grown=SIZES, more=SIZES, own=SIZES)
def test_a_neighbour_who_takes_more_does_not_let_it_go_on(then: int, grown: int, more: int, own: int) -> None:
    def at(size: int) -> MemoryShortage | None:
        now = reading(holder(77, then + size), holder(10, own, instance_id=NEW))
        return judged(reading(holder(77, then)), now)

    if at(grown) is not None:
        assert at(grown + more) is not None
