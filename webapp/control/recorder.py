"""Keeps the timeline: a thread that writes the latest reading down every ten seconds, and what was read of it for a page.

Everything rests on what the store has, so that a restart changes nothing. Readings are kept for seventy minutes, in whole buckets; each
bucket is folded into one point when it is over, and those are kept for a week. A round that the store fails is lost and shown as a gap.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from webapp.domain.instance import Instance
from webapp.domain.memory import Sample
from webapp.domain.timeline import BUCKET_S, POINT_S, SCALES, Event, Point, Span, Track, folded, point_of
from webapp.errors import StoreUnavailable, UnknownDevice

log = logging.getLogger(__name__)

BUCKETS_OF_READINGS: Final = 7
"""Buckets whose single readings are kept beside the one under way: an hour, the column that it begins in, and some to spare."""
EVENTS_LIMIT: Final = 300
"""Operations that a span shows at most, the newest; a person presses no more buttons in a week."""
STOP_S: Final = 2.0
"""How long a stop waits for a write under way; one that hangs is left behind and is a gap."""


class Readings(Protocol):
    """What the recorder needs of the monitor."""

    def latest(self) -> Sample | None:
        """The latest sample; never waits."""

    def is_stale(self) -> bool:
        """Whether the latest sample is too old to decide on."""


class PointStore(Protocol):
    """What the timeline needs of the store. Every call raises StoreUnavailable."""

    def save_points(self, step_s: int, points: Mapping[str, Sequence[Point]]) -> None:
        """Keep points by device, ``step_s`` apart, replacing those of the same moments."""

    def points(self, device_id: str, step_s: int, since: float) -> tuple[Point, ...]:
        """Return a device's points from ``since`` on, oldest first."""

    def drop_points(self, step_s: int, before: float) -> int:
        """Drop the points that are older than ``before`` and return how many went."""

    def recorded(self) -> tuple[str, ...]:
        """Return the devices that there are points of."""

    def events(self, since: float, limit: int) -> tuple[Event, ...]:
        """Return the newest ``limit`` operations that ended at ``since`` or later, oldest first."""


class Recorder:
    """The thread that writes. ``instances`` gives the running models by id, now."""

    def __init__(self, readings: Readings, instances: Callable[[], Mapping[str, Instance]], store: PointStore) -> None:
        self._readings = readings
        self._instances = instances
        self._store = store
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._written = 0
        """The number of the sample that was written last."""
        self._tidied: int | None = None
        """The bucket that was under way when the older ones were folded."""
        self._failing = False

    def start(self) -> None:
        """Begin to write."""
        self._thread = threading.Thread(target=self._run, name="warden-recorder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for a write under way at most some seconds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except Exception:  # the top of the thread: the next round may go well
                log.exception("a round of the recorder failed")
            self._stop.wait(POINT_S)

    def look(self) -> None:
        """Write the latest sample down, unless it is old or was written already; a store that fails costs this point alone."""
        sample = self._readings.latest()
        if sample is None or sample.number == self._written or self._readings.is_stale():
            return
        try:
            self._write(sample)
            self._tidy(math.floor(sample.taken_at / BUCKET_S))
        except StoreUnavailable as exc:
            if not self._failing:
                log.warning("the timeline cannot be written and has a gap until it can: %s", exc)
            self._failing = True
        else:
            self._failing = False

    def _write(self, sample: Sample) -> None:
        instances = self._instances()
        points = {r.device_id: (point_of(r, sample.taken_at, instances),) for r in sample.readings}
        self._store.save_points(POINT_S, points)
        self._written = sample.number

    def _tidy(self, bucket: int) -> None:
        """Fold the buckets that are over and drop what is too old, once a bucket. What an earlier Warden left is folded too."""
        if bucket == self._tidied:
            return
        oldest = bucket - BUCKETS_OF_READINGS
        first = oldest if self._tidied is None else max(self._tidied, oldest)
        self._store.save_points(BUCKET_S, {d: self._folded(d, first, bucket) for d in self._store.recorded()})
        # Whole buckets go: one that had lost its begin would be folded wrong after a restart.
        self._store.drop_points(POINT_S, oldest * BUCKET_S)
        self._store.drop_points(BUCKET_S, SCALES[Span.WEEK].window(bucket * BUCKET_S)[0])
        self._tidied = bucket

    def _folded(self, device_id: str, first: int, until: int) -> tuple[Point, ...]:
        readings = self._store.points(device_id, POINT_S, first * BUCKET_S)
        return folded((point for point in readings if point.taken_at < until * BUCKET_S), BUCKET_S)


class TimelineApi(Protocol):
    """What the web layer may ask of the timeline; every call reads the store and waits for nothing else."""

    def devices(self) -> tuple[str, ...]:
        """Return the devices that there are now or were in the last week, in the order of their numbers."""

    def track(self, device_id: str, span: Span) -> Track:
        """Return a device's memory over a span. Raises UnknownDevice, StoreUnavailable."""


class Timeline:
    """Reads what the recorder wrote. ``clock`` is seconds since the epoch."""

    def __init__(self, readings: Readings, store: PointStore, clock: Callable[[], float] = time.time) -> None:
        self._readings = readings
        self._store = store
        self._clock = clock

    def devices(self) -> tuple[str, ...]:
        """See ``TimelineApi``; without the store those of the latest reading."""
        sample = self._readings.latest()
        present = set() if sample is None else {reading.device_id for reading in sample.readings}
        try:
            present |= set(self._store.recorded())
        except StoreUnavailable as exc:
            log.info("devices of the past are not known: %s", exc)
        return tuple(sorted(present, key=_by_number))

    def track(self, device_id: str, span: Span) -> Track:
        """See ``TimelineApi``."""
        known = self.devices()
        if device_id not in known:
            raise UnknownDevice(device=device_id, known=", ".join(known))
        begun_at, ended_at = SCALES[span].window(self._clock())
        points = self._store.points(device_id, SCALES[span].step_s, begun_at)
        if span is Span.WEEK:  # the bucket under way is not written yet
            since = points[-1].taken_at + BUCKET_S if points else begun_at
            points = (*points, *folded(self._store.points(device_id, POINT_S, since), BUCKET_S))
        events = (event for event in self._store.events(begun_at, EVENTS_LIMIT) if event.touches(device_id))
        return Track(device_id, span, begun_at, ended_at, points, tuple(events))


def _by_number(device_id: str) -> tuple[str, int]:
    """``gpu-2`` before ``gpu-10``."""
    name, number = re.fullmatch(r"(.*?)(\d*)", device_id, re.DOTALL).groups()  # type: ignore[union-attr]
    return name, int(number or 0)
