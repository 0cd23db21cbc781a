"""A person's own account: name and role, sessions, and API tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from webapp.domain.people import ApiToken, Person, Role, Session
from webapp.web import formats, words
from webapp.web.people.presenters.people import role_choices, until
from webapp.web.phrases import Choice
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import names

AGENT_SHOWN = 90


@dataclass(frozen=True)
class SessionRow:
    """One session."""

    id: str
    address: str
    agent: str
    used: str
    since: str
    is_this: bool


@dataclass(frozen=True)
class TokenRow:
    """One API token, without its secret."""

    id: str
    name: str
    scope_word: str
    used: str
    until: str
    is_over: bool


@dataclass(frozen=True)
class AccountView:
    """The account page."""

    name: str
    role_word: str
    has_password: bool
    sessions: tuple[SessionRow, ...]
    tokens: tuple[TokenRow, ...]
    scopes: tuple[Choice, ...]
    days: tuple[Choice, ...]


def account_view(
    person: Person,
    sessions: Iterable[Session],
    tokens: Iterable[ApiToken],
    this: str | None,
    days: Iterable[int],
    now: float,
) -> AccountView:
    """Return the view of ``person``, whose current session is ``this``."""
    return AccountView(
        name=person.name,
        role_word=words.word(names.ROLES, person.role),
        has_password=person.has_password,
        sessions=tuple(_session(session, this, now) for session in sessions),
        tokens=tuple(_token(token, now) for token in tokens),
        scopes=role_choices(Role.VIEWER, person.role),
        days=tuple(Choice(str(count), _lasting(count), count == 90) for count in days),
    )


def _session(session: Session, this: str | None, now: float) -> SessionRow:
    return SessionRow(
        id=session.id,
        address=session.address or formats.unknown(),
        agent=session.agent[:AGENT_SHOWN] or formats.unknown(),
        used=_("last %(moment)s", moment=formats.moment(session.used_at, now)),
        since=_("signed in %(moment)s", moment=formats.moment(session.created_at, now)),
        is_this=session.id == this,
    )


def _token(token: ApiToken, now: float) -> TokenRow:
    return TokenRow(
        id=token.id,
        name=token.name,
        scope_word=words.word(names.ROLES, token.scope),
        used=_("not used yet")
        if token.used_at is None
        else _("last %(moment)s", moment=formats.moment(token.used_at, now)),
        until=_("never expires") if token.expires_at is None else until(token.expires_at, now),
        is_over=not token.is_open(now),
    )


def _lasting(days: int) -> str:
    return ngettext("%(num)s day", "%(num)s days", days) if days else _("never expires")
