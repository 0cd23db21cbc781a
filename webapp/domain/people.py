"""Who uses Warden and what each may do: roles, rights, and the values of accounts. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Role(StrEnum):
    """What a person is here; each may do all that the one before may."""

    VIEWER = "viewer"
    """Sees everything that is not secret."""
    OPERATOR = "operator"
    """Switches, cleans, asks; unloads own models and those that are free; cancels own operations."""
    ADMINISTRATOR = "administrator"
    """Everything: emergency, other people's models, operations and containers, accounts."""


class Permission(StrEnum):
    """What an address asks of the person who calls it. Each address has one."""

    OPEN = "open"
    """Nothing: also who is not signed in may call it."""
    SEE = "see"
    """See memory, models, operations, logs, the timeline."""
    ACCOUNT = "account"
    """Manage one's own password, sessions and tokens."""
    PLAN = "plan"
    """See what a switch would do."""
    SWITCH = "switch"
    """Load a model, let one wait for room, make the demo model."""
    UNLOAD = "unload"
    """Unload own models, and others' that are free: not leased, and answering nobody."""
    UNLOAD_ANY = "unload_any"
    """Take, with a reason, what another person has leased or what answers somebody else's requests."""
    LEASE = "lease"
    """Hold own models for a time, ask for others', answer who asks, keep an idle one."""
    CLEAN = "clean"
    """Give back memory that nobody needs."""
    ASK = "ask"
    """Ask a model."""
    CANCEL = "cancel"
    """Cancel own operations, take back own requests that wait."""
    CANCEL_ANY = "cancel_any"
    """Cancel another person's operation; take back, let go on or start another person's request that waits."""
    SELFTEST = "selftest"
    """Begin a self-test."""
    EMERGENCY = "emergency"
    """End everything that is Warden's."""
    CONTAINERS = "containers"
    """End a container that Warden did not start."""
    PEOPLE = "people"
    """Manage accounts and invitations."""
    AUDIT = "audit"
    """See who did what, from where."""


LOWEST: Final[Mapping[Permission, Role | None]] = {
    Permission.OPEN: None,
    Permission.SEE: Role.VIEWER,
    Permission.ACCOUNT: Role.VIEWER,
    Permission.PLAN: Role.OPERATOR,
    Permission.SWITCH: Role.OPERATOR,
    Permission.UNLOAD: Role.OPERATOR,
    Permission.LEASE: Role.OPERATOR,
    Permission.CLEAN: Role.OPERATOR,
    Permission.ASK: Role.OPERATOR,
    Permission.CANCEL: Role.OPERATOR,
    Permission.SELFTEST: Role.OPERATOR,
    Permission.UNLOAD_ANY: Role.ADMINISTRATOR,
    Permission.CANCEL_ANY: Role.ADMINISTRATOR,
    Permission.EMERGENCY: Role.ADMINISTRATOR,
    Permission.CONTAINERS: Role.ADMINISTRATOR,
    Permission.PEOPLE: Role.ADMINISTRATOR,
    Permission.AUDIT: Role.ADMINISTRATOR,
}
"""The lowest role that has each right; ``None`` is everybody, signed in or not."""

IN_PERSON: Final = frozenset({Permission.ACCOUNT, Permission.PEOPLE})
"""Rights that no API token gives: one that leaked must not make others."""

_RANKS: Final = tuple(Role)

NAME_RULE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""ASCII alone, so that no name can be taken for another that only looks like it."""
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200


class AuthMethod(StrEnum):
    """How a request said who sends it."""

    LOCAL = "local"
    """Not at all: Warden has no accounts and listens on this machine alone."""
    SESSION = "session"
    """By the cookie of somebody who signed in."""
    PROXY = "proxy"
    """By the header of a trusted proxy."""
    TOKEN = "token"  # noqa: S105  a name
    """By an API token."""


@dataclass(frozen=True)
class Person:
    """An account."""

    id: str
    name: str
    role: Role
    created_at: float
    seen_at: float | None = None
    disabled: bool = False
    has_password: bool = True
    """Whether this person can sign in here; one whom only a proxy named cannot."""


@dataclass(frozen=True)
class Identity:
    """Who sends a request. ``person_id`` is ``None`` for the person of a Warden without accounts."""

    name: str
    role: Role
    way: AuthMethod
    person_id: str | None = None
    session_id: str | None = None
    token: str | None = None
    """The label of the API token that it came with."""


@dataclass(frozen=True)
class Session:
    """Somebody's sign-in in one browser. ``id`` names it and opens nothing."""

    id: str
    person_id: str
    created_at: float
    used_at: float
    expires_at: float
    address: str
    agent: str


@dataclass(frozen=True)
class Invitation:
    """A link that makes one account."""

    id: str
    role: Role
    created_at: float
    expires_at: float
    created_by: str
    used_at: float | None = None

    def is_open(self, now: float) -> bool:
        """Whether it can still be accepted."""
        return self.used_at is None and now < self.expires_at


@dataclass(frozen=True)
class ApiToken:
    """A program's way in. It does what ``scope`` may, and never more than its owner's role of that moment."""

    id: str
    person_id: str
    name: str
    scope: Role
    created_at: float
    expires_at: float | None = None
    used_at: float | None = None

    def is_open(self, now: float) -> bool:
        """Whether it still opens anything."""
        return self.expires_at is None or now < self.expires_at


def has_permission(role: Role | None, right: Permission) -> bool:
    """Return whether somebody with ``role`` has ``right``; ``None`` is nobody in particular."""
    lowest = LOWEST[right]
    return lowest is None or (role is not None and _RANKS.index(role) >= _RANKS.index(lowest))


def allows(identity: Identity | None, right: Permission) -> bool:
    """Return whether the sender of a request has ``right``, as a person or by a token."""
    if identity is not None and identity.way is AuthMethod.TOKEN and right in IN_PERSON:
        return False
    return has_permission(None if identity is None else identity.role, right)


def lower(one: Role, other: Role) -> Role:
    """Return the role that may do less."""
    return min(one, other, key=_RANKS.index)


def may_cancel(identity: Identity, actor: str) -> bool:
    """Return whether ``identity`` may cancel an operation of ``actor``."""
    own = actor == identity.name and allows(identity, Permission.CANCEL)
    return own or allows(identity, Permission.CANCEL_ANY)


def is_name(text: str) -> bool:
    """Whether ``text`` can be a person's name."""
    return NAME_RULE.fullmatch(text) is not None


def is_password(text: str, name: str) -> bool:
    """Whether ``text`` may be the password of ``name``."""
    return SHORTEST_PASSWORD <= len(text) <= LONGEST_PASSWORD and name.lower() not in text.lower()
