"""On what terms a model is held: until when, what for, and who asks its owner for it. Pure; the clock is passed in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

EXTENSION_S: Final = 3600.0
"""What one click adds to a lease."""
LONGEST_S: Final = 30 * 86400.0
"""A lease that ends later than this from now is a mistake."""
TEXT_LIMIT: Final = 200
"""Characters of what a model is for, of why it is asked for, and of an owner's word."""


class ReleaseAnswer(StrEnum):
    """How an ask to release ended."""

    KEEP = "keep"
    """The owner needs the model."""
    RELEASE = "release"
    """The owner, or the owner's silence, gave it up."""


@dataclass(frozen=True)
class ReleaseRequest:
    """One ask to release a model. Times are seconds since the epoch."""

    asker: str
    asked_at: float
    why: str = ""
    answer: ReleaseAnswer | None = None
    """``None`` while it is open."""
    answered_at: float | None = None
    answered_by: str | None = None
    """``None`` with an answer is silence."""
    word: str = ""
    """What the owner said with the answer."""

    @property
    def is_open(self) -> bool:
        """Whether it waits for an answer."""
        return self.answer is None

    def answered(self, answer: ReleaseAnswer, now: float, by: str | None, word: str = "") -> ReleaseRequest:
        """Return the request with its answer."""
        return replace(self, answer=answer, answered_at=now, answered_by=by, word=word)


@dataclass(frozen=True)
class Lease:
    """The terms of one instance. Times are seconds since the epoch."""

    until: float | None = None
    """While it lies ahead nobody else takes the model; ``None`` is no lease."""
    reason: str = ""
    """What the model is for."""
    idle_minutes: float | None = None
    """After so long without use it goes: 0 is never, ``None`` what the server does."""
    idle_set_at: float | None = None
    """When that was chosen: an idle model is counted down from here at the earliest."""
    kept_at: float | None = None
    """When somebody last clicked to keep it; counts as use."""
    release: ReleaseRequest | None = None
    """The last ask to release it."""

    def runs(self, now: float) -> bool:
        """Whether it is leased now."""
        return self.until is not None and now < self.until

    def is_over(self, now: float) -> bool:
        """Whether there was a lease and it has ended."""
        return self.until is not None and now >= self.until

    @property
    def asked(self) -> ReleaseRequest | None:
        """The open ask to release it."""
        return self.release if self.release is not None and self.release.is_open else None

    def is_given_to(self, actor: str) -> bool:
        """Whether the owner has given the model up for ``actor``; a silence gives up no more than an idle model."""
        release = self.release
        return (
            release is not None
            and release.answer is ReleaseAnswer.RELEASE
            and release.answered_by is not None
            and release.asker == actor
        )

    def on_terms(self, until: float | None, reason: str) -> Lease:
        """Return it with new terms; what was given up before is not given up any more."""
        return replace(self, until=until, reason=reason, release=self.asked)

    def extended(self, by_s: float, now: float) -> Lease:
        """Return it ``by_s`` longer: from its end, or from now where that has passed."""
        return self.on_terms(max(now, self.until or now) + by_s, self.reason)

    def idle_after(self, minutes: float | None, now: float) -> Lease:
        """Return it with another idle time."""
        return self if minutes == self.idle_minutes else replace(self, idle_minutes=minutes, idle_set_at=now)

    def kept(self, now: float) -> Lease:
        """Return it as kept by a click."""
        return replace(self, kept_at=now)

    def asked_by(self, asker: str, why: str, now: float) -> Lease:
        """Return it with an ask to release; one that waits already stays as it is."""
        return self if self.asked is not None else replace(self, release=ReleaseRequest(asker, now, why))

    def answered(self, answer: ReleaseAnswer, now: float, by: str | None, word: str = "") -> Lease:
        """Return it with the open ask answered: a release ends the lease."""
        assert self.asked is not None
        until = self.until
        if answer is ReleaseAnswer.RELEASE and until is not None:
            until = min(until, now)
        return replace(self, until=until, release=self.asked.answered(answer, now, by, word))


NO_LEASE: Final = Lease()
