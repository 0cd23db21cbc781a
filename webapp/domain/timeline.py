"""Memory by holder over time: what is kept of a reading, how readings become one, and what happened meanwhile.

A reading is kept as its ledger, so a point adds up to the device's total. Several become one by their *fullest* moment, the one with
the least free memory: that is a state that really was, its parts still add up, and the peak, which decides whether the next load fails,
is never averaged away. Beside it stand the most that each holder had at any moment, and the mean of what was free. An unknown reading
counts for nothing; where all are unknown the result is, and is drawn as a gap.
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
"""Seconds from one reading that is kept to the next."""
BUCKET_S: Final = 600
"""Seconds of readings that become one for the week: 1008 a device."""
COLUMN_S: Final = 2400
"""Seconds of buckets that become one column of the week's drawing: kept too, since a page that had to fold them would be slow."""


class Span(StrEnum):
    """How far back one looks."""

    HOUR = "hour"
    """The last hour, by single readings."""
    WEEK = "week"
    """The last week, by buckets."""


@dataclass(frozen=True)
class Scale:
    """A span's length, and the time that one column of its drawing stands for, in seconds.

    ``steps`` are the distances of the points that it is read from: first of those that it is made of, then finer ones for the stretch under
    way. ``drawn`` are the same for a drawing.
    """

    span_s: int
    column_s: int
    steps: tuple[int, ...]
    drawn: tuple[int, ...]

    @property
    def step_s(self) -> int:
        """The distance of its points."""
        return self.steps[0]

    @property
    def columns(self) -> int:
        """Columns of the drawing."""
        return self.span_s // self.column_s

    def window(self, now: float) -> tuple[int, int]:
        """Return begin and end, since the epoch: whole columns, of which the last is under way, so that nothing moves within one."""
        end = (math.floor(now / self.column_s) + 1) * self.column_s
        return end - self.span_s, end


SCALES: Final[Mapping[Span, Scale]] = {
    Span.HOUR: Scale(3600, 20, (POINT_S,), (POINT_S,)),
    Span.WEEK: Scale(7 * 86400, COLUMN_S, (BUCKET_S, POINT_S), (COLUMN_S, BUCKET_S, POINT_S)),
}
"""180 and 252 columns: a screen shows no more."""


class Who(NamedTuple):
    """A holder, or what else a part of the total is. A tuple, since a week has thousands of them as keys."""

    kind: LedgerKind
    instance_id: str | None = None
    model_id: str | None = None
    """``None`` for the models of a self-test."""
    mode: str | None = None
    user: str | None = None
    """Of other people's processes; ``None`` is unknown."""


class Held(NamedTuple):
    """What a holder had: at the point's moment, and at most."""

    who: Who
    used_bytes: int
    most_bytes: int


@dataclass(frozen=True)
class Point:
    """A device at one moment, or in a stretch of time by its fullest moment.

    ``held`` has all parts, the free memory too, and their ``used_bytes`` add up to ``total_bytes``. Where that is ``None`` nothing is
    known.
    """

    taken_at: float
    """Seconds since the epoch; a stretch's begin."""
    total_bytes: int | None
    held: tuple[Held, ...] = ()
    free_sum_bytes: int = 0
    """The free memory of all its known readings together."""
    readings: int = 0
    """Known readings in it."""

    @property
    def is_known(self) -> bool:
        """Whether there is anything to show."""
        return self.total_bytes is not None

    @property
    def free_bytes(self) -> int | None:
        """What was free at its moment."""
        return next((h.used_bytes for h in self.held if h.who.kind is LedgerKind.FREE), None)

    @property
    def mean_free_bytes(self) -> int | None:
        """What was free on average."""
        return round(self.free_sum_bytes / self.readings) if self.readings else None


class EventMark(StrEnum):
    """What a mark on the timeline says of an operation, before anything else that could be said of it."""

    FAILURE = "failure"
    """It failed, or was cut off, whatever it was."""
    CANCELLED = "cancelled"
    EMERGENCY = "emergency"
    SWITCH = "switch"
    """A model was loaded in the place of others."""
    LOAD = "load"
    """A model was loaded beside what there was."""
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
class Event:
    """An operation that ended, as a mark needs it."""

    id: str
    kind: OperationKind
    state: OperationState
    actor: str
    ended_at: float
    mode: str | None = None
    model_id: str | None = None
    evicted: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    """Those that it claimed or unloaded from; empty where it was for all."""

    @property
    def mark(self) -> EventMark | None:
        """What is to be marked; ``None`` where it touches no device's memory."""
        usual = _MARKS.get(self.kind)
        if usual is None:
            return None
        if self.state in _FAILED:
            return EventMark.FAILURE
        if self.state is OperationState.CANCELLED:
            return EventMark.CANCELLED
        return EventMark.LOAD if usual is EventMark.SWITCH and not self.evicted else usual

    def touches(self, device_id: str) -> bool:
        """Whether it was for this device."""
        return not self.devices or device_id in self.devices


@dataclass(frozen=True)
class Track:
    """One device over a span. Points and events are oldest first; times are seconds since the epoch."""

    device_id: str
    span: Span
    begun_at: float
    ended_at: float
    points: tuple[Point, ...]
    events: tuple[Event, ...] = ()

    @property
    def scale(self) -> Scale:
        """The figures of its span."""
        return SCALES[self.span]

    def columns(self) -> tuple[Point, ...]:
        """Return one point for each column of the drawing, unknown where there is none."""
        column_s = self.scale.column_s
        found = {point.taken_at: point for point in folded(self.points, column_s)}
        starts = (self.begun_at + index * column_s for index in range(self.scale.columns))
        return tuple(found.get(start) or Point(start, None) for start in starts)


def point_of(reading: Reading, taken_at: float, instances: Mapping[str, Instance]) -> Point:
    """Return what is kept of a reading; ``instances`` tell the models of our own processes."""
    ledger = build_ledger(reading, {})
    if ledger is None:
        return Point(taken_at, None)
    held = sorted((Held(_who(part, instances), part.used_bytes, part.used_bytes) for part in ledger.parts), key=_place)
    free = sum(part.used_bytes for part in ledger.parts if part.kind is LedgerKind.FREE)
    return Point(taken_at, ledger.total_bytes, tuple(held), free, 1)


def fold(points: Iterable[Point], taken_at: float) -> Point:
    """Return points as one that begins at ``taken_at``; see the module's own words. Folding what was folded changes nothing."""
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
    """Return one point for each stretch of ``step_s`` that has any, oldest first; a stretch begins at a multiple since the epoch."""
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
    """The ledger's order of kinds, and one that is always the same within a kind."""
    return (_ORDER[held.who.kind], *(text or "" for text in held.who[1:]))
