"""Answers of actions: HTMX gets what to show and what to refresh, a plain form gets a redirect."""

from __future__ import annotations

import time

from flask import Response, flash, make_response, redirect, render_template, request
from flask.typing import ResponseReturnValue

from webapp.domain.operation import Operation
from webapp.web import formats
from webapp.web.audit.recording import note_operation, note_question
from webapp.web.operations.presenters.operations import operation_view
from webapp.web.phrases import FAILURE, SUCCESS
from webapp.web.ports import controller, services
from webapp.web.security import same_site_path
from webapp.web.translate import gettext as _

REFRESH = "warden:refresh"
OPEN_DIALOG = "warden:dialog"
CLOSE_DIALOG = "warden:close-dialog"
SERVER_ERROR = 500


def wants_fragment() -> bool:
    """Whether HTMX sent the request, and not a browser that wants a page."""
    return request.headers.get("HX-Request") == "true"


def accepted(operation: Operation, told: str = "") -> ResponseReturnValue:
    """Answer that ``operation`` has begun, or when it will, and who is ``told``; the poll reports its progress."""
    note_operation(operation)
    title = operation_view(operation).title
    said = [_("%(operation)s. Started.", operation=title)]
    if operation.is_in_grace:
        undo = formats.whole_duration(services().settings.sharing.undo_s)
        said = [_("%(operation)s. Starts in %(time)s; until then it can be stopped.", operation=title, time=undo)]
    if told:
        said.append(_("%(owner)s will be told.", owner=told))
    if not controller().is_stored(operation.id):
        said.append(_("The database is not responding: the operation will appear in the history later."))
    return done(" ".join(said))


def stopping(operation: Operation, *, rollback: bool) -> ResponseReturnValue:
    """Answer that ``operation`` or its rollback is being cancelled."""
    note_operation(operation)
    if rollback:
        return done(_("Restoring the previous models: stop requested."))
    return done(_("%(operation)s. Stop requested.", operation=operation_view(operation).title))


def done(text: str) -> ResponseReturnValue:
    """Answer with ``text`` that an action was accepted; a form may name its own page in ``next``."""
    if not wants_fragment():
        flash(text, SUCCESS)
        return redirect(same_site_path(request.form.get("next")), 303)
    body = render_template("fragments/say_partial.html", sign=SUCCESS, text=text, tone="good")
    return make_response(body, 202, {"HX-Trigger": f"{REFRESH}, {CLOSE_DIALOG}"})


def refused(text: str, status: int) -> ResponseReturnValue:
    """Answer HTMX with a sentence for ``#say``.

    The element's ``hx-status:4xx`` swaps in 4xx answers. 5xx answers are never swapped in, so they are sent as a
    partial.
    """
    template = "fragments/say_partial.html" if status >= SERVER_ERROR else "fragments/say.html"
    return make_response(render_template(template, sign=FAILURE, text=text, tone="bad"), status)


def dialog(template: str, page: str, **context: object) -> ResponseReturnValue:
    """Show ``template`` in the page's dialog, or inside ``page`` without scripts."""
    note_question()
    if not wants_fragment():
        return render_template(page, body=template, **context)
    return make_response(render_template(template, in_dialog=True, **context), {"HX-Trigger": OPEN_DIALOG})


def reading_age_s() -> float | None:
    """Return the present age of the latest reading; a cached view may be a second older than it says."""
    return controller().snapshot().sample_age_s


def with_clock(response: Response) -> Response:
    """Send the server's time and the age of the reading, so that the page can count on its own."""
    response.headers["Warden-Clock"] = f"{time.time():.3f}"
    if (age_s := reading_age_s()) is not None:
        response.headers["Warden-Reading-Age"] = f"{age_s:.3f}"
    return response
