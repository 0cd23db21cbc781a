"""The timeline: holders stacked over time, each with a pattern and a name, marks of operations, and a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple
from zlib import crc32

from webapp.domain.memory import LedgerKind
from webapp.domain.operation import OperationState
from webapp.domain.timeline import EventMark, Point, Span, TimelineEvent, Track, Who
from webapp.domain.units import GIB
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.phrases import short_name
from webapp.web.timeline import stacked_area
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.versions import Versioned
from webapp.web.words import names

PATTERNS: Final = ("slash", "backslash", "bars", "lines", "dots", "cross", "waves", "checks", "plain")
"""The patterns of holders; a page never shows two holders with the same one."""
FIXED: Final = {LedgerKind.DRIVER: "driver", LedgerKind.UNATTRIBUTED: "grid"}
OTHERS: Final = {LedgerKind.WORKER: "rings", LedgerKind.FOREIGN: "dashes"}
OWN_SHOWN: Final = 5
PEOPLE_SHOWN: Final = 4
"""How many holders have a pattern of their own, Warden's and other people's; the smallest of the others are combined.
"""
EVENTS_LISTED: Final = 12
HEADROOM: Final = 1.05
"""The drawing's height in units of the capacity, whose line is below the upper edge."""
NARROW_PX: Final = 320
WIDE_PX: Final = 820
"""The minimum width of the drawing on a phone, and on a wide screen, in pixels."""
LETTER_PX: Final = 7.2
LABEL_EDGE_PX: Final = 12
HOUR_TICK_S: Final = 600
SEVERITY: Final = tuple(EventMark)
"""A mark of several operations shows the first of these."""


class Layer(NamedTuple):
    """Holders that are drawn as one: all instances of a model in a mode, or all processes of a user."""

    kind: LedgerKind
    name: str | None = None
    mode: str | None = None
    is_rest: bool = False


FREE: Final = Layer(LedgerKind.FREE)


@dataclass(frozen=True)
class LayerView:
    """A holder in the drawing and in its legend. ``label`` is ``None`` if its name does not fit into the drawing."""

    number: int
    kind: str
    pattern: str
    name: str
    kind_word: str
    most: str
    path: str
    label: str | None
    label_fits: str
    """``narrow``: the label fits even on a phone; ``wide``: only on a wide screen."""
    x: float
    y: float


@dataclass(frozen=True)
class Tick:
    """A line of an axis with its text; ``place`` is in percent."""

    place: float
    text: str


@dataclass(frozen=True)
class MarkView:
    """A mark over the drawing. ``operation`` is ``None`` if it stands for several."""

    mark: str
    x: float
    lane: int
    count: int
    title: str
    operation: str | None


@dataclass(frozen=True)
class EventView:
    """An operation as text."""

    id: str
    mark: str
    title: str
    state_word: str
    actor: str
    when: str
    moment: str


@dataclass(frozen=True)
class GapView:
    """A period without data, in percent; ``label_fits`` as in a layer."""

    x: float
    width: float
    label_fits: str

    @property
    def middle(self) -> float:
        """The position of its text."""
        return round(self.x + self.width / 2, 2)


@dataclass(frozen=True)
class ChartView:
    """The drawing, in the geometry of ``stacked_area``."""

    layers: tuple[LayerView, ...]
    free: str
    gaps: tuple[GapView, ...]
    capacity_y: float
    capacity: str
    hours: tuple[Tick, ...]
    sizes: tuple[Tick, ...]
    marks: tuple[MarkView, ...]

    @property
    def lanes(self) -> int:
        """The number of rows of marks."""
        return max((mark.lane for mark in self.marks), default=0) + 1


@dataclass(frozen=True)
class TableRow:
    """One column of the drawing as figures; ``sizes`` is empty if nothing is known."""

    when: str
    sizes: tuple[str, ...]


@dataclass(frozen=True)
class TableView:
    """The drawing as figures, newest first."""

    heads: tuple[str, ...]
    rows: tuple[TableRow, ...]


@dataclass(frozen=True)
class TimelineView(Versioned):
    """A page of the timeline. ``chart`` is ``None`` while there is nothing to draw."""

    device_id: str | None
    device: str
    span: str
    chart: ChartView | None
    summary: str
    free_line: str
    events: tuple[EventView, ...]
    events_left: int
    """How many operations of the span are not listed."""
    problem: str | None = None

    @property
    def marks(self) -> tuple[tuple[str, str], ...]:
        """The signs of the shown operations, for the legend."""
        shown = {mark.mark for mark in self.chart.marks} if self.chart else set()
        shown |= {event.mark for event in self.events}
        return tuple((mark, words.word(names.EVENT_MARKS, mark)) for mark in names.EVENT_MARKS if mark in shown)


def timeline_view(track: Track) -> TimelineView:
    """Return the drawing of a device's memory."""
    columns = track.columns()
    events = tuple(event for event in track.events if event.mark is not None)
    known = [column for column in columns if column.is_known]
    return TimelineView(
        device_id=track.device_id,
        device=words.capital(words.device_label(track.device_id)),
        span=track.span.value,
        chart=_chart(track, columns, events) if known else None,
        summary=_summary(track, columns) if known else "",
        free_line=_free_line(known) if known else "",
        events=tuple(_event_view(event, track.ended_at) for event in reversed(events[-EVENTS_LISTED:])),
        events_left=max(len(events) - EVENTS_LISTED, 0),
    )


def empty_view(device_id: str | None, span: Span, problem: Message | None = None) -> TimelineView:
    """Return a page without a drawing, with the reason."""
    device = "" if device_id is None else words.capital(words.device_label(device_id))
    why = None if problem is None else words.say(problem)
    return TimelineView(device_id, device, span.value, None, "", "", (), 0, why)


def table_view(track: Track) -> TableView:
    """Return the drawing as figures, in GiB."""
    columns = track.columns()
    holdings = _holdings(columns)
    heads = (*(_name(layer) for layer in holdings.layers), words.word(names.LEDGER, LedgerKind.FREE), _("total"))
    pairs = zip(reversed(columns), reversed(holdings.sizes), strict=True)
    return TableView(heads, tuple(TableRow(_row_time(c.taken_at, track), _row(c, sizes)) for c, sizes in pairs))


def _row_time(moment: float, track: Track) -> str:
    return formats.time_of_day(moment) if track.span is Span.HOUR else formats.moment(moment, track.ended_at)


def _row(column: Point, sizes: Sequence[int] | None) -> tuple[str, ...]:
    if sizes is None or column.total_bytes is None:
        return ()
    return tuple(formats.number(size / GIB, 2 if size else 0) for size in (*sizes, column.total_bytes))


def _chart(track: Track, columns: Sequence[Point], events: Sequence[TimelineEvent]) -> ChartView:
    holdings = _holdings(columns)
    capacity = max(column.total_bytes or 0 for column in columns)
    top = max(round(capacity * HEADROOM), 1)
    *drawn, free = stacked_area.stack(holdings.sizes, top)
    patterns = _patterns(holdings.layers)
    shown = zip(holdings.layers, drawn, strict=True)
    return ChartView(
        layers=tuple(_layer_view(n, layer, d, patterns, holdings.most[layer]) for n, (layer, d) in enumerate(shown)),
        free=free.path,
        gaps=tuple(
            GapView(gap.x, gap.width, _fits(gap.width, _("no data"))) for gap in stacked_area.gaps(holdings.sizes)
        ),
        capacity_y=round(100 * (1 - capacity / top), 2),
        capacity=_("total %(size)s", size=formats.size(capacity)),
        hours=_hours(track),
        sizes=_size_ticks(capacity, top),
        marks=_marks(track, events),
    )


@dataclass(frozen=True)
class Holdings:
    """The columns of a drawing by its layers."""

    layers: tuple[Layer, ...]
    """From the bottom up, without the free memory; a new layer does not change the order of the others."""
    sizes: tuple[tuple[int, ...] | None, ...]
    """The bytes of each layer in each column, the free memory last; ``None`` if nothing is known."""
    most: Mapping[Layer, int]
    """The largest known size of each layer: as drawn, or of one of its holders at any moment."""


def _holdings(columns: Iterable[Point]) -> Holdings:
    by_column: list[dict[Layer, int] | None] = []
    most: dict[Layer, int] = {}
    layers: dict[Who, Layer] = {}  # a week has few holders and thousands of figures
    for column in columns:
        sizes: dict[Layer, int] = {}
        for who, used, most_bytes in column.held:
            layer = layers.get(who) or layers.setdefault(who, _layer_of(who))
            sizes[layer] = held = sizes.get(layer, 0) + used
            most[layer] = max(held, most_bytes, most.get(layer, 0))
        by_column.append(sizes if column.is_known else None)
    shown_as = _shown_as(most)
    if any(layer != shown for layer, shown in shown_as.items()):
        by_column = [None if sizes is None else _summed(sizes, shown_as) for sizes in by_column]
        most = _most_of_rests(most, shown_as, by_column)
    order = tuple(sorted({*shown_as.values()} - {FREE}, key=_place))
    known = (None if s is None else tuple(s.get(layer, 0) for layer in (*order, FREE)) for s in by_column)
    return Holdings(order, tuple(known), most)


def _summed(sizes: Mapping[Layer, int], shown_as: Mapping[Layer, Layer]) -> dict[Layer, int]:
    summed: dict[Layer, int] = {}
    for layer, size in sizes.items():
        shown = shown_as[layer]
        summed[shown] = summed.get(shown, 0) + size
    return summed


def _most_of_rests(
    most: Mapping[Layer, int], shown_as: Mapping[Layer, Layer], by_column: Iterable[Mapping[Layer, int] | None]
) -> dict[Layer, int]:
    found: dict[Layer, int] = {}
    for layer, size in most.items():
        found[shown_as[layer]] = max(size, found.get(shown_as[layer], 0))
    for sizes in by_column:
        for layer, size in (sizes or {}).items():
            found[layer] = max(size, found[layer])
    return found


def _layer_of(who: Who) -> Layer:
    if who.kind in (LedgerKind.WORKER, LedgerKind.CONTAINER):
        return Layer(who.kind, who.model_id, who.mode)
    return Layer(who.kind, who.user)


def _rest(layer: Layer) -> Layer:
    """Return the layer for holders without their own pattern."""
    kind = LedgerKind.FOREIGN if layer.kind is LedgerKind.FOREIGN else LedgerKind.WORKER
    return Layer(kind, is_rest=True)


def _shown_as(most: Mapping[Layer, int]) -> dict[Layer, Layer]:
    """Return for each layer what it is drawn as: itself, or the rest of its kind if there are not enough patterns."""
    named = [layer for layer in most if layer.kind not in FIXED and layer != FREE]
    own = [layer for layer in named if layer.kind is not LedgerKind.FOREIGN]
    people = [layer for layer in named if layer.kind is LedgerKind.FOREIGN]
    shown = {layer: layer for layer in most}
    for some, limit in ((own, OWN_SHOWN), (people, PEOPLE_SHOWN)):
        largest = sorted(some, key=lambda layer: (-most[layer], _place(layer)))
        shown |= {layer: _rest(layer) for layer in largest[limit:]}
    return shown


_ORDER: Final = {kind: place for place, kind in enumerate(LedgerKind)}


def _place(layer: Layer) -> tuple[object, ...]:
    return (_ORDER[layer.kind], layer.is_rest, layer.name or "", layer.mode or "")


def _patterns(layers: Iterable[Layer]) -> dict[Layer, str]:
    """Return a pattern for each layer: a fixed one by its name, or the next free one if that is taken."""
    found: dict[Layer, str] = {}
    for layer in layers:
        if layer.is_rest:
            found[layer] = OTHERS[layer.kind]
        elif layer.kind in FIXED:
            found[layer] = FIXED[layer.kind]
        else:
            first = crc32(repr((layer.kind.value, layer.name, layer.mode)).encode())
            tried = (PATTERNS[(first + n) % len(PATTERNS)] for n in range(len(PATTERNS)))
            found[layer] = next(pattern for pattern in tried if pattern not in found.values())
    return found


def _name(layer: Layer) -> str:
    if layer.is_rest:
        return _("other people’s remaining processes") if layer.kind is LedgerKind.FOREIGN else _("other models")
    if layer.name is None and layer.kind is LedgerKind.WORKER:
        return _("Warden’s own processes")  # those of a self-test
    if layer.name is None:
        return words.word(names.LEDGER, layer.kind)
    if layer.kind is LedgerKind.FOREIGN:
        return layer.name
    return f"{short_name(layer.name)} · {words.word(names.MODES, layer.mode)}"


def _kind_word(layer: Layer) -> str:
    """Return what the name alone does not show."""
    if layer.name is None or layer.is_rest:
        return ""
    return _("somebody else’s processes") if layer.kind is LedgerKind.FOREIGN else ""


def _layer_view(
    number: int, layer: Layer, drawn: stacked_area.LayerOutline, patterns: Mapping[Layer, str], most: int
) -> LayerView:
    name = _name(layer)
    short = name if layer.kind is LedgerKind.FOREIGN or layer.name is None else short_name(layer.name)
    room = drawn.room
    fits = "" if room is None else _fits(room.width, short)
    return LayerView(
        number=number,
        kind=layer.kind.value,
        pattern=patterns[layer],
        name=name,
        kind_word=_kind_word(layer),
        most=formats.size(most),
        path=drawn.path,
        label=short if fits else None,
        label_fits=fits,
        x=0.0 if room is None else room.x,
        y=0.0 if room is None else room.y,
    )


def _fits(room_percent: float, text: str) -> str:
    width_px = LETTER_PX * len(text) + LABEL_EDGE_PX
    if room_percent * NARROW_PX / 100 >= width_px:
        return "narrow"
    return "wide" if room_percent * WIDE_PX / 100 >= width_px else ""


def _share(track: Track, moment: float) -> float:
    return 100 * (moment - track.begun_at) / (track.ended_at - track.begun_at)


def _hours(track: Track) -> tuple[Tick, ...]:
    if track.span is Span.HOUR:
        moments, text = stacked_area.round_minutes(track.begun_at, track.ended_at, HOUR_TICK_S), formats.clock
    else:
        moments, text = stacked_area.midnights(track.begun_at, track.ended_at), formats.weekday
    return tuple(Tick(round(_share(track, moment), 2), text(moment)) for moment in moments)


def _size_ticks(capacity: int, top: int) -> tuple[Tick, ...]:
    steps = stacked_area.round_steps(capacity / GIB)
    digits = 0 if all(step == round(step) for step in steps) else 2
    return tuple(Tick(round(100 * (1 - step * GIB / top), 2), formats.number(step, digits)) for step in steps)


def _marks(track: Track, events: Sequence[TimelineEvent]) -> tuple[MarkView, ...]:
    found = stacked_area.places([_share(track, event.ended_at) for event in events])
    return tuple(_mark(place, [events[index] for index in place.moments], track.ended_at) for place in found)


def _mark(place: stacked_area.MarkSpot, events: Sequence[TimelineEvent], now: float) -> MarkView:
    marks = [event.mark for event in events if event.mark is not None]
    title = _event_title(events[0], now)
    if len(events) > 1:
        first, last = (formats.moment(event.ended_at, now) for event in (events[0], events[-1]))
        title = ngettext("%(num)s operation", "%(num)s operations", len(events))
        title = _("%(operations)s, %(first)s – %(last)s", operations=title, first=first, last=last)
    return MarkView(
        mark=min(marks, key=SEVERITY.index).value,
        x=place.x,
        lane=place.lane,
        count=len(events),
        title=title,
        operation=events[0].id if len(events) == 1 else None,
    )


def _event_title(event: TimelineEvent, now: float) -> str:
    view = _event_view(event, now)
    said = (view.title, view.state_word, view.actor, view.when)
    return ", ".join(part for part in said if part)


def _event_view(event: TimelineEvent, now: float) -> EventView:
    assert event.mark is not None
    usual = event.state in (OperationState.SUCCEEDED, OperationState.RUNNING)
    return EventView(
        id=event.id,
        mark=event.mark.value,
        title=_what(event),
        state_word="" if usual else words.word(names.OPERATION_STATES, event.state),
        actor=event.actor,
        when=formats.moment(event.ended_at, now),
        moment=formats.full_moment(event.ended_at),
    )


def _what(event: TimelineEvent) -> str:
    is_load = event.mark in (EventMark.LOAD, EventMark.SWITCH)
    kind = words.word(names.EVENT_MARKS, event.mark) if is_load else words.word(names.KINDS, event.kind)
    if event.model_id is None:
        return kind
    model = short_name(event.model_id)
    if event.evicted:
        return f"{kind}: {', '.join(short_name(gone) for gone in event.evicted)} → {model}"
    return f"{kind}: {model}"


def _summary(track: Track, columns: Sequence[Point]) -> str:
    """Return a sentence that describes the drawing for people who cannot see it."""
    fullest = min((c for c in columns if c.free_bytes is not None), key=lambda c: c.free_bytes or 0)
    total = fullest.total_bytes or 0
    span = _("the last hour") if track.span is Span.HOUR else _("the last week")
    text = _(
        "%(device)s in %(span)s: at most %(used)s of %(total)s was in use (%(when)s).",
        device=words.capital(words.device_label(track.device_id)),
        span=span,
        used=formats.size(total - (fullest.free_bytes or 0)),
        total=formats.size(total),
        when=formats.moment(fullest.taken_at, track.ended_at),
    )
    missing = sum(not column.is_known for column in columns[:-1])  # the last column may still be without a reading
    if not missing:
        return text
    lost = formats.whole_duration(missing * track.scale.column_s)
    return " ".join((text, _("No data for %(time)s.", time=lost)))


def _free_line(known: Sequence[Point]) -> str:
    readings = sum(column.readings for column in known)
    mean = sum(column.free_sum_bytes for column in known) / readings if readings else None
    least = min(column.free_bytes or 0 for column in known)
    return _("minimum %(least)s, mean %(mean)s", least=formats.size(least), mean=formats.size(mean))
