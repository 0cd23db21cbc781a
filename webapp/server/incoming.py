"""A request that is still on its way: what has come of it, and whether it is whole. Pure; the limits of what is taken in stand here."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

BODY_LIMIT: Final = 256 * 1024
"""Bytes; the longest thing that anybody sends is a prompt: 20 000 characters, of up to 12 bytes once they are escaped."""
HEAD_LIMIT: Final = 32 * 1024
"""Bytes of the request line and all headers."""
_END: Final = b"\r\n\r\n"
_NAMES: Final = (b"content-length", b"transfer-encoding", b"expect")
_FIELDS: Final = re.compile(rb"^(" + b"|".join(_NAMES) + rb")[ \t]*:([^\r\n]*)", re.I | re.M)
"""No two repetitions that match the same stand side by side, and nothing can fail behind the last: a head is read in one pass."""


class Arrival(StrEnum):
    """How much of the next request is there."""

    PARTIAL = "partial"
    """Not all of it."""
    WHOLE = "whole"
    """All of it."""
    BODILESS = "bodiless"
    """A head with a body that is not taken in: too long, or of a length that nobody says. The head alone is answered."""
    TOO_LARGE = "too_large"
    """More than a head may have, and no end."""


class Incoming:
    """Collects the bytes of one connection; ``take`` gives its requests one by one."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._wanted = 0
        """Bytes of the next request; 0 until its head is whole."""
        self._bodiless = False
        self._head_seen = 0
        """Bytes in which no end of a head begins."""
        self.awaits_word = False
        """Whether the client waits to be told to go on before it sends the body."""

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> Arrival:
        """Add what has come and return how much of the next request is there."""
        self._data += data
        return self.arrival()

    def arrival(self) -> Arrival:
        """Return how much of the next request is there."""
        if not self._wanted and not self._read_head():
            return Arrival.TOO_LARGE if len(self._data) > HEAD_LIMIT else Arrival.PARTIAL
        if self._bodiless:
            return Arrival.BODILESS
        return Arrival.WHOLE if len(self._data) >= self._wanted else Arrival.PARTIAL

    def take(self) -> bytes:
        """Return the next request, of a ``BODILESS`` one the head, and begin with the one behind it."""
        request = bytes(self._data[: self._wanted])
        del self._data[: self._wanted]
        self._wanted, self._head_seen, self._bodiless, self.awaits_word = 0, 0, False, False
        return request

    def _read_head(self) -> bool:
        """Find where the head ends and the body after it; False while the end is not there."""
        end = self._data.find(_END, self._head_seen, HEAD_LIMIT)
        if end < 0:
            self._head_seen = max(0, len(self._data) - len(_END) + 1)
            return False
        end += len(_END)
        fields = _fields(bytes(self._data[:end]))
        body = _body_bytes(fields)
        self._bodiless = body is None
        self._wanted = end + (body or 0)
        self.awaits_word = bool(body) and (b"expect", b"100-continue") in fields
        return True


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    """The fields of a head that say how it goes on. Most heads have none, which is found sooner than where they would stand."""
    lowered = head.lower()
    if not any(name in lowered for name in _NAMES):
        return []
    return [(name.lower(), value.strip(b" \t")) for name, value in _FIELDS.findall(head)]


def _body_bytes(fields: list[tuple[bytes, bytes]]) -> int | None:
    """Bytes of the body that a head announces; ``None`` where they are too many, or are not a plain number."""
    if any(name == b"transfer-encoding" for name, _ in fields):
        return None
    lengths = [value for name, value in fields if name == b"content-length"]
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,12}", lengths[0]):
        return None
    length = int(lengths[0])
    return length if length <= BODY_LIMIT else None
