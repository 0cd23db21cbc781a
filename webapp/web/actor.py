"""The sender of a request, identified once per request; without accounts, the person who started Warden."""

from __future__ import annotations

import time
from typing import Final, cast

from flask import g, has_request_context, request, session

from webapp.auth.accounts import local_name
from webapp.domain.audit import Action, AuditActor, AuditChannel, AuditEntry, Detail, Kind, Target
from webapp.domain.people import AuthMethod, Identity, Person, Role
from webapp.errors import StoreUnavailable
from webapp.web.client_address import client_address, comes_from_here, comes_from_proxy, visit
from webapp.web.ports import services

SESSION_KEY: Final = "key"
"""The name of the session key in the cookie."""
BEARER: Final = "bearer "


def local_person() -> Identity:
    """Return the only person of a Warden without accounts, who may do everything."""
    return Identity(local_name(), Role.ADMINISTRATOR, AuthMethod.LOCAL)


def current_identity() -> Identity | None:
    """Return the sender of the request, ``None`` if nobody is signed in. Raises StoreUnavailable."""
    if not has_request_context():
        return local_person()
    if "identity" not in g:
        g.identity = _find()
    return cast("Identity | None", g.identity)


def current_actor() -> str:
    """Return the name under which operations are recorded; empty if nobody is signed in."""
    identity = current_identity()
    return "" if identity is None else identity.name


def shown_identity() -> Identity | None:
    """Return the person that a page greets; ``None`` also if the database fails, so that an error page can be drawn."""
    try:
        return current_identity()
    except StoreUnavailable:
        return None


def sign_in_is_needed() -> bool:
    """Whether people must sign in: there are accounts, or a proxy identifies people."""
    settings = services().settings
    return settings.auth.has_proxy or not settings.server.is_local or services().accounts.has_administrator()


def audience() -> str:
    """Return a key for everybody who is offered the same actions as the sender and so can share rendered fragments."""
    identity = current_identity()
    if identity is None:
        return ""
    return f"{identity.role} {identity.name}" if identity.role is Role.OPERATOR else identity.role.value


def _find() -> Identity | None:
    """Identify the sender: by the token alone if one was sent, so that an invalid one is noticed, or else by the proxy
    or the cookie.
    """
    accounts = services().accounts
    sent = request.headers.get("Authorization", "")
    if sent.lower().startswith(BEARER):
        return accounts.by_token(sent[len(BEARER) :].strip())
    named = _named_by_proxy()
    if named is not None:
        return accounts.by_proxy(named, _role_of_newcomers(), _welcome)
    key = session.get(SESSION_KEY)
    found = accounts.by_session(key, visit()) if isinstance(key, str) else None
    if found is None and comes_from_here() and not sign_in_is_needed():
        return local_person()
    return found


def _named_by_proxy() -> str | None:
    """Return the person that a trusted proxy names; the header is ignored from anywhere else."""
    header = services().settings.auth.proxy_user_header
    if header is None or not comes_from_proxy():
        return None
    return request.headers.get(header, "").strip() or None


def _welcome(person: Person) -> None:
    """Record that a person came for the first time, and from where."""
    doer, made = AuditActor(person.name, AuditChannel.PROXY, person.id), Target(Kind.PERSON, person.id, person.name)
    details = ((Detail.ROLE, person.role.value),)
    entry = AuditEntry(time.time(), doer, Action.PERSON_MADE, made, address=client_address(), details=details)
    services().audit.record(entry)


def _role_of_newcomers() -> Role | None:
    asked = services().settings.auth.proxy_default_role
    return None if asked == "none" else Role(asked)
