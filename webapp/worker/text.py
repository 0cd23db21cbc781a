"""From tokens to text as they arrive: whole characters only, and stop strings that may extend across pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_UNFINISHED = "\ufffd"
"""A decoder's output for bytes that do not form a whole character yet."""
_LONGEST_WAIT = 8
"""The number of tokens after which a replacement character is considered genuine: a character has at most four bytes,
each at worst a token.
"""


class Detokenizer:
    """Turns tokens into pieces of text whose sum is the text of all tokens.

    A token's text depends on the one before it (a leading blank, a half character), so a piece is the difference of two
    decodings: with the new tokens and without. Only the last few tokens are decoded again.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._from = 0
        self._given = 0

    def feed(self, token: int) -> str:
        """Return the text that ``token`` adds; empty while a character is unfinished."""
        self._tokens.append(token)
        return self._advance(final=False)

    def finish(self) -> str:
        """Return the held-back text."""
        return self._advance(final=True)

    def _advance(self, *, final: bool) -> str:
        before = self._decode(self._tokens[self._from : self._given])
        now = self._decode(self._tokens[self._from :])
        waiting = len(self._tokens) - self._given
        if not final and now.endswith(_UNFINISHED) and waiting < _LONGEST_WAIT:
            return ""
        if len(now) <= len(before):
            return ""
        self._from, self._given = self._given, len(self._tokens)
        return now[len(before) :]


class StopScan:
    """Passes text on up to the first stop string; holds back a possible beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.stopped = False
        """Whether a stop string was found."""

    def feed(self, text: str) -> str:
        """Return the text that is certain to come before any stop string."""
        if self.stopped:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        certain, self._held = self._held[:cut], self._held[cut:]
        return certain

    def finish(self) -> str:
        """Return the held-back text, which turned out not to be a stop string."""
        rest, self._held = self._held, ""
        return rest

    def _overlap(self, stop: str) -> int:
        """Return the length of the longest suffix of the held text that is a prefix of ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if self._held.endswith(stop[:n])), 0)
