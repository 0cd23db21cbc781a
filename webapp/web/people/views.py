"""The people page: accounts and roles; inviting, disabling and removing people."""

from __future__ import annotations

import time
from typing import Final

from flask import Blueprint, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.audit import Action, Detail
from webapp.domain.people import Permission, Person, Role
from webapp.errors import InvalidRequest, OwnAccount
from webapp.web import words
from webapp.web.actor import current_identity, sign_in_is_needed
from webapp.web.audit import targets
from webapp.web.audit.recording import records
from webapp.web.filters import chosen
from webapp.web.people.presenters.people import people_view
from webapp.web.phrases import SUCCESS
from webapp.web.ports import accounts
from webapp.web.rights import needs, require
from webapp.web.translate import gettext as _
from webapp.web.words import names

HOUR_S: Final = 3600.0
INVITATION_HOURS: Final = (24, 72, 168)

blueprint = Blueprint("people", __name__, url_prefix="/people")


@blueprint.get("")
@needs(Permission.PEOPLE)
def page() -> ResponseReturnValue:
    """Show all accounts and the open invitations."""
    return _page()


@blueprint.post("/invitations")
@needs(Permission.PEOPLE)
@records(Action.INVITATION_MADE, targets.new_invitation, {"hours": Detail.HOURS})
def invite() -> ResponseReturnValue:
    """Create an invitation and show its link once, without a redirect, which would have to contain it."""
    role, hours = chosen(Role, "role", request.form.get("role", "")), request.form.get("hours", "")
    if hours not in {str(each) for each in INVITATION_HOURS}:
        raise InvalidRequest(field="hours", value=hours[:20], allowed=", ".join(map(str, INVITATION_HOURS)))
    key = accounts().invite(role, int(hours) * HOUR_S, require(Permission.PEOPLE).name)
    return _page(link=url_for("signing.invitation", key=key, _external=True))


@blueprint.post("/invitations/<invitation_id>/drop")
@needs(Permission.PEOPLE)
@records(Action.INVITATION_DROPPED, targets.invitation)
def drop_invitation(invitation_id: str) -> ResponseReturnValue:
    """Withdraw an invitation."""
    accounts().drop_invitation(invitation_id)
    return _done(_("The invitation is revoked."))


@blueprint.post("/<name>/role")
@needs(Permission.PEOPLE)
@records(Action.ROLE, targets.person, {"role": Detail.ROLE}, before=targets.role_before)
def set_role(name: str) -> ResponseReturnValue:
    """Change another person's role."""
    role = chosen(Role, "role", request.form.get("role", ""))
    accounts().set_role(_other(name).name, role)
    return _done(_("%(person)s: the role is now “%(role)s”.", person=name, role=words.word(names.ROLES, role)))


@blueprint.post("/<name>/disable")
@needs(Permission.PEOPLE)
@records(Action.DISABLED, targets.person)
def disable(name: str) -> ResponseReturnValue:
    """Disable an account; its sessions end, and its tokens stop working."""
    accounts().set_disabled(_other(name).name, True)
    return _done(_("%(person)s: the account is disabled.", person=name))


@blueprint.post("/<name>/enable")
@needs(Permission.PEOPLE)
@records(Action.ENABLED, targets.person)
def enable(name: str) -> ResponseReturnValue:
    """Enable an account again."""
    accounts().set_disabled(_other(name).name, False)
    return _done(_("%(person)s: the account is enabled.", person=name))


@blueprint.post("/<name>/end-sessions")
@needs(Permission.PEOPLE)
@records(Action.SESSIONS_ENDED, targets.person)
def end_sessions(name: str) -> ResponseReturnValue:
    """End all sessions of another person."""
    accounts().end_sessions(accounts().person(name).id)
    return _done(_("%(person)s: signed out everywhere.", person=name))


@blueprint.post("/<name>/remove")
@needs(Permission.PEOPLE)
@records(Action.REMOVED, targets.person, before=targets.role_before)
def remove(name: str) -> ResponseReturnValue:
    """Remove an account, its sessions and tokens; its operations stay in the history.

    An account that a proxy would create again is only disabled.
    """
    if accounts().remove(_other(name).name):
        return _done(_("%(person)s: the account is removed.", person=name))
    return _done(_("%(person)s: the account is disabled, its tokens are revoked.", person=name))


def _other(name: str) -> Person:
    """Return another person's account. Raises UnknownPerson, OwnAccount."""
    person, identity = accounts().person(name), current_identity()
    if identity is not None and person.id == identity.person_id:
        raise OwnAccount(person=person.name)
    return person


def _page(link: str | None = None) -> str:
    identity = require(Permission.PEOPLE)
    view = people_view(accounts().people(), accounts().invitations(), identity, INVITATION_HOURS, time.time())
    return render_template("pages/people.html", view=view, link=link, needed=sign_in_is_needed())


def _done(text: str) -> ResponseReturnValue:
    flash(text, SUCCESS)
    return redirect(url_for("people.page"), 303)
