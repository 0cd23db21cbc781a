"""The terms on which a model is held: until when, its purpose, and requests to release it. Pure; the clock is an
argument.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from webapp.message import Message

EXTENSION_S: Final = 3600.0
"""How much one click extends a lease."""
LONGEST_S: Final = 30 * 86400.0
"""A lease that ends later than this from now is a mistake."""
TEXT_LIMIT: Final = 200
"""Characters of a purpose, of the reason of a release request, and of an owner's comment."""


class ReleaseAnswer(StrEnum):
    """How a release request ended."""

    KEEP = "keep"
    """The owner needs the model."""
    RELEASE = "release"
    """The owner, or the owner's silence, released the model."""


@dataclass(frozen=True)
class ReleaseRequest:
    """One request to release a model. Times are seconds since the epoch."""

    asker: str
    asked_at: float
    why: str = ""
    answer: ReleaseAnswer | None = None
    """``None`` while it is open."""
    answered_at: float | None = None
    answered_by: str | None = None
    """``None`` with an answer means that the owner did not answer in time."""
    word: str = ""
    """The owner's comment."""

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
    """Nobody else takes the model before this moment; ``None`` means no lease."""
    reason: str = ""
    """What the model is for."""
    idle_minutes: float | None = None
    """The idle time after which it is unloaded: 0 is never, ``None`` is the server's default."""
    idle_set_at: float | None = None
    """When that was set: an idle model is counted down from here at the earliest."""
    kept_at: float | None = None
    """When a person last clicked to keep it; counts as use."""
    release: ReleaseRequest | None = None
    """The last release request."""

    def runs(self, now: float) -> bool:
        """Whether the lease is in force."""
        return self.until is not None and now < self.until

    def is_over(self, now: float) -> bool:
        """Whether there was a lease and it has ended."""
        return self.until is not None and now >= self.until

    @property
    def asked(self) -> ReleaseRequest | None:
        """The open release request."""
        return self.release if self.release is not None and self.release.is_open else None

    def is_given_to(self, actor: str) -> bool:
        """Whether the owner has released the model for ``actor``; silence releases only an idle model."""
        release = self.release
        return (
            release is not None
            and release.answer is ReleaseAnswer.RELEASE
            and release.answered_by is not None
            and release.asker == actor
        )

    def on_terms(self, until: float | None, reason: str) -> Lease:
        """Return the lease with new terms; an earlier release no longer counts."""
        return replace(self, until=until, reason=reason, release=self.asked)

    def extended(self, by_s: float, now: float) -> Lease:
        """Return the lease extended by ``by_s``: from its end, or from now if that has passed."""
        return self.on_terms(max(now, self.until or now) + by_s, self.reason)

    def idle_after(self, minutes: float | None, now: float) -> Lease:
        """Return the lease with another idle time."""
        return self if minutes == self.idle_minutes else replace(self, idle_minutes=minutes, idle_set_at=now)

    def kept(self, now: float) -> Lease:
        """Return the lease as kept by a click."""
        return replace(self, kept_at=now)

    def asked_by(self, asker: str, why: str, now: float) -> Lease:
        """Return the lease with a release request; an open one stays as it is."""
        return self if self.asked is not None else replace(self, release=ReleaseRequest(asker, now, why))

    def answered(self, answer: ReleaseAnswer, now: float, by: str | None, word: str = "") -> Lease:
        """Return the lease with the open request answered: a release ends the lease."""
        assert self.asked is not None
        until = self.until
        if answer is ReleaseAnswer.RELEASE and until is not None:
            until = min(until, now)
        return replace(self, until=until, release=self.asked.answered(answer, now, by, word))


NO_LEASE: Final = Lease()


@dataclass(frozen=True)
class Terms:
    """New terms of an instance. ``extend_s`` counts from the end of the lease, or from now if that has passed."""

    until: float | None = None
    reason: str | None = None
    """``None`` leaves it unchanged."""
    extend_s: float | None = None
    """Replaces ``until``."""
    idle_minutes: float | None = None
    sets_until: bool = True
    sets_idle: bool = False

    @classmethod
    def longer(cls, by_s: float = EXTENSION_S) -> Terms:
        """Return the terms of one click."""
        return cls(extend_s=by_s)

    @property
    def moves_until(self) -> bool:
        """Whether they change the end of the lease."""
        return self.sets_until or self.extend_s is not None


@dataclass(frozen=True)
class Notice:
    """A notice that one person sees on every page until dismissing it."""

    number: int
    to: str
    at: float
    message: Message
