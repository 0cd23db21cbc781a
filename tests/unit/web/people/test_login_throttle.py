"""Guesses are counted by name and by address, also those that are checked at this moment."""

from __future__ import annotations

import threading

from webapp.web.people.login_throttle import WINDOW_S, LoginThrottle

ALLOWED = 10


class Moment:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def fail(guesses: LoginThrottle, name: str, address: str | None = None, times: int = 1) -> list[bool]:
    """Guess wrong so often, one after the other; return which of the guesses were looked at."""
    looked_at = []
    for _ in range(times):
        looked_at.append(guesses.begin(name, address, ALLOWED))
        if looked_at[-1]:
            guesses.end(name, address, failed=True)
    return looked_at


def test_a_name_may_fail_so_often_and_no_more() -> None:
    assert fail(LoginThrottle(Moment()), "anna", times=12) == [True] * 10 + [False] * 2


def test_what_succeeds_is_given_back() -> None:
    guesses = LoginThrottle(Moment())
    for _ in range(50):
        assert guesses.begin("anna", "here", ALLOWED)
        guesses.end("anna", "here", failed=False)


def test_what_is_being_checked_counts_as_failed() -> None:
    guesses = LoginThrottle(Moment())
    assert [guesses.begin("anna", f"address {n}", ALLOWED) for n in range(11)] == [True] * 10 + [False]
    guesses.end("anna", "address 0", failed=False)
    assert guesses.begin("anna", "address 11", ALLOWED)


def test_many_threads_get_no_more_than_may() -> None:
    guesses, barrier, begun = LoginThrottle(Moment()), threading.Barrier(24), []

    def guess() -> None:
        barrier.wait(10)
        if guesses.begin("anna", None, ALLOWED):
            begun.append(1)

    threads = [threading.Thread(target=guess) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(begun) == ALLOWED


def test_a_pause_ends_a_quarter_of_an_hour_after_what_failed() -> None:
    moment = Moment()
    guesses = LoginThrottle(moment)
    fail(guesses, "anna", times=9)
    moment.now += 600.0
    fail(guesses, "anna")
    assert fail(guesses, "anna") == [False]
    moment.now += WINDOW_S - 599.0
    assert fail(guesses, "anna", times=10) == [True] * 9 + [False]


def test_what_is_over_takes_no_room() -> None:
    moment = Moment()
    guesses = LoginThrottle(moment)
    for number in range(100):
        fail(guesses, f"name {number}", "here")
    moment.now += WINDOW_S + 1
    guesses.begin("anna", "here", ALLOWED)
    assert len(guesses._failed) == 0


def test_from_a_watched_address_each_name_has_a_third() -> None:
    guesses = LoginThrottle(Moment())
    for number in range(30):
        assert fail(guesses, f"name {number}", "here") == [True]
    assert fail(guesses, "anna", "here", times=4) == [True] * 3 + [False]
    assert fail(guesses, "anna", "elsewhere", times=8) == [True] * 7 + [False]


def test_a_flood_from_a_watched_address_takes_one_check_at_a_time() -> None:
    guesses = LoginThrottle(Moment())
    for number in range(30):
        fail(guesses, f"name {number}", "here")
    assert [guesses.begin(f"other {number}", "here", ALLOWED) for number in range(20)] == [True] + [False] * 19
    assert guesses.begin("anna", "elsewhere", ALLOWED)
    guesses.end("other 0", "here", failed=True)
    assert guesses.begin("anna", "here", ALLOWED)
