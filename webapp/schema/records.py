"""Records: the audit log, and the memory of devices over time."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapp.schema.base import Answer, Mode, Size, Time
from webapp.schema.operations import OperationKind, OperationState

AuditGroup = Literal["signing", "people", "models", "leases", "waiting", "server", "access"]
AuditAction = Literal[
    "sign_in",
    "sign_out",
    "password",
    "session_ended",
    "sessions_ended",
    "token_made",
    "token_revoked",
    "invitation_made",
    "invitation_dropped",
    "invitation_used",
    "person_made",
    "role",
    "disabled",
    "enabled",
    "removed",
    "switch",
    "unload",
    "idle_unload",
    "demo",
    "pause_ended",
    "lease",
    "keep",
    "release_asked",
    "release_answered",
    "released_in_silence",
    "ticket_made",
    "ticket_cancelled",
    "ticket_resumed",
    "ticket_started",
    "clean",
    "emergency",
    "container_stopped",
    "cancel",
    "selftest",
    "address",
]
AuditDetail = Literal[
    "role_before",
    "role",
    "scope",
    "days",
    "hours",
    "mode",
    "load_anyway",
    "override_reason",
    "owner",
    "lease",
    "extended",
    "reason",
    "idle",
    "why",
    "answer",
    "word",
    "rollback",
    "repeated",
]


class DoerDocument(Answer):
    """The sender of a request; ``name`` is ``null`` if nobody was signed in."""

    name: str | None
    came: Literal["local", "session", "proxy", "token", "nobody", "command_line", "itself"]
    person_id: str | None
    token: str | None = Field(description="The label of the API token.")


class AuditTargetDocument(Answer):
    """The object of a recorded action."""

    kind: Literal[
        "server",
        "model",
        "operation",
        "ticket",
        "container",
        "person",
        "session",
        "token",
        "invitation",
        "address",
    ]
    id: str | None
    name: str | None


class AuditEntryDocument(Answer):
    """An entry of the audit log."""

    id: int | None
    at: Time
    who: DoerDocument
    action: AuditAction
    group: AuditGroup
    target: AuditTargetDocument
    address: str | None
    result: Literal["done", "refused", "failed"]
    problem: str | None = Field(description="The code of the refusal or failure.")
    details: dict[AuditDetail, str]
    operation_id: str | None


class HoldingDocument(Answer):
    """One holder's memory at a moment, and its maximum since the previous moment."""

    kind: Literal["driver", "launcher", "container", "worker", "foreign", "unattributed"]
    instance_id: str | None
    model: str | None
    mode: Mode | None
    user: str | None
    bytes: int
    most_bytes: int


class PointDocument(Answer):
    """One moment; the ``bytes`` of its holders and ``free_bytes`` add up to ``total_bytes``."""

    taken_at: Time
    total_bytes: Size
    free_bytes: Size
    mean_free_bytes: Size
    holders: tuple[HoldingDocument, ...]


class EndedOperationDocument(Answer):
    """An operation as the timeline marks it; the whole operation has its own URL."""

    id: str
    kind: OperationKind
    state: OperationState
    mark: (
        Literal["failure", "cancelled", "emergency", "switch", "load", "unload", "clean", "container", "selftest"]
        | None
    )
    actor: str
    model: str | None
    mode: Mode | None
    evicted: tuple[str, ...]
    ended_at: Time


class TimelineDocument(Answer):
    """A device's memory over a span, with the operations that ended in it."""

    device: str
    span: Literal["hour", "week"]
    step_seconds: int
    begun_at: Time
    ended_at: Time
    points: tuple[PointDocument, ...]
    operations: tuple[EndedOperationDocument, ...]
