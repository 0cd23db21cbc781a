"""Why a model ran out of memory, told by the figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.domain.readings import TOTAL, holder, reading, sample
from webapp.domain.memory import HolderKind
from webapp.domain.postmortem import (
    LINES,
    Account,
    Cause,
    Phase,
    account_of,
    likely_cause,
    moment_of,
    room_for_another,
)
from webapp.domain.units import gib

GATE = gib(10)
NEW = "new"


def account(**changes: Any) -> Account:
    """A load of 10 GiB that had 12 GiB of room, held 9 and left 3 free; nobody else moved."""
    made = Account("gpu-0", gib(24), GATE, gib(12), gib(3), 0, gib(9), 0)
    return replace(made, **changes)


def cause_of(one: Account, phase: Phase = Phase.LOADING) -> Cause:
    cause, device_id = likely_cause(phase, [one])
    assert device_id == "gpu-0"
    return cause


@pytest.mark.parametrize(
    ("figures", "cause"),
    [
        ({"grown_bytes": gib(3), "held_bytes": gib(9), "free_after_bytes": 0}, Cause.NEIGHBOUR_GREW),
        ({"grown_bytes": gib(2)}, Cause.ESTIMATE_LOW),  # what was to spare is gone, and not a byte of what was needed
        ({"grown_bytes": gib(2) + 1}, Cause.NEIGHBOUR_GREW),
        ({"held_bytes": gib(11), "free_after_bytes": gib(1)}, Cause.ESTIMATE_LOW),
        ({"held_bytes": gib(11), "grown_bytes": -gib(5)}, Cause.ESTIMATE_LOW),
        ({"free_before_bytes": gib(9), "free_after_bytes": 0}, Cause.LOAD_PEAK),
        ({"free_before_bytes": gib(9), "grown_bytes": gib(1)}, Cause.LOAD_PEAK),  # it did not fit from the start
        ({"held_bytes": gib(1), "free_after_bytes": gib(20)}, Cause.PROCESS_LIMIT),
        ({"held_bytes": None, "free_after_bytes": gib(3)}, Cause.ESTIMATE_LOW),
        ({"free_before_bytes": None}, Cause.UNKNOWN),
        ({"held_before_bytes": None}, Cause.UNKNOWN),
        ({"free_after_bytes": None}, Cause.UNKNOWN),
    ],
)
def test_a_load_that_failed_has_the_cause_that_its_figures_say(figures: dict[str, int | None], cause: Cause) -> None:
    assert cause_of(account(**figures)) is cause


@pytest.mark.parametrize("phase", [Phase.KV_CACHE, Phase.ANSWERING])
def test_within_what_was_planned_the_kv_cache_is_what_did_not_fit(phase: Phase) -> None:
    assert cause_of(account(), phase) is Cause.KV_CACHE
    assert cause_of(account(held_bytes=gib(11)), phase) is Cause.ESTIMATE_LOW
    assert cause_of(account(grown_bytes=gib(3)), phase) is Cause.NEIGHBOUR_GREW


def test_what_a_model_held_already_was_its_room() -> None:
    ready = account(held_before_bytes=gib(8), free_before_bytes=gib(3), held_bytes=gib(9))

    assert (ready.room_bytes, ready.spare_bytes) == (gib(11), gib(1))
    assert cause_of(ready, Phase.ANSWERING) is Cause.KV_CACHE
    assert cause_of(replace(ready, grown_bytes=gib(2)), Phase.ANSWERING) is Cause.NEIGHBOUR_GREW


def test_an_engine_that_found_too_little_at_its_start_says_so_itself() -> None:
    assert cause_of(account(), Phase.STARTING) is Cause.LOAD_PEAK
    assert cause_of(account(grown_bytes=gib(3)), Phase.STARTING) is Cause.NEIGHBOUR_GREW


def test_of_several_devices_the_one_speaks_whose_figures_say_the_most() -> None:
    quiet, crowded = account(), replace(account(grown_bytes=gib(9)), device_id="gpu-1")

    assert likely_cause(Phase.LOADING, [quiet, crowded]) == (Cause.NEIGHBOUR_GREW, "gpu-1")


@pytest.mark.parametrize(
    ("cause", "figures", "room"),
    [
        (Cause.NEIGHBOUR_GREW, {"grown_bytes": gib(4)}, gib(8)),
        (Cause.NEIGHBOUR_GREW, {"grown_bytes": gib(40)}, 0),
        (Cause.LOAD_PEAK, {"free_before_bytes": gib(9)}, gib(9)),
        (Cause.ESTIMATE_LOW, {}, GATE),
        (Cause.KV_CACHE, {"grown_bytes": gib(5)}, gib(7)),
        (Cause.PROCESS_LIMIT, {"held_bytes": gib(2)}, gib(2)),
        (Cause.PROCESS_LIMIT, {"held_bytes": None}, GATE),
        (Cause.UNKNOWN, {"free_before_bytes": None}, None),
    ],
)
def test_another_plan_counts_with_the_memory_that_there_was(
    cause: Cause, figures: dict[str, int | None], room: int | None
) -> None:
    assert room_for_another(cause, account(**figures)) == room


SIZES = st.one_of(st.none(), st.integers(0, TOTAL))


@given(
    free=SIZES,
    after=SIZES,
    before=SIZES,
    held=SIZES,
    grown=st.one_of(st.none(), st.integers(-TOTAL, TOTAL)),
    phase=st.sampled_from(Phase),
)
def test_every_account_has_a_cause_and_the_plan_that_failed_never_fits_again(
    free: int | None, after: int | None, before: int | None, held: int | None, grown: int | None, phase: Phase
) -> None:
    one = Account("gpu-0", TOTAL, GATE, free, after, before, held, grown)
    cause = cause_of(one, phase)

    room = room_for_another(cause, one)
    if cause is Cause.NEIGHBOUR_GREW:
        assert grown is not None
        assert grown > 0
    if room is not None and phase is not Phase.STARTING:
        assert 0 <= room <= GATE, "and a plan wants its reserve beside the gate"


# From readings


def test_the_account_lists_who_held_what_before_and_at_the_moment() -> None:
    before = reading(holder(77, gib(2)), holder(20, gib(3), instance_id="other"))
    now = reading(holder(77, gib(5)), holder(20, gib(3), instance_id="other"), holder(10, gib(9), instance_id=NEW))

    one = account_of(before, now, GATE, NEW, {NEW: "lab/two", "other": "lab/one"})

    assert (one.free_before_bytes, one.free_after_bytes, one.held_before_bytes, one.held_bytes) == (
        gib(19),
        gib(7),
        0,
        gib(9),
    )
    assert one.grown_bytes == gib(3)
    assert [(line.is_own, line.model_id, line.pid, line.before_bytes, line.after_bytes) for line in one.lines] == [
        (True, "lab/two", 10, 0, gib(9)),
        (False, None, 77, gib(2), gib(5)),
        (False, "lab/one", 20, gib(3), gib(3)),
    ]


def test_the_smallest_of_many_holders_are_one_line() -> None:
    many = [holder(100 + number, gib(0.1)) for number in range(LINES + 4)]

    one = account_of(reading(*many), reading(*many, holder(10, gib(9), instance_id=NEW)), GATE, NEW, {})

    assert len(one.lines) == LINES + 1
    assert one.lines[0].is_own
    assert (one.lines[-1].kind, one.lines[-1].before_bytes) == (None, 5 * gib(0.1))
    assert one.lines[1].kind is HolderKind.FOREIGN
    assert sum(line.after_bytes or 0 for line in one.lines) == gib(9) + (LINES + 4) * gib(0.1)


def test_the_moment_is_when_the_model_held_the_most() -> None:
    held = [gib(1), gib(4), gib(4), 0]
    samples = [sample(n, reading(holder(10, size, instance_id=NEW))) for n, size in enumerate(held)]

    moment = moment_of(samples, NEW, ["gpu-0"])

    assert moment is not None
    assert moment.number == 2
    assert moment_of([], NEW, ["gpu-0"]) is None
