"""Settle: when it is done, when it is slow, when it gives up, all on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.control.fakes import FakeMachine, FakeMonitor
from webapp.control.settle import Settled, SettlePolicy, Stock, settle
from webapp.domain.units import gib

POLICY = SettlePolicy(poll_s=0.25, share=0.75, warn_s=5.0, deadline_s=30.0)


OLD = ("gpu-0", "old")


class Clock:
    """Moves on by what is waited, and lets the machine change on its way."""

    def __init__(self, at: Callable[[float], None]) -> None:
        self.now = 0.0
        self._at = at

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self._at(self.now)


def run(at: Callable[[FakeMachine, float], None], *, expected: int = gib(4), slow: list[bool] | None = None) -> Settled:
    machine = FakeMachine(held={OLD: gib(4)})
    clock = Clock(lambda now: at(machine, now))
    (result,) = settle(
        FakeMonitor(machine),
        {"gpu-0": Stock(gib(20), 0)},
        {"gpu-0": expected},
        POLICY,
        leaving=frozenset({"old"}),
        clock=clock,
        wait=clock.wait,
        on_slow=None if slow is None else lambda: slow.append(True),
    )
    return result


def test_done_when_the_memory_is_back_and_stands_still() -> None:
    def back_after_a_second(machine: FakeMachine, now: float) -> None:
        machine.held[OLD] = 0 if now >= 1 else gib(4)

    result = run(back_after_a_second)
    assert (result.settled, result.freed_bytes) == (True, gib(4))
    assert result.seconds == pytest.approx(1.25)


def test_three_quarters_of_what_was_expected_is_enough() -> None:
    result = run(lambda machine, now: machine.held.update({OLD: gib(1)}))
    assert (result.settled, result.freed_bytes) == (True, gib(3))


def test_less_is_reported_as_not_given_back_at_the_deadline() -> None:
    slow: list[bool] = []
    result = run(lambda machine, now: machine.held.update({OLD: gib(2)}), slow=slow)
    assert (result.settled, result.freed_bytes) == (False, gib(2))
    assert result.seconds >= 30
    assert slow == [True]


def test_memory_that_still_moves_is_not_settled() -> None:
    def falling(machine: FakeMachine, now: float) -> None:
        machine.held[OLD] = max(0, gib(1) - int(now * gib(0.5)))

    assert run(falling).seconds > 1.5


def test_neighbour_who_takes_what_was_given_back_does_not_make_the_receipt_lie() -> None:
    def taken_at_once(machine: FakeMachine, now: float) -> None:
        machine.held[OLD] = 0
        machine.foreign["gpu-0"] = gib(3)

    result = run(taken_at_once)
    assert (result.settled, result.freed_bytes, result.others_bytes) == (True, gib(4), gib(3))


@pytest.mark.parametrize("seen", [True, False])
def test_receipt_never_says_that_an_end_took_memory(seen: bool) -> None:
    """Somebody grew by 5 GiB of whom the device names all, or nothing; what is left of the model is 4 GiB of 4."""

    def grows(machine: FakeMachine, now: float) -> None:
        if seen:
            machine.foreign["gpu-0"] = gib(5)
        else:
            machine.totals = {"gpu-0": gib(19)}

    result = run(grows)
    assert (result.settled, result.freed_bytes, result.others_bytes) == (False, 0, gib(5))


def test_little_that_was_held_and_a_free_figure_that_fell_make_no_negative_receipt() -> None:
    result = run(lambda machine, now: machine.totals.update({"gpu-0": gib(24) - 2_355_200}), expected=1000)  # type: ignore[attr-defined]
    assert (result.settled, result.freed_bytes, result.others_bytes) == (True, 0, 2_355_200)


def test_device_that_cannot_be_read_gives_an_unknown_figure() -> None:
    result = run(lambda machine, now: machine.lost.add("gpu-0"))
    assert (result.settled, result.freed_bytes) == (False, None)


def test_wait_that_raises_ends_it() -> None:
    def stop(machine: FakeMachine, now: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(stop)
