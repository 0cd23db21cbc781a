"""The users of Warden and their permissions: roles, permissions, and the values of accounts. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self


class Role(StrEnum):
    """A person's role; each role may do all that the previous one may."""

    VIEWER = "viewer"
    """Sees everything that is not secret."""
    OPERATOR = "operator"
    """Loads models, cleans, asks; unloads own models and free ones; cancels own operations."""
    ADMINISTRATOR = "administrator"
    """Everything: emergency stop, other people's models, operations and containers, accounts."""


class Permission(StrEnum):
    """The permission that a URL requires of its caller, and the lowest role that has it. Each URL has one."""

    lowest: Role | None
    """``None`` is everybody, signed in or not."""

    def __new__(cls, value: str, lowest: Role | None = None) -> Self:
        """Return the member; its value is the plain text. The default is for the type checker: a look-up has no role."""
        member = str.__new__(cls, value)
        member._value_, member.lowest = value, lowest
        return member

    OPEN = "open", None
    """None: callers who are not signed in may use it, too."""
    SEE = "see", Role.VIEWER
    """See memory, models, operations, logs, the timeline."""
    ACCOUNT = "account", Role.VIEWER
    """Manage one's own password, sessions and tokens."""
    PLAN = "plan", Role.OPERATOR
    """Preview a switch."""
    SWITCH = "switch", Role.OPERATOR
    """Load a model, queue a launch, create the demo model."""
    UNLOAD = "unload", Role.OPERATOR
    """Unload own models, and other people's that are free: not leased, and answering no request."""
    UNLOAD_ANY = "unload_any", Role.ADMINISTRATOR
    """Take, with a reason, a model that another person has leased or that answers other people's requests."""
    LEASE = "lease", Role.OPERATOR
    """Hold own models for a time, request the release of others, answer such requests, keep an idle model."""
    CLEAN = "clean", Role.OPERATOR
    """Free memory that nobody needs."""
    ASK = "ask", Role.OPERATOR
    """Ask a model."""
    CANCEL = "cancel", Role.OPERATOR
    """Cancel own operations and own queued launches."""
    CANCEL_ANY = "cancel_any", Role.ADMINISTRATOR
    """Cancel another person's operation; cancel, resume or start another person's queued launch."""
    SELFTEST = "selftest", Role.OPERATOR
    """Start a self-test."""
    EMERGENCY = "emergency", Role.ADMINISTRATOR
    """End everything that Warden started."""
    CONTAINERS = "containers", Role.ADMINISTRATOR
    """End a container that Warden did not start."""
    PEOPLE = "people", Role.ADMINISTRATOR
    """Manage accounts and invitations."""
    AUDIT = "audit", Role.ADMINISTRATOR
    """Read the audit record."""


IN_PERSON: Final = frozenset({Permission.ACCOUNT, Permission.PEOPLE})
"""Permissions that no API token grants: a leaked token must not be able to create others."""

_RANKS: Final = tuple(Role)

NAME_RULE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
"""ASCII only, so that no name can be mistaken for a look-alike."""
SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200


class AuthMethod(StrEnum):
    """How a request was authenticated."""

    LOCAL = "local"
    """Not at all: Warden has no accounts and listens on this machine only."""
    SESSION = "session"
    """By the cookie of a signed-in person."""
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
    """Whether this person can sign in with a password; a person known only through a proxy cannot."""


@dataclass(frozen=True)
class Identity:
    """The sender of a request. ``person_id`` is ``None`` if Warden has no accounts."""

    name: str
    role: Role
    way: AuthMethod
    person_id: str | None = None
    session_id: str | None = None
    token: str | None = None
    """The label of the API token that the request used."""


@dataclass(frozen=True)
class Session:
    """A person's sign-in in one browser. ``id`` names the session and grants nothing."""

    id: str
    person_id: str
    created_at: float
    used_at: float
    expires_at: float
    address: str
    agent: str


@dataclass(frozen=True)
class Invitation:
    """A link that creates one account."""

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
    """Access for a program. It may do what ``scope`` permits, and never more than its owner's current role."""

    id: str
    person_id: str
    name: str
    scope: Role
    created_at: float
    expires_at: float | None = None
    used_at: float | None = None

    def is_open(self, now: float) -> bool:
        """Whether it is still valid."""
        return self.expires_at is None or now < self.expires_at


def has_permission(role: Role | None, right: Permission) -> bool:
    """Return whether ``role`` has ``right``; ``None`` is a caller who is not signed in."""
    lowest = right.lowest
    return lowest is None or (role is not None and _RANKS.index(role) >= _RANKS.index(lowest))


def allows(identity: Identity | None, right: Permission) -> bool:
    """Return whether the sender of a request has ``right``, as a person or through a token."""
    if identity is not None and identity.way is AuthMethod.TOKEN and right in IN_PERSON:
        return False
    return has_permission(None if identity is None else identity.role, right)


def lower(one: Role, other: Role) -> Role:
    """Return the role with fewer permissions."""
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
