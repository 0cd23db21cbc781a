"""Signing in and out, and accepting an invitation."""

from __future__ import annotations

from hashlib import sha256

from flask import Blueprint, flash, make_response, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue

from webapp.domain.audit import Action
from webapp.domain.people import SHORTEST_PASSWORD, AuthMethod, Permission
from webapp.errors import SignInFailed, UnknownInvitation, WardenError
from webapp.web import words
from webapp.web.actor import SESSION_KEY, current_identity, sign_in_is_needed
from webapp.web.audit.recording import note_error, records
from webapp.web.audit.targets import oneself, typed_person
from webapp.web.client_address import client_address, visit
from webapp.web.people.login_throttle import FAILED, slow_by
from webapp.web.phrases import SUCCESS
from webapp.web.ports import accounts, services
from webapp.web.rights import needs
from webapp.web.security import same_site_path
from webapp.web.statuses import status_of
from webapp.web.translate import gettext as _
from webapp.web.words import names

blueprint = Blueprint("signing", __name__)


def _of_name() -> str:
    """Return the throttle key of the typed name, as a hash in case it is a password in the wrong field."""
    return sha256(request.form.get("name", "").strip().lower().encode("utf-8", "replace")).hexdigest()


@blueprint.get("/sign-in")
@needs(Permission.OPEN)
def page() -> ResponseReturnValue:
    """Ask for name and password; people who are signed in, or need not be, are redirected."""
    if current_identity() is not None:
        return redirect(same_site_path(request.args.get("next")), 303)
    return _sign_in_page()


@blueprint.post("/sign-in")
@needs(Permission.OPEN)
@records(Action.SIGN_IN, typed_person)
@slow_by(_of_name, client_address)
def sign_in() -> ResponseReturnValue:
    """Begin a session and redirect to the requested page."""
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    try:
        key = accounts().sign_in(name, password, visit())
    except SignInFailed as error:
        note_error(error)
        return make_response(_sign_in_page(words.say(error.message), name), FAILED)
    begin_session(key)
    return redirect(same_site_path(request.form.get("next")), 303)


def _sign_in_page(problem: str | None = None, name: str = "") -> str:
    back = same_site_path(request.values.get("next"))
    proxied, alone = services().settings.auth.has_proxy, not sign_in_is_needed()
    return render_template("pages/sign_in.html", problem=problem, name=name, back=back, proxied=proxied, alone=alone)


def begin_session(key: str) -> None:
    """Put a new key into the cookie and drop all else, so that a planted session is worthless."""
    session.clear()
    session[SESSION_KEY] = key


@blueprint.post("/sign-out")
@needs(Permission.OPEN)
@records(Action.SIGN_OUT, oneself)
def sign_out() -> ResponseReturnValue:
    """End the session."""
    identity = current_identity()
    if identity is not None and identity.way is AuthMethod.SESSION:
        accounts().sign_out(identity)
    session.clear()
    flash(_("You’re signed out."), SUCCESS)
    return redirect(url_for("signing.page"), 303)


@blueprint.get("/invitation")
@needs(Permission.OPEN)
def invitation() -> ResponseReturnValue:
    """Show the role of an invitation, and ask for name and password."""
    return _invitation_page()


@blueprint.post("/invitation")
@needs(Permission.OPEN)
@records(Action.INVITATION_USED, typed_person)
def accept() -> ResponseReturnValue:
    """Create the account with the invitation's role, and sign in."""
    name, password = request.form.get("name", "").strip(), request.form.get("password", "")
    if password != request.form.get("again", ""):
        return make_response(_invitation_page(_("The passwords do not match. Type them again."), name), 422)
    try:
        person = accounts().accept(request.form.get("key", ""), name, password)
    except UnknownInvitation:
        raise
    except WardenError as error:
        note_error(error)
        return make_response(_invitation_page(words.say(error.message), name), status_of(error))
    begin_session(accounts().sign_in(person.name, password, visit()))
    flash(_("Account created. You’re signed in."), SUCCESS)
    return redirect(url_for("pages.dashboard"), 303)


def _invitation_page(problem: str | None = None, name: str = "") -> str:
    """Return the page of an invitation. Raises UnknownInvitation."""
    key = request.values.get("key", "")
    role = words.word(names.ROLES, accounts().invitation(key).role)
    return render_template(
        "pages/invitation.html", problem=problem, name=name, key=key, role=role, shortest=SHORTEST_PASSWORD
    )
