"""The thread that reads all devices, and the latest sample, which all other threads read without waiting.

A driver call can hang for ever. So only this thread calls the driver; readers take a reference, and the age of the
sample tells them whether the thread is stuck (``is_stale``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from webapp.domain.memory import HistoryPoint, Reading, Sample, without_figures
from webapp.errors import DriverMissing, ProbeFailed
from webapp.message import Message

log = logging.getLogger(__name__)

HISTORY_POINTS = 600
"""Points of a device's history; readings that are more frequent than this allows are left out."""

LATELY_S = 90.0
"""How long whole samples are kept, so that the moments before a failure can be read: 360 at the busy interval."""

Clock = Callable[[], float]


class DeviceProbe(Protocol):
    """A way to read devices. All calls come from one thread; any of them may take long or hang."""

    def open(self) -> None:
        """Prepare for reading. Raises ProbeFailed."""

    def read(self, *, anew: bool = False) -> tuple[Reading, ...]:
        """Read all devices of this kind, none if there are none; ``anew``: use no cached value of an earlier call.
        Raises ProbeFailed.
        """

    def close(self) -> None:
        """Release what ``open`` took; may be called after a failure, and more than once."""


class Monitor:
    """Samples the devices of the first probe that has any, once per interval.

    With the GPUs before the host, the host is shown only on a machine on which no GPU was ever seen: once seen, GPUs
    stay listed, without figures if their driver is gone. A missing driver is tried again every ``retry_s``.
    """

    def __init__(
        self,
        probes: Sequence[DeviceProbe],
        interval_s: float = 1.0,
        busy_interval_s: float = 0.25,
        history_s: float = 600.0,
        stale_after_s: float = 10.0,
        retry_s: float = 5.0,
        monotonic: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        self._probes = tuple(probes)
        self._interval_s = interval_s
        self._busy_interval_s = busy_interval_s
        self._stale_after_s = stale_after_s
        self._retry_s = retry_s
        self._monotonic = monotonic
        self._wall_clock = wall_clock
        self._history = _History(history_s)
        self._changed = threading.Condition()
        self._latest: Sample | None = None
        self._lately: deque[Sample] = deque()
        """The samples of the last ``LATELY_S``, oldest first."""
        self._begun = 0
        """Readings started so far; a sample's number is that of its reading."""
        self._asked_for = 0
        """The reading that a caller waits for; the pause before it is cut short."""
        self._anew_for = 0
        """The reading that must not use values of an earlier one."""
        self._hurried = 0
        """How many ``faster`` blocks are active."""
        self._thread: threading.Thread | None = None
        """The thread that may publish; a late one finds another here, or none."""

    def start(self) -> None:
        """Start sampling; does nothing if it is already running."""
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
                self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Stop sampling and return whether the thread ended; one that hangs in a driver is abandoned and can publish
        nothing.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def latest(self) -> Sample | None:
        """Return the latest sample, ``None`` before the first; never waits."""
        return self._latest

    def lately(self) -> tuple[Sample, ...]:
        """Return the samples of the last ``LATELY_S``, oldest first; never waits."""
        with self._changed:
            return tuple(self._lately)

    def age_s(self) -> float | None:
        """Return the seconds since the latest sample's reading began; ``None`` before the first."""
        sample = self._latest
        return None if sample is None else max(self._monotonic() - sample.monotonic_s, 0.0)

    def is_stale(self) -> bool:
        """Whether there is no sample that a decision may rely on."""
        age_s = self.age_s()
        return age_s is None or age_s > self._stale_after_s

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        """Return a device's short history, oldest first; empty if the device is unknown."""
        with self._changed:
            return self._history.points(device_id)

    def next_sample(self, after_number: int, timeout_s: float) -> Sample | None:
        """Wait for a sample with a higher number than ``after_number``; ``None`` if none arrived in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_newer(after_number), timeout_s)
            return self._latest if self._has_newer(after_number) else None

    def fresh(self, timeout_s: float, *, anew: bool = False) -> Sample | None:
        """Read at once and wait for a sample whose reading began after this call; ``None`` if none arrived in time.

        ``anew`` is for figures that are stored, see ``DeviceProbe.read``.
        """
        with self._changed:
            now_running = self._begun
            self._asked_for = now_running + 1
            if anew:
                self._anew_for = self._asked_for
            self._changed.notify_all()
        return self.next_sample(now_running, timeout_s)

    @contextmanager
    def faster(self) -> Iterator[None]:
        """Sample at the busy interval inside the block."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._hurried -= 1

    def _has_newer(self, number: int) -> bool:
        return self._latest is not None and self._latest.number > number

    def _run(self) -> None:
        sources = [_DeviceSource(probe, self._retry_s) for probe in self._probes]
        try:
            while (number := self._begin()) is not None:
                sample = self._sample(number, sources)
                if not self._publish(sample):
                    break
                self._pause(sample)
        finally:
            if self._thread is None or self._is_current():
                for source in sources:
                    source.close()

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _begin(self) -> int | None:
        with self._changed:
            if not self._is_current():
                return None
            self._begun += 1
            return self._begun

    def _sample(self, number: int, sources: Sequence[_DeviceSource]) -> Sample:
        taken_at, begun = self._wall_clock(), self._monotonic()
        readings: tuple[Reading, ...] = ()
        problem: Message | None = None
        try:
            readings, problem = _read_first(sources, begun, anew=self._anew_for >= number)
        except Exception as exc:  # the thread must survive any error: without it all figures would become stale
            log.exception("the devices could not be read")
            problem = Message("device_unreadable", {"device": None, "detail": repr(exc)})
            before = self._latest
            readings = tuple(without_figures(old, problem) for old in before.readings) if before else ()
        took_s = self._monotonic() - begun
        if took_s > self._stale_after_s:
            log.warning("reading the devices took %.1f s", took_s)
        return Sample(number, taken_at, begun, readings, problem)

    def _publish(self, sample: Sample) -> bool:
        with self._changed:
            if not self._is_current():
                return False
            self._latest = sample
            self._keep(sample)
            self._history.add(sample)
            self._changed.notify_all()
            return True

    def _keep(self, sample: Sample) -> None:
        self._lately.append(sample)
        while self._lately[0].monotonic_s < sample.monotonic_s - LATELY_S:
            self._lately.popleft()

    def _pause(self, sample: Sample) -> None:
        """Wait until the next reading is due or requested, or the end has come; entering ``faster`` shortens a running
        pause.
        """
        with self._changed:
            while self._is_current() and self._asked_for <= sample.number:
                interval_s = self._busy_interval_s if self._hurried else self._interval_s
                left_s = sample.monotonic_s + interval_s - self._monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    return


class _DeviceSource:
    """A probe, whether it is open, and the devices that it has reported."""

    def __init__(self, probe: DeviceProbe, retry_s: float) -> None:
        self._probe = probe
        self._retry_s = retry_s
        self._is_open = False
        self._retry_at = float("-inf")
        self._known: tuple[Reading, ...] = ()
        self._problem: Message | None = None

    def read(self, now_s: float, *, anew: bool) -> tuple[tuple[Reading, ...], Message | None]:
        """Return the devices and why they could not be read; devices seen before are listed even then."""
        if self._is_open or now_s >= self._retry_at:
            try:
                return self._read(anew=anew), None
            except ProbeFailed as error:
                self._fail(error, now_s)
        problem = self._problem
        return (() if problem is None else tuple(without_figures(old, problem) for old in self._known)), problem

    def close(self) -> None:
        """Close the probe in whatever state it is."""
        self._is_open = False
        self._probe.close()

    def _read(self, *, anew: bool) -> tuple[Reading, ...]:
        if not self._is_open:
            self._probe.open()
            self._is_open = True
        self._known = self._probe.read(anew=anew)
        if self._problem is not None:
            log.info("devices can be read again: %s", ", ".join(reading.device_id for reading in self._known))
            self._problem = None
        return self._known

    def _fail(self, error: ProbeFailed, now_s: float) -> None:
        problem = _problem_of(error, was_there=bool(self._known))
        if self._problem is None:
            log.log(logging.WARNING if self._known else logging.INFO, "devices cannot be read: %s", error)
        self._problem = problem
        if isinstance(error, DriverMissing) or not self._is_open:
            # Opening a missing driver can start helper programs each time.
            self._retry_at = now_s + self._retry_s
            self.close()


def _problem_of(error: ProbeFailed, was_there: bool) -> Message:
    """Return the problem to show: a machine without a driver is normal; one whose driver has disappeared is not."""
    detail = error.params.get("detail")
    if isinstance(error, DriverMissing):
        return Message("driver_gone" if was_there else "driver_missing", {"detail": detail})
    return Message("device_unreadable", {"device": error.params.get("device"), "detail": detail})


def _read_first(
    sources: Sequence[_DeviceSource], now_s: float, *, anew: bool
) -> tuple[tuple[Reading, ...], Message | None]:
    """Return the devices of the first source that has any, and the first problem on the way."""
    first_problem: Message | None = None
    for source in sources:
        readings, problem = source.read(now_s, anew=anew)
        first_problem = first_problem or problem
        if readings:
            return readings, first_problem
    return (), first_problem


class _History:
    """The used memory of each device over the last ``history_s`` seconds, in at most about HISTORY_POINTS points."""

    def __init__(self, history_s: float) -> None:
        self._history_s = history_s
        self._least_gap_s = 0.9 * history_s / HISTORY_POINTS  # readings may be a little early or late
        self._points: dict[str, deque[tuple[float, HistoryPoint]]] = {}

    def add(self, sample: Sample) -> None:
        """Add the sample if the last point is old enough, and drop expired points."""
        now_s = sample.monotonic_s
        for reading in sample.readings:
            points = self._points.setdefault(reading.device_id, deque())
            if not points or now_s - points[-1][0] >= self._least_gap_s:
                points.append((now_s, HistoryPoint(sample.taken_at, reading.used_bytes, reading.total_bytes)))
            while points[0][0] < now_s - self._history_s:
                points.popleft()

    def points(self, device_id: str) -> tuple[HistoryPoint, ...]:
        """Return the points of a device, oldest first."""
        return tuple(point for _, point in self._points.get(device_id, ()))
