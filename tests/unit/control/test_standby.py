"""The thread that waits since the start does one thing at a time."""

from __future__ import annotations

import threading

from webapp.control.standby import Standby


def test_it_works_in_the_thread_that_was_made_at_the_start() -> None:
    standby, names, done = Standby(), [], threading.Event()

    def work() -> None:
        names.append(threading.current_thread().name)
        done.set()

    standby.start()
    assert standby.run(work)
    assert done.wait(5)
    standby.stop()
    assert names == ["warden-standby"]


def test_it_takes_nothing_while_it_works_and_something_again_afterwards() -> None:
    standby, begun, goes_on, done = Standby(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        goes_on.wait(5)

    standby.start()
    assert standby.run(work)
    assert begun.wait(5)
    assert not standby.run(done.set)
    goes_on.set()
    pause = threading.Event()
    while not standby.run(done.set):
        pause.wait(0.005)
    assert done.wait(5)
    standby.stop()


def test_without_a_start_it_takes_nothing() -> None:
    assert not Standby().run(lambda: None)
