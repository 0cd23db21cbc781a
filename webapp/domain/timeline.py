"""Memory by holder over time: the stored form of a reading, how readings are merged, and the events in between.

A reading is stored as its ledger, so a point adds up to the device's total. Several readings are merged into their
*fullest* moment, the one with the least free memory: that state really occurred, its parts still add up, and the peak,
which decides whether the next load fails, is never averaged away. The merged point also has the maximum of each holder
and the mean of the free memory. An unknown reading counts for nothing; if all are unknown, the result is unknown and is
drawn as a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from webapp.domain.instance import Instance
from webapp.domain.memory import LedgerKind, LedgerPart, Reading, build_ledger
from webapp.domain.operation import OperationKind, OperationState

POINT_S: Final = 10
"""Seconds between two stored readings."""
BUCKET_S: Final = 600
"""Seconds of readings that are merged for the week: 1008 buckets a device."""
COLUMN_S: Final = 2400
"""Seconds of buckets that are merged into one column of the week's chart: stored too, since merging them per page view
would be slow.
"""


class Span(StrEnum):
    """The period that a timeline shows."""

    HOUR = "hour"
    """The last hour, by single readings."""
    WEEK = "week"
    """The last week, by buckets."""


@dataclass(frozen=True)
class Scale:
    """A span's length, and the time that one column of its chart covers, in seconds.

    ``steps`` are the distances between the points that a span is read from: first its own points, then finer ones for the
    period in progress. ``drawn`` are the same for a chart.
    """

    span_s: int
    column_s: int
    steps: tuple[int, ...]
    drawn: tuple[int, ...]

    @property
    def step_s(self) -> int:
        """The distance of its points in seconds."""
        return self.steps[0]

    @property
    def columns(self) -> int:
        """Columns of the chart."""
        return self.span_s // self.column_s

    def window(self, now: float) -> tuple[int, int]:
        """Return the beginning and the end in seconds since the epoch: whole columns, of which the last is in progress,
        so that nothing moves within one.
        """
        end = (math.floor(now / self.column_s) + 1) * self.column_s
        return end - self.span_s, end


SCALES: Final[Mapping[Span, Scale]] = {
    Span.HOUR: Scale(3600, 20, (POINT_S,), (POINT_S,)),
    Span.WEEK: Scale(7 * 86400, COLUMN_S, (BUCKET_S, POINT_S), (COLUMN_S, BUCKET_S, POINT_S)),
}
"""180 and 252 columns: a screen cannot show more."""


class Who(NamedTuple):
    """A holder, or another part of the total. A tuple, since a week has thousands of them as keys."""

    kind: LedgerKind
    instance_id: str | None = None
    model_id: str | None = None
    """``None`` for the models of a self-test."""
    mode: str | None = None
    user: str | None = None
    """The owner of other people's processes; ``None`` is unknown."""


class Held(NamedTuple):
    """A holder's memory: at the point's moment, and at most."""

    who: Who
    used_bytes: int
    most_bytes: int


@dataclass(frozen=True)
class Point:
    """A device at one moment, or a period represented by its fullest moment.

    ``held`` has all parts, including the free memory, and their ``used_bytes`` add up to ``total_bytes``. If that is
    ``None``, nothing is known.
    """

    taken_at: float
    """Seconds since the epoch; the beginning of a period."""
    total_bytes: int | None
    held: tuple[Held, ...] = ()
    free_sum_bytes: int = 0
    """The sum of the free memory of all its known readings."""
    readings: int = 0
    """Number of its known readings."""

    @property
    def is_known(self) -> bool:
        """Whether there is anything to show."""
        return self.total_bytes is not None

    @property
    def free_bytes(self) -> int | None:
        """The free memory at its moment."""
        return next((h.used_bytes for h in self.held if h.who.kind is LedgerKind.FREE), None)

    @property
    def mean_free_bytes(self) -> int | None:
        """The mean of the free memory."""
        return round(self.free_sum_bytes / self.readings) if self.readings else None


class EventMark(StrEnum):
    """The mark of an operation on the timeline; the first that applies is used."""

    FAILURE = "failure"
    """It failed or was interrupted, whatever it was."""
    CANCELLED = "cancelled"
    EMERGENCY = "emergency"
    SWITCH = "switch"
    """A model was loaded in place of others."""
    LOAD = "load"
    """A model was loaded in addition to the running ones."""
    UNLOAD = "unload"
    CLEAN = "clean"
    CONTAINER = "container"
    """A container that Warden did not start was ended."""
    SELFTEST = "selftest"


_FAILED: Final = frozenset({OperationState.FAILED, OperationState.ABANDONED})
_MARKS: Final[Mapping[OperationKind, EventMark]] = {
    OperationKind.SWITCH: EventMark.SWITCH,
    OperationKind.UNLOAD: EventMark.UNLOAD,
    OperationKind.CLEAN: EventMark.CLEAN,
    OperationKind.EMERGENCY: EventMark.EMERGENCY,
    OperationKind.STOP_CONTAINER: EventMark.CONTAINER,
    OperationKind.SELFTEST: EventMark.SELFTEST,
    OperationKind.RESTORE: EventMark.LOAD,
}


@dataclass(frozen=True)
class TimelineEvent:
    """A finished operation, with the values that a mark needs."""

    id: str
    kind: OperationKind
    state: OperationState
    actor: str
    ended_at: float
    mode: str | None = None
    model_id: str | None = None
    evicted: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    """The devices that it claimed or unloaded from; empty if it concerned all devices."""

    @property
    def mark(self) -> EventMark | None:
        """The mark of the event; ``None`` if it touches no device's memory."""
        usual = _MARKS.get(self.kind)
        if usual is None:
            return None
        if self.state in _FAILED:
            return EventMark.FAILURE
        if self.state is OperationState.CANCELLED:
            return EventMark.CANCELLED
        return EventMark.LOAD if usual is EventMark.SWITCH and not self.evicted else usual

    def touches(self, device_id: str) -> bool:
        """Return whether it concerns this device."""
        return not self.devices or device_id in self.devices


@dataclass(frozen=True)
class Track:
    """One device over a span. Points and events are oldest first; times are seconds since the epoch."""

    device_id: str
    span: Span
    begun_at: float
    ended_at: float
    points: tuple[Point, ...]
    events: tuple[TimelineEvent, ...] = ()

    @property
    def scale(self) -> Scale:
        """The figures of its span."""
        return SCALES[self.span]

    def columns(self) -> tuple[Point, ...]:
        """Return one point for each column of the chart, unknown if there is none."""
        column_s = self.scale.column_s
        found = {point.taken_at: point for point in folded(self.points, column_s)}
        starts = (self.begun_at + index * column_s for index in range(self.scale.columns))
        return tuple(found.get(start) or Point(start, None) for start in starts)


def point_of(reading: Reading, taken_at: float, instances: Mapping[str, Instance]) -> Point:
    """Return the stored form of a reading; ``instances`` gives the models of Warden's own processes."""
    ledger = build_ledger(reading, {})
    if ledger is None:
        return Point(taken_at, None)
    held = sorted((Held(_who(part, instances), part.used_bytes, part.used_bytes) for part in ledger.parts), key=_place)
    free = sum(part.used_bytes for part in ledger.parts if part.kind is LedgerKind.FREE)
    return Point(taken_at, ledger.total_bytes, tuple(held), free, 1)


def fold(points: Iterable[Point], taken_at: float) -> Point:
    """Merge points into one that begins at ``taken_at``, by the rule in the module's docstring. Merging again changes
    nothing.
    """
    known = [point for point in points if point.is_known]
    if not known:
        return Point(taken_at, None)
    if len(known) == 1:
        only = known[0]
        return Point(taken_at, only.total_bytes, only.held, only.free_sum_bytes, only.readings)
    fullest = min(known, key=lambda point: point.free_bytes or 0)
    used = {held.who: held.used_bytes for held in fullest.held}
    most: dict[Who, int] = {}
    for point in known:
        for who, _, most_bytes in point.held:
            most[who] = max(most_bytes, most.get(who, 0))
    held = sorted((Held(who, used.get(who, 0), most_bytes) for who, most_bytes in most.items()), key=_place)
    free_sum = sum(point.free_sum_bytes for point in known)
    return Point(taken_at, fullest.total_bytes, tuple(held), free_sum, sum(point.readings for point in known))


def folded(points: Iterable[Point], step_s: int) -> tuple[Point, ...]:
    """Return one point for each period of ``step_s`` that has any, oldest first; a period begins at a multiple of it since
    the epoch.
    """
    stretches: dict[int, list[Point]] = {}
    for point in points:
        stretches.setdefault(math.floor(point.taken_at / step_s), []).append(point)
    return tuple(fold(stretch, float(index * step_s)) for index, stretch in sorted(stretches.items()))


def _who(part: LedgerPart, instances: Mapping[str, Instance]) -> Who:
    instance = None if part.instance_id is None else instances.get(part.instance_id)
    return Who(
        kind=part.kind,
        instance_id=part.instance_id,
        model_id=None if instance is None else instance.model_id,
        mode=None if instance is None else instance.mode.value,
        user=part.user,
    )


_ORDER: Final = {kind: place for place, kind in enumerate(LedgerKind)}


def _place(held: Held) -> tuple[object, ...]:
    """Return a sort key: the ledger's order of kinds, and a stable order within a kind."""
    return (_ORDER[held.who.kind], *(text or "" for text in held.who[1:]))
