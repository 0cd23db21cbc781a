"""A controller over fakes, started and stopped around each test."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.control.fakes import (
    FakeCatalog,
    FakeDemo,
    FakeHost,
    FakeMachine,
    FakeMonitor,
    FakeRuntime,
    FakeStore,
    model,
)
from webapp.control.calibration import Calibrator
from webapp.control.context import Context
from webapp.control.controller import Controller
from webapp.control.idleness import Idleness
from webapp.control.journal import Journal
from webapp.control.keeping import Keeper
from webapp.control.lock import StateLock
from webapp.control.pausing import PauseMark
from webapp.control.state import StateStore
from webapp.control.terms import Leases
from webapp.domain.audit import AuditEntry
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib
from webapp.message import Message
from webapp.settings import Settings, load_settings

NO_DOCKER = Message("engine_missing", {"socket": "/var/run/docker.sock"})


class Bench:
    """A controller with its fakes at hand."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ahead_s = 0.0
        """How far the controller's clock for durations is ahead of the real one."""
        self.later_s = 0.0
        """How far the controller's clock is ahead of the real one; alone, that is a time of day that was set."""
        self.machine = FakeMachine()
        self.monitor = FakeMonitor(self.machine)
        self.runtime = FakeRuntime(self.machine)
        self.vllm = FakeRuntime(self.machine, Mode.VLLM, problem=NO_DOCKER)
        self.host = FakeHost(self.machine)
        self.catalog = FakeCatalog(model("lab/one"), model("lab/two"), model("lab/three"))
        self.store = FakeStore()
        self.state_store = StateStore()
        self.recorded: list[AuditEntry] = []
        self.keeper = Keeper(self.store, deadline_s=0.3, retry_s=0.05, drain_s=0.3)
        self.context = Context(
            settings=settings,
            state_store=self.state_store,
            keeper=self.keeper,
            journal=Journal(self.store, self.keeper, self.state_store),
            monitor=self.monitor,
            catalog=self.catalog,
            runtimes={Mode.TRANSFORMERS: self.runtime, Mode.VLLM: self.vllm},
            containers=self.host,
            calibrator=Calibrator(self.store, self.keeper),
            queue_store=self.store,
            demo=FakeDemo(self.catalog),
            pause_mark=PauseMark(settings.storage.state_dir),
            leases=Leases(self.store, self.keeper),
            idleness=Idleness(lambda: time.monotonic() + self.ahead_s),
            record=self.recorded.append,
            clock=lambda: time.time() + self.later_s,
            monotonic=lambda: time.monotonic() + self.ahead_s,
        )
        self.controller = Controller(self.context, StateLock(settings.storage.state_dir))

    def rebuild(self, **parts: object) -> None:
        """Build the controller again with other parts."""
        self.context = replace(self.context, **parts)  # type: ignore[arg-type]
        self.controller = Controller(self.context, StateLock(self.settings.storage.state_dir))

    def at(self, seconds: float) -> None:
        """Let it be so many seconds after the start of the test, by both clocks; Warden looks every few of the last two
        minutes.
        """
        self.controller.leases.look()
        while self.ahead_s < seconds:
            self.ahead_s = max(seconds - 120.0, min(self.ahead_s + 5.0, seconds))
            self.later_s = self.ahead_s
            self.controller.leases.look()

    def request(self, model_id: str = "lab/one", **changes: object) -> SwitchRequest:
        return SwitchRequest(Mode.TRANSFORMERS, model_id, LaunchOptions(), **changes)  # type: ignore[arg-type]

    def load(self, model_id: str = "lab/one", **changes: object) -> Operation:
        """Switch to a model and wait for the end."""
        return self.wait(self.controller.switch(self.request(model_id, **changes), "ivan"))

    def fill(self) -> None:
        """Let another process leave room for one small model."""
        self.machine.foreign["gpu-0"] = gib(20)

    def wait(self, operation: Operation) -> Operation:
        """Wait for an operation to end and return it as it ended."""
        self.until(lambda: not self.controller.operation(operation.id).is_running)
        if (thread := self.thread_of(operation)) is not None:
            thread.join(10)
        assert self.store.raises is not None or self.context.journal.flush()
        return self.controller.operation(operation.id)

    def thread_of(self, operation: Operation) -> threading.Thread | None:
        """The thread of an operation that still acts, ``None`` once it has ended."""
        return next((t for t in threading.enumerate() if operation.id in t.name), None)

    def open_gates(self) -> None:
        """Let everybody go on, for the end of a test."""
        self.runtime.open_gates()
        self.vllm.open_gates()
        for gate in (self.store.gate, self.monitor.gate):
            if gate is not None:
                gate.open()

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition`` holds, at most 10 s."""
        pause, deadline = threading.Event(), time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, "what was waited for did not come"
            pause.wait(0.005)

    @property
    def loaded(self) -> list[str]:
        """The models on the list, with the memory that they hold known to be theirs."""
        return sorted(i.model_id for i in self.state_store.state.instances.values())


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        state_dir=tmp_path / "state",
        hf_cache=tmp_path / "cache",
        settle_poll_s=0.01,
        settle_warn_s=0.05,
        settle_deadline_s=0.2,
        launch_stall_s=0.3,
        cooldown_s=5.0,
        undo_s=0,
    )


@pytest.fixture
def make_bench(settings: Settings) -> Iterator[Callable[..., Bench]]:
    """Make a bench that is not started, with some settings changed; it is stopped after the test."""
    made: list[Bench] = []

    def make(**changes: object) -> Bench:
        made.append(Bench(settings.changed(**changes)))
        return made[-1]

    yield make
    for bench in made:
        bench.open_gates()
        bench.controller.stop()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    made = make_bench()
    made.controller.start()
    return made
