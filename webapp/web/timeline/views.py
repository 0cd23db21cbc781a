"""The timeline as a page, a table and CSV."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from flask import Blueprint, Response, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.domain.people import Permission
from webapp.domain.timeline import POINT_S, Held, Point, Span, Track
from webapp.errors import StoreUnavailable
from webapp.web import words
from webapp.web.moments import when
from webapp.web.phrases import Choice
from webapp.web.ports import controller, timeline
from webapp.web.responses import wants_fragment
from webapp.web.rights import needs
from webapp.web.spreadsheet import MEDIA_TYPE, Cell, to_csv
from webapp.web.statuses import status_of
from webapp.web.timeline.presenter import TimelineView, empty_view, table_view, timeline_view
from webapp.web.timeline.query import asked_track
from webapp.web.translate import language
from webapp.web.view_cache import view_cache
from webapp.web.words import names

HEAD: Final = (
    "time",
    "device",
    "kind",
    "model",
    "mode",
    "instance",
    "user",
    "bytes",
    "most_bytes",
    "mean_bytes",
    "total_bytes",
)

blueprint = Blueprint("timeline", __name__)


@blueprint.get("/timeline")
@needs(Permission.SEE)
def page() -> ResponseReturnValue:
    """Show a device's timeline; HTMX gets its content if that differs from ``version``, or 204."""
    device_id, span = asked_track()
    try:
        view, status = _view(device_id, span), 200
    except StoreUnavailable as error:
        view, status = empty_view(device_id, span, error.message), status_of(error)
    if not wants_fragment():
        return make_response(render_template("pages/timeline.html", view=view, **_choices(device_id, span)), status)
    if request.args.get("version") == view.version:
        return "", 204
    return render_template("fragments/timeline.html", view=view)


@blueprint.get("/timeline/table")
@needs(Permission.SEE)
def table() -> ResponseReturnValue:
    """Show a device's timeline as a table."""
    device_id, span = asked_track()
    if device_id is None:
        return render_template(
            "pages/timeline_table.html", view=empty_view(None, span), table=None, **_choices(None, span)
        )
    track = timeline().track(device_id, span, drawn=True)
    view = empty_view(device_id, span)
    return render_template("pages/timeline_table.html", view=view, table=table_view(track), **_choices(device_id, span))


@blueprint.get("/timeline.csv")
@needs(Permission.SEE)
def as_csv() -> ResponseReturnValue:
    """Return every stored point as a table, one line per holder; the query is that of ``GET /api/v1/timeline``."""
    device_id, span = asked_track()
    lines = [] if device_id is None else _lines(timeline().track(device_id, span))
    answer = Response(to_csv(HEAD, lines), content_type=MEDIA_TYPE)
    answer.headers.set("Content-Disposition", "attachment", filename=f"warden-{device_id or 'none'}-{span}.csv")
    return answer


def _view(device_id: str | None, span: Span) -> TimelineView:
    """Return the view of a device. Raises UnknownDevice, StoreUnavailable."""
    if device_id is None:
        return empty_view(None, span)
    newest = next((operation.id for operation in controller().snapshot().recent), None)
    key = ("timeline", language(), device_id, span, int(time.time() // POINT_S), newest)
    return view_cache().of(key, lambda: timeline_view(timeline().track(device_id, span, drawn=True)))


def _choices(device_id: str | None, span: Span) -> dict[str, object]:
    devices = timeline().devices()
    return {
        "devices": [Choice(d, words.capital(words.device_label(d)), d == device_id) for d in devices],
        "spans": [Choice(s.value, words.word(names.SPANS, s), s is span) for s in Span],
    }


def _lines(track: Track) -> Iterator[tuple[Cell, ...]]:
    for point in track.points:
        yield from _lines_of(track.device_id, point)


def _lines_of(device_id: str, point: Point) -> Iterator[tuple[Cell, ...]]:
    """Yield one line per holder, or one without figures if nothing is known."""
    taken_at = when(point.taken_at)
    if not point.is_known:
        yield (taken_at, device_id, "unknown", *[None] * (len(HEAD) - 3))
    for held in point.held:
        yield (taken_at, device_id, *_cells(held), _mean(held, point), point.total_bytes)


def _cells(held: Held) -> tuple[Cell, ...]:
    kind, instance_id, model_id, mode, user = held.who
    return (kind.value, model_id, mode, instance_id, user, held.used_bytes, held.most_bytes)


def _mean(held: Held, point: Point) -> int | None:
    """Return the mean, which is known only for the free memory."""
    return point.mean_free_bytes if held.who.kind == "free" else None
