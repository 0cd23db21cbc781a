"""The refreshable regions. If the page has the content already, the answer is 204, and nothing is rendered."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Blueprint, make_response, render_template, request
from flask.typing import ResponseReturnValue

from webapp.domain.people import Permission
from webapp.web.dashboard import shown
from webapp.web.dashboard.presenters.emergency import emergency_view
from webapp.web.dashboard.presenters.live import LiveView
from webapp.web.dashboard.shown import Shown
from webapp.web.launch.presenters.form import FormView
from webapp.web.ports import controller
from webapp.web.responses import with_clock
from webapp.web.rights import needs

blueprint = Blueprint("fragments", __name__, url_prefix="/fragments")


@blueprint.get("/live")
@needs(Permission.SEE)
def live() -> ResponseReturnValue:
    """Return the polled region, and the outcome of an operation that ended since the last request of the page."""
    now = shown.live()
    if request.args.get("version") == now.view.version:
        return with_clock(make_response("", 204))
    body = shown.live_body(now).for_session()
    return with_clock(make_response(body + _announcement(now.view, request.args)))


def _announcement(view: LiveView, asked: Mapping[str, str]) -> str:
    """Return how the latest operation ended, for a page that has not seen that: the only part that differs by page."""
    if "seen" not in asked or asked["seen"] == view.newest_ended or not view.recent:
        return ""
    ended = view.recent[0]
    text = f"{ended.title}. {ended.sentence}"
    return render_template("fragments/say_partial.html", sign=ended.state_sign, text=text, tone=ended.tone)


@blueprint.get("/plan")
@needs(Permission.PLAN)
def plan() -> ResponseReturnValue:
    """Return the plan for the form's values, and the parts of the form that depend on the server's state."""
    now = shown.live()
    form = shown.asked_form(now)
    news = _models_news(form, now)
    if request.args.get("plan_version") == form.version and not news:
        return "", 204
    return shown.form_body(form).for_session() + news


def _models_news(form: FormView, now: Shown) -> str:
    """Return the list of cached models if the page shows another: how they fit depends on the form and the memory."""
    version = request.args.get("models_version")
    models = shown.asked_models(form.values, now)
    if version in (None, models.version):
        return ""
    return _in_place("#model-list", shown.models_body(models).for_session())


def _in_place(target: str, body: str) -> str:
    return f'<hx-partial hx-target="{target}" hx-swap="innerMorph">{body}</hx-partial>'


@blueprint.get("/models")
@needs(Permission.SEE)
def models() -> ResponseReturnValue:
    """Return the cached models that match the search."""
    now = shown.live()
    found = shown.asked_models(shown.asked_form(now).values, now)
    if request.args.get("models_version") == found.version:
        return "", 204
    return shown.models_body(found).for_session()


@blueprint.get("/advice")
@needs(Permission.PLAN)
def advice() -> ResponseReturnValue:
    """Return the advice for the form's values."""
    form = shown.asked_form(shown.live())
    return render_template("fragments/advice.html", form=form)


@blueprint.get("/emergency")
@needs(Permission.EMERGENCY)
def emergency() -> ResponseReturnValue:
    """Return the list of the open emergency dialog, so that it is exact until the confirmation."""
    return render_template("fragments/emergency_list.html", view=emergency_view(controller().emergency_preview()))
