"""Why Warden cannot store a value."""

from __future__ import annotations

from enum import StrEnum


class StoreTrouble(StrEnum):
    """What prevents the database from storing a value."""

    LOCKED = "locked"
    """Another process has locked it."""
    FULL = "full"
    """No space, or no inode, is left on its disk."""
    GONE = "gone"
    """Its file was deleted or replaced, and cannot be recreated."""
    SLOW = "slow"
    """It does not answer within the time that a caller may wait."""
    FAILED = "failed"
    """It answers with another error."""
