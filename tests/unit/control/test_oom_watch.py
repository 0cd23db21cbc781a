"""A load next to another process that grows: the load stops first, names the process that grew, and harms nobody."""

from __future__ import annotations

from collections.abc import Callable

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import Gate, foreign_container
from webapp.domain.memory import HolderKind
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib
from webapp.message import Param


class Loading:
    """A load of lab/two that is under way, its model holding 1 GiB of what it needs."""

    def __init__(self, bench: Bench, mode: Mode = Mode.TRANSFORMERS, **changes: object) -> None:
        self.bench = bench
        runtime = bench.runtime if mode is Mode.TRANSFORMERS else bench.vllm
        runtime.fails["lab/two"] = "crawls"
        request = SwitchRequest(mode, "lab/two", LaunchOptions(), **changes)  # type: ignore[arg-type]
        self.operation = bench.controller.switch(request, "ivan")
        bench.until(lambda: any(spec.model_id == "lab/two" for spec in runtime.alive.values()))

    def ended(self) -> Operation:
        return self.bench.wait(self.operation)

    def goes_on(self) -> None:
        """Wait until so many readings were judged that a fence would have tripped, and let the load end well."""
        bench, seen = self.bench, self.bench.monitor.read
        bench.until(lambda: bench.monitor.read > seen + 10)
        bench.runtime.fails.clear()
        bench.vllm.fails.clear()


def error_of(operation: Operation) -> dict[str, Param]:
    assert operation.error is not None
    assert operation.error.code == "load_fenced", operation.error
    return dict(operation.error.params)


def test_neighbour_who_grows_stops_the_load_and_what_was_evicted_comes_back(bench: Bench) -> None:
    bench.load("lab/one")
    bench.machine.foreign["gpu-0"] = gib(2)
    loading = Loading(bench)
    bench.machine.foreign["gpu-0"] = gib(23)
    operation = loading.ended()
    assert operation.state is OperationState.FAILED
    error = error_of(operation)
    assert (error["model"], error["device"]) == ("lab/two", "gpu-0")
    assert (error["who"], error["pid"], error["user"]) == ("alice · python train.py · pid 77", 77, "alice")
    assert (error["grown_bytes"], error["grown_to_bytes"]) == (gib(21), gib(23))
    assert operation.outcome is not None
    assert operation.outcome.code in {"rolled_back", "restore_failed"}
    assert not [spec for spec in bench.runtime.alive.values() if spec.model_id == "lab/two"]
    assert bench.machine.foreign == {"gpu-0": gib(23)}


def test_fenced_model_may_be_tried_again_at_once(bench: Bench) -> None:
    loading = Loading(bench)
    bench.machine.foreign["gpu-0"] = gib(23)
    error_of(loading.ended())
    assert bench.state_store.state.cooldowns == {}
    bench.machine.foreign.clear()
    bench.runtime.fails.clear()
    assert bench.load("lab/two").state is OperationState.SUCCEEDED


def test_neighbour_who_leaves_enough_stops_nothing(bench: Bench) -> None:
    loading = Loading(bench)
    bench.machine.foreign["gpu-0"] = gib(20)
    loading.goes_on()
    assert loading.ended().state is OperationState.SUCCEEDED


def test_load_that_takes_more_than_it_said_is_not_stopped_for_it(bench: Bench) -> None:
    bench.machine.foreign["gpu-0"] = gib(2)
    bench.runtime.takes_bytes = gib(22)
    loading = Loading(bench)
    loading.goes_on()
    assert loading.ended().state is OperationState.SUCCEEDED


def test_container_of_somebody_elses_is_named(bench: Bench) -> None:
    container = foreign_container()
    bench.host.containers = (container,)
    loading = Loading(bench)
    bench.machine.contained["gpu-0", container.id] = gib(23.5)
    error = error_of(loading.ended())
    assert (error["who"], error["container"]) == ("alice · alices-vllm · pid 500", container.id)


def test_model_of_ours_that_grows_is_named_with_its_owner(bench: Bench) -> None:
    bench.load("lab/one")
    (neighbour,) = bench.state_store.state.instances
    loading = Loading(bench, keep_others=True)
    bench.machine.held["gpu-0", neighbour] = gib(22.9)
    error = error_of(loading.ended())
    assert error["instance"] == neighbour
    assert str(error["who"]).startswith("ivan · lab/one · pid ")
    assert bench.loaded == ["lab/one"], "who grew is not touched"


def test_container_that_starts_is_watched_too(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.vllm.problem = None
    bench.machine.own_kind = HolderKind.CONTAINER
    bench.controller.start()
    loading = Loading(bench, Mode.VLLM)
    bench.machine.foreign["gpu-0"] = gib(23)
    assert error_of(loading.ended())["model"] == "lab/two"
    assert bench.vllm.alive == {}


def test_second_start_is_held_against_its_own_reading(bench: Bench) -> None:
    bench.runtime.disturbed_once.add("lab/two")
    bench.runtime.gates["kill"] = gate = Gate()
    operation = bench.controller.switch(bench.request("lab/two"), "ivan")
    gate.wait_reached()
    bench.machine.foreign["gpu-0"] = gib(20)
    gate.open()
    assert bench.wait(operation).state is OperationState.SUCCEEDED


def test_one_odd_reading_stops_nothing(bench: Bench) -> None:
    loading = Loading(bench)
    bench.monitor.odd = 1
    bench.until(lambda: bench.monitor.odd == 0)
    loading.goes_on()
    assert loading.ended().state is OperationState.SUCCEEDED
