"""The version of a snapshot: equal ones mean equal snapshots, and so equal answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import foreign_container, model
from webapp.control.contract import Snapshot
from webapp.control.versions import Versions
from webapp.domain.memory import Sample
from webapp.domain.plan import SwitchRequest
from webapp.errors import StoreUnavailable
from webapp.message import Message

EMPTY = Snapshot(
    version="",
    sample=None,
    sample_age_s=None,
    sample_is_stale=False,
    instances=(),
    running=(),
    recent=(),
    models=(),
    models_problem=None,
    models_scanned_at=None,
    mode_problems={},
)


@pytest.fixture
def still(bench: Bench) -> Iterator[Bench]:
    """A server whose readings have stopped, so that nothing changes without a request."""
    bench.monitor.miss(1000)
    yield bench
    bench.monitor.miss(0)


def sees_maria(bench: Bench) -> None:
    bench.controller.see("maria")


def reads_again(bench: Bench) -> None:
    bench.monitor.miss(0)
    bench.monitor.miss(1000)


def goes_stale(bench: Bench) -> None:
    bench.monitor.stale = True


def finds_a_container(bench: Bench) -> None:
    bench.host.containers = (foreign_container(),)


def loses_docker(bench: Bench) -> None:
    bench.vllm.problem = Message("engine_unreachable", {"socket": "/run/docker.sock", "detail": "refused"})


def finds_a_model(bench: Bench) -> None:
    bench.catalog.models = (*bench.catalog.models, model("lab/new"))


def scans_again(bench: Bench) -> None:
    bench.catalog.scanned_at += 5


def loads_a_model(bench: Bench) -> None:
    bench.monitor.miss(0)
    bench.load("lab/one")


def queues_a_launch(bench: Bench) -> None:
    bench.fill()
    bench.monitor.miss(0)
    bench.monitor.miss(1000)
    request: SwitchRequest = bench.request("lab/two", keep_others=True)
    bench.controller.enqueue(request, "anna", starts_by_itself=True)


def loses_the_store(bench: Bench) -> None:
    bench.store.raises = StoreUnavailable(reason="full", trouble="full")
    bench.until(lambda: bench.controller.snapshot().store_problem is not None)


CHANGES = (
    sees_maria,
    reads_again,
    goes_stale,
    finds_a_container,
    loses_docker,
    finds_a_model,
    scans_again,
    loads_a_model,
    queues_a_launch,
    loses_the_store,
)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_has_a_version_of_its_own(still: Bench, change: Callable[[Bench], None]) -> None:
    before = still.controller.snapshot()
    change(still)
    after = still.controller.snapshot()
    still.store.raises = None
    assert replace(after, version="", sample_age_s=None) != replace(before, version="", sample_age_s=None)
    assert after.version != before.version


def test_every_field_but_the_age_counts() -> None:
    versions = Versions()
    before = versions.of(EMPTY)
    for field in fields(Snapshot):
        if field.name not in ("version", "sample_age_s"):
            changed: dict[str, Any] = {field.name: object()}
            assert versions.of(replace(EMPTY, **changed)) != before, field.name
            before = versions.of(EMPTY)


def test_nothing_that_changes_leaves_the_version(still: Bench) -> None:
    before = still.controller.snapshot()
    still.ahead_s = 0.5
    after = still.controller.snapshot()
    assert after == replace(before, sample_age_s=after.sample_age_s)


def test_the_moment_at_which_an_idle_model_goes_stands_still(bench: Bench) -> None:
    bench.load("lab/one", idle_minutes=15)
    shown = [moment for _ in range(50) for moment in bench.controller.snapshot().idle_unload_at.values()]
    assert len(shown) == 50
    assert all(moment.is_integer() for moment in shown)
    assert max(shown) - min(shown) <= 1


def test_a_version_of_an_earlier_process_is_never_given_again() -> None:
    assert Versions().of(EMPTY) != Versions().of(EMPTY)


def test_whoever_asks_at_the_same_time_equal_versions_are_equal_snapshots() -> None:
    """Threads that show an older and a newer state in turn never share a number between them."""
    versions, start = Versions(), threading.Barrier(4)
    given: list[tuple[str, int]] = []

    def ask(number: int) -> None:
        start.wait()
        for turn in range(200):
            taken = Sample((turn + number) % 3, 0.0, 0.0, ())
            shown = replace(EMPTY, sample=taken)
            given.append((versions.of(shown), taken.number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 800
    assert len({version for version, _ in given}) == len(set(given))
