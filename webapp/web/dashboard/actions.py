"""The actions of the page. Each works as a plain form and answers at once with the accepted operation."""

from __future__ import annotations

import time
from dataclasses import replace

from flask import Blueprint, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.instance import Instance
from webapp.errors import NotConfirmed, WardenError
from webapp.web import commands, words
from webapp.web.actor import current_actor
from webapp.web.audit.recording import ask_first, note_error
from webapp.web.commands import does
from webapp.web.dashboard.pages import container_dialog, dashboard_page, unload_dialog
from webapp.web.launch.form import ON, LaunchForm, sent
from webapp.web.leases.views import ask_dialog
from webapp.web.lookups import find_container, find_instance
from webapp.web.ports import controller
from webapp.web.responses import accepted, done, stopping, wants_fragment
from webapp.web.rights import require_cancel, require_override
from webapp.web.statuses import status_of
from webapp.web.translate import gettext as _

blueprint = Blueprint("actions", __name__)


@blueprint.post("/switch")
@does(commands.SWITCH)
def switch() -> ResponseReturnValue:
    """Carry out the form, against the estimate only if that was confirmed; a refusal keeps the typed values."""
    form = LaunchForm.read(sent(request.form), controller().snapshot())
    load_anyway = request.form.get("load_anyway") == ON
    if load_anyway and request.form.get("confirmed") != ON:
        return ask_first(f"{url_for('pages.confirm_load_anyway')}?{form.query}")
    try:
        asked = replace(form.to_request(time.time()), load_anyway=load_anyway)
        require_override(asked.override_reason)
        operation = controller().switch(asked, current_actor())
    except WardenError as error:
        if wants_fragment():
            raise
        return dashboard_page(error)
    return accepted(operation)


@blueprint.post("/preview")
@does(commands.PLAN)
def preview() -> ResponseReturnValue:
    """Show the plan for the form without scripts, by a redirect, so that the form's token is not in the URL."""
    return _dashboard_with_form()


def _dashboard_with_form() -> ResponseReturnValue:
    form = LaunchForm.read(sent(request.form), controller().snapshot())
    return redirect(f"{url_for('pages.dashboard')}?{form.query}#switch", 303)


@blueprint.post("/instances/<instance_id>/unload")
@does(commands.UNLOAD)
def unload(instance_id: str) -> ResponseReturnValue:
    """Unload a model; an own model in use and an idle one of another person only after a confirmation.

    For another person's model that is in use or leased, a release request is offered, unless an administrator gives a
    reason to override.
    """
    instance, actor = find_instance(instance_id), current_actor()
    reason = request.form.get("override_reason", "").strip() or None
    if reason is None and _must_ask(instance, actor):
        return ask_dialog(instance_id) if wants_fragment() else ask_first(_release_page(instance_id))
    others = instance.is_live and instance.owner != actor
    if (instance.in_flight or others) and request.form.get("confirmed") != ON:
        if wants_fragment():
            return unload_dialog(instance)
        return ask_first(url_for("pages.confirm_unload", instance_id=instance_id))
    require_override(reason)
    operation = controller().unload(instance_id, actor, reason)
    return accepted(operation, "" if instance.owner == actor else instance.owner)


def _must_ask(instance: Instance, actor: str) -> bool:
    held = instance.lease.runs(time.time()) or instance.may_be_busy
    return held and instance.is_live and instance.is_foreign_to(actor)


def _release_page(instance_id: str) -> str:
    return url_for("leases.release", instance_id=instance_id)


@blueprint.post("/containers/<container_id>/stop")
@does(commands.STOP_CONTAINER)
def stop_container(container_id: str) -> ResponseReturnValue:
    """End a foreign container after its exact name was typed; a wrong name is reported at its field."""
    typed = request.form.get("name", "").strip()
    if not typed and not wants_fragment():
        return ask_first(url_for("pages.confirm_container", container_id=container_id))
    try:
        operation = controller().stop_container(container_id, typed, current_actor())
    except NotConfirmed as error:
        note_error(error)
        question = container_dialog(find_container(container_id), typed, words.say(error.message))
        return make_response(question, 200 if wants_fragment() else status_of(error))  # htmx swaps 4xx in elsewhere
    return accepted(operation)


@blueprint.post("/clean")
@does(commands.CLEAN)
def clean() -> ResponseReturnValue:
    """Free memory that nothing needs."""
    return accepted(controller().clean(current_actor()))


@blueprint.post("/emergency")
@does(commands.EMERGENCY)
def emergency() -> ResponseReturnValue:
    """End everything that Warden started; only the confirmation leads here."""
    if request.form.get("confirmed") != ON:
        return ask_first(url_for("pages.confirm_emergency"))
    return accepted(controller().emergency(current_actor()))


@blueprint.post("/demo")
@does(commands.MAKE_DEMO)
def demo() -> ResponseReturnValue:
    """Create the demo model in the cache."""
    return accepted(controller().make_demo(current_actor()))


@blueprint.post("/models/end-pause")
@does(commands.END_PAUSE)
def end_pause() -> ResponseReturnValue:
    """End the pause after a failed load of the model in the form; a plain form keeps its other values."""
    model = controller().end_pause(request.form.get("model", ""))
    if not wants_fragment():
        return _dashboard_with_form()
    return done(_("Model %(model)s can be loaded again.", model=model.id))


@blueprint.post("/operations/<operation_id>/cancel")
@does(commands.CANCEL)
def cancel(operation_id: str) -> ResponseReturnValue:
    """Cancel an operation or its rollback."""
    as_owner = require_cancel(controller().operation(operation_id))
    rollback = request.form.get("rollback") == ON
    operation = controller().cancel(operation_id, current_actor(), rollback=rollback, as_owner=as_owner)
    return stopping(operation, rollback=rollback)


@blueprint.post("/operations/<operation_id>/restore")
@does(commands.RESTORE)
def restore(operation_id: str) -> ResponseReturnValue:
    """Load again what an operation unloaded and did not restore."""
    return accepted(controller().restore(operation_id, current_actor()))
