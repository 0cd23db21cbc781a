"""The keeper: what somebody waits for comes first and is refused in time, the rest is tried again, and the file is looked after."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.unit.control.fakes import Gate
from webapp.control import keeping
from webapp.control.keeping import Keeper
from webapp.errors import NotStored, StoreUnavailable

LOCKED = StoreUnavailable(reason="locked", trouble="locked", file="/state/warden.db")
GONE = StoreUnavailable(reason="gone", trouble="gone", file="/state/warden.db")


class Watched:
    """A store that is as a test says, and what was written into it."""

    def __init__(self) -> None:
        self.fails: StoreUnavailable | None = None
        self.is_gone = False
        self.written: list[str] = []
        self.looks = 0

    def look(self) -> bool:
        self.looks += 1
        if self.fails is not None:
            raise self.fails
        gone, self.is_gone = self.is_gone, False
        return gone

    def write(self, name: str) -> Callable[[], None]:
        def act() -> None:
            if self.is_gone:
                raise GONE
            if self.fails is not None:
                raise self.fails
            self.written.append(name)

        return act


@pytest.fixture
def store() -> Watched:
    return Watched()


@pytest.fixture
def make(store: Watched) -> Iterator[Callable[..., Keeper]]:
    made: list[Keeper] = []

    def start(
        write_again: Callable[[], None] = lambda: None, tidy: Callable[[], bool] = bool, **knobs: float
    ) -> Keeper:
        keeper = Keeper(store, **{"deadline_s": 0.2, "retry_s": 0.02, "drain_s": 0.3, **knobs})  # type: ignore[arg-type]
        keeper.start(write_again, tidy)
        made.append(keeper)
        return keeper

    yield start
    store.fails = None
    for keeper in made:
        keeper.stop()


def until(condition: Callable[[], object]) -> None:
    pause, deadline = threading.Event(), time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        pause.wait(0.005)


def test_what_somebody_waits_for_is_written_when_it_returns(store: Watched, make: Callable[..., Keeper]) -> None:
    make().now(store.write("lease"))
    assert store.written == ["lease"]


def test_what_somebody_waits_for_is_refused_with_the_reason(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper = make()
    store.fails = LOCKED
    with pytest.raises(NotStored) as refusal:
        keeper.now(store.write("lease"))
    assert refusal.value.params == {"reason": "store_locked"}
    store.fails = None
    keeper.flush()
    assert store.written == []


def test_a_write_that_hangs_is_refused_in_time_and_named_slow(make: Callable[..., Keeper]) -> None:
    keeper, gate = make(), Gate()
    began = time.monotonic()
    with pytest.raises(NotStored) as refusal:
        keeper.now(gate.pass_through)
    assert time.monotonic() - began < 2
    assert refusal.value.params == {"reason": "store_slow"}
    assert keeper.trouble is not None and keeper.trouble.code == "keeping_slow"
    gate.open()
    until(lambda: keeper.trouble is None)


def test_one_that_gave_up_before_its_turn_is_never_written(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper, gate = make(), Gate()
    keeper.later("other", gate.pass_through)
    gate.wait_reached()
    with pytest.raises(NotStored):
        keeper.now(store.write("lease"))
    gate.open()
    assert keeper.flush()
    assert store.written == []


def test_no_more_wait_than_have_a_place(make: Callable[..., Keeper]) -> None:
    keeper, gate = make(places=2, deadline_s=5.0), Gate()
    with ThreadPoolExecutor(2) as waiting:
        answers = [waiting.submit(keeper.now, gate.pass_through) for _ in range(2)]
        gate.wait_reached()
        began = time.monotonic()
        until(lambda: len(keeper._urgent) == 1)
        with pytest.raises(NotStored):
            keeper.now(lambda: None)
        assert time.monotonic() - began < 1
        gate.open()
        assert [answer.result() for answer in answers] == [None, None]


def test_what_somebody_waits_for_comes_before_what_waits_already(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper, gate = make(deadline_s=5.0), Gate()
    keeper.later("a", gate.pass_through)
    gate.wait_reached()
    for name in ("b", "c"):
        keeper.later(name, store.write(name))
    with ThreadPoolExecutor(1) as waiting:
        answer = waiting.submit(keeper.now, store.write("lease"))
        until(lambda: keeper._urgent)
        gate.open()
        answer.result()
    assert keeper.flush()
    assert store.written == ["lease", "b", "c"]


def test_one_that_fails_alone_holds_up_no_other(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper = make()

    def spoilt() -> None:
        raise LOCKED

    keeper.later("spoilt", spoilt)
    keeper.later("good", store.write("good"))
    until(lambda: store.written == ["good"])


def test_trouble_is_told_while_it_lasts_and_no_longer(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper = make()
    store.fails = LOCKED
    until(lambda: keeper.trouble is not None)
    assert keeper.trouble is not None
    assert (keeper.trouble.code, keeper.trouble.params["file"]) == ("keeping_locked", "/state/warden.db")
    store.fails = None
    until(lambda: keeper.trouble is None)


def test_what_waits_is_bounded_and_what_is_lost_is_told(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper = make()
    store.fails = LOCKED
    until(lambda: keeper.trouble is not None)
    taken = [keeper.later(str(n), store.write(str(n))) for n in range(keeping.PENDING_LIMIT + 3)]
    assert taken.count(False) == pytest.approx(3, abs=1)
    assert keeper.later("0", store.write("newer"))
    assert keeper.trouble is not None and keeper.trouble.params["lost"] == taken.count(False)
    store.fails = None
    assert keeper.flush()
    assert len(store.written) == taken.count(True)


def test_a_database_that_was_made_anew_gets_what_is_in_memory(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper: Keeper

    def write_again() -> None:
        keeper.later("operations", store.write("operations"))

    keeper = make(write_again)
    store.is_gone = True
    until(lambda: store.written == ["operations"])
    store.is_gone = True
    keeper.now(store.write("lease"))  # whoever comes first finds it
    until(lambda: sorted(store.written) == ["lease", "operations", "operations"])


def test_a_stop_tries_again_what_the_database_does_not_take_at_once(make: Callable[..., Keeper]) -> None:
    keeper, fails = make(retry_s=0.2, drain_s=10.0), [LOCKED, LOCKED]
    tried = threading.Event()
    written = []

    def act() -> None:
        tried.set()
        if fails:
            raise fails.pop()
        written.append("lease")

    keeper.later("lease", act)
    assert tried.wait(10)
    keeper.stop()
    assert written == ["lease"]


def test_a_stop_gives_up_after_some_seconds(store: Watched, make: Callable[..., Keeper]) -> None:
    keeper = make(drain_s=0.1)
    store.fails = LOCKED
    keeper.later("lease", store.write("lease"))
    keeper.stop()
    assert not any(thread.name == "warden-keeper" for thread in threading.enumerate())


def test_old_entries_go_once_a_day_and_again_while_there_are_more(store: Watched, make: Callable[..., Keeper]) -> None:
    answers, called = iter((True, True)), []

    def tidy() -> bool:
        called.append(store.looks)
        return next(answers, False)

    make(tidy=tidy)
    until(lambda: len(called) == 3)
    until(lambda: store.looks > called[-1] + 3)
    assert len(called) == 3
