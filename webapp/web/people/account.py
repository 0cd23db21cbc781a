"""A person's own account: password, sessions, API tokens. Nothing here can be done with a token."""

from __future__ import annotations

import time
from typing import Final

from flask import Blueprint, flash, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.audit import Action, Detail
from webapp.domain.people import Identity, Permission, Person, Role
from webapp.errors import InvalidRequest, SignInFailed, UnknownPerson, WardenError
from webapp.web import words
from webapp.web.actor import current_actor
from webapp.web.audit.recording import note_error, records
from webapp.web.audit.targets import new_token, oneself, own_session, own_token
from webapp.web.client_address import visit
from webapp.web.filters import chosen
from webapp.web.people.login_throttle import FAILED, slow_by
from webapp.web.people.presenters.account import AccountView, account_view
from webapp.web.people.sign_in import begin_session
from webapp.web.phrases import SUCCESS
from webapp.web.ports import accounts
from webapp.web.rights import needs, require
from webapp.web.statuses import status_of
from webapp.web.translate import gettext as _

DAY_S: Final = 86_400.0
TOKEN_DAYS: Final = (30, 90, 365, 0)
"""The choices of a token's lifetime in days; 0 means that it never expires."""

blueprint = Blueprint("account", __name__, url_prefix="/account")


@blueprint.get("")
@needs(Permission.ACCOUNT)
def page() -> ResponseReturnValue:
    """Show the account; a Warden without accounts explains how to create the first one."""
    return _page()


@blueprint.post("/password")
@needs(Permission.ACCOUNT)
@records(Action.PASSWORD, oneself)
@slow_by(current_actor)
def change_password() -> ResponseReturnValue:
    """Change the password; every session ends, and this browser gets a new one."""
    person, new = _me(), request.form.get("new", "")
    if new != request.form.get("again", ""):
        return make_response(_page(_("The passwords do not match. Type them again.")), 422)
    try:
        accounts().change_password(person.name, request.form.get("old", ""), new)
    except SignInFailed as error:
        note_error(error)
        return make_response(_page(_("The current password is wrong.")), FAILED)
    except WardenError as error:
        note_error(error)
        return make_response(_page(words.say(error.message)), status_of(error))
    begin_session(accounts().sign_in(person.name, new, visit()))
    return _done(_("Password changed; all other sessions have ended."))


@blueprint.post("/sessions/<session_id>/end")
@needs(Permission.ACCOUNT)
@records(Action.SESSION_ENDED, own_session)
def end_session(session_id: str) -> ResponseReturnValue:
    """End a session of the person."""
    accounts().end_session(_me().id, session_id)
    return _done(_("Session ended."))


@blueprint.post("/tokens")
@needs(Permission.ACCOUNT)
@records(Action.TOKEN_MADE, new_token, {"scope": Detail.SCOPE, "days": Detail.DAYS})
def add_token() -> ResponseReturnValue:
    """Create an API token and show it once, without a redirect, which would have to contain it."""
    try:
        scope = chosen(Role, "scope", request.form.get("scope", ""))
        days = _days(request.form.get("days", ""))
        key = accounts().add_token(_me(), request.form.get("label", ""), scope, days * DAY_S if days else None)
    except WardenError as error:
        note_error(error)
        return make_response(_page(token_problem=words.say(error.message)), status_of(error))
    return _page(new_token=key)


@blueprint.post("/tokens/<token_id>/revoke")
@needs(Permission.ACCOUNT)
@records(Action.TOKEN_REVOKED, own_token)
def revoke_token(token_id: str) -> ResponseReturnValue:
    """Revoke a token of the person."""
    accounts().drop_token(token_id, _me().id)
    return _done(_("The token is revoked."))


def _days(text: str) -> int:
    if text not in {str(days) for days in TOKEN_DAYS}:
        raise InvalidRequest(field="days", value=text[:20], allowed=", ".join(map(str, TOKEN_DAYS)))
    return int(text)


def _me() -> Person:
    """Return the sender's account. Raises UnknownPerson if Warden has no accounts."""
    identity = require(Permission.ACCOUNT)
    if identity.person_id is None:
        raise UnknownPerson(person=identity.name)
    return accounts().person(identity.name)


def _page(problem: str | None = None, token_problem: str | None = None, new_token: str | None = None) -> str:
    return render_template(
        "pages/account.html",
        view=_view(require(Permission.ACCOUNT)),
        problem=problem,
        token_problem=token_problem,
        new_token=new_token,
    )


def _view(identity: Identity) -> AccountView | None:
    """Return the view; ``None`` for the person of a Warden without accounts."""
    if identity.person_id is None:
        return None
    person = accounts().person(identity.name)
    sessions, tokens = accounts().sessions(person.id), accounts().tokens(person.id)
    return account_view(person, sessions, tokens, identity.session_id, TOKEN_DAYS, time.time())


def _done(text: str) -> ResponseReturnValue:
    flash(text, SUCCESS)
    return redirect(url_for("account.page"), 303)
