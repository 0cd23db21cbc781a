"""The runtime over a worker without a model: launch, questions, stop, adoption, leftovers. Real workers: ``tests/integration``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.server import wait_for
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import LaunchOptions
from webapp.errors import UnknownInstance, WardenError, WorkerDied, WorkerGarbled, WorkerSilent
from webapp.runtimes.base import LaunchDevice, LaunchSpec, Probe, ProbeState, StopStage
from webapp.runtimes.transformers.runtime import TransformersRuntime
from webapp.settings import load_settings

STANDIN = Path(__file__).with_name("standin_worker.py")
HOST = LaunchDevice("host", DeviceKind.HOST, None, None)

RuntimeMaker = Callable[..., TransformersRuntime]


@pytest.fixture
def make_runtime(tmp_path: Path) -> Iterator[RuntimeMaker]:
    """Make runtimes over one state folder; what they started is ended with the test."""
    made: list[TransformersRuntime] = []

    def make(*arguments: str) -> TransformersRuntime:
        command = shlex.join([sys.executable, str(STANDIN), *arguments])
        settings = load_settings(state_dir=tmp_path / "state", worker_command=command, worker_ask_s=3, worker_kill_s=3)
        made.append(TransformersRuntime(settings))
        return made[-1]

    yield make
    for runtime in made:
        for instance_id in {*runtime.processes().values()}:
            runtime.terminate(instance_id, ask=False)


def spec(instance_id: str = "one") -> LaunchSpec:
    return LaunchSpec(instance_id, "operation", "lab/one", "r", Path("/snapshot"), LaunchOptions(), (HOST,), "ann")


def until(runtime: TransformersRuntime, state: ProbeState) -> Probe:
    def probed() -> Probe | None:
        with suppress(WorkerSilent):
            probe = runtime.probe("one")
            return probe if probe.state is state else None
        return None

    return wait_for(probed, 20, lambda: "\n".join(runtime.log_tail("one", 20)))


def error_of(runtime: TransformersRuntime) -> WardenError:
    with pytest.raises(WardenError) as caught:
        until(runtime, ProbeState.LOADING)
    return caught.value


def test_a_worker_is_launched_asked_cleaned_and_ended(make_runtime: RuntimeMaker) -> None:
    runtime = make_runtime()

    runtime.launch(spec())
    probe = until(runtime, ProbeState.READY)

    assert runtime.unavailable() is None
    assert runtime.processes() == {probe.pid: "one"}
    assert probe.memory is not None
    assert probe.memory.process_bytes == 5
    assert runtime.clean("one").freed_bytes == 6
    assert (runtime.endpoint("one").model, runtime.endpoint("one").base_url) == ("lab/one", "http://worker")
    result = runtime.terminate("one")
    assert (result.stage, result.survivors) == (StopStage.ASK, ())
    assert runtime.processes() == {}
    with pytest.raises(UnknownInstance):
        runtime.probe("one")


def test_a_prepared_worker_loads_nothing_until_it_is_launched(make_runtime: RuntimeMaker) -> None:
    runtime = make_runtime()

    assert not runtime.prepare(spec())
    prepared = until(runtime, ProbeState.STARTING)
    runtime.launch(spec())

    assert until(runtime, ProbeState.READY).pid == prepared.pid


def test_a_worker_that_dies_is_explained_by_its_exit_and_log(make_runtime: RuntimeMaker) -> None:
    runtime = make_runtime("--fault", "dies")
    runtime.launch(spec())

    error = error_of(runtime)

    assert isinstance(error, WorkerDied)
    assert (error.params["exit"], error.params["log"]) == (7, "cannot go on")


def test_an_answer_of_another_worker_is_garbled(make_runtime: RuntimeMaker) -> None:
    runtime = make_runtime("--fault", "another")
    runtime.launch(spec())

    assert isinstance(error_of(runtime), WorkerGarbled)


def test_a_live_worker_is_adopted_and_one_that_is_not_wanted_is_reaped(make_runtime: RuntimeMaker) -> None:
    first = make_runtime()
    first.launch(spec())
    pid = until(first, ProbeState.READY).pid

    again = make_runtime()
    (found,) = again.discover()
    assert (found.adoptable, found.instance.pid, found.instance.model_id) == (True, pid, "lab/one")
    assert again.reap(frozenset) == ()

    (left,) = make_runtime().reap(frozenset)
    assert (left.ok, left.message.code) == (True, "leftover_process")
    assert again.processes() == {}
    assert make_runtime().discover() == ()


def test_a_command_that_cannot_be_found_is_named(tmp_path: Path) -> None:
    runtime = TransformersRuntime(load_settings(state_dir=tmp_path, worker_command="/nowhere/worker"))

    problem = runtime.unavailable()

    assert problem is not None
    assert problem.code == "worker_command_missing"
