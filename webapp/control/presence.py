"""Who has a page of Warden open: an absent owner cannot answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PRESENT_S: Final = 20.0
"""An open page polls every few seconds; a person whose page has not polled for this long is absent."""


class Presence:
    """Holds when each person was last seen, in monotonic seconds, as one mapping that is replaced."""

    def __init__(self) -> None:
        self._seen: Mapping[str, float] = {}

    def see(self, actor: str, now: float) -> None:
        """Record that ``actor`` has a page open; of two concurrent calls one may be lost, and the next poll repairs
        that.
        """
        kept = {name: at for name, at in self._seen.items() if now - at < PRESENT_S}
        self._seen = {**kept, actor: now}

    def present(self, now: float) -> frozenset[str]:
        """Return the people who have a page open."""
        return frozenset(name for name, at in self._seen.items() if now - at < PRESENT_S)
