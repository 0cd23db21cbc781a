"""The launch queue: it starts launches automatically when there is room, keeps their places, and survives
interruptions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import SHAPE, Gate, model
from webapp.control.controller import Controller
from webapp.control.lock import StateLock
from webapp.control.queue import LaunchQueue
from webapp.domain.audit import WARDEN, Action, Detail
from webapp.domain.lease import ReleaseAnswer
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch, QueueEntry, QueueState
from webapp.domain.units import gib
from webapp.errors import (
    AlreadyLoaded,
    AlreadyWaiting,
    CannotWait,
    ForeignQueuedLaunch,
    InstanceInUse,
    InvalidRequest,
    NotEnoughMemory,
    NotStored,
    QueuedLaunchEnded,
    QueueFull,
    StoreUnavailable,
    UnknownModel,
    UnknownQueuedLaunch,
)
from webapp.message import Message

TRAINING = gib(22.5)
"""What somebody else's process holds, so that a model of 1 GiB finds no room."""


@pytest.fixture
def full(bench: Bench) -> Bench:
    """A GPU that another person has filled."""
    bench.machine.foreign["gpu-0"] = TRAINING
    return bench


def take(
    bench: Bench, model_id: str = "lab/one", actor: str = "anna", *, by_itself: bool = True, **changes: object
) -> QueueEntry:
    return bench.controller.enqueue(bench.request(model_id, **changes), actor, starts_by_itself=by_itself)


def check(bench: Bench, model_id: str = "lab/one", actor: str = "anna") -> None:
    bench.controller.queue.check(bench.request(model_id), actor)


def line(bench: Bench) -> list[tuple[str, str]]:
    """Models and states of the open launches, in their places."""
    return [(one.launch.request.model_id, one.launch.state.value) for one in bench.controller.snapshot().waiting]


def waited(bench: Bench, launch_id: str) -> QueuedLaunch | None:
    return next((t for t in bench.controller.snapshot().waited if t.id == launch_id), None)


def ends(bench: Bench, queued: QueueEntry, state: QueueState) -> QueuedLaunch:
    """Wait until a launch has ended; return it."""
    bench.until(lambda: waited(bench, queued.launch.id) is not None)
    launch = waited(bench, queued.launch.id)
    assert launch is not None
    assert launch.state is state, launch
    if launch.operation_id is not None:
        bench.wait(bench.controller.operation(launch.operation_id))
    return launch


def with_rights(bench: Bench, may_switch: Callable[[str], bool]) -> Bench:
    """A controller, not started, that asks who may load models."""
    bench.context = replace(bench.context, may_switch=may_switch)
    bench.controller = Controller(bench.context, StateLock(bench.settings.storage.state_dir))
    return bench


def test_it_starts_by_itself_when_memory_comes_free_in_its_persons_name(full: Bench) -> None:
    queued = take(full)
    assert (queued.place, queued.why and queued.why.code) == (1, "waits_memory")
    full.machine.foreign.clear()
    ended = ends(full, queued, QueueState.STARTED)
    assert full.loaded == ["lab/one"]
    assert ended.operation_id is not None
    assert full.controller.operation(ended.operation_id).actor == "anna"
    (entry,) = full.recorded
    assert (entry.action, entry.doer, entry.target.id) == (Action.QUEUE_STARTED, WARDEN, queued.launch.id)
    assert (entry.details, entry.operation_id) == (((Detail.OWNER, "anna"),), ended.operation_id)


def test_what_fits_at_once_starts_at_once(bench: Bench) -> None:
    ends(bench, take(bench), QueueState.STARTED)
    assert bench.loaded == ["lab/one"]


def test_one_that_only_tells_starts_nothing_until_its_person_says_so(full: Bench) -> None:
    queued = take(full, by_itself=False)
    full.machine.foreign.clear()
    full.until(lambda: line(full) == [("lab/one", "ready")])
    assert full.loaded == []
    full.wait(full.controller.queue.start_now(queued.launch.id, "anna"))
    ends(full, queued, QueueState.STARTED)
    assert full.loaded == ["lab/one"]


def test_told_too_early_is_taken_back(full: Bench) -> None:
    take(full, by_itself=False)
    full.machine.foreign.clear()
    full.until(lambda: line(full) == [("lab/one", "ready")])
    full.machine.foreign["gpu-0"] = TRAINING
    full.until(lambda: line(full) == [("lab/one", "waiting")])


def test_start_that_is_refused_leaves_it_waiting(full: Bench) -> None:
    queued = take(full, by_itself=False)
    with pytest.raises(NotEnoughMemory):
        full.controller.queue.start_now(queued.launch.id, "anna")
    assert line(full) == [("lab/one", "waiting")]


def test_two_clicks_are_one_launch(full: Bench) -> None:
    first = take(full)
    with pytest.raises(AlreadyWaiting) as caught:
        take(full)
    assert caught.value.params == {"ticket": first.launch.id, "model": "lab/one", "place": 1}
    take(full, actor="boris")
    assert [one.launch.actor for one in full.controller.snapshot().waiting] == ["anna", "boris"]


def test_many_clicks_at_once_take_no_more_than_may(full: Bench) -> None:
    barrier = threading.Barrier(24)

    def click(number: int) -> str:
        barrier.wait(10)
        try:
            return take(full, actor=f"person {number % 12}").launch.id
        except (AlreadyWaiting, QueueFull) as exc:
            return exc.code

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(click, range(24)))
    taken = [answer for answer in answers if answer not in (AlreadyWaiting.code, QueueFull.code)]
    assert len(taken) == 8
    assert sorted(taken) == sorted(full.store.waiting)
    assert [one.place for one in full.controller.snapshot().waiting] == list(range(1, 9))


def test_defect_in_a_start_ends_that_launch_and_the_next_one_starts(full: Bench) -> None:
    def defect(request: SwitchRequest, actor: str) -> Operation:
        if actor == "anna":
            raise ValueError("a defect")
        return full.controller.switch(request, actor)

    waiting = LaunchQueue(full.context, defect, full.controller.cancel, full.controller.operation)
    waiting.take(full.request(), "anna", starts_by_itself=True)
    waiting.take(full.request("lab/two"), "boris", starts_by_itself=True)
    full.machine.foreign.clear()
    waiting.look()
    assert [(one.state, one.outcome) for one in waiting.line.ended] == [(QueueState.FAILED, Message("unexpected"))]
    assert [(one.launch.actor, one.launch.state) for one in waiting.line.queued] == [("boris", QueueState.STARTING)]
    full.until(lambda: full.loaded == ["lab/two"])


def test_start_that_is_refused_keeps_no_other_device_idle(make_bench: Callable[..., Bench]) -> None:
    """The world was another one than the one that was judged: the launch waits, the others have their turn in the same
    look.
    """
    bench = make_bench()
    bench.machine.totals = {"gpu-0": gib(24), "gpu-1": gib(24)}

    def refuse_anna(request: SwitchRequest, actor: str) -> Operation:
        if actor == "anna":
            raise InstanceInUse(model="lab/three", instance="i", in_flight=1, owner="maria")
        return bench.controller.switch(request, actor)

    bench.keeper.start()
    bench.state_store.accept(True)
    waiting = LaunchQueue(bench.context, refuse_anna, bench.controller.cancel, bench.controller.operation)
    waiting.take(bench.request(devices=("gpu-0",)), "anna", starts_by_itself=True)
    waiting.take(bench.request("lab/two", devices=("gpu-1",)), "boris", starts_by_itself=True)
    waiting.look()
    assert [(one.launch.actor, one.launch.state.value) for one in waiting.line.queued] == [
        ("anna", "waiting"),
        ("boris", "starting"),
    ]
    bench.until(lambda: bench.loaded == ["lab/two"])


def loads(bench: Bench, model_id: str, actor: str) -> Operation:
    """A person has pressed Apply, and the model is on its way; it becomes ready when ``bench.runtime.gate`` is opened."""
    bench.runtime.gate = threading.Event()
    operation = bench.controller.switch(bench.request(model_id), actor)
    assert bench.runtime.launching.wait(10)
    return operation


@pytest.mark.parametrize("by_itself", [True, False])
def test_model_that_another_person_loaded_meanwhile_ends_the_launch_as_satisfied(bench: Bench, by_itself: bool) -> None:
    loading = loads(bench, "lab/one", "ivan")
    queued = take(bench, by_itself=by_itself)
    assert queued.why is not None
    assert queued.why.code == "waits_operation"
    assert bench.runtime.gate is not None
    bench.runtime.gate.set()
    bench.wait(loading)
    ended = ends(bench, queued, QueueState.STARTED)
    assert ended.outcome == Message("ticket_satisfied", {"model": "lab/one", "owner": "ivan"})
    assert (ended.operation_id, bench.loaded, len(bench.runtime.launched)) == (None, ["lab/one"], 1)


def test_after_a_satisfied_launch_the_line_goes_on_for_everybody(bench: Bench) -> None:
    loading = loads(bench, "lab/one", "ivan")
    satisfied, later = take(bench), take(bench, "lab/two", "boris")
    assert bench.runtime.gate is not None
    bench.runtime.gate.set()
    bench.wait(loading)
    ends(bench, satisfied, QueueState.STARTED)
    ends(bench, later, QueueState.STARTED)
    assert bench.loaded == ["lab/one", "lab/two"]
    assert [t.state for t in bench.store.waiting.values()] == [QueueState.STARTED] * 2


BROKEN = model("lab/broken", shape=replace(SHAPE, experts="odd"))  # type: ignore[arg-type]
"""A model whose facts are not what the arithmetic of a plan counts on: it raises what nobody expects."""


def broken_launch(bench: Bench, number: int = 1, **changes: object) -> QueuedLaunch:
    """A queued launch of an earlier Warden's that cannot be judged."""
    bench.catalog.models = (*bench.catalog.models, BROKEN)
    made = QueuedLaunch("broken", number, bench.request(BROKEN.id), "eve", time.time(), **changes)  # type: ignore[arg-type]
    bench.store.waiting = {made.id: made}
    return made


@pytest.fixture
def beside_broken(make_bench: Callable[..., Bench]) -> Bench:
    """A full GPU, and in the first place a launch that cannot be judged."""
    bench = make_bench()
    broken_launch(bench)
    bench.machine.foreign["gpu-0"] = TRAINING
    bench.controller.start()
    bench.until(lambda: [o.why and o.why.code for o in bench.controller.snapshot().waiting] == ["waits_unjudged"])
    return bench


def test_launch_that_cannot_be_judged_says_so_and_why(beside_broken: Bench) -> None:
    (one,) = beside_broken.controller.snapshot().waiting
    assert one.why == Message("waits_unjudged", {"detail": "AttributeError"})
    assert (one.devices, one.behind) == (frozenset(), None)


def test_launch_that_cannot_be_judged_is_logged_once(beside_broken: Bench, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        beside_broken.controller.queue.look()
    assert [r.levelname for r in caplog.records if "broken" in r.getMessage()] in ([], ["ERROR"])


def test_others_are_taken_judged_told_started_and_saved_beside_one_that_cannot_be_judged(beside_broken: Bench) -> None:
    by_itself = take(beside_broken)
    told = take(beside_broken, "lab/two", "boris", by_itself=False)
    beside_broken.controller.queue.cancel(take(beside_broken, "lab/three", "olga").launch.id, "olga")
    beside_broken.machine.foreign.clear()
    ends(beside_broken, by_itself, QueueState.STARTED)
    beside_broken.until(lambda: ("lab/two", "ready") in line(beside_broken))
    beside_broken.until(lambda: beside_broken.store.waiting[told.launch.id].state is QueueState.READY)
    states = [t.state.value for t in beside_broken.store.waiting.values() if t.actor in ("anna", "olga")]
    assert states == ["started", "cancelled"]


def test_others_expire_beside_one_that_cannot_be_judged(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(queue_wait_hours=1.0)
    broken_launch(bench)
    bench.machine.foreign["gpu-0"] = TRAINING
    bench.controller.start()
    queued = take(bench)
    bench.ahead_s = 3601
    ends(bench, queued, QueueState.EXPIRED)
    bench.until(lambda: [t.state for t in bench.store.waiting.values()] == [QueueState.EXPIRED] * 2)


def test_one_that_cannot_be_judged_is_taken_back(beside_broken: Bench) -> None:
    assert beside_broken.controller.queue.cancel("broken", "eve").state is QueueState.CANCELLED
    assert line(beside_broken) == []


def test_launch_that_cannot_be_judged_is_not_taken(full: Bench) -> None:
    full.catalog.models = (*full.catalog.models, BROKEN)
    with pytest.raises(AttributeError):
        take(full, BROKEN.id)
    assert (line(full), full.store.waiting) == ([], {})


def test_launch_is_not_started_before_it_is_in_the_store(bench: Bench) -> None:
    """Until then its person has not been told that it waits, and may be told that it does not."""
    bench.store.gate, written = Gate(), []
    with ThreadPoolExecutor(1) as pool:
        taking = pool.submit(take, bench)
        bench.store.gate.wait_reached()
        bench.controller.queue._look()
        written.append((bench.runtime.launched, line(bench)))
        bench.store.raises = StoreUnavailable(reason="disk full")
        bench.store.gate.open()
        with pytest.raises(NotStored):
            taking.result()
    bench.store.raises = None
    bench.controller.queue.look()
    assert written == [([], [])]
    assert (bench.store.waiting, bench.loaded, bench.runtime.launched) == ({}, [], [])


def test_how_a_launch_ended_is_known_after_a_restart(make_bench: Callable[..., Bench]) -> None:
    first = make_bench()
    first.controller.start()
    queued = take(first)
    ends(first, queued, QueueState.STARTED)
    first.controller.stop()
    again = make_bench()
    again.store.waiting = first.store.waiting
    again.controller.start()
    kept = waited(again, queued.launch.id)
    assert kept is not None
    assert (kept.state, kept.actor) == (QueueState.STARTED, "anna")


def test_line_that_could_not_be_read_at_the_start_is_read_later(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    kept = QueuedLaunch("t7", 7, bench.request("lab/two"), "boris", time.time())
    bench.store.waiting = {kept.id: kept}
    bench.machine.foreign["gpu-0"] = TRAINING
    bench.store.raises = StoreUnavailable(reason="locked")
    bench.controller.start()
    with pytest.raises(NotStored):
        take(bench)
    bench.store.raises = None
    assert take(bench).launch.number == 8
    assert line(bench) == [("lab/two", "waiting"), ("lab/one", "waiting")]


def test_no_more_wait_than_may(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(queue_limit=2)
    bench.controller.start()
    bench.machine.foreign["gpu-0"] = TRAINING
    take(bench)
    take(bench, "lab/two")
    for attempt in (take, check):
        with pytest.raises(QueueFull):
            attempt(bench, "lab/three")
    with pytest.raises(AlreadyWaiting):
        check(bench)
    assert len(bench.store.waiting) == 2


def test_what_waiting_cannot_bring_about_is_refused(bench: Bench) -> None:
    bench.load("lab/one")
    bench.catalog.models = (*bench.catalog.models, model("lab/huge", weights_bytes=gib(40)))
    for model_id, error in (("lab/gone", UnknownModel), ("lab/one", AlreadyLoaded), ("lab/huge", CannotWait)):
        with pytest.raises(error):
            take(bench, model_id)
    with pytest.raises(InvalidRequest):
        take(bench, "lab/two", load_anyway=True)
    assert line(bench) == []


def test_later_one_does_not_pass_it_on_the_same_device(full: Bench) -> None:
    full.catalog.models = (*full.catalog.models, model("lab/large", weights_bytes=gib(15)))
    take(full, "lab/large", keep_others=True)
    small = take(full, "lab/two", actor="boris", keep_others=True)
    full.machine.foreign["gpu-0"] = gib(12)
    full.until(lambda: _has_room_but_waits(full, small))
    full.machine.foreign.clear()
    full.until(lambda: full.loaded == ["lab/large", "lab/two"])
    assert [spec.model_id for spec in full.runtime.launched] == ["lab/large", "lab/two"]


def _has_room_but_waits(bench: Bench, queued: QueueEntry) -> bool:
    now = next(one for one in bench.controller.snapshot().waiting if one.launch.id == queued.launch.id)
    return now.why is None and now.behind is not None


def test_it_waits_for_the_operation_that_runs_there(bench: Bench) -> None:
    bench.runtime.gates["launch"] = Gate()
    running = bench.controller.switch(bench.request("lab/one"), "anna")
    bench.runtime.gates["launch"].wait_reached()
    queued = take(bench, "lab/two")
    assert queued.why is not None
    assert (queued.why.code, queued.why.params["actor"]) == ("waits_operation", "anna")
    bench.runtime.gates["launch"].open()
    bench.wait(running)
    ends(bench, queued, QueueState.STARTED)
    assert bench.loaded == ["lab/two"]


def test_it_waits_until_a_model_in_use_is_idle(bench: Bench) -> None:
    bench.load("lab/one")
    (instance,) = bench.state_store.state.instances.values()

    def busy(count: int) -> None:
        bench.state_store.change(instance.id, lambda i: replace(i, in_flight=count))

    busy(2)
    bench.fill()
    queued = take(bench, "lab/two", unload=(instance.id,))
    assert queued.why is not None
    assert (queued.why.code, queued.why.params["in_flight"]) == ("waits_in_use", 2)
    busy(0)
    ends(bench, queued, QueueState.STARTED)


def test_it_waits_until_another_persons_model_is_released(bench: Bench) -> None:
    until = bench.context.clock() + 3600
    bench.wait(bench.controller.switch(bench.request("lab/one", lease_until=until), "maria"))
    (instance,) = bench.state_store.state.instances.values()
    bench.fill()
    queued = take(bench, "lab/two")
    assert queued.why is not None
    assert (queued.why.code, queued.why.params["owner"]) == ("waits_leased", "maria")
    bench.controller.leases.ask(instance.id, "", "anna")
    assert line(bench) == [("lab/two", "waiting")]
    bench.controller.leases.answer(instance.id, ReleaseAnswer.RELEASE, "", "maria")
    ends(bench, queued, QueueState.STARTED)


def test_those_who_wait_start_in_their_order(full: Bench) -> None:
    first = take(full)
    second = take(full, "lab/two", actor="boris")
    full.machine.foreign.clear()
    ends(full, first, QueueState.STARTED)
    ends(full, second, QueueState.STARTED)
    assert [spec.model_id for spec in full.runtime.launched] == ["lab/one", "lab/two"]


def test_start_that_finds_no_room_at_the_gate_waits_on_after_a_pause(full: Bench) -> None:
    full.monitor.gate = Gate()
    queued = take(full)
    full.machine.foreign.clear()
    full.monitor.gate.wait_reached()  # accepted, and about to read once more
    full.machine.foreign["gpu-0"] = TRAINING
    full.monitor.gate.open()
    full.until(lambda: [one.launch.tries for one in full.controller.snapshot().waiting] == [1])
    (one,) = full.controller.snapshot().waiting
    assert (one.launch.id, one.launch.state, one.launch.operation_id) == (queued.launch.id, QueueState.WAITING, None)
    assert one.launch.not_before is not None
    full.machine.foreign.clear()
    full.until(lambda: [o.why and o.why.code for o in full.controller.snapshot().waiting] == ["waits_pause"])
    assert full.loaded == []


def test_start_that_cannot_be_written_down_waits_until_it_can(bench: Bench) -> None:
    bench.load("lab/one")
    bench.fill()
    preparing = bench.runtime.gates["prepare"] = Gate()
    queued = take(bench, "lab/two", "ivan")
    preparing.wait_reached()  # accepted, and about to write down what goes
    (operation,) = bench.controller.snapshot().running
    bench.store.raises = StoreUnavailable(reason="locked", trouble="locked")
    preparing.open()
    ended = bench.wait(operation)
    assert (ended.error and ended.error.code, bench.loaded) == ("not_stored", ["lab/one"])
    bench.store.raises = None
    ends(bench, queued, QueueState.STARTED)
    assert bench.loaded == ["lab/two"]


def test_start_that_fails_ends_it_with_the_reason(full: Bench) -> None:
    full.runtime.fails["lab/one"] = "dies"
    queued = take(full)
    full.machine.foreign.clear()
    ended = ends(full, queued, QueueState.FAILED)
    assert ended.outcome == Message("worker_died", {"model": "lab/one", "exit": "1"})
    assert line(full) == []


@pytest.mark.parametrize("answers", [True, False])
def test_one_whose_person_may_load_no_more_ends_instead_of_starting(
    make_bench: Callable[..., Bench], answers: bool
) -> None:
    """Where the accounts cannot be read it waits on."""
    asked = threading.Event()

    def may_switch(name: str) -> bool:
        asked.set()
        if answers:
            return name != "anna"
        raise StoreUnavailable(reason="locked")

    bench = with_rights(make_bench(), may_switch)
    bench.controller.start()
    queued = take(bench)
    if answers:
        ended = ends(bench, queued, QueueState.FAILED)
        assert ended.outcome == Message("ticket_without_right", {"actor": "anna"})
    else:
        assert asked.wait(5)
        assert line(bench) == [("lab/one", "waiting")]
    assert bench.loaded == []


def test_one_whose_person_may_load_no_more_leaves_the_line_before_its_turn(make_bench: Callable[..., Bench]) -> None:
    """It would hold its device against all who came later, and a new person of that name would find it."""
    gone: set[str] = set()
    bench = with_rights(make_bench(), lambda name: name not in gone)
    bench.controller.start()
    bench.machine.foreign["gpu-0"] = TRAINING
    blocking = take(bench)
    later = take(bench, "lab/two", "boris")
    gone.add("anna")
    ended = ends(bench, blocking, QueueState.FAILED)
    assert ended.outcome == Message("ticket_without_right", {"actor": "anna"})
    assert line(bench) == [("lab/two", "waiting")]
    bench.machine.foreign.clear()
    ends(bench, later, QueueState.STARTED)


def test_one_that_was_told_and_may_load_no_more_is_ended_too(make_bench: Callable[..., Bench]) -> None:
    gone: set[str] = set()
    bench = with_rights(make_bench(), lambda name: name not in gone)
    bench.controller.start()
    told = take(bench, by_itself=False)
    bench.until(lambda: line(bench) == [("lab/one", "ready")])
    gone.add("anna")
    ends(bench, told, QueueState.FAILED)


def test_accounts_that_cannot_be_read_keep_the_line_as_it_is(make_bench: Callable[..., Bench]) -> None:
    looks: list[str] = []

    def may_switch(name: str) -> bool:
        looks.append(name)
        raise StoreUnavailable(reason="locked")

    bench = with_rights(make_bench(), may_switch)
    bench.controller.start()
    bench.machine.foreign["gpu-0"] = TRAINING
    take(bench)
    seen = len(looks)
    bench.controller.queue.look()
    assert len(looks) > seen
    assert line(bench) == [("lab/one", "waiting")]


def test_one_that_was_taken_back_never_starts(full: Bench) -> None:
    queued = take(full)
    full.controller.queue.cancel(queued.launch.id, "anna")
    full.machine.foreign.clear()
    take(full, "lab/two")
    full.until(lambda: full.loaded == ["lab/two"])
    assert ends(full, queued, QueueState.CANCELLED).operation_id is None
    with pytest.raises(QueuedLaunchEnded):
        full.controller.queue.cancel(queued.launch.id, "anna")
    with pytest.raises(UnknownQueuedLaunch):
        full.controller.queue.cancel("gone", "anna")


def test_taken_back_while_it_starts_its_operation_is_cancelled_and_things_are_put_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.gates["launch"] = Gate()
    queued = take(bench, "lab/two")
    bench.runtime.gates["launch"].wait_reached()
    bench.until(lambda: line(bench) == [("lab/two", "starting")])
    bench.controller.queue.cancel(queued.launch.id, "anna")
    bench.runtime.gates["launch"].open()
    ended = ends(bench, queued, QueueState.CANCELLED)
    assert ended.operation_id is not None
    assert bench.controller.operation(ended.operation_id).state is OperationState.CANCELLED
    assert bench.loaded == ["lab/one"]


def test_cancel_of_its_operation_ends_it_too(bench: Bench) -> None:
    bench.runtime.gates["launch"] = Gate()
    queued = take(bench)
    bench.runtime.gates["launch"].wait_reached()
    (running,) = bench.controller.snapshot().running
    bench.controller.cancel(running.id, "ivan")
    bench.runtime.gates["launch"].open()
    ended = ends(bench, queued, QueueState.CANCELLED)
    assert ended.outcome == Message("cancelled", {"actor": "ivan"})


def test_emergency_pauses_what_waits_until_a_person_lets_it_go_on(full: Bench) -> None:
    queued = take(full)
    told = take(full, "lab/two", by_itself=False)
    full.wait(full.controller.emergency("ivan"))
    full.machine.foreign.clear()
    full.until(lambda: ("lab/two", "ready") in line(full))
    paused, other = full.controller.snapshot().waiting
    assert (paused.launch.paused_by, paused.launch.state) == ("ivan", QueueState.WAITING)
    assert (other.launch.id, other.launch.paused_by) == (told.launch.id, None)
    full.controller.queue.cancel(told.launch.id, "anna")
    full.controller.queue.resume(queued.launch.id, "anna")
    ends(full, queued, QueueState.STARTED)


def test_what_is_taken_back_while_the_store_takes_nothing_is_not_stored_before_it_does(full: Bench) -> None:
    queued = take(full)
    assert full.controller.queue.is_stored(queued.launch.id)
    full.store.raises = StoreUnavailable(reason="locked", trouble="locked")
    full.controller.queue.cancel(queued.launch.id, "anna")
    assert not full.controller.queue.is_stored(queued.launch.id)
    full.store.raises = None
    full.until(lambda: full.controller.queue.is_stored(queued.launch.id))
    assert full.store.waiting[queued.launch.id].state is QueueState.CANCELLED


def test_emergency_pauses_what_waits_although_the_clock_was_set_back(full: Bench) -> None:
    queued = take(full)
    full.later_s = -3600.0
    full.wait(full.controller.emergency("ivan"))
    (waiting,) = full.controller.snapshot().waiting
    assert (waiting.launch.id, waiting.launch.paused_by) == (queued.launch.id, "ivan")


def test_emergency_pauses_what_cannot_be_read_yet(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.store.waiting["old"] = QueuedLaunch("old", 1, bench.request("lab/one"), "anna", time.time())
    bench.store.raises = StoreUnavailable(reason="locked", trouble="locked")
    bench.controller.start()
    bench.wait(bench.controller.emergency("ivan"))
    bench.store.raises = None
    bench.until(lambda: bool(bench.controller.snapshot().waiting))
    assert [one.launch.paused_by for one in bench.controller.snapshot().waiting] == ["ivan"]
    bench.until(lambda: bench.store.waiting["old"].paused_by == "ivan")


def test_emergency_during_its_start_leaves_it_paused(bench: Bench) -> None:
    bench.runtime.gates["launch"] = Gate()
    take(bench)
    bench.runtime.gates["launch"].wait_reached()
    emergency = bench.controller.emergency("ivan")
    bench.runtime.gates["launch"].open()
    bench.wait(emergency)
    bench.until(lambda: [one.launch.paused_by for one in bench.controller.snapshot().waiting] == ["ivan"])
    bench.until(lambda: line(bench) == [("lab/one", "waiting")])
    (one,) = bench.controller.snapshot().waiting
    assert (one.launch.tries, bench.loaded) == (0, [])


def test_it_survives_a_restart_in_its_place(make_bench: Callable[..., Bench]) -> None:
    first = make_bench()
    first.controller.start()
    first.machine.foreign["gpu-0"] = TRAINING
    launches = [take(first).launch.id, take(first, "lab/two", "boris").launch.id]
    first.controller.stop()
    second = make_bench()
    second.store.waiting = first.store.waiting
    second.machine.foreign["gpu-0"] = TRAINING
    second.controller.start()
    second.until(lambda: len(line(second)) == 2)
    assert [one.launch.id for one in second.controller.snapshot().waiting] == launches
    assert take(second, "lab/three").place == 3


@pytest.mark.parametrize("operation_id", [None, "unheard-of"])
def test_cut_off_in_its_start_it_waits_again(make_bench: Callable[..., Bench], operation_id: str | None) -> None:
    bench = make_bench()
    cut = QueuedLaunch(
        "t1", 4, bench.request(), "anna", time.time(), state=QueueState.STARTING, operation_id=operation_id
    )
    bench.store.waiting = {cut.id: cut}
    bench.controller.start()
    bench.until(lambda: waited(bench, "t1") is not None)
    ended = waited(bench, "t1")
    assert ended is not None
    assert (ended.state, ended.operation_id != operation_id, bench.loaded) == (QueueState.STARTED, True, ["lab/one"])


def test_stop_of_warden_in_its_start_leaves_it_waiting(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.controller.start()
    bench.runtime.gate = threading.Event()
    take(bench)
    bench.runtime.launching.wait(10)
    bench.until(lambda: [t.operation_id is not None for t in bench.store.waiting.values()] == [True])
    bench.controller.stop()
    (kept,) = bench.store.waiting.values()
    assert kept.state is QueueState.STARTING
    again = make_bench()
    again.store.waiting, again.store.saved = bench.store.waiting, bench.store.saved
    again.controller.start()
    again.until(lambda: waited(again, kept.id) is not None)
    assert again.loaded == ["lab/one"]


def test_one_that_cannot_be_kept_is_not_taken(full: Bench) -> None:
    full.store.raises = StoreUnavailable(reason="disk full")
    with pytest.raises(NotStored):
        take(full)
    full.store.raises = None
    assert line(full) == []
    assert full.store.waiting == {}


def test_what_could_not_be_written_is_written_later(full: Bench) -> None:
    queued = take(full)
    full.store.raises = StoreUnavailable(reason="disk full")
    full.controller.queue.cancel(queued.launch.id, "anna")
    full.store.raises = None
    full.until(lambda: full.store.waiting[queued.launch.id].state is QueueState.CANCELLED)


def test_one_that_waits_too_long_gives_up(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(queue_wait_hours=1e-9)
    bench.controller.start()
    bench.machine.foreign["gpu-0"] = TRAINING
    ended = ends(bench, take(bench), QueueState.EXPIRED)
    assert ended.outcome is not None
    assert ended.outcome.code == "ticket_waited_long"


def test_place_of_one_who_was_told_is_not_kept_for_ever(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(queue_hold_s=1e-9)
    bench.controller.start()
    bench.machine.foreign["gpu-0"] = TRAINING
    told = take(bench, by_itself=False)
    after = take(bench, "lab/two", actor="boris")
    bench.machine.foreign.clear()
    ended = ends(bench, told, QueueState.EXPIRED)
    assert ended.outcome is not None
    assert ended.outcome.code == "ticket_not_fetched"
    ends(bench, after, QueueState.STARTED)


def test_only_its_person_or_an_administrator_takes_it_back(full: Bench) -> None:
    queued = take(full)
    waiting = full.controller.queue
    with pytest.raises(ForeignQueuedLaunch):
        waiting.cancel(queued.launch.id, "boris", is_administrator=False)
    assert waiting.cancel(queued.launch.id, "anna", is_administrator=False).state is QueueState.CANCELLED


def test_pages_are_told_of_a_change(full: Bench) -> None:
    full.monitor.miss(100)
    before = full.controller.snapshot().version
    queued = take(full)
    after = full.controller.snapshot().version
    assert before != after
    full.controller.queue.cancel(queued.launch.id, "anna")
    assert full.controller.snapshot().version != after
    full.monitor.miss(0)


def test_nothing_is_started_while_warden_stops(full: Bench) -> None:
    take(full)
    full.controller.stop()
    full.machine.foreign.clear()
    full.controller.queue.look()
    assert [o.kind for o in full.controller.snapshot().recent if o.kind is OperationKind.SWITCH] == []


@pytest.mark.parametrize("jump_s", [100 * 86400.0, -100 * 86400.0])
def test_no_jump_of_the_clock_ends_or_prolongs_a_wait(make_bench: Callable[..., Bench], jump_s: float) -> None:
    bench = make_bench(queue_wait_hours=2.0)
    bench.controller.start()
    told = take(bench, by_itself=False)
    bench.until(lambda: line(bench) == [("lab/one", "ready")])
    bench.machine.foreign["gpu-0"] = TRAINING
    waits = take(bench, "lab/two")
    bench.machine.foreign.clear()
    bench.controller.queue.look()
    bench.later_s = jump_s
    bench.controller.queue.look()
    assert sorted(one.launch.id for one in bench.controller.snapshot().waiting) == sorted(
        [told.launch.id, waits.launch.id]
    )
    bench.ahead_s = 2 * 3600 + 1
    bench.until(lambda: waited(bench, told.launch.id) is not None)
    assert waited(bench, told.launch.id).state is QueueState.EXPIRED  # type: ignore[union-attr]


def test_launch_of_before_a_restart_has_waited_by_the_time_of_day(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(queue_wait_hours=2.0)
    old, young, ahead = (
        QueuedLaunch(f"t{n}", n, bench.request(), f"person {n}", time.time() - ago)
        for n, ago in enumerate((3 * 3600, 3600, -86400), 1)
    )
    bench.store.waiting = {one.id: one for one in (old, young, ahead)}
    bench.machine.foreign["gpu-0"] = TRAINING
    bench.controller.start()
    assert bench.controller.snapshot().waiting != ()
    bench.until(lambda: waited(bench, "t1") is not None)
    assert {one.launch.id for one in bench.controller.snapshot().waiting} == {"t2", "t3"}


def test_pause_of_before_a_restart_begins_anew_and_is_no_longer_than_pauses_are(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    kept = QueuedLaunch("t1", 1, bench.request(), "anna", time.time(), tries=1, not_before=1e12)
    bench.store.waiting = {kept.id: kept}
    bench.controller.start()
    bench.until(lambda: [o.why and o.why.code for o in bench.controller.snapshot().waiting] == ["waits_pause"])
    bench.ahead_s = 6.0
    bench.controller.queue.nudge()
    bench.until(lambda: waited(bench, "t1") is not None)
    assert bench.loaded == ["lab/one"]
