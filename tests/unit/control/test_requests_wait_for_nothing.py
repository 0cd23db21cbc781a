"""What a page asks of the controller touches no driver, no worker and no disk: each forbidden call ends the test."""

from __future__ import annotations

from typing import NoReturn

import pytest

from tests.unit.control.conftest import Bench
from tests.unit.control.fakes import FakeCatalog, FakeMonitor, FakeRuntime
from webapp.errors import InstanceInUse, NotEnoughMemory, UnknownModel


def forbidden(*args: object, **kwargs: object) -> NoReturn:
    raise AssertionError(f"a request waited for this call: {args} {kwargs}")


class RuntimeThatMayNotBeAsked(FakeRuntime):
    discover = launch = probe = terminate = clean = reap = forbidden


class MonitorThatMayNotRead(FakeMonitor):
    fresh = forbidden


class CatalogThatMayNotScan(FakeCatalog):
    rescan = forbidden


def test_reading_calls_take_references_only(bench: Bench) -> None:
    bench.load("lab/one")
    bench.runtime.__class__ = RuntimeThatMayNotBeAsked
    bench.monitor.__class__ = MonitorThatMayNotRead
    bench.catalog.__class__ = CatalogThatMayNotScan
    controller = bench.controller
    try:
        assert controller.snapshot().instances
        assert controller.plan(bench.request("lab/two")).unload
        assert controller.recommend("gpu-0") is not None
        assert controller.history("gpu-0") == ()
        assert controller.emergency_preview().instances
        assert controller.operations(5)
        assert controller.health() is not None
        with pytest.raises(UnknownModel):
            controller.switch(bench.request("lab/none"), "ivan")
        with pytest.raises((NotEnoughMemory, InstanceInUse)):
            bench.machine.foreign["gpu-0"] = 23 * 2**30
            controller.switch(bench.request("lab/two"), "ivan")
        queued = controller.enqueue(bench.request("lab/two"), "ivan", starts_by_itself=True)
        assert controller.queue.cancel(queued.launch.id, "ivan").ended_at is not None
    finally:
        bench.runtime.__class__, bench.monitor.__class__, bench.catalog.__class__ = (
            FakeRuntime,
            FakeMonitor,
            FakeCatalog,
        )
        bench.machine.foreign.clear()
