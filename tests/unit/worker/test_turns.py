"""As many requests at once as the launch allows, the others in their order, and not too many of them."""

from __future__ import annotations

import threading

import pytest

from webapp.worker.turns import GivenUp, Turns, TurnsFull


def never() -> bool:
    return False


class Holder:
    """A request that holds its turn until it is told to go."""

    def __init__(self, turns: Turns, order: list[str], name: str) -> None:
        self.go, self.has_turn = threading.Event(), threading.Event()
        self._turns, self._order, self._name = turns, order, name
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        with self._turns.turn(never):
            self._order.append(self._name)
            self.has_turn.set()
            self.go.wait(10)

    def end(self) -> None:
        self.go.set()
        self.thread.join(10)


def wait_until_waiting(turns: Turns, count: int) -> None:
    while turns.in_flight < count:
        threading.Event().wait(0.001)


def test_requests_get_their_turns_in_the_order_in_which_they_came() -> None:
    turns, order = Turns(1), []  # type: ignore[var-annotated]
    holders = []
    for number, name in enumerate("abc", 1):
        holders.append(Holder(turns, order, name))
        wait_until_waiting(turns, number)

    assert holders[0].has_turn.wait(5)
    assert not holders[1].has_turn.is_set()
    for holder in holders:
        holder.end()

    assert order == ["a", "b", "c"]
    assert turns.in_flight == 0
    assert turns.wait_until_idle(0)


def test_a_full_queue_refuses_at_once() -> None:
    turns = Turns(1, queue_limit=0)
    order: list[str] = []
    first = Holder(turns, order, "a")
    assert first.has_turn.wait(5)

    with pytest.raises(TurnsFull), turns.turn(never):
        raise AssertionError

    assert not turns.wait_until_idle(0)
    first.end()
    with turns.turn(never):
        assert turns.in_flight == 1


def test_who_gives_up_leaves_the_queue() -> None:
    turns = Turns(1)
    order: list[str] = []
    first = Holder(turns, order, "a")
    assert first.has_turn.wait(5)

    with pytest.raises(GivenUp), turns.turn(lambda: True):
        raise AssertionError

    assert turns.in_flight == 1
    first.end()
