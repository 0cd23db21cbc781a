"""All accounts and the open invitations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from webapp.domain.people import Identity, Invitation, Person, Role
from webapp.web import formats, words
from webapp.web.phrases import Choice
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import names


@dataclass(frozen=True)
class PersonRow:
    """One account. People cannot change their own account here."""

    name: str
    role: str
    role_word: str
    roles: tuple[Choice, ...]
    seen: str
    since: str
    disabled: bool
    by_proxy: bool
    is_me: bool


@dataclass(frozen=True)
class InvitationRow:
    """One unused invitation."""

    id: str
    role_word: str
    by: str
    until: str


@dataclass(frozen=True)
class PeopleView:
    """The people page."""

    people: tuple[PersonRow, ...]
    invitations: tuple[InvitationRow, ...]
    roles: tuple[Choice, ...]
    hours: tuple[Choice, ...]
    has_administrator: bool


def people_view(
    people: Sequence[Person], invitations: Iterable[Invitation], me: Identity, hours: Iterable[int], now: float
) -> PeopleView:
    """Return the view. If there is no administrator, the invitation form suggests that role."""
    administrated = any(person.role is Role.ADMINISTRATOR and not person.disabled for person in people)
    return PeopleView(
        people=tuple(_row(person, me, now) for person in people),
        invitations=tuple(_invitation(invitation, now) for invitation in invitations),
        roles=role_choices(Role.OPERATOR if administrated else Role.ADMINISTRATOR),
        hours=tuple(Choice(str(count), _lasting(count), count == 72) for count in hours),
        has_administrator=administrated,
    )


def role_choices(chosen: Role, most: Role = Role.ADMINISTRATOR) -> tuple[Choice, ...]:
    """Return the choices of roles up to ``most``."""
    roles = tuple(Role)[: tuple(Role).index(most) + 1]
    return tuple(Choice(role.value, words.word(names.ROLES, role), role is chosen) for role in roles)


def _row(person: Person, me: Identity, now: float) -> PersonRow:
    return PersonRow(
        name=person.name,
        role=person.role.value,
        role_word=words.word(names.ROLES, person.role),
        roles=role_choices(person.role),
        seen=_("not seen here yet")
        if person.seen_at is None
        else _("last %(moment)s", moment=formats.moment(person.seen_at, now)),
        since=_("created %(moment)s", moment=formats.moment(person.created_at, now)),
        disabled=person.disabled,
        by_proxy=not person.has_password,
        is_me=person.id == me.person_id,
    )


def _invitation(invitation: Invitation, now: float) -> InvitationRow:
    role = words.word(names.ROLES, invitation.role)
    return InvitationRow(invitation.id, role, invitation.created_by, until(invitation.expires_at, now))


def until(epoch_s: float, now_s: float) -> str:
    """Return the expiry of an invitation as text."""
    return _("until %(moment)s", moment=formats.moment(epoch_s, now_s))


def _lasting(hours: int) -> str:
    if hours <= 24:
        return ngettext("%(num)s hour", "%(num)s hours", hours)
    return ngettext("%(num)s day", "%(num)s days", hours // 24)
