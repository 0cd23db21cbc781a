"""The self-test's page: start one, watch it, and see the results of earlier ones."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.operation import OperationFilter, OperationKind
from webapp.domain.people import Permission
from webapp.errors import StoreUnavailable
from webapp.web import commands, words
from webapp.web.actor import current_actor
from webapp.web.audit.recording import note_operation
from webapp.web.commands import does
from webapp.web.ports import controller
from webapp.web.responses import wants_fragment
from webapp.web.rights import needs, require_cancel
from webapp.web.selftest.presenter import SelftestView, selftest_view

EARLIER = 20

ONLY_SELFTESTS: Final = OperationFilter(kind=OperationKind.SELFTEST)
blueprint = Blueprint("selftest", __name__, url_prefix="/selftest")


@blueprint.get("")
@needs(Permission.SEE)
def page() -> ResponseReturnValue:
    """Show the page."""
    return render_template("pages/selftest.html", view=_view())


@blueprint.get("/live")
@needs(Permission.SEE)
def live() -> ResponseReturnValue:
    """Return the polled region, or 204 if the page has it already."""
    view = _view()
    if request.args.get("version") == view.version:
        return "", 204
    return render_template("fragments/selftest.html", view=view)


@blueprint.post("")
@does(commands.SELFTEST)
def begin() -> ResponseReturnValue:
    """Start a self-test."""
    note_operation(controller().selftest(current_actor()))
    return _again(202)


@blueprint.post("/<operation_id>/cancel")
@does(commands.CANCEL)
def cancel(operation_id: str) -> ResponseReturnValue:
    """Cancel a self-test."""
    require_cancel(controller().operation(operation_id))
    note_operation(controller().cancel(operation_id, current_actor()))
    return _again(202)


def _again(status: int) -> ResponseReturnValue:
    if not wants_fragment():
        return redirect(url_for("selftest.page"), 303)
    return make_response(render_template("fragments/selftest.html", view=_view()), status)


def _view() -> SelftestView:
    """Return the view; without the store, only what is in memory."""
    try:
        return selftest_view(controller().operations(EARLIER, ONLY_SELFTESTS))
    except StoreUnavailable as exc:
        snapshot = controller().snapshot()
        at_hand = [o for o in (*snapshot.running, *snapshot.recent) if ONLY_SELFTESTS.matches(o)]
        return selftest_view(at_hand, words.say(exc.message))
