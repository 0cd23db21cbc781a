"""Rounds: at the start, at each interval, after a nudge; an error ends one round, a stop all of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest

from webapp.rounds import Rounds

LIMIT_S = 10


class Counted:
    """An act that tells of each of its rounds, and fails or waits as a test wants."""

    def __init__(self) -> None:
        self.rounds: SimpleQueue[int] = SimpleQueue()
        self.count = 0
        self.fails_in = 0
        self.gate: threading.Event | None = None

    def __call__(self) -> None:
        self.count += 1
        self.rounds.put(self.count)
        if self.gate is not None:
            self.gate.wait(LIMIT_S)
        if self.count == self.fails_in:
            raise ValueError("a defect")


@pytest.fixture
def act() -> Counted:
    return Counted()


@pytest.fixture
def make(act: Counted) -> Iterator[Callable[..., Rounds]]:
    made: list[Rounds] = []

    def rounds(interval_s: float | None = None, **changes: float) -> Rounds:
        made.append(Rounds("test", act, interval_s, **changes))
        made[-1].start()
        return made[-1]

    yield rounds
    for each in made:
        each.stop()


def test_first_round_comes_at_once_and_the_next_after_a_nudge(act: Counted, make: Callable[..., Rounds]) -> None:
    rounds = make()
    assert act.rounds.get(timeout=LIMIT_S) == 1
    rounds.nudge()
    assert act.rounds.get(timeout=LIMIT_S) == 2
    assert act.rounds.empty()


def test_rounds_follow_at_the_interval(act: Counted, make: Callable[..., Rounds]) -> None:
    make(0.001)
    assert [act.rounds.get(timeout=LIMIT_S) for _ in range(3)] == [1, 2, 3]


def test_nudge_during_a_round_is_not_lost(act: Counted, make: Callable[..., Rounds]) -> None:
    act.gate = threading.Event()
    rounds = make()
    assert act.rounds.get(timeout=LIMIT_S) == 1
    rounds.nudge()
    act.gate.set()
    assert act.rounds.get(timeout=LIMIT_S) == 2


def test_error_ends_its_round_alone(
    act: Counted, make: Callable[..., Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    act.fails_in = 1
    with caplog.at_level(logging.ERROR):
        make(0.001)
        assert [act.rounds.get(timeout=LIMIT_S) for _ in range(2)] == [1, 2]
    assert "a round of warden-test failed" in caplog.text


def test_stop_waits_no_longer_than_it_may_and_ends_the_thread(act: Counted, make: Callable[..., Rounds]) -> None:
    act.gate = threading.Event()
    rounds = make(stop_s=0.01)
    assert act.rounds.get(timeout=LIMIT_S) == 1
    thread = next(each for each in threading.enumerate() if each.name == "warden-test")
    rounds.stop()
    act.gate.set()
    thread.join(LIMIT_S)
    assert (thread.is_alive(), act.count) == (False, 1)
