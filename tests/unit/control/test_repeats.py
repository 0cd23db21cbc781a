"""A request that is sent again under its id begins nothing a second time, whatever was cut off between."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate
from webapp.control.journal import Journal
from webapp.control.keeping import Keeper
from webapp.control.repeats import Repeats
from webapp.domain.operation import Operation, OperationState
from webapp.domain.queue import QueuedLaunch, QueueState
from webapp.errors import Busy, NotStored, RequestIdReused, StoreUnavailable
from webapp.settings import Settings
from webapp.store.database import Database
from webapp.store.operations import OperationRepository
from webapp.store.queue import QueueRepository

FULL = StoreUnavailable(reason="full", trouble="full")
KILLED_AFTER_THE_COMMIT = """
import os, signal, sys
from pathlib import Path
from tests.unit.control.conftest import Bench
from tests.unit.control.test_repeats import SqliteBench
from webapp.settings import load_settings

class Killed:
    def __init__(self, repository):
        self.repository = repository

    def __getattr__(self, name):
        return getattr(self.repository, name)

    def save_operation(self, operation):
        self.repository.save_operation(operation)
        os.kill(os.getpid(), signal.SIGKILL)

    def save(self, launch, keep):
        self.repository.save(launch, keep)
        os.kill(os.getpid(), signal.SIGKILL)

folder, what = Path(sys.argv[1]), sys.argv[2]
bench = SqliteBench(load_settings(state_dir=folder / "state", hf_cache=folder / "cache"), wrap=Killed)
bench.controller.start()
if what == "switch":
    bench.controller.switch(bench.request(), "ivan", "r1")
else:
    bench.fill()
    bench.controller.enqueue(bench.request(), "ivan", starts_by_itself=False, request_id="r1")
"""


class SqliteBench(Bench):
    """A controller over fakes, and over the real store."""

    def __init__(self, settings: Settings, wrap: Callable[[object], object] = lambda repository: repository) -> None:
        super().__init__(settings)
        self.database = Database(settings.storage.database)
        self.database.open()
        self.operations = OperationRepository(self.database)
        keeper = Keeper(self.database, deadline_s=5)
        self.rebuild(
            keeper=keeper,
            journal=Journal(wrap(self.operations), keeper, self.state_store),  # type: ignore[arg-type]
            queue_store=wrap(QueueRepository(self.database)),
        )

    def stop(self) -> None:
        """End it as a person does."""
        self.controller.stop()
        self.database.close()


@pytest.fixture
def real(settings: Settings) -> Iterator[Callable[[], SqliteBench]]:
    """Start a controller on the same database, as often as it is called: the one before is stopped."""
    made: list[SqliteBench] = []

    def start() -> SqliteBench:
        if made:
            made.pop().stop()
        made.append(SqliteBench(settings))
        made[-1].controller.start()
        return made[-1]

    yield start
    for bench in made:
        bench.open_gates()
        bench.stop()


def switch(bench: Bench, request_id: str | None = "r1", actor: str = "ivan", **changes: Any) -> Operation:
    return bench.controller.switch(bench.request(**changes), actor, request_id)


def queue(bench: Bench, request_id: str | None = "r1", actor: str = "ivan", **changes: Any) -> QueuedLaunch:
    request = bench.request(**changes)
    return bench.controller.enqueue(request, actor, starts_by_itself=False, request_id=request_id).launch


def all_at_once(acts: list[Callable[[], str]]) -> list[str]:
    """What each returns, done by threads that begin together."""
    start, given = threading.Barrier(len(acts)), []

    def work(act: Callable[[], str]) -> None:
        start.wait()
        given.append(act())

    threads = [threading.Thread(target=work, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    return given


# Switches


def test_a_switch_that_is_sent_again_is_the_same_operation(bench: Bench) -> None:
    first = switch(bench)
    again = switch(bench)
    assert again.id == first.id
    ended = bench.wait(first)
    assert switch(bench) == ended
    assert bench.loaded == ["lab/one"]


def test_other_people_and_other_ids_begin_their_own(bench: Bench) -> None:
    first = bench.wait(switch(bench))
    other = bench.wait(switch(bench, "r2", model_id="lab/two", keep_others=True))
    others = bench.wait(switch(bench, actor="maria", model_id="lab/three", keep_others=True))
    assert len({first.id, other.id, others.id}) == 3


def test_another_request_under_the_same_id_is_refused_and_names_the_first(bench: Bench) -> None:
    first = bench.wait(switch(bench))
    for repeated in (lambda: switch(bench, model_id="lab/two"), lambda: queue(bench)):
        with pytest.raises(RequestIdReused) as caught:
            repeated()
        assert caught.value.params == {"request_id": "r1", "operation": first.id, "ticket": None}
    assert bench.loaded == ["lab/one"]


def test_a_lease_that_is_over_by_now_is_no_other_request(bench: Bench) -> None:
    until = bench.context.clock() + 60
    first = bench.wait(switch(bench, lease_until=until))
    bench.ahead_s = bench.later_s = 120
    assert switch(bench, lease_until=until).id == first.id


def test_what_was_refused_is_tried_again(bench: Bench) -> None:
    gate = bench.runtime.gate = threading.Event()
    running = switch(bench, "r1")
    with pytest.raises(Busy):
        switch(bench, "r2", model_id="lab/two")
    gate.set()
    bench.wait(running)
    assert bench.wait(switch(bench, "r2", model_id="lab/two")).state is OperationState.SUCCEEDED


def test_what_was_not_stored_is_not_known_although_the_write_came_through_late(bench: Bench) -> None:
    gate = bench.store.gate = Gate()
    with pytest.raises(NotStored):
        switch(bench)
    (late,) = bench.context.journal._dropped
    gate.open()
    bench.store.gate = None
    begun = bench.wait(switch(bench))
    assert begun.id != late
    bench.until(lambda: list(bench.store.saved) == [begun.id])


def test_two_who_send_one_id_at_the_same_time_begin_one_operation(bench: Bench) -> None:
    given = all_at_once([lambda: switch(bench).id] * 2)
    assert len(given) == 2
    assert len(set(given)) == 1
    assert len({operation.id for operation in bench.store.written}) == 1


def test_the_second_is_not_answered_before_the_first_is_stored(bench: Bench) -> None:
    gate = bench.store.gate = Gate()
    answered: list[str] = []
    threads = [threading.Thread(target=lambda: answered.append(switch(bench).id)) for _ in range(2)]
    for thread in threads:
        thread.start()
    gate.wait_reached()
    assert answered == []
    bench.store.gate = None
    gate.open()
    for thread in threads:
        thread.join(10)
    assert len(answered) == 2
    assert len(set(answered)) == 1


def test_who_waits_for_the_first_waits_no_longer_than_it_says_and_takes_a_writers_place() -> None:
    database = Database("sqlite://")
    keeper = Keeper(database, places=3)
    repeats = Repeats(keeper, wait_s=0.02)
    with repeats.alone("ivan", "r1"):
        with pytest.raises(NotStored), repeats.alone("ivan", "r1"):
            pass
        with repeats.alone("ivan", "r2"), repeats.alone("maria", "r1"):
            pass
        with keeper.place(), keeper.place(), pytest.raises(NotStored), repeats.alone("ivan", "r2"):
            pass
    with repeats.alone("ivan", "r1"):
        pass


@pytest.mark.parametrize("act", [switch, queue])
def test_whoever_waits_takes_no_place_that_the_first_still_needs(
    make_bench: Callable[..., Bench], act: Callable[[Bench], Operation | QueuedLaunch]
) -> None:
    """With one place for all, the second is refused in time, and the first is accepted all the same."""
    bench = make_bench()
    keeper = Keeper(bench.store, places=1, deadline_s=5)
    bench.rebuild(keeper=keeper, journal=Journal(bench.store, keeper, bench.state_store))
    bench.controller.start()
    if act is queue:
        bench.fill()
    gate = bench.store.gate = Gate()
    accepted: list[str] = []
    first = threading.Thread(target=lambda: accepted.append(act(bench).id))
    first.start()
    gate.wait_reached()
    with pytest.raises(NotStored):
        act(bench)
    bench.store.gate = None
    gate.open()
    first.join(10)
    assert accepted == [act(bench).id]


def test_nothing_is_begun_while_nobody_knows_whether_it_was(bench: Bench) -> None:
    bench.store.raises = FULL
    with pytest.raises(NotStored):
        switch(bench)
    bench.store.raises = None


# The queue


def test_a_launch_that_is_sent_again_has_its_place_once(bench: Bench) -> None:
    bench.fill()
    first = queue(bench)
    assert queue(bench).id == first.id
    assert len(bench.controller.snapshot().waiting) == 1
    bench.controller.queue.cancel(first.id, "ivan")
    again = queue(bench)
    assert (again.id, again.state) == (first.id, QueueState.CANCELLED)


def test_another_launch_under_the_same_id_is_refused(bench: Bench) -> None:
    bench.fill()
    first = queue(bench)
    request = bench.request()
    for repeated in (
        lambda: queue(bench, model_id="lab/two"),
        lambda: switch(bench),
        lambda: bench.controller.enqueue(request, "ivan", starts_by_itself=True, request_id="r1"),
    ):
        with pytest.raises(RequestIdReused) as caught:
            repeated()
        assert caught.value.params["ticket"] == first.id


def test_two_who_queue_under_one_id_at_the_same_time_have_one_place(bench: Bench) -> None:
    bench.fill()
    given = all_at_once([lambda: queue(bench).id] * 2)
    assert len(given) == 2
    assert len(set(given)) == 1


def test_a_queued_launch_that_is_not_kept_under_an_id_is_refused_as_before(bench: Bench) -> None:
    bench.fill()
    bench.store.takes_nothing = FULL
    with pytest.raises(NotStored):
        queue(bench)
    bench.store.takes_nothing = None
    assert queue(bench).is_open


# The real store


def test_a_restart_knows_what_was_begun_and_queued(real: Callable[[], SqliteBench]) -> None:
    before = real()
    begun = before.wait(switch(before))
    before.fill()
    queued = queue(before, "r2", model_id="lab/two")
    after = real()
    after.fill()
    assert switch(after).id == begun.id
    assert queue(after, "r2", model_id="lab/two").id == queued.id
    with pytest.raises(RequestIdReused):
        switch(after, model_id="lab/two")


@pytest.mark.parametrize("what", ["switch", "queue"])
def test_killed_between_commit_and_answer_the_same_id_is_the_same(
    real: Callable[[], SqliteBench], tmp_path: Path, what: str
) -> None:
    program = [sys.executable, "-c", KILLED_AFTER_THE_COMMIT, str(tmp_path), what]
    killed = subprocess.run(program, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    bench = real()
    bench.fill()
    if what == "switch":
        again = switch(bench)
        assert again.state is OperationState.ABANDONED
        assert [operation.id for operation in bench.operations.operations(10)] == [again.id]
    else:
        again_queued = queue(bench)
        assert [entry.launch.id for entry in bench.controller.snapshot().waiting] == [again_queued.id]
    with pytest.raises(RequestIdReused):
        switch(bench, model_id="lab/two")


def test_an_id_goes_with_its_operation(real: Callable[[], SqliteBench]) -> None:
    bench = real()
    first = bench.wait(switch(bench))
    bench.operations.prune(before=(first.ended_at or 0) + 1)
    assert bench.operations.operation_of_request("ivan", "r1") is None
    bench.operations.save_operation(replace(first, id="another"))
    found = bench.operations.operation_of_request("ivan", "r1")
    assert found is not None
    assert found.id == "another"
