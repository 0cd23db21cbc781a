"""The refreshable regions. Content that the page has already is answered with 204, which costs neither side a drawing."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.web.board import asked_form, board, form_token, with_clock
from webapp.web.ports import controller
from webapp.web.presenters.emergency import emergency_view
from webapp.web.presenters.live import LiveView
from webapp.web.presenters.operations import OperationView

blueprint = Blueprint("fragments", __name__, url_prefix="/fragments")


@blueprint.get("/live")
def live() -> ResponseReturnValue:
    """Return the polled region, and the outcome of an operation that has ended since the page last asked."""
    shown = board().live()
    if request.args.get("version") == shown.token:
        return with_clock(make_response("", 204))
    body = render_template(
        "fragments/live.html", live=shown.view, version=shown.token, outcome=_just_ended(shown.view, request.args)
    )
    return with_clock(make_response(body))


def _just_ended(view: LiveView, seen: Mapping[str, str]) -> OperationView | None:
    if "seen" not in seen or seen["seen"] == view.newest_ended or not view.recent:
        return None
    return view.recent[0]


@blueprint.get("/plan")
def plan() -> ResponseReturnValue:
    """Return the plan for the form's values, and the parts of the form that follow from the state of the server."""
    form = asked_form(board().live().snapshot)
    token = form_token(form)
    if request.args.get("plan_version") == token:
        return "", 204
    return render_template("fragments/plan_answer.html", form=form, form_version=token)


@blueprint.get("/advice")
def advice() -> ResponseReturnValue:
    """Return the advice for the form's values."""
    form = asked_form(board().live().snapshot)
    return render_template("fragments/advice.html", form=form)


@blueprint.get("/emergency")
def emergency() -> ResponseReturnValue:
    """Return the list in the open emergency dialog, so that it stays exact until somebody confirms it."""
    return render_template("fragments/emergency_list.html", view=emergency_view(controller().emergency_preview()))
