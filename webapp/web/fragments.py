"""The refreshable regions. Content that the page has already is answered with 204, which costs neither side a drawing."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.domain.people import Permission
from webapp.web.ports import controller
from webapp.web.presenters.emergency import emergency_view
from webapp.web.presenters.live import LiveView
from webapp.web.rights import needs
from webapp.web.view_cache import CachedForm, CachedView, asked_form, asked_models, board, with_clock

blueprint = Blueprint("fragments", __name__, url_prefix="/fragments")


@blueprint.get("/live")
@needs(Permission.SEE)
def live() -> ResponseReturnValue:
    """Return the polled region, and the outcome of an operation that has ended since the page last asked."""
    shown = board().live()
    if request.args.get("version") == shown.token:
        return with_clock(make_response("", 204))
    body = board().live_body(shown).for_session()
    return with_clock(make_response(body + _announcement(shown.view, request.args)))


def _announcement(view: LiveView, asked: Mapping[str, str]) -> str:
    """How the latest operation ended, for a page that has not seen it end: the one part that is not the same for everybody."""
    if "seen" not in asked or asked["seen"] == view.newest_ended or not view.recent:
        return ""
    ended = view.recent[0]
    text = f"{ended.title}. {ended.sentence}"
    return render_template("fragments/say_partial.html", sign=ended.state_sign, text=text, tone=ended.tone)


@blueprint.get("/plan")
@needs(Permission.PLAN)
def plan() -> ResponseReturnValue:
    """Return the plan for the form's values, and the parts of the form that follow from the state of the server."""
    shown = board().live()
    form = asked_form(shown)
    news = _models_news(form, shown)
    if request.args.get("plan_version") == form.token and not news:
        return "", 204
    return board().form_body(form).for_session() + news


def _models_news(form: CachedForm, shown: CachedView) -> str:
    """The list of cached models, for a page that shows another one: how they fit follows from the form and the memory."""
    version = request.args.get("models_version")
    models = asked_models(form.view.values, shown)
    if version in (None, models.digest):
        return ""
    return _in_place("#model-list", board().models_body(models).for_session())


def _in_place(target: str, body: str) -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="innerMorph">{body}</hx-partial>'


@blueprint.get("/models")
@needs(Permission.SEE)
def models() -> ResponseReturnValue:
    """Return the cached models that are looked for."""
    shown = board().live()
    found = asked_models(asked_form(shown).view.values, shown)
    if request.args.get("models_version") == found.digest:
        return "", 204
    return board().models_body(found).for_session()


@blueprint.get("/advice")
@needs(Permission.PLAN)
def advice() -> ResponseReturnValue:
    """Return the advice for the form's values."""
    form = asked_form(board().live())
    return render_template("fragments/advice.html", form=form.view)


@blueprint.get("/emergency")
@needs(Permission.EMERGENCY)
def emergency() -> ResponseReturnValue:
    """Return the list in the open emergency dialog, so that it stays exact until somebody confirms it."""
    return render_template("fragments/emergency_list.html", view=emergency_view(controller().emergency_preview()))
