"""Leases and release requests: forms of rows, dialogs and the banner. Each also works as a plain form."""

from __future__ import annotations

import time
from typing import Final

from flask import Blueprint, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.lease import ReleaseAnswer, Terms
from webapp.domain.people import Permission
from webapp.errors import InvalidRequest
from webapp.web import commands
from webapp.web.actor import current_actor
from webapp.web.audit.recording import changes_nothing
from webapp.web.commands import does
from webapp.web.launch.form import ON
from webapp.web.leases import form as lease_form
from webapp.web.leases.presenter import Banner, RowContext, Viewer, banner, lease_dialog, release_dialog
from webapp.web.lookups import find_instance
from webapp.web.ports import controller, services
from webapp.web.responses import dialog, done, wants_fragment, with_clock
from webapp.web.rights import has, needs
from webapp.web.translate import gettext as _

HIDDEN: Final = "Warden-Hidden"
"""The header of requests from a page whose tab is hidden."""

blueprint = Blueprint("leases", __name__)


def own_banner() -> Banner:
    """Return the sender's banner and note that the person is present, unless the tab is hidden."""
    actor = current_actor()
    if HIDDEN not in request.headers:
        controller().see(actor)
    return banner(controller().snapshot(), actor)


@blueprint.get("/fragments/notices")
@needs(Permission.SEE)
def notices() -> ResponseReturnValue:
    """Return the banner, or 204 if it is unchanged."""
    shown = own_banner()
    if request.args.get("notices_version") == shown.version:
        return with_clock(make_response("", 204))
    return with_clock(make_response(_drawn(shown)))


def _drawn(shown: Banner) -> str:
    return render_template("fragments/notices.html", notices=shown)


@blueprint.get("/instances/<instance_id>/lease")
@needs(Permission.LEASE)
def lease(instance_id: str) -> ResponseReturnValue:
    """Show the terms of a model to its owner."""
    view = lease_dialog(find_instance(instance_id), _view())
    return dialog("fragments/lease.html", "pages/confirm.html", view=view)


@blueprint.post("/instances/<instance_id>/lease")
@does(commands.SET_LEASE)
def set_lease(instance_id: str) -> ResponseReturnValue:
    """Change the terms of a model, or extend its lease by an hour."""
    extend = request.form.get("extend") == ON
    asked = Terms.longer() if extend else lease_form.terms_of(request.form.to_dict(), time.time())
    instance = controller().leases.set(instance_id, asked, current_actor())
    if extend:
        return done(_("Lease on %(model)s extended by 1 hour.", model=instance.model_id))
    return done(_("The terms of model %(model)s are saved.", model=instance.model_id))


@blueprint.get("/instances/<instance_id>/release")
@needs(Permission.LEASE)
def release(instance_id: str) -> ResponseReturnValue:
    """Show the dialog of a release request."""
    return ask_dialog(instance_id)


def ask_dialog(instance_id: str) -> ResponseReturnValue:
    """Return the dialog of a release request to the owner of a model."""
    silence_s = services().settings.sharing.release_silence_s
    snapshot, instance = controller().snapshot(), find_instance(instance_id)
    view = release_dialog(
        instance, snapshot, current_actor(), time.time(), silence_s, may_override=has(Permission.UNLOAD_ANY)
    )
    return dialog("fragments/release.html", "pages/confirm.html", view=view)


@blueprint.post("/instances/<instance_id>/release-request")
@does(commands.ASK_RELEASE)
def ask_release(instance_id: str) -> ResponseReturnValue:
    """Send a release request to the owner of a model."""
    instance = controller().leases.ask(instance_id, request.form.get("why", "").strip(), current_actor())
    return done(_("Request sent. The answer from %(owner)s will appear here.", owner=instance.owner))


@blueprint.post("/instances/<instance_id>/release-request/answer")
@does(commands.ANSWER_RELEASE)
def answer_release(instance_id: str) -> ResponseReturnValue:
    """Keep or release a model with a pending request."""
    answer = _answer(request.form.get("answer", ""))
    instance = controller().leases.answer(instance_id, answer, request.form.get("word", "").strip(), current_actor())
    if answer is ReleaseAnswer.KEEP:
        return _from_banner(_("Model %(model)s stays yours.", model=instance.model_id))
    return _from_banner(_("Model %(model)s is released.", model=instance.model_id))


def _answer(text: str) -> ReleaseAnswer:
    allowed = [answer.value for answer in ReleaseAnswer]
    if text not in allowed:
        raise InvalidRequest(field="answer", value=text, allowed=", ".join(allowed))
    return ReleaseAnswer(text)


@blueprint.post("/instances/<instance_id>/keep")
@does(commands.KEEP)
def keep(instance_id: str) -> ResponseReturnValue:
    """Keep an idle model, which restarts its idle time."""
    instance = controller().leases.keep(instance_id, current_actor())
    return done(_("Model %(model)s stays.", model=instance.model_id))


@blueprint.post("/notices/<int:number>/dismiss")
@needs(Permission.SEE)
@changes_nothing
def dismiss(number: int) -> ResponseReturnValue:
    """Dismiss a notice."""
    controller().dismiss(number, current_actor())
    return _from_banner("")


def _from_banner(text: str) -> ResponseReturnValue:
    """Answer a form of the banner with the current banner, since not every page has another place for the answer."""
    if wants_fragment():
        return with_clock(make_response(_drawn(own_banner()), {"HX-Trigger": "warden:refresh"}))
    return done(text) if text else redirect(url_for("pages.dashboard"), 303)


def _view() -> RowContext:
    snapshot = controller().snapshot()
    minutes = services().settings.sharing.idle_unload_minutes
    return RowContext(Viewer.of(current_actor(), snapshot), time.time(), minutes, snapshot.idle_unload_at)
