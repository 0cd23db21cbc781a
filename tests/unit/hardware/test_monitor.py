"""The monitor thread: what readers get while devices answer, fail, hang, go and come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from webapp.domain.memory import DeviceKind, Reading, Sample
from webapp.domain.units import GIB
from webapp.errors import DriverMissing, ProbeFailed
from webapp.hardware.monitor import HISTORY_POINTS, Monitor
from webapp.message import Message

LONG_S = 3600.0
"""An interval that does not end within a test: only what is asked for is read."""
PATIENCE_S = 10.0
"""How long a test waits for what must come."""


def gpu(index: int = 0, used_bytes: int = 1 * GIB) -> Reading:
    return Reading(
        device_id=f"gpu-{index}",
        kind=DeviceKind.GPU,
        name=f"GPU {index}",
        uuid=f"GPU-{index}",
        total_bytes=24 * GIB,
        reserved_bytes=0,
        used_bytes=used_bytes,
        free_bytes=24 * GIB - used_bytes,
        utilization_percent=None,
        temperature_c=None,
        power_w=None,
    )


HOST = replace(gpu(), device_id="host", kind=DeviceKind.HOST, uuid=None)


class FakeProbe:
    """Gives the readings it is told to; ``error`` fails a call of the name in ``failing``, ``gate`` holds a reading up."""

    def __init__(self, *readings: Reading) -> None:
        self.readings = readings
        self.error: Exception | None = None
        self.failing = "open"
        self.gate = threading.Event()
        self.gate.set()
        self.reading = threading.Event()
        """Set while a reading is held up or has begun."""
        self.opened = 0
        self.closed = 0
        self.read_count = 0
        self.read_anew: list[bool] = []
        """Of each reading, whether it was to use nothing of the one before."""

    def open(self) -> None:
        self._fail("open")
        self.opened += 1

    def read(self, *, anew: bool = False) -> tuple[Reading, ...]:
        self.read_count += 1
        self.read_anew.append(anew)
        readings = self.readings
        self.reading.set()
        assert self.gate.wait(PATIENCE_S)
        self._fail("read")
        return readings

    def close(self) -> None:
        self.closed += 1

    def _fail(self, call: str) -> None:
        if self.error is not None and self.failing == call:
            raise self.error


class FakeClock:
    """Time that moves only when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def running(monitor: Monitor) -> Iterator[Monitor]:
    monitor.start()
    try:
        yield monitor
    finally:
        assert monitor.stop(PATIENCE_S)


def quiet(*probes: FakeProbe, clock: FakeClock | None = None, **changes: float) -> Monitor:
    """A monitor that reads only when asked, after its first reading."""
    clock = clock or FakeClock()
    options = {"interval_s": LONG_S, "busy_interval_s": LONG_S, "retry_s": 0.0} | changes
    return Monitor(probes, monotonic=clock, wall_clock=clock, **options)


def fresh(monitor: Monitor) -> Sample:
    sample = monitor.fresh(PATIENCE_S)
    assert sample is not None
    return sample


def test_before_the_start_there_is_nothing_and_it_is_stale() -> None:
    monitor = quiet(FakeProbe(gpu()))
    assert monitor.latest() is None
    assert monitor.age_s() is None
    assert monitor.is_stale()
    assert monitor.history("gpu-0") == ()
    assert monitor.next_sample(0, 0) is None


def test_all_devices_of_the_first_probe_that_has_any_are_in_one_sample() -> None:
    gpus, host = FakeProbe(gpu(0), gpu(1)), FakeProbe(HOST)
    with running(quiet(gpus, host)) as monitor:
        sample = fresh(monitor)
        assert sample.readings == (gpu(0), gpu(1))
        assert sample.problem is None
        assert monitor.latest() is sample
        assert not monitor.is_stale()
    assert host.read_count == 0


def test_a_machine_without_a_driver_shows_the_host_and_says_why() -> None:
    gpus, host = FakeProbe(gpu()), FakeProbe(HOST)
    gpus.error = DriverMissing(detail="no library")
    with running(quiet(gpus, host)) as monitor:
        sample = fresh(monitor)
    assert sample.readings == (HOST,)
    assert sample.problem == Message("driver_missing", {"detail": "no library"})


def test_a_driver_without_gpus_shows_the_host() -> None:
    with running(quiet(FakeProbe(), FakeProbe(HOST))) as monitor:
        sample = fresh(monitor)
    assert (sample.readings, sample.problem) == ((HOST,), None)


def test_a_driver_that_comes_later_is_picked_up() -> None:
    gpus, host = FakeProbe(gpu()), FakeProbe(HOST)
    gpus.error = DriverMissing(detail="no library")
    with running(quiet(gpus, host)) as monitor:
        assert fresh(monitor).readings == (HOST,)
        gpus.error = None
        sample = fresh(monitor)
        assert (sample.readings, sample.problem) == ((gpu(),), None)


def test_a_missing_driver_is_not_looked_for_at_every_reading() -> None:
    clock, gpus = FakeClock(), FakeProbe(gpu())
    gpus.error = DriverMissing(detail="no library")
    with running(quiet(gpus, FakeProbe(HOST), clock=clock, retry_s=5.0)) as monitor:
        sample = fresh(monitor)
        gpus.error = None
        assert fresh(monitor).problem == sample.problem
        clock.now_s += 5.0
        assert fresh(monitor).readings == (gpu(),)


@pytest.mark.parametrize("failing", ["open", "read"])
def test_a_driver_that_has_gone_leaves_its_gpus_listed_without_figures(failing: str) -> None:
    gpus, host = FakeProbe(gpu(0), gpu(1)), FakeProbe(HOST)
    with running(quiet(gpus, host)) as monitor:
        fresh(monitor)
        gpus.failing, gpus.error = "read", DriverMissing(detail="not loaded")
        fresh(monitor)
        gpus.failing = failing
        sample = fresh(monitor)
        gone = Message("driver_gone", {"detail": "not loaded"})
        assert sample.problem == gone
        assert [(r.device_id, r.name, r.uuid, r.problem) for r in sample.readings] == [
            ("gpu-0", "GPU 0", "GPU-0", gone),
            ("gpu-1", "GPU 1", "GPU-1", gone),
        ]
        assert {r.total_bytes for r in sample.readings} == {None}
        gpus.error = None
        assert fresh(monitor).readings == (gpu(0), gpu(1))
    assert host.read_count == 0


def test_a_single_failed_reading_is_tried_again_at_the_next() -> None:
    gpus = FakeProbe(gpu())
    with running(quiet(gpus, retry_s=LONG_S)) as monitor:
        fresh(monitor)
        gpus.failing, gpus.error = "read", ProbeFailed(device=None, detail="Timeout")
        sample = fresh(monitor)
        assert sample.problem == Message("device_unreadable", {"device": None, "detail": "Timeout"})
        assert sample.readings[0].total_bytes is None
        gpus.error = None
        assert fresh(monitor).readings == (gpu(),)
        assert gpus.opened == 1


def test_a_surprise_in_a_probe_is_a_problem_and_not_the_end_of_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    gpus = FakeProbe(gpu())
    with running(quiet(gpus)) as monitor:
        fresh(monitor)
        gpus.failing, gpus.error = "read", RuntimeError("surprise")
        sample = fresh(monitor)
        assert sample.problem == Message("device_unreadable", {"device": None, "detail": "RuntimeError('surprise')"})
        assert [(r.device_id, r.total_bytes) for r in sample.readings] == [("gpu-0", None)]
        gpus.error = None
        assert fresh(monitor).readings == (gpu(),)
    assert "surprise" in caplog.text


def test_samples_come_by_themselves_and_their_numbers_rise_by_one() -> None:
    monitor = Monitor([FakeProbe(gpu())], interval_s=0.001)
    with running(monitor):
        numbers = [0]
        while len(numbers) < 5:
            sample = monitor.next_sample(numbers[-1], PATIENCE_S)
            assert sample is not None
            numbers.append(sample.number)
    assert numbers == sorted(set(numbers))


def test_the_busy_interval_holds_inside_the_block_and_begins_at_once() -> None:
    with running(quiet(FakeProbe(gpu()), busy_interval_s=0.001)) as monitor:
        number = fresh(monitor).number
        with monitor.faster():
            with monitor.faster():
                pass
            assert monitor.next_sample(number + 3, PATIENCE_S) is not None
        last = fresh(monitor).number
        assert monitor.next_sample(last + 1, 0.05) is None


def test_only_what_is_asked_for_anew_is_read_so() -> None:
    gpus = FakeProbe(gpu())
    with running(quiet(gpus)) as monitor:
        assert monitor.next_sample(0, PATIENCE_S) is not None
        fresh(monitor)
        assert monitor.fresh(PATIENCE_S, anew=True) is not None
        fresh(monitor)

    assert gpus.read_anew == [False, False, True, False]


def test_a_fresh_sample_is_one_whose_reading_began_after_the_call() -> None:
    gpus = FakeProbe(gpu(used_bytes=1 * GIB))
    gpus.gate.clear()
    with running(quiet(gpus)) as monitor:
        assert gpus.reading.wait(PATIENCE_S)
        gpus.readings = (gpu(used_bytes=2 * GIB),)
        answers: list[int | None] = []
        asked = threading.Event()

        def ask() -> None:
            asked.set()
            answers.append(fresh(monitor).readings[0].used_bytes)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert asked.wait(PATIENCE_S)
        assert monitor.next_sample(0, 0.05) is None
        gpus.gate.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert answers == [2 * GIB] * 8


def test_readers_never_wait_for_a_probe_that_hangs_and_see_its_age() -> None:
    clock, gpus = FakeClock(), FakeProbe(gpu())
    with running(quiet(gpus, clock=clock, stale_after_s=10.0)) as monitor:
        sample = fresh(monitor)
        gpus.gate.clear()
        gpus.reading.clear()
        assert monitor.fresh(0) is None
        assert gpus.reading.wait(PATIENCE_S)
        clock.now_s += 10.0
        assert not monitor.is_stale()
        clock.now_s += 0.5
        assert monitor.latest() is sample
        assert monitor.age_s() == 10.5
        assert monitor.is_stale()
        assert len(monitor.history("gpu-0")) == 1
        assert monitor.fresh(0.01) is None
        gpus.gate.set()
        assert fresh(monitor).number > sample.number
        assert not monitor.is_stale()


def test_a_stop_while_a_probe_hangs_returns_and_the_late_reading_is_dropped() -> None:
    gpus = FakeProbe(gpu())
    monitor = quiet(gpus)
    monitor.start()
    sample = fresh(monitor)
    gpus.gate.clear()
    gpus.reading.clear()
    monitor.fresh(0)
    assert gpus.reading.wait(PATIENCE_S)
    (thread,) = [t for t in threading.enumerate() if t.name == "monitor"]
    assert not monitor.stop(0.01)
    gpus.gate.set()
    thread.join(PATIENCE_S)
    assert monitor.latest() is sample
    assert gpus.closed == 1


def test_the_probes_are_closed_in_the_end_and_a_stop_may_be_repeated() -> None:
    gpus, host = FakeProbe(gpu()), FakeProbe(HOST)
    monitor = quiet(gpus, host)
    assert monitor.stop()
    with running(monitor):
        monitor.start()
        fresh(monitor)
        assert [t.name for t in threading.enumerate()].count("monitor") == 1
    assert monitor.stop()
    assert gpus.closed == host.closed == 1


def test_a_stopped_monitor_starts_again() -> None:
    gpus = FakeProbe(gpu())
    monitor = quiet(gpus)
    with running(monitor):
        first = fresh(monitor).number
    with running(monitor):
        assert fresh(monitor).number > first
    assert gpus.opened == gpus.closed == 2


def test_the_history_keeps_each_device_and_unknown_as_unknown() -> None:
    clock, gpus = FakeClock(), FakeProbe(gpu(0), gpu(1))
    with running(quiet(gpus, clock=clock)) as monitor:
        fresh(monitor)
        clock.now_s += 1
        gpus.readings = (gpu(0, used_bytes=2 * GIB), replace(gpu(1), used_bytes=None, total_bytes=None))
        fresh(monitor)
        assert [(p.taken_at, p.used_bytes) for p in monitor.history("gpu-0")] == [(1000, GIB), (1001, 2 * GIB)]
        assert [(p.used_bytes, p.total_bytes) for p in monitor.history("gpu-1")] == [(GIB, 24 * GIB), (None, None)]
        assert monitor.history("host") == ()


def test_the_history_is_bounded_in_time_and_number() -> None:
    clock = FakeClock()
    with running(quiet(FakeProbe(gpu()), clock=clock, history_s=60.0)) as monitor:
        for _ in range(2000):
            clock.now_s += 0.05
            fresh(monitor)
        points = monitor.history("gpu-0")
        assert points[0].taken_at >= clock.now_s - 60.0
        assert HISTORY_POINTS * 0.9 <= len(points) <= HISTORY_POINTS * 1.2
        clock.now_s += 61.0
        fresh(monitor)
        assert len(monitor.history("gpu-0")) == 1


def test_samples_of_the_last_minute_and_a_half_are_at_hand_oldest_first() -> None:
    clock = FakeClock()
    with running(quiet(FakeProbe(gpu()), clock=clock)) as monitor:
        numbers = [fresh(monitor).number]
        for _ in range(3):
            clock.now_s += 40.0
            numbers.append(fresh(monitor).number)

        assert [sample.number for sample in monitor.lately()] == numbers[-3:]
