"""Queued launches."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from webapp.schema.base import Answer, MessageDocument, Time
from webapp.schema.requests import LaunchDocument


class QueuedLaunchDocument(Answer):
    """A launch in the queue, or one that left it recently; ``place``, ``why`` and ``behind`` are then ``null``."""

    id: str
    state: Literal["waiting", "ready", "starting", "started", "cancelled", "expired", "failed"]
    place: int | None
    actor: str
    starts_by_itself: bool
    request: LaunchDocument
    created_at: Time
    why: MessageDocument | None = Field(description="Why it waits.")
    behind: str | None = Field(description="The launch ahead of it that it waits for.")
    told_at: Time | None = Field(description="When its person was told that it can start.")
    operation_id: str | None
    paused_by: str | None = Field(description="Who paused it by an emergency stop.")
    tries: int
    ended_at: Time | None
    outcome: MessageDocument | None = Field(
        description="`ticket_satisfied`: somebody else loaded the same model meanwhile."
    )


class ChangedQueuedLaunchDocument(QueuedLaunchDocument):
    """A queued launch that the request changed."""

    stored: bool = Field(description="The database has the change; if not, it follows.")
