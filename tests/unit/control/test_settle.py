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


def test_device_that_cannot_be_read_gives_an_unknown_figure() -> None:
    result = run(lambda machine, now: machine.lost.add("gpu-0"))
    assert (result.settled, result.freed_bytes) == (False, None)


def test_wait_that_raises_ends_it() -> None:
    def stop(machine: FakeMachine, now: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run(stop)
