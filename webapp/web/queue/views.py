"""Queueing from the page: join the queue with the values of the form, leave it, resume, start."""

from __future__ import annotations

import time
from dataclasses import replace

from flask import Blueprint, request
from flask.typing import ResponseReturnValue

from webapp.domain.people import Permission
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch
from webapp.errors import AlreadyWaiting, WardenError
from webapp.web import commands, words
from webapp.web.actor import current_actor
from webapp.web.audit.recording import note_error, note_launch
from webapp.web.commands import does
from webapp.web.dashboard.pages import dashboard_page
from webapp.web.launch.form import LaunchForm, sent
from webapp.web.phrases import short_name
from webapp.web.ports import controller
from webapp.web.responses import accepted, done, wants_fragment
from webapp.web.rights import has
from webapp.web.translate import gettext as _

TELL: str = "tell"
"""The value of ``then`` for a notice only; with any other, the launch starts automatically."""

blueprint = Blueprint("waiting", __name__)


@blueprint.post("/tickets")
@does(commands.ENQUEUE)
def take() -> ResponseReturnValue:
    """Queue the form's launch; a second click finds the first one's launch, a refusal keeps the typed values."""
    form = LaunchForm.read(sent(request.form), controller().snapshot())
    by_itself = request.form.get("then") != TELL
    try:
        queued = controller().enqueue(_asked(form), current_actor(), starts_by_itself=by_itself)
    except AlreadyWaiting as error:
        note_error(error)
        return done(words.say(error.message))
    except WardenError as error:
        if wants_fragment():
            raise
        return dashboard_page(error)
    note_launch(queued.launch)
    model = short_name(form.model)
    if by_itself:
        return done(
            _(
                "%(model)s is queued (position %(place)s) and will start automatically.",
                model=model,
                place=queued.place,
            )
        )
    return done(
        _(
            "%(model)s is queued (position %(place)s). You will be notified when it fits.",
            model=model,
            place=queued.place,
        )
    )


def _asked(form: LaunchForm) -> SwitchRequest:
    """Return the request to queue, without an override, which only a person who is present may use."""
    return replace(form, override_reason="").to_request(time.time())


@blueprint.post("/tickets/<ticket_id>/cancel")
@does(commands.LEAVE_QUEUE)
def cancel(ticket_id: str) -> ResponseReturnValue:
    """Remove a launch from the queue."""
    launch = controller().queue.cancel(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    return _changed(_("%(model)s left the queue.", model=short_name(launch.request.model_id)), launch)


@blueprint.post("/tickets/<ticket_id>/resume")
@does(commands.RESUME_QUEUED)
def resume(ticket_id: str) -> ResponseReturnValue:
    """Resume a launch that an emergency stop paused."""
    queued = controller().queue.resume(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    return _changed(
        _("%(model)s is back in the queue.", model=short_name(queued.launch.request.model_id)), queued.launch
    )


def _changed(said: str, launch: QueuedLaunch) -> ResponseReturnValue:
    """Answer how ``launch`` has changed, and whether the change is stored."""
    if controller().queue.is_stored(launch.id):
        return done(said)
    return done(said + " " + _("The database is not responding: the change will be saved later."))


@blueprint.post("/tickets/<ticket_id>/start")
@does(commands.START_QUEUED)
def start(ticket_id: str) -> ResponseReturnValue:
    """Start a launch that fits now; if it is refused, it stays in the queue."""
    return accepted(
        controller().queue.start_now(ticket_id, current_actor(), is_administrator=has(Permission.CANCEL_ANY))
    )
