"""How an action answers: to HTMX with what to show and what to refresh, to a plain form with a redirect."""

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
    """Whether HTMX asks, and not a browser for a page."""
    return request.headers.get("HX-Request") == "true"


def accepted(operation: Operation, told: str = "") -> ResponseReturnValue:
    """Answer that ``operation`` has begun, or when it will, and who is ``told`` of it; its progress comes through the poll."""
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
    """Answer that ``operation``, or what it brings back, was asked to stop."""
    note_operation(operation)
    if rollback:
        return done(_("Restoring the previous models: stop requested."))
    return done(_("%(operation)s. Stop requested.", operation=operation_view(operation).title))


def done(text: str) -> ResponseReturnValue:
    """Answer that an action was accepted, as ``text`` says; a form may name the page in ``next`` that it belongs to."""
    if not wants_fragment():
        flash(text, SUCCESS)
        return redirect(same_site_path(request.form.get("next")), 303)
    body = render_template("fragments/say_partial.html", sign=SUCCESS, text=text, tone="good")
    return make_response(body, 202, {"HX-Trigger": f"{REFRESH}, {CLOSE_DIALOG}"})


def refused(text: str, status: int) -> ResponseReturnValue:
    """Answer HTMX with a sentence for ``#say``.

    What is 4xx is swapped there by the element's ``hx-status:4xx``; 5xx is never swapped, so it comes as a partial, which is.
    """
    template = "fragments/say_partial.html" if status >= SERVER_ERROR else "fragments/say.html"
    return make_response(render_template(template, sign=FAILURE, text=text, tone="bad"), status)


def dialog(template: str, page: str, **context: object) -> ResponseReturnValue:
    """Show ``template`` in the page's dialog, or inside ``page`` where scripts are off."""
    note_question()
    if not wants_fragment():
        return render_template(page, body=template, **context)
    return make_response(render_template(template, in_dialog=True, **context), {"HX-Trigger": OPEN_DIALOG})


def reading_age_s() -> float | None:
    """Return how old the latest reading is at this moment; a kept view may be a second older than it says."""
    return controller().snapshot().sample_age_s


def with_clock(response: Response) -> Response:
    """Tell the page what time it is here and how old the reading is, so that it can count on its own."""
    response.headers["Warden-Clock"] = f"{time.time():.3f}"
    if (age_s := reading_age_s()) is not None:
        response.headers["Warden-Reading-Age"] = f"{age_s:.3f}"
    return response
