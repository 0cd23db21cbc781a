"""Why Warden cannot keep what it is told."""

from __future__ import annotations

from enum import StrEnum


class StoreTrouble(StrEnum):
    """What keeps the database from taking something."""

    LOCKED = "locked"
    """Another process holds it."""
    FULL = "full"
    """No space, or no inode, is left on its disk."""
    GONE = "gone"
    """Its file was deleted or replaced, and cannot be made anew."""
    SLOW = "slow"
    """It gives no answer within the time that somebody may wait."""
    FAILED = "failed"
    """It answers with another error."""
