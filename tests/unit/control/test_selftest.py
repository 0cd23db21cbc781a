"""The self-test as an operation: next to the loaded models, one at a time, cancelled at any step, without leftovers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import SHAPE, FakeCatalog, FakeDemo, FakeRuntime, FakeStore, Gate
from webapp.control.context import Context
from webapp.control.contract import Question
from webapp.control.controller import Controller
from webapp.control.journal import Journal
from webapp.control.keeping import Keeper
from webapp.control.lock import StateLock
from webapp.control.state import StateStore
from webapp.domain.instance import InstanceState
from webapp.domain.model import WeightFacts
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationFilter, OperationKind, OperationState
from webapp.domain.selftest import CheckMark, CheckName, Witness
from webapp.domain.units import GIB, MIB, gib
from webapp.errors import AlreadyRunning, Busy, SandboxFailed, StoreUnavailable, WorkerSilent

TAKES_BYTES = 300 * MIB


class TalkingController(Controller):
    """A controller whose models answer without a process."""

    pieces: Iterable[str] = ("Hello", " there")

    def ask(self, instance_id: str, question: Question) -> Iterator[str]:
        return iter(self.pieces)


class FakeSandbox:
    """A second controller over fakes, on the same machine."""

    def __init__(self, context: Context, runtime: FakeRuntime, pieces: Iterable[str]) -> None:
        self.controller = TalkingController(context, StateLock(context.settings.storage.state_dir))
        self.controller.pieces = pieces
        self.runtime = runtime

    def processes(self) -> Mapping[int, str]:
        return self.runtime.processes()


class FakeSandboxes:
    """Makes one; its knobs are the runtime's and ``refuses``."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.runtime = FakeRuntime(bench.machine, takes_bytes=TAKES_BYTES)
        self.pieces: Iterable[str] = ("Hello", " there")
        self.refuses: Exception | None = None
        self.fails_at_the_end: Exception | None = None
        self.opened = 0
        self.closed = 0

    @contextmanager
    def open(self, limit_bytes: int) -> Iterator[FakeSandbox]:
        if self.refuses is not None:
            raise self.refuses
        self.opened += 1
        catalog = FakeCatalog()
        settings = self.bench.settings.changed(
            state_dir=self.folder, memory_limit_gib=limit_bytes / GIB, on_stop="unload"
        )
        store = FakeStore()
        keeper, state_store = Keeper(store), StateStore()
        context = Context(
            settings=settings,
            state_store=state_store,
            keeper=keeper,
            journal=Journal(store, keeper, state_store),
            monitor=self.bench.monitor,
            catalog=catalog,
            runtimes={Mode.TRANSFORMERS: self.runtime},
            demo=TinyDemo(catalog),
            clock=self.bench.context.clock,
            monotonic=self.bench.context.monotonic,
        )
        sandbox = FakeSandbox(context, self.runtime, self.pieces)
        sandbox.controller.start()
        try:
            yield sandbox
        finally:
            self.runtime.open_gates()
            sandbox.controller.stop()
            self.closed += 1
            if self.fails_at_the_end is not None:
                raise self.fails_at_the_end

    def witnesses(self) -> Mapping[str, Witness]:
        return {}


class TinyDemo(FakeDemo):
    """Creates a model that is small compared with everything but a batch of a thousand."""

    def make(self, wait: Callable[[float], None]) -> str:
        made = super().make(wait)
        shape = replace(SHAPE, kv_heads=4, head_dim=64)
        tiny = WeightFacts(bytes=MIB, elements=MIB // 2, linear_elements=0, linear_rows=0, dtypes=(("BF16", MIB // 2),))
        self.catalog.models = tuple(replace(m, weights=tiny, shape=shape) for m in self.catalog.models)
        return made


@pytest.fixture
def tested(make_bench: Callable[..., Bench], tmp_path: Path) -> Bench:
    """A bench that can test itself."""
    bench = make_bench()
    sandboxes = FakeSandboxes(bench, tmp_path / "sandbox")
    bench.context = replace(bench.context, sandboxes=sandboxes)
    bench.controller = Controller(bench.context, StateLock(bench.settings.storage.state_dir))
    bench.controller.start()
    return bench


def sandboxes_of(bench: Bench) -> FakeSandboxes:
    assert isinstance(bench.context.sandboxes, FakeSandboxes)
    return bench.context.sandboxes


def marks(operation: Operation) -> dict[CheckName, CheckMark]:
    return {check.name: check.mark for check in operation.checks}


def test_everything_is_checked_beside_what_is_loaded_and_nothing_of_it_stays(tested: Bench) -> None:
    tested.load("lab/one")
    before = tested.state_store.state.instances

    operation = tested.wait(tested.controller.selftest("ivan"))

    bad = {c.name: c.seen for c in operation.checks if c.mark is not CheckMark.OK}
    assert list(bad) == [CheckName.VLLM], bad
    assert [check.name for check in operation.checks] == list(CheckName)
    assert operation.state is OperationState.WARNING
    assert tested.state_store.state.instances == before
    assert {owner for _, owner in tested.machine.held} == set(before)
    assert tested.state_store.state.claims == {}
    assert sandboxes_of(tested).closed == 1


def test_it_is_kept_with_its_checks(tested: Bench) -> None:
    operation = tested.wait(tested.controller.selftest("ivan"))

    assert tested.store.saved[operation.id].checks == operation.checks
    assert tested.controller.operations(5, OperationFilter(kind=OperationKind.SELFTEST)) == (operation,)


def test_a_second_self_test_is_refused_while_one_runs(tested: Bench) -> None:
    gate = sandboxes_of(tested).runtime.gates["launch"] = Gate()
    first = tested.controller.selftest("ivan")
    gate.wait_reached()

    with pytest.raises(Busy) as caught:
        tested.controller.selftest("anna")

    assert caught.value.params["operation"] == first.id
    gate.open()
    tested.wait(first)


def test_while_it_loads_no_switch_runs_on_its_device(tested: Bench) -> None:
    gate = sandboxes_of(tested).runtime.gates["launch"] = Gate()
    operation = tested.controller.selftest("ivan")
    gate.wait_reached()

    with pytest.raises(Busy):
        tested.controller.switch(tested.request("lab/one"), "anna")

    gate.open()
    tested.wait(operation)


def test_without_room_it_says_what_it_needs_and_touches_nothing(tested: Bench) -> None:
    tested.machine.foreign["gpu-0"] = gib(24) - 600 * MIB

    operation = tested.wait(tested.controller.selftest("ivan"))

    switch = next(check for check in operation.checks if check.name is CheckName.SWITCH)
    assert (switch.mark, switch.seen.code) == (CheckMark.WARNING, "selftest_no_room")
    assert switch.seen.params["needed_bytes"]
    assert marks(operation)[CheckName.UNLOAD] is CheckMark.SKIPPED
    assert sandboxes_of(tested).runtime.launched == []


def test_the_memory_limit_counts_what_the_real_models_hold(make_bench: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make_bench(memory_limit_gib=3.0)
    bench.context = replace(bench.context, sandboxes=FakeSandboxes(bench, tmp_path / "sandbox"))
    bench.controller = Controller(bench.context, StateLock(bench.settings.storage.state_dir))
    bench.controller.start()
    bench.load("lab/one")

    operation = bench.wait(bench.controller.selftest("ivan"))

    assert marks(operation)[CheckName.SWITCH] is CheckMark.WARNING
    assert [i.state for i in bench.state_store.state.instances.values()] == [InstanceState.READY]


def test_a_device_that_another_operation_uses_is_left_to_it(tested: Bench) -> None:
    gate = tested.runtime.gates["launch"] = Gate()
    other = tested.controller.switch(tested.request("lab/one"), "anna")
    gate.wait_reached()

    operation = tested.wait(tested.controller.selftest("ivan"))

    switch = next(check for check in operation.checks if check.name is CheckName.SWITCH)
    assert (switch.mark, switch.seen.code) == (CheckMark.WARNING, "busy")
    gate.open()
    assert tested.wait(other).state is OperationState.SUCCEEDED


@pytest.mark.parametrize("where", ["launch", "clean", "ask"])
def test_a_cancel_is_heard_at_every_step_and_leaves_nothing(tested: Bench, where: str) -> None:
    gate = sandboxes_of(tested).runtime.gates[where] = Gate()
    operation = tested.controller.selftest("ivan")
    gate.wait_reached()

    tested.controller.cancel(operation.id, "anna")
    ended = tested.wait(operation)

    assert ended.state is OperationState.CANCELLED
    assert tested.machine.held == {}
    assert tested.state_store.state.claims == {}


def test_an_emergency_ends_it_and_it_clears_up_behind_itself(tested: Bench) -> None:
    gate = sandboxes_of(tested).runtime.gates["launch"] = Gate()
    operation = tested.controller.selftest("ivan")
    gate.wait_reached()
    thread = tested.thread_of(operation)

    tested.wait(tested.controller.emergency("anna"))
    assert thread is not None
    thread.join(10)

    assert tested.controller.operation(operation.id).state is OperationState.CANCELLED
    assert tested.machine.held == {}


def test_a_load_that_fails_is_seen_and_what_rests_on_it_is_skipped(tested: Bench) -> None:
    sandboxes_of(tested).runtime.fails["warden/demo"] = "dies"

    operation = tested.wait(tested.controller.selftest("ivan"))

    assert operation.state is OperationState.FAILED
    assert marks(operation)[CheckName.SWITCH] is CheckMark.FAILED
    assert marks(operation)[CheckName.REPLACE] is CheckMark.SKIPPED


def test_a_clean_that_fails_is_seen(tested: Bench) -> None:
    sandboxes_of(tested).runtime.raises["clean"] = WorkerSilent(instance="i", seconds=2.0)

    operation = tested.wait(tested.controller.selftest("ivan"))

    assert marks(operation)[CheckName.CLEAN] is CheckMark.FAILED


def test_an_answer_without_a_word_is_seen(tested: Bench) -> None:
    sandboxes_of(tested).pieces = ()

    assert marks(tested.wait(tested.controller.selftest("ivan")))[CheckName.ANSWER] is CheckMark.FAILED


class Silent:
    """An answer that does not begin before its gate is open."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __iter__(self) -> Iterator[str]:
        self.gate.pass_through()
        return iter(())


def test_answer_that_does_not_come_is_given_up_after_a_minute(tested: Bench) -> None:
    silent = sandboxes_of(tested).pieces = Silent()
    operation = tested.controller.selftest("ivan")
    silent.gate.wait_reached()
    tested.ahead_s = 61.0
    tested.until(lambda: CheckName.ANSWER in marks(tested.controller.operation(operation.id)))
    silent.gate.open()

    (check,) = [check for check in tested.wait(operation).checks if check.name is CheckName.ANSWER]
    assert (check.mark, check.seen.code) == (CheckMark.FAILED, "generation_failed")


def test_memory_that_is_not_given_back_is_seen(tested: Bench) -> None:
    sandboxes_of(tested).runtime.leaks.add("warden/demo")

    found = marks(tested.wait(tested.controller.selftest("ivan")))

    assert CheckMark.OK not in (found[CheckName.REPLACE], found[CheckName.UNLOAD])


def test_a_sandbox_that_cannot_be_made_fails_the_rest(tested: Bench) -> None:
    sandboxes_of(tested).refuses = SandboxFailed(detail="No space left on device")

    operation = tested.wait(tested.controller.selftest("ivan"))

    assert marks(operation)[CheckName.MODEL] is CheckMark.FAILED
    assert [c.name for c in operation.checks] == list(CheckName)


def test_another_self_test_in_the_same_folder_is_a_warning(tested: Bench) -> None:
    sandboxes_of(tested).refuses = AlreadyRunning(state_dir="/s", pid="1")

    assert marks(tested.wait(tested.controller.selftest("ivan")))[CheckName.MODEL] is CheckMark.WARNING


def test_what_cannot_be_removed_is_a_line_of_the_result(tested: Bench) -> None:
    sandboxes_of(tested).fails_at_the_end = SandboxFailed(detail="pid 7 is still there")

    operation = tested.wait(tested.controller.selftest("ivan"))

    assert [f.message.code for f in operation.findings if not f.ok] == ["sandbox_failed"]
    assert operation.state is not OperationState.SUCCEEDED


def test_a_store_that_keeps_nothing_is_seen(tested: Bench) -> None:
    tested.store.raises = StoreUnavailable(reason="disk full")
    operation = tested.controller.selftest("ivan")
    tested.until(lambda: not tested.controller.operation(operation.id).is_running)

    assert marks(tested.controller.operation(operation.id))[CheckName.STATE] is CheckMark.FAILED
