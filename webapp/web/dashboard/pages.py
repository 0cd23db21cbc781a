"""Whole pages: the dashboard, and the pages that replace dialogs without scripts."""

from __future__ import annotations

from dataclasses import replace

from flask import Blueprint, make_response, render_template, request
from flask.typing import ResponseReturnValue
from markupsafe import Markup

from webapp.control.contract import ForeignContainer
from webapp.domain.instance import Instance
from webapp.domain.people import Permission
from webapp.errors import UnknownInstance, WardenError
from webapp.web import formats, words
from webapp.web.actor import current_actor
from webapp.web.audit.recording import note_error
from webapp.web.dashboard import shown
from webapp.web.dashboard.presenters.containers import container_row
from webapp.web.dashboard.presenters.emergency import emergency_view
from webapp.web.dashboard.presenters.instances import instance_row
from webapp.web.dashboard.presenters.logs import log_view
from webapp.web.launch.form import LaunchForm, sent
from webapp.web.launch.presenters.load_anyway import load_anyway_view
from webapp.web.lookups import find_container, find_instance
from webapp.web.operations.presenters.operations import kept_log
from webapp.web.ports import controller, services
from webapp.web.responses import dialog, wants_fragment, with_clock
from webapp.web.rights import needs
from webapp.web.statuses import status_of

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
@needs(Permission.SEE)
def dashboard() -> ResponseReturnValue:
    """Show the dashboard; the query may fill in the form."""
    return dashboard_page()


def dashboard_page(error: WardenError | None = None) -> ResponseReturnValue:
    """Return the whole dashboard, with the reason if the form was refused."""
    if error is not None:
        note_error(error)
    now = shown.live()
    form = shown.asked_form(now)
    models = shown.asked_models(form.values, now)
    page = render_template(
        "pages/dashboard.html",
        live=now.view,
        models=models,
        model_list=Markup(shown.models_body(models).for_session()),  # noqa: S704  the text of an escaped template  # nosec B704
        form=form,
        refusal=None if error is None else words.say(error.message),
    )
    return with_clock(make_response(page, 200 if error is None else status_of(error)))


@blueprint.get("/confirm/emergency")
@needs(Permission.EMERGENCY)
def confirm_emergency() -> ResponseReturnValue:
    """List exactly what an emergency stop would end, and ask for confirmation."""
    view = emergency_view(controller().emergency_preview())
    return dialog("fragments/confirm_emergency.html", "pages/confirm.html", view=view)


@blueprint.get("/confirm/unload/<instance_id>")
@needs(Permission.UNLOAD)
def confirm_unload(instance_id: str) -> ResponseReturnValue:
    """Show the model's owner and whether it is in use, and ask for confirmation."""
    return unload_dialog(find_instance(instance_id))


def unload_dialog(instance: Instance) -> ResponseReturnValue:
    """Return the question before an unload that affects somebody else."""
    others, undo_s = instance.owner != current_actor(), services().settings.sharing.undo_s
    return dialog(
        "fragments/confirm_unload.html",
        "pages/confirm.html",
        row=instance_row(instance),
        owner=instance.owner if others else "",
        undo=formats.whole_duration(undo_s) if undo_s else "",
    )


@blueprint.get("/confirm/load-anyway")
@needs(Permission.SWITCH)
def confirm_load_anyway() -> ResponseReturnValue:
    """Show the shortfall of the estimate and who could be affected, and ask for confirmation."""
    snapshot = controller().snapshot()
    form = LaunchForm.read(sent(request.args), snapshot)
    plan = controller().plan(replace(form.to_request(), load_anyway=True), current_actor())
    view = load_anyway_view(form, snapshot, plan)
    return dialog("fragments/confirm_load_anyway.html", "pages/confirm.html", view=view)


@blueprint.get("/confirm/container/<container_id>")
@needs(Permission.CONTAINERS)
def confirm_container(container_id: str) -> ResponseReturnValue:
    """Show the container's owner and memory, and ask for its name."""
    return container_dialog(find_container(container_id))


def container_dialog(container: ForeignContainer, typed: str = "", problem: str | None = None) -> ResponseReturnValue:
    """Return the question before a foreign container is ended, with the wrongly ``typed`` name if there was one."""
    row = container_row(container, controller().snapshot().sample)
    return dialog("fragments/confirm_container.html", "pages/confirm.html", row=row, typed=typed, problem=problem)


@blueprint.get("/instances/<instance_id>/ask")
@needs(Permission.ASK)
def ask(instance_id: str) -> ResponseReturnValue:
    """Show the form for a question to a model."""
    row = instance_row(find_instance(instance_id))
    return dialog("fragments/ask.html", "pages/ask.html", row=row, prompt="", answer=None, problem=None)


@blueprint.get("/instances/<instance_id>/log")
@needs(Permission.SEE)
def log(instance_id: str) -> ResponseReturnValue:
    """Show the last lines of a model's log; HTMX gets the lines after the cursor ``after``, or 204."""
    try:
        row, lines = instance_row(find_instance(instance_id)), controller().log_tail(instance_id)
    except UnknownInstance:
        return _gone_log(instance_id)
    view = log_view(lines, request.args.get("after", ""))
    if not wants_fragment():
        limit = services().settings.launch.log_lines
        return render_template("pages/log.html", row=row, model=row.model, view=view, limit=limit)
    if not view.is_news and request.args.get("state") == row.state:
        return "", 204
    return render_template("fragments/log_answer.html", row=row, view=view)


def _gone_log(instance_id: str) -> ResponseReturnValue:
    """Tell an open page that the log has ended; a new page gets the lines that an operation's error kept."""
    if wants_fragment():
        return render_template("fragments/log_gone.html")
    operations = (o for o in controller().snapshot().recent if o.instance_id == instance_id)
    model, kept = next(((o.model_id, kept) for o in operations if (kept := kept_log(o))), (None, ""))
    if not kept:
        raise UnknownInstance(instance=instance_id)
    view = log_view(kept.splitlines())
    return render_template("pages/log.html", row=None, model=model or instance_id, view=view, limit=len(view.lines))
