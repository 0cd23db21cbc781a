"""What is confirmed is in the store; what the store refuses has not happened, and until that is known it is shown to nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate
from tests.unit.control.test_leases import HOUR, instance_of, load_of_maria, runs_already, told
from tests.unit.control.test_restoring import rounds
from webapp.control.keeping import PLACES
from webapp.control.pausing import NAME, PauseMark, QueuePause
from webapp.domain.instance import Instance
from webapp.domain.lease import Lease, ReleaseAnswer, Terms
from webapp.domain.operation import OperationState
from webapp.errors import InstanceLeased, InstanceStopping, LeasePending, NotStored, StoreUnavailable, Superseded

FULL = StoreUnavailable(reason="disk full", trouble="full", file="/state/warden.db")
KEPT = Lease(until=time.time() + HOUR, reason="eval")
"""What Maria agreed on with an earlier Warden."""


@contextmanager
def held(bench: Bench) -> Iterator[Gate]:
    """Let the store's writes wait for the gate that this gives."""
    gate = bench.store.gate = Gate()
    yield gate
    bench.store.gate = None
    gate.open()


# Leases


@pytest.mark.parametrize("what", ["lease", "ask", "answer", "keep"])
def test_what_is_agreed_on_is_in_the_store_before_the_answer(bench: Bench, what: str) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.controller.leases.ask(instance.id, "paper", "ivan")
    acts: dict[str, Callable[[], Instance]] = {
        "lease": lambda: bench.controller.leases.set(instance.id, Terms.longer(), "maria"),
        "ask": lambda: instance_of(bench),
        "answer": lambda: bench.controller.leases.answer(instance.id, ReleaseAnswer.KEEP, "", "maria"),
        "keep": lambda: bench.controller.leases.keep(instance.id, "maria"),
    }
    agreed = acts[what]().lease
    assert bench.store.terms[instance.id] == agreed


@pytest.mark.parametrize("what", ["lease", "ask", "answer", "keep"])
def test_what_the_store_refuses_changes_nothing(bench: Bench, what: str) -> None:
    instance = load_of_maria(bench, lease_until=None)
    if what == "answer":
        bench.controller.leases.ask(instance.id, "paper", "ivan")
    before, kept = instance_of(bench), dict(bench.store.terms)
    bench.store.raises = FULL
    acts: dict[str, Callable[[], Instance]] = {
        "lease": lambda: bench.controller.leases.set(instance.id, Terms.longer(), "maria"),
        "ask": lambda: bench.controller.leases.ask(instance.id, "paper", "ivan"),
        "answer": lambda: bench.controller.leases.answer(instance.id, ReleaseAnswer.RELEASE, "", "maria"),
        "keep": lambda: bench.controller.leases.keep(instance.id, "maria"),
    }
    with pytest.raises(NotStored) as refusal:
        acts[what]()
    assert refusal.value.params == {"reason": "store_full"}
    assert (instance_of(bench).lease, instance_of(bench).pending) == (before.lease, None)
    assert told(bench, "ivan") == []
    bench.store.raises = None
    assert bench.keeper.flush()
    assert bench.store.terms == kept


def test_a_lease_on_its_way_protects_and_is_shown_to_nobody(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.keeper._deadline_s = 10.0
    with held(bench) as gate, ThreadPoolExecutor(1) as pool:
        answer: Future[Instance] = pool.submit(bench.controller.leases.set, instance.id, Terms.longer(), "maria")
        gate.wait_reached()
        assert instance_of(bench).lease.until is None
        with pytest.raises(LeasePending):
            bench.controller.unload(instance.id, "ivan")
        gate.open()
        assert answer.result().lease.until is not None
    with pytest.raises(InstanceLeased):
        bench.controller.unload(instance.id, "ivan")


def test_terms_that_come_while_others_are_on_their_way_are_made_after_them(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.keeper._deadline_s = 10.0
    with held(bench) as gate, ThreadPoolExecutor(2) as pool:
        longer: Future[Instance] = pool.submit(bench.controller.leases.set, instance.id, Terms.longer(), "maria")
        gate.wait_reached()
        asked: Future[Instance] = pool.submit(bench.controller.leases.ask, instance.id, "paper", "ivan")
        gate.open()
        assert (longer.result().lease.until is not None, asked.result().lease.asked is not None) == (True, True)
    now = instance_of(bench).lease
    assert (now.until, now.asked is not None) == (longer.result().lease.until, True)
    assert bench.store.terms[instance.id] == now


def test_a_lease_of_a_model_that_its_owner_unloads_meanwhile_is_not_confirmed(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.keeper._deadline_s = 10.0
    with held(bench) as gate, ThreadPoolExecutor(2) as pool:
        answer: Future[Instance] = pool.submit(bench.controller.leases.set, instance.id, Terms.longer(), "maria")
        gate.wait_reached()
        bench.runtime.stop_gate = threading.Event()
        unload = pool.submit(bench.controller.unload, instance.id, "maria")
        assert bench.runtime.stopping.wait(10)
        gate.open()
        with pytest.raises(InstanceStopping):
            answer.result()
        bench.runtime.stop_gate.set()
        bench.wait(unload.result())
    bench.until(lambda: instance.id not in bench.store.terms)


def test_a_silence_that_cannot_be_written_counts_once_it_can_and_tells_nobody_before(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.controller.leases.ask(instance.id, "", "ivan")
    bench.store.raises = FULL
    bench.at(61)
    bench.until(lambda: bench.keeper.trouble is not None)
    bench.controller.leases.look()
    assert (told(bench, "ivan"), instance_of(bench).lease.asked is not None) == ([], True)
    bench.store.raises = None
    bench.until(lambda: told(bench, "ivan") == ["release_given_silently"])
    assert bench.store.terms[instance.id] == instance_of(bench).lease


def test_a_database_that_takes_no_write_at_the_start_gives_the_leases_and_keeps_them(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    runs_already(bench)
    bench.store.terms = {"old": KEPT}
    bench.store.takes_nothing = FULL
    bench.controller.start()
    assert instance_of(bench).lease == KEPT
    bench.store.is_renewed, bench.store.takes_nothing = True, None
    bench.until(lambda: not bench.store.is_renewed)
    assert bench.keeper.flush()
    assert bench.store.terms == {"old": KEPT}


def test_leases_that_cannot_be_read_at_the_start_are_read_later_and_written_over_by_nobody(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench()
    runs_already(bench)
    bench.store.terms = {"old": KEPT}
    bench.store.raises = FULL
    bench.controller.start()
    with pytest.raises(NotStored):
        bench.controller.leases.ask("old", "paper", "ivan")
    bench.store.is_renewed, bench.store.raises = True, None
    bench.until(lambda: instance_of(bench).lease == KEPT)
    assert bench.keeper.flush()
    assert bench.store.terms == {"old": KEPT}
    bench.controller.leases.ask("old", "paper", "ivan")
    assert bench.store.terms["old"].until == KEPT.until


# Operations


def test_a_switch_is_in_the_store_with_its_lease_before_its_answer(bench: Bench) -> None:
    operation = bench.controller.switch(bench.request("lab/one", lease_until=bench.context.clock() + HOUR), "maria")
    assert bench.store.saved[operation.id].is_running
    assert operation.instance_id is not None
    assert bench.store.terms[operation.instance_id].until is not None
    bench.wait(operation)


def test_a_switch_that_the_store_refuses_has_not_happened(bench: Bench) -> None:
    bench.store.raises = FULL
    with pytest.raises(NotStored):
        bench.controller.switch(bench.request("lab/one", lease_until=bench.context.clock() + HOUR), "maria")
    state = bench.state_store.state
    assert (state.running, state.claims, state.pending, state.recent) == ({}, {}, frozenset(), ())
    assert bench.runtime.launched == []
    bench.store.raises = None
    assert bench.keeper.flush()
    assert (bench.store.saved, bench.store.terms) == ({}, {})
    assert bench.load("lab/one").state is OperationState.SUCCEEDED


def test_a_switch_on_its_way_claims_and_is_shown_to_nobody(bench: Bench) -> None:
    bench.keeper._deadline_s = 10.0
    with held(bench) as gate, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(bench.controller.switch, bench.request("lab/one"), "maria")
        gate.wait_reached()
        assert bench.state_store.state.claims
        assert bench.controller.snapshot().running == ()
        assert bench.runtime.launched == []
        gate.open()
        assert bench.wait(answer.result()).state is OperationState.SUCCEEDED


def test_an_emergency_ends_a_switch_that_is_still_on_its_way(bench: Bench) -> None:
    bench.keeper._deadline_s = 10.0
    with held(bench) as gate, ThreadPoolExecutor(2) as pool:
        answer = pool.submit(bench.controller.switch, bench.request("lab/one"), "maria")
        gate.wait_reached()
        emergency = pool.submit(bench.controller.emergency, "ivan")
        bench.until(lambda: bool(bench.state_store.state.recent))
        gate.open()
        with pytest.raises(Superseded):
            answer.result()
        bench.wait(emergency.result())
    assert bench.runtime.launched == []
    assert {o.state for o in bench.store.saved.values()} == {OperationState.CANCELLED, OperationState.SUCCEEDED}


def test_what_frees_memory_acts_first_and_says_that_it_is_not_stored(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    bench.store.raises = FULL
    unload = bench.controller.unload(instance.id, "maria")
    assert bench.wait(unload).state is OperationState.SUCCEEDED
    clean = bench.wait(bench.controller.clean("maria"))
    emergency = bench.wait(bench.controller.emergency("maria"))
    ids = [unload.id, clean.id, emergency.id]
    assert [bench.controller.is_stored(one) for one in ids] == [False, False, False]
    bench.store.raises = None
    assert bench.keeper.flush()
    assert [bench.controller.is_stored(one) for one in ids] == [True, True, True]
    assert all(bench.store.saved[one].state is OperationState.SUCCEEDED for one in ids)


def test_no_value_of_an_operation_is_written_twice(bench: Bench) -> None:
    loaded = bench.load("lab/one")
    unloaded = bench.wait(bench.controller.unload(instance_of(bench).id, "ivan"))
    for ended in (loaded, unloaded):
        values = [value for value in bench.store.written if value.id == ended.id]
        assert all(value != before for before, value in pairwise(values))


def test_requests_that_wait_for_a_write_keep_no_operation_from_its_own(bench: Bench) -> None:
    bench.load("lab/one")
    bench.fill()
    preparing = bench.runtime.gates["prepare"] = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    preparing.wait_reached()  # it is about to write down what goes
    with ExitStack() as waiting:
        for _ in range(PLACES):
            waiting.enter_context(bench.keeper.place())
        preparing.open()
        assert bench.wait(operation).state is OperationState.SUCCEEDED


def test_what_acts_is_stored_when_it_is_answered(bench: Bench) -> None:
    instance = load_of_maria(bench, lease_until=None)
    operation = bench.controller.unload(instance.id, "maria")
    assert operation.id in bench.store.saved
    bench.wait(operation)


def test_a_database_that_was_made_anew_has_all_that_is_in_memory(bench: Bench) -> None:
    instance = load_of_maria(bench)
    bench.machine.foreign["gpu-0"] = 20 * 2**30
    queued = bench.controller.enqueue(bench.request("lab/two", keep_others=True), "ivan", starts_by_itself=True)
    for kept in (bench.store.saved, bench.store.terms, bench.store.waiting):
        kept.clear()
    bench.store.is_renewed = True
    bench.until(lambda: bool(bench.store.saved and bench.store.terms and bench.store.waiting))
    assert list(bench.store.terms) == [instance.id]
    assert list(bench.store.waiting) == [queued.launch.id]


def test_old_operations_are_dropped_after_the_days_of_the_setting(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(operation_days=2.0)
    bench.controller.start()
    bench.until(lambda: bool(bench.store.pruned))
    assert bench.store.pruned[0] == pytest.approx(bench.context.clock() - 2 * 86400, abs=30)


def test_trouble_is_in_the_snapshot_and_in_the_health(bench: Bench) -> None:
    version = bench.controller.snapshot().version
    bench.store.raises = FULL
    bench.until(lambda: bench.controller.snapshot().store_problem is not None)
    health = bench.controller.health()
    assert (health.ok, health.store_problem) == (False, bench.controller.snapshot().store_problem)
    assert bench.controller.snapshot().version != version
    bench.store.raises = None
    bench.until(lambda: bench.controller.health().store_problem is None)


# The pause of an emergency


def waits(bench: Bench) -> str:
    bench.machine.foreign["gpu-0"] = 23 * 2**30
    return bench.controller.enqueue(bench.request("lab/two"), "ivan", starts_by_itself=True).launch.id


def test_a_pause_that_the_store_could_not_take_counts_after_a_restart(
    make_bench: Callable[..., Bench], settings: object
) -> None:
    first, second = make_bench(), make_bench()
    first.controller.start()
    launch_id = waits(first)
    first.store.raises = FULL
    first.wait(first.controller.emergency("maria"))
    first.controller.stop()
    second.store.waiting = dict(first.store.waiting)  # what a Warden finds that starts after this one
    assert second.store.waiting[launch_id].paused_by is None
    second.controller.start()
    second.until(lambda: second.store.waiting[launch_id].paused_by == "maria")
    assert second.state_store.state.running == {}


def test_what_an_emergency_has_cleared_stays_so_after_a_restart_although_the_store_took_nothing(
    make_bench: Callable[..., Bench],
) -> None:
    first, second = make_bench(), make_bench()
    first.controller.start()
    first.load("lab/one")
    first.runtime.fails["lab/two"] = "crawls"
    switch = first.controller.switch(first.request("lab/two"), "ivan")
    first.until(lambda: first.loaded == ["lab/two"])
    assert first.keeper.flush()
    first.store.raises = FULL
    first.wait(first.controller.emergency("maria"))
    first.controller.stop()
    second.store.saved = dict(first.store.saved)
    assert second.store.saved[switch.id].is_running
    second.controller.start()
    rounds(second)
    assert second.runtime.launched == []
    assert second.wait(second.controller.restore(switch.id, "ivan")).state is OperationState.SUCCEEDED


def test_what_an_emergency_ends_is_stored_when_it_is_answered(bench: Bench) -> None:
    bench.runtime.fails["lab/one"] = "crawls"
    switch = bench.controller.switch(bench.request("lab/one"), "ivan")
    bench.until(lambda: bench.loaded == ["lab/one"])
    emergency = bench.controller.emergency("maria")
    assert bench.store.saved[switch.id].state is OperationState.CANCELLED
    bench.wait(emergency)


def test_the_mark_of_a_pause_goes_once_the_store_has_it(bench: Bench) -> None:
    launch_id = waits(bench)
    bench.wait(bench.controller.emergency("maria"))
    bench.until(lambda: bench.store.waiting[launch_id].paused_by == "maria")
    bench.until(lambda: PauseMark(bench.settings.storage.state_dir).start() is None)


class SlowMark(PauseMark):
    """One that waits at its gate before it is left, and not before it is removed."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.gate = Gate()

    def _write(self, text: str) -> None:
        if text:
            self.gate.pass_through()
        super()._write(text)


def test_a_mark_that_is_removed_while_it_is_being_left_can_be_removed_once_more(tmp_path: Path) -> None:
    mark = SlowMark(tmp_path)
    mark.start()
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(mark.set, QueuePause("maria", 12.5))
        mark.gate.wait_reached()
        removed = pool.submit(mark.clear, lambda: True)
        wait([removed], timeout=0.2)
        mark.gate.open()
        left.result()
        removed.result()
    mark.clear(lambda: True)
    assert PauseMark(tmp_path).start() is None


def test_a_mark_stays_as_long_as_the_store_has_not_the_pause(tmp_path: Path) -> None:
    mark = PauseMark(tmp_path)
    mark.start()
    mark.set(QueuePause("maria", 12.5))
    mark.clear(lambda: False)
    assert PauseMark(tmp_path).start() == QueuePause("maria", 12.5)


def test_a_mark_is_left_on_a_full_disk_and_an_unreadable_one_is_none(tmp_path: Path) -> None:
    mark = PauseMark(tmp_path)
    assert mark.start() is None
    size = (tmp_path / NAME).stat().st_size
    mark.set(QueuePause("maria", 12.5))
    assert (tmp_path / NAME).stat().st_size == size  # written over in place: no new block is needed
    assert PauseMark(tmp_path).start() == QueuePause("maria", 12.5)
    mark.clear(lambda: True)
    assert PauseMark(tmp_path).start() is None
    (tmp_path / NAME).write_text("{")
    assert PauseMark(tmp_path).start() is None


def test_a_folder_that_is_gone_keeps_no_emergency_from_acting(tmp_path: Path) -> None:
    mark = PauseMark(tmp_path / "gone")
    assert mark.start() is None
    mark.set(QueuePause("maria", 12.5))
