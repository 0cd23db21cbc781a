"""The timeline: a thread writes the latest reading every ten seconds, and pages read the stored points.

All points come from the store, so a restart changes nothing. Single readings are kept for seventy minutes; each
finished bucket of them is merged into one point, each finished column of buckets too, and those are kept for a week. If
the store fails in a round, its reading is lost and shown as a gap.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

from webapp.domain.instance import Instance
from webapp.domain.memory import Sample
from webapp.domain.timeline import (
    BUCKET_S,
    COLUMN_S,
    POINT_S,
    SCALES,
    Point,
    Span,
    TimelineEvent,
    Track,
    folded,
    point_of,
)
from webapp.errors import StoreUnavailable, UnknownDevice
from webapp.rounds import Rounds

log = logging.getLogger(__name__)

READINGS_KEPT_S: Final = 4200
"""How long single readings are kept: an hour, the column in which it begins, and a margin until the next tidying."""
EVENTS_LIMIT: Final = 300
"""The most operations that a span shows, the newest ones; people start no more in a week."""
EVENTS_KEPT: Final = 2 * EVENTS_LIMIT
"""Cached operations above which those that no span shows any longer are dropped."""
STOP_S: Final = 2.0
"""How long a stop waits for a write in progress; one that hangs is abandoned and becomes a gap."""


class Readings(Protocol):
    """The monitor's methods that the recorder uses."""

    def latest(self) -> Sample | None:
        """Return the latest sample; never waits."""

    def is_stale(self) -> bool:
        """Return whether the latest sample is too old to decide on."""


class PointStore(Protocol):
    """The storage of points. Every call raises StoreUnavailable."""

    def save_points(self, step_s: int, points: Mapping[str, Sequence[Point]]) -> None:
        """Store points by device, ``step_s`` apart, replacing those of the same moments."""

    def points(self, device_id: str, step_s: int, since: float) -> tuple[Point, ...]:
        """Return a device's points from ``since`` on, oldest first."""

    def drop_points(self, step_s: int, before: float) -> int:
        """Delete the points that are older than ``before`` and return their number."""

    def recorded(self, step_s: int) -> tuple[str, ...]:
        """Return the devices that have points ``step_s`` apart."""

    def newest(self, device_id: str, step_s: int) -> float | None:
        """Return the moment of a device's newest point, ``None`` if there is none."""


class EventStore(Protocol):
    """The operations that the timeline marks. Every call raises StoreUnavailable."""

    def ended(self, since: float, limit: int) -> tuple[str, ...]:
        """Return the ids of the newest ``limit`` operations that ended at ``since`` or later, oldest first."""

    def events(self, ids: Collection[str]) -> tuple[TimelineEvent, ...]:
        """Return those of the operations that can be read, in any order."""


class Recorder(Rounds):
    """The writing thread. ``instances`` returns the running models by id."""

    def __init__(self, readings: Readings, instances: Callable[[], Mapping[str, Instance]], store: PointStore) -> None:
        super().__init__("recorder", self.look, POINT_S, stop_s=STOP_S)
        self._readings = readings
        self._instances = instances
        self._store = store
        self._written = 0
        """The number of the sample that was written last."""
        self._tidied: int | None = None
        """The current bucket at the time when all earlier ones were merged."""
        self._failing = False

    def look(self) -> None:
        """Store the latest sample, unless it is old or already stored; a failing store costs only this point."""
        sample = self._readings.latest()
        if sample is None or sample.number == self._written or self._readings.is_stale():
            return
        try:
            self._write(sample)
            self._tidy(sample.taken_at)
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

    def _tidy(self, now: float) -> None:
        """Merge finished periods and delete expired points, once a bucket."""
        bucket = math.floor(now / BUCKET_S)
        if bucket == self._tidied:
            return
        for device_id in self._store.recorded(POINT_S):
            self._fold(device_id, POINT_S, BUCKET_S, now)
            self._fold(device_id, BUCKET_S, COLUMN_S, now)
        self._store.drop_points(POINT_S, now - READINGS_KEPT_S)
        for step_s in (BUCKET_S, COLUMN_S):
            self._store.drop_points(step_s, SCALES[Span.WEEK].window(now)[0])
        self._tidied = bucket

    def _fold(self, device_id: str, fine_s: int, coarse_s: int, now: float) -> None:
        """Create the points of all finished periods that were not merged yet, by this Warden or an earlier one."""
        newest = self._store.newest(device_id, coarse_s)
        begin = 0.0 if newest is None else newest + coarse_s
        end = math.floor(now / coarse_s) * coarse_s
        over = [point for point in self._store.points(device_id, fine_s, begin) if point.taken_at < end]
        self._store.save_points(coarse_s, {device_id: folded(over, coarse_s)})


class Timeline:
    """Reads the points of the recorder; its calls read the store and wait for nothing else. ``clock`` is seconds since
    the epoch.
    """

    def __init__(
        self, readings: Readings, store: PointStore, operations: EventStore, clock: Callable[[], float] = time.time
    ) -> None:
        self._readings = readings
        self._store = store
        self._operations = operations
        self._clock = clock
        self._events: Mapping[str, TimelineEvent] = {}
        """Cached operations; the mapping is replaced, never changed."""

    def devices(self) -> tuple[str, ...]:
        """Return the devices of now and of the last week, in the order of their numbers; without the store those of the
        latest reading.
        """
        sample = self._readings.latest()
        present = set() if sample is None else {reading.device_id for reading in sample.readings}
        try:
            present |= set(self._store.recorded(COLUMN_S))
        except StoreUnavailable as exc:
            log.info("devices of the past are not known: %s", exc)
        return tuple(sorted(present, key=_by_number))

    def track(self, device_id: str, span: Span, *, drawn: bool = False) -> Track:
        """Return a device's memory over a span; if it is only ``drawn``, no finer than a chart needs.

        Raises UnknownDevice, StoreUnavailable.
        """
        known = self.devices()
        if device_id not in known:
            raise UnknownDevice(device=device_id, known=", ".join(known))
        begun_at, ended_at = SCALES[span].window(self._clock())
        points = self._points(device_id, SCALES[span].drawn if drawn else SCALES[span].steps, begun_at)
        events = tuple(event for event in self._since(begun_at) if event.touches(device_id))
        return Track(device_id, span, begun_at, ended_at, points, events)

    def _points(self, device_id: str, steps: Sequence[int], since: float) -> tuple[Point, ...]:
        """Return the points of the first step, the newest merged from finer ones: the current period is merged once it
        is over.
        """
        found: list[Point] = []
        for step_s in steps:
            found += self._store.points(device_id, step_s, since)
            since = found[-1].taken_at + step_s if found else since
        return folded(found, steps[0]) if len(steps) > 1 else tuple(found)

    def _since(self, moment: float) -> tuple[TimelineEvent, ...]:
        """Return the operations that ended since; an ended operation no longer changes, so each is read once."""
        ids, known = self._operations.ended(moment, EVENTS_LIMIT), self._events
        if missing := [one for one in ids if one not in known]:
            self._events = known = {**known, **{event.id: event for event in self._operations.events(missing)}}
        if len(known) > EVENTS_KEPT:
            self._events = {one: known[one] for one in ids if one in known}
        return tuple(known[one] for one in ids if one in known)


def _by_number(device_id: str) -> tuple[str, int]:
    """Return a sort key: ``gpu-2`` before ``gpu-10``."""
    name, number = re.fullmatch(r"(.*?)(\d*)", device_id, re.DOTALL).groups()  # type: ignore[union-attr]
    return name, int(number or 0)
