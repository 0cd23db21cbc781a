"""The record of who did what: what an entry holds, and what it is found by. Pure.

An entry says what was asked for and how that was answered at once; how an operation ended stands in the operation. It never holds what
opens something (passwords, keys, tokens) nor what is said to a model or by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from webapp.domain.people import Identity

TEXT_LIMIT: Final = 300
"""Characters that are kept of any text that somebody sent."""


class ActionGroup(StrEnum):
    """A part of the actions, to look for."""

    SIGNING = "signing"
    """Coming and going."""
    PEOPLE = "people"
    """Accounts, invitations, API tokens, passwords."""
    MODELS = "models"
    """Loading and unloading."""
    LEASES = "leases"
    """Holding models, and asking for them."""
    WAITING = "waiting"
    """Requests that wait for room."""
    SERVER = "server"
    """What touches more than one model: cleaning, emergency, containers, tests, cancelling."""
    ACCESS = "access"
    """What was refused without being an action: a page or an address that the role does not open."""


class Action(StrEnum):
    """What somebody did, or wanted to do."""

    SIGN_IN = "sign_in"
    """Signed in, with the right password or not."""
    SIGN_OUT = "sign_out"
    """Ended the own session."""

    PASSWORD = "password"
    """Changed the password; all sessions ended."""
    SESSION_ENDED = "session_ended"
    """Ended one of the own sessions."""
    SESSIONS_ENDED = "sessions_ended"
    """Ended all sessions of somebody."""
    TOKEN_MADE = "token_made"
    """Made an API token."""
    TOKEN_REVOKED = "token_revoked"
    """Revoked an API token."""
    INVITATION_MADE = "invitation_made"
    """Made an invitation."""
    INVITATION_DROPPED = "invitation_dropped"
    """Took an invitation back."""
    INVITATION_USED = "invitation_used"
    """Made the own account by an invitation."""
    PERSON_MADE = "person_made"
    """Made an account, or came by the proxy for the first time."""
    ROLE = "role"
    """Changed a role."""
    DISABLED = "disabled"
    """Disabled an account."""
    ENABLED = "enabled"
    """Enabled an account."""
    REMOVED = "removed"
    """Removed an account."""

    SWITCH = "switch"
    """Began to load a model."""
    UNLOAD = "unload"
    """Began to unload a model."""
    IDLE_UNLOAD = "idle_unload"
    """Began to unload a model that nobody has used for long."""
    DEMO = "demo"
    """Began to make the demo model."""

    LEASE = "lease"
    """Changed the terms on which a model is held."""
    KEEP = "keep"
    """Kept an idle model."""
    RELEASE_ASKED = "release_asked"
    """Asked the owner of a model to release it."""
    RELEASE_ANSWERED = "release_answered"
    """Answered an ask to release."""
    RELEASED_IN_SILENCE = "released_in_silence"
    """Gave a model up for its owner, who was silent."""

    TICKET_MADE = "ticket_made"
    """Let a request wait for room."""
    TICKET_CANCELLED = "ticket_cancelled"
    """Took a request that waits back."""
    TICKET_RESUMED = "ticket_resumed"
    """Let a request go on after an emergency."""
    TICKET_STARTED = "ticket_started"
    """Started a request that waited."""

    CLEAN = "clean"
    """Began to clean."""
    EMERGENCY = "emergency"
    """Began to end everything of Warden's."""
    CONTAINER_STOPPED = "container_stopped"
    """Began to end a container that Warden did not start."""
    CANCEL = "cancel"
    """Asked an operation to stop."""
    SELFTEST = "selftest"
    """Began a self-test."""

    ADDRESS = "address"
    """Called an address that the role does not open."""


GROUPS: Final[Mapping[Action, ActionGroup]] = {
    **dict.fromkeys((Action.SIGN_IN, Action.SIGN_OUT), ActionGroup.SIGNING),
    **dict.fromkeys(
        (
            Action.PASSWORD,
            Action.SESSION_ENDED,
            Action.SESSIONS_ENDED,
            Action.TOKEN_MADE,
            Action.TOKEN_REVOKED,
            Action.INVITATION_MADE,
            Action.INVITATION_DROPPED,
            Action.INVITATION_USED,
            Action.PERSON_MADE,
            Action.ROLE,
            Action.DISABLED,
            Action.ENABLED,
            Action.REMOVED,
        ),
        ActionGroup.PEOPLE,
    ),
    **dict.fromkeys((Action.SWITCH, Action.UNLOAD, Action.IDLE_UNLOAD, Action.DEMO), ActionGroup.MODELS),
    **dict.fromkeys(
        (Action.LEASE, Action.KEEP, Action.RELEASE_ASKED, Action.RELEASE_ANSWERED, Action.RELEASED_IN_SILENCE),
        ActionGroup.LEASES,
    ),
    **dict.fromkeys(
        (Action.TICKET_MADE, Action.TICKET_CANCELLED, Action.TICKET_RESUMED, Action.TICKET_STARTED), ActionGroup.WAITING
    ),
    **dict.fromkeys(
        (Action.CLEAN, Action.EMERGENCY, Action.CONTAINER_STOPPED, Action.CANCEL, Action.SELFTEST), ActionGroup.SERVER
    ),
    Action.ADDRESS: ActionGroup.ACCESS,
}


class AuditChannel(StrEnum):
    """How somebody came; the first four as in ``people.Way``."""

    LOCAL = "local"
    """Without signing in, on this machine."""
    SESSION = "session"
    """By a sign-in."""
    PROXY = "proxy"
    """Named by a trusted proxy."""
    TOKEN = "token"
    """By an API token."""
    NOBODY = "nobody"
    """Not signed in."""
    COMMAND_LINE = "command_line"
    """By a command in a terminal of this machine."""
    ITSELF = "itself"
    """Not at all: Warden acted by itself."""


class Kind(StrEnum):
    """What an action is about."""

    SERVER = "server"
    """The whole server."""
    MODEL = "model"
    """A model; the id is that of the running one."""
    OPERATION = "operation"
    """An operation, by the model or kind that it is shown under."""
    TICKET = "ticket"
    """A request that waits, by its model."""
    CONTAINER = "container"
    """A container that Warden did not start."""
    PERSON = "person"
    """An account."""
    SESSION = "session"
    """A sign-in."""
    TOKEN = "token"
    """An API token, by its label."""
    INVITATION = "invitation"
    """An invitation, by its role."""
    ADDRESS = "address"
    """An address of the page or of the JSON interface."""


class Result(StrEnum):
    """How it was answered."""

    DONE = "done"
    """Done, or begun: an operation's own page says how it ended."""
    REFUSED = "refused"
    """Not done, for a reason that lies in what was asked or who asked it."""
    FAILED = "failed"
    """Not done, because something of the server's did not work."""


class Detail(StrEnum):
    """A further value of an entry. None of them can hold a secret, a prompt or an answer."""

    ROLE_BEFORE = "role_before"
    """The role that somebody had."""
    ROLE = "role"
    """The role that somebody has, or is invited to."""
    SCOPE = "scope"
    """What a token may do at most."""
    DAYS = "days"
    """How many days a token lasts; 0 is for ever."""
    HOURS = "hours"
    """How many hours an invitation lasts."""
    MODE = "mode"
    """How a model runs."""
    LOAD_ANYWAY = "load_anyway"
    """Against the estimate."""
    OVERRIDE_REASON = "override_reason"
    """Why an administrator takes what is another person's."""
    OWNER = "owner"
    """Whose model, operation or request it is, where it is another person's."""
    LEASE = "lease"
    """Until when a model is held, as it was asked for."""
    EXTENDED = "extended"
    """A lease that became an hour longer, or so many seconds."""
    REASON = "reason"
    """What a model is held for."""
    IDLE = "idle"
    """After how long without use a model goes, as it was asked for."""
    WHY = "why"
    """Why somebody asks for a model."""
    ANSWER = "answer"
    """What the owner answered."""
    WORD = "word"
    """What the owner said with it."""
    ROLLBACK = "rollback"
    """The putting back that was under way was given up."""
    REPEATED = "repeated"
    """How many more times the same happened within a minute; only the first and this line are kept."""


Details = tuple[tuple[Detail, str], ...]


@dataclass(frozen=True)
class AuditActor:
    """Who did it. ``name`` is empty where nobody is signed in; ``token`` is the label of the API token that came."""

    name: str
    came: AuditChannel
    person_id: str | None = None
    token: str | None = None


NOBODY: Final = AuditActor("", AuditChannel.NOBODY)
WARDEN: Final = AuditActor("warden", AuditChannel.ITSELF)


@dataclass(frozen=True)
class Target:
    """What it was done to. ``name`` is what people know it by."""

    kind: Kind
    id: str = ""
    name: str = ""


THE_SERVER: Final = Target(Kind.SERVER)


@dataclass(frozen=True)
class AuditEntry:
    """One act. ``at`` is seconds since the epoch; ``address`` is empty where it came over no network."""

    at: float
    doer: AuditActor
    action: Action
    target: Target
    result: Result = Result.DONE
    address: str = ""
    problem: str | None = None
    """The code of the error, where it was not done."""
    details: Details = ()
    operation_id: str | None = None
    id: int = 0
    """The place in the record, from 1 on; 0 until it is kept."""

    @property
    def group(self) -> ActionGroup:
        """The part that the action belongs to."""
        return GROUPS[self.action]


@dataclass(frozen=True)
class AuditFilter:
    """What is looked for; ``None`` is any. ``text`` is part of the target's name or id."""

    person: str | None = None
    """A name, empty for who was not signed in."""
    group: ActionGroup | None = None
    result: Result | None = None
    since: float | None = None
    until: float | None = None
    """The first moment that is too late."""
    text: str | None = None


EVERYTHING: Final = AuditFilter()


def doer_of(identity: Identity | None) -> AuditActor:
    """Return who sends a request, as an entry keeps it."""
    if identity is None:
        return NOBODY
    return AuditActor(identity.name, AuditChannel(identity.way.value), identity.person_id, identity.token)


def actions_of(group: ActionGroup) -> tuple[Action, ...]:
    """Return the actions of a group."""
    return tuple(action for action in Action if GROUPS[action] is group)


def short(text: str) -> str:
    """Return what is kept of a text that somebody sent: one line, and not endless."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LIMIT else f"{line[: TEXT_LIMIT - 1]}…"
