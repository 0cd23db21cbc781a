"""Who has a page of Warden's open: an owner who is away cannot answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PRESENT_S: Final = 20.0
"""An open page asks for news every few seconds; who has not asked for this long is away."""


class Presence:
    """Holds when each person was last seen, in monotonic seconds, as one mapping that is replaced."""

    def __init__(self) -> None:
        self._seen: Mapping[str, float] = {}

    def see(self, actor: str, now: float) -> None:
        """Note that ``actor`` looks at a page; two who come at once may cost one of them a note, and the next look makes it good."""
        kept = {name: at for name, at in self._seen.items() if now - at < PRESENT_S}
        self._seen = {**kept, actor: now}

    def present(self, now: float) -> frozenset[str]:
        """Return who looks at a page."""
        return frozenset(name for name, at in self._seen.items() if now - at < PRESENT_S)
