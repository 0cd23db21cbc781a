"""The audit record: the content of an entry, and the filter for a search. Pure.

An entry says what was requested and how the request was answered at once; the operation itself says how it ended. An
entry never holds a secret (password, key, token), nor a prompt or an answer of a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from webapp.domain.people import Identity

TEXT_LIMIT: Final = 300
"""Characters that are kept of any text that a caller sent."""


class ActionGroup(StrEnum):
    """A group of actions, to filter by."""

    SIGNING = "signing"
    """Signing in and out."""
    PEOPLE = "people"
    """Accounts, invitations, API tokens, passwords."""
    MODELS = "models"
    """Loading and unloading."""
    LEASES = "leases"
    """Leases, and requests to release a model."""
    WAITING = "waiting"
    """The launch queue."""
    SERVER = "server"
    """Actions that concern more than one model: cleaning, emergency stop, containers, tests, cancelling."""
    ACCESS = "access"
    """Refused requests that are not actions: of a page or another URL that the role may not open."""


class Action(StrEnum):
    """What a person did or tried to do; each action belongs to a group."""

    group: ActionGroup

    def __new__(cls, value: str, group: ActionGroup = ActionGroup.ACCESS) -> Self:
        """Return the member; its value is the plain text. The default is for the type checker: a look-up has no group."""
        member = str.__new__(cls, value)
        member._value_, member.group = value, group
        return member

    SIGN_IN = "sign_in", ActionGroup.SIGNING
    """Signed in, or tried to with a wrong password."""
    SIGN_OUT = "sign_out", ActionGroup.SIGNING
    """Ended the person's own session."""

    PASSWORD = "password", ActionGroup.PEOPLE
    """Changed the password; all sessions ended."""
    SESSION_ENDED = "session_ended", ActionGroup.PEOPLE
    """Ended one of the person's own sessions."""
    SESSIONS_ENDED = "sessions_ended", ActionGroup.PEOPLE
    """Ended all sessions of a person."""
    TOKEN_MADE = "token_made", ActionGroup.PEOPLE
    """Created an API token."""
    TOKEN_REVOKED = "token_revoked", ActionGroup.PEOPLE
    """Revoked an API token."""
    INVITATION_MADE = "invitation_made", ActionGroup.PEOPLE
    """Created an invitation."""
    INVITATION_DROPPED = "invitation_dropped", ActionGroup.PEOPLE
    """Withdrew an invitation."""
    INVITATION_USED = "invitation_used", ActionGroup.PEOPLE
    """Created an account with an invitation."""
    PERSON_MADE = "person_made", ActionGroup.PEOPLE
    """Created an account, or arrived through the proxy for the first time."""
    ROLE = "role", ActionGroup.PEOPLE
    """Changed a role."""
    DISABLED = "disabled", ActionGroup.PEOPLE
    """Disabled an account."""
    ENABLED = "enabled", ActionGroup.PEOPLE
    """Enabled an account."""
    REMOVED = "removed", ActionGroup.PEOPLE
    """Removed an account."""

    SWITCH = "switch", ActionGroup.MODELS
    """Started to load a model."""
    UNLOAD = "unload", ActionGroup.MODELS
    """Started to unload a model."""
    IDLE_UNLOAD = "idle_unload", ActionGroup.MODELS
    """Started to unload a model that had been idle for too long."""
    DEMO = "demo", ActionGroup.MODELS
    """Started to create the demo model."""
    PAUSE_ENDED = "pause_ended", ActionGroup.MODELS
    """Ended the pause after a failed load."""

    LEASE = "lease", ActionGroup.LEASES
    """Changed the terms on which a model is held."""
    KEEP = "keep", ActionGroup.LEASES
    """Kept an idle model."""
    RELEASE_ASKED = "release_asked", ActionGroup.LEASES
    """Asked the owner of a model to release it."""
    RELEASE_ANSWERED = "release_answered", ActionGroup.LEASES
    """Answered a release request."""
    RELEASED_IN_SILENCE = "released_in_silence", ActionGroup.LEASES
    """Released a model because its owner did not answer."""

    QUEUE_JOINED = "ticket_made", ActionGroup.WAITING
    """Queued a launch."""
    QUEUE_LEFT = "ticket_cancelled", ActionGroup.WAITING
    """Removed a launch from the queue."""
    QUEUE_RESUMED = "ticket_resumed", ActionGroup.WAITING
    """Resumed a queued launch after an emergency stop."""
    QUEUE_STARTED = "ticket_started", ActionGroup.WAITING
    """Started a queued launch."""

    CLEAN = "clean", ActionGroup.SERVER
    """Started a clean."""
    EMERGENCY = "emergency", ActionGroup.SERVER
    """Started an emergency stop."""
    CONTAINER_STOPPED = "container_stopped", ActionGroup.SERVER
    """Started to end a container that Warden did not start."""
    CANCEL = "cancel", ActionGroup.SERVER
    """Asked an operation to stop."""
    SELFTEST = "selftest", ActionGroup.SERVER
    """Started a self-test."""

    ADDRESS = "address", ActionGroup.ACCESS
    """Requested a URL that the role may not open."""


class AuditChannel(StrEnum):
    """How a request was authenticated; the first four are those of ``people.AuthMethod``."""

    LOCAL = "local"
    """Without signing in, on this machine."""
    SESSION = "session"
    """By a session."""
    PROXY = "proxy"
    """By the name that a trusted proxy sent."""
    TOKEN = "token"
    """By an API token."""
    NOBODY = "nobody"
    """Not signed in."""
    COMMAND_LINE = "command_line"
    """By a command in a terminal of this machine."""
    ITSELF = "itself"
    """No request: Warden acted automatically."""


class Kind(StrEnum):
    """The kind of thing that an action concerns."""

    SERVER = "server"
    """The whole server."""
    MODEL = "model"
    """A model; the id is that of its instance."""
    OPERATION = "operation"
    """An operation, by its model or, without one, its kind."""
    QUEUED_LAUNCH = "ticket"
    """A queued launch, by its model."""
    CONTAINER = "container"
    """A container that Warden did not start."""
    PERSON = "person"
    """An account."""
    SESSION = "session"
    """A session."""
    TOKEN = "token"
    """An API token, by its label."""
    INVITATION = "invitation"
    """An invitation, by its role."""
    ADDRESS = "address"
    """A URL of the page or of the JSON interface."""


class Result(StrEnum):
    """How the request was answered."""

    DONE = "done"
    """Done, or started: the page of an operation says how it ended."""
    REFUSED = "refused"
    """Not done, because of the request or its sender."""
    FAILED = "failed"
    """Not done, because something on the server did not work."""


class Detail(StrEnum):
    """A further value of an entry. None of them can hold a secret, a prompt or an answer."""

    ROLE_BEFORE = "role_before"
    """The role that the person had."""
    ROLE = "role"
    """The role that the person has, or is invited to."""
    SCOPE = "scope"
    """The most that a token may do."""
    DAYS = "days"
    """How many days a token is valid; 0 means that it never expires."""
    HOURS = "hours"
    """How many hours an invitation is valid."""
    MODE = "mode"
    """How a model runs."""
    LOAD_ANYWAY = "load_anyway"
    """Whether the model was loaded against the estimate."""
    OVERRIDE_REASON = "override_reason"
    """Why an administrator overrides another owner."""
    OWNER = "owner"
    """The owner of the model, operation or queued launch, if that is another person."""
    LEASE = "lease"
    """The requested end of the lease."""
    EXTENDED = "extended"
    """That a lease was extended by an hour, or by how many seconds."""
    REASON = "reason"
    """The purpose of a lease."""
    IDLE = "idle"
    """The requested idle time after which a model is unloaded."""
    WHY = "why"
    """Why a person requests the release of a model."""
    ANSWER = "answer"
    """The owner's answer."""
    WORD = "word"
    """The owner's comment on it."""
    ROLLBACK = "rollback"
    """The rollback in progress was abandoned."""
    REPEATED = "repeated"
    """How many more times the same happened within a minute; only the first and this entry are kept."""


Details = tuple[tuple[Detail, str], ...]


@dataclass(frozen=True)
class AuditActor:
    """The sender of a request. ``name`` is empty if nobody is signed in; ``token`` is the label of the API token that
    was used.
    """

    name: str
    came: AuditChannel
    person_id: str | None = None
    token: str | None = None


NOBODY: Final = AuditActor("", AuditChannel.NOBODY)
WARDEN: Final = AuditActor("warden", AuditChannel.ITSELF)


@dataclass(frozen=True)
class Target:
    """The object of an action. ``name`` is the name that people know it by."""

    kind: Kind
    id: str = ""
    name: str = ""


THE_SERVER: Final = Target(Kind.SERVER)


@dataclass(frozen=True)
class AuditEntry:
    """One entry. ``at`` is seconds since the epoch; ``address`` is empty if the request did not come over a network."""

    at: float
    doer: AuditActor
    action: Action
    target: Target
    result: Result = Result.DONE
    address: str = ""
    problem: str | None = None
    """The code of the error, if the action was not done."""
    details: Details = ()
    operation_id: str | None = None
    id: int = 0
    """The position in the record, from 1 on; 0 until the entry is stored."""

    @property
    def group(self) -> ActionGroup:
        """The group that the action belongs to."""
        return self.action.group

    def repeats(self, other: AuditEntry) -> bool:
        """Return whether both are about one act: of one person, on one target, with one result and one operation."""

        def act(entry: AuditEntry) -> tuple[object, ...]:
            return entry.doer.name, entry.action, entry.target.id, entry.operation_id, entry.result

        return act(self) == act(other)


@dataclass(frozen=True)
class AuditFilter:
    """The filter of a search; ``None`` matches anything. ``text`` is part of the target's name or id."""

    person: str | None = None
    """A name; empty for requests without a signed-in person."""
    group: ActionGroup | None = None
    result: Result | None = None
    since: float | None = None
    until: float | None = None
    """The end of the period, exclusive."""
    text: str | None = None


EVERYTHING: Final = AuditFilter()


def doer_of(identity: Identity | None) -> AuditActor:
    """Return the sender of a request in the form that an entry stores."""
    if identity is None:
        return NOBODY
    return AuditActor(identity.name, AuditChannel(identity.way.value), identity.person_id, identity.token)


def short(text: str) -> str:
    """Return the stored form of a text that a caller sent: one line of limited length."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LIMIT else f"{line[: TEXT_LIMIT - 1]}…"
