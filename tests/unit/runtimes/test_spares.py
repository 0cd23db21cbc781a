"""Spares are kept at their number, handed out once, and replaced when there is time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from webapp.errors import LaunchFailed
from webapp.runtimes.spares import Spares, is_spare


class Workers:
    """What a pool starts and ends, without processes."""

    def __init__(self) -> None:
        self.alive: set[str] = set()
        self.ended: list[str] = []
        self.failures = 0
        self.changed = threading.Condition()

    def spawn(self, name: str) -> None:
        with self.changed:
            self.changed.notify_all()
            if self.failures:
                self.failures -= 1
                raise LaunchFailed(model=None, detail="", log="")
            self.alive.add(name)

    def is_usable(self, name: str) -> bool:
        return name in self.alive

    def end(self, name: str) -> None:
        self.alive.discard(name)
        self.ended.append(name)

    def wait_for(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.alive) == count, 5)


@pytest.fixture
def workers() -> Workers:
    return Workers()


@pytest.fixture
def two(workers: Workers) -> Iterator[Spares]:
    spares = Spares(2, workers.spawn, workers.is_usable, workers.end)
    spares.start(())
    yield spares
    spares.stop()


def test_the_number_is_filled_and_a_taken_one_is_replaced_when_asked(workers: Workers, two: Spares) -> None:
    workers.wait_for(2)

    taken = two.take()

    assert taken is not None
    assert is_spare(taken)
    assert taken not in two.names
    assert len(workers.alive) == 2, "no replacement while the load runs"
    two.refill()
    workers.wait_for(3)
    two.stop()
    assert workers.alive == {taken}


def test_a_spare_that_died_is_not_handed_out(workers: Workers, two: Spares) -> None:
    workers.wait_for(2)
    dead, live = sorted(two.names)
    workers.alive.discard(dead)

    assert {two.take(), two.take()} == {live, None}
    assert workers.ended == [dead]


def test_what_an_earlier_run_left_is_used_up_to_the_number(workers: Workers) -> None:
    workers.alive = {"spare-a", "spare-b"}
    spares = Spares(1, workers.spawn, workers.is_usable, workers.end)

    spares.start(["spare-dead", "spare-a", "spare-b"])

    assert spares.names == {"spare-a"}
    spares.stop()
    assert workers.alive == {"spare-b"}


def test_a_failed_start_is_no_spare_and_the_next_refill_tries_again(workers: Workers) -> None:
    workers.failures = 1
    spares = Spares(1, workers.spawn, workers.is_usable, workers.end)
    with workers.changed:
        spares.start(())
        assert workers.changed.wait_for(lambda: workers.failures == 0, 5)

    spares.refill()

    workers.wait_for(1)
    assert spares.names == workers.alive
    spares.stop()


def test_none_wanted_starts_nothing(workers: Workers) -> None:
    spares = Spares(0, workers.spawn, workers.is_usable, workers.end)
    spares.start(["spare-a"])

    assert spares.take() is None
    spares.stop()
