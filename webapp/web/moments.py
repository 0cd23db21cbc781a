"""Moments as programs read them, in JSON and in tables: RFC 3339 in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import overload

from webapp import schema


@overload
def when(epoch_s: float) -> str: ...
@overload
def when(epoch_s: float | None) -> str | None: ...
def when(epoch_s: float | None) -> str | None:
    """Return a moment as RFC 3339 in UTC."""
    return None if epoch_s is None else schema.rfc3339(moment(epoch_s))


def moment(epoch_s: float) -> datetime:
    """Return a moment, given in seconds since the epoch, in UTC."""
    return datetime.fromtimestamp(epoch_s, UTC)
