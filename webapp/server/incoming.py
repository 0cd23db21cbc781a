"""An incoming request: the part received so far, and whether it is complete. Pure; the limits of a request are defined
here.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

BODY_LIMIT: Final = 256 * 1024
"""Bytes; the longest body is a prompt: 20 000 characters, of up to 12 bytes each after escaping."""
HEAD_LIMIT: Final = 32 * 1024
"""Bytes of the request line and all headers."""
_END: Final = b"\r\n\r\n"
_NAMES: Final = (b"content-length", b"transfer-encoding", b"expect")
_FIELDS: Final = re.compile(rb"^(" + b"|".join(_NAMES) + rb")[ \t]*:([^\r\n]*)", re.I | re.M)
"""No two repetitions that match the same are adjacent, and nothing can fail after the last: a head is read in one pass.
"""


class Arrival(StrEnum):
    """How much of the next request has been received."""

    PARTIAL = "partial"
    """A part of it."""
    WHOLE = "whole"
    """All of it."""
    BODILESS = "bodiless"
    """A head with a body that is not read: too long, or of unknown length. Only the head is answered."""
    TOO_LARGE = "too_large"
    """More than a head may have, without an end."""


class Incoming:
    """Collects the bytes of one connection; ``take`` returns its requests one by one."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._wanted = 0
        """Bytes of the next request; 0 until its head is complete."""
        self._bodiless = False
        self._head_seen = 0
        """Bytes in which no end of a head begins."""
        self.awaits_word = False
        """Whether the client waits for 100 Continue before it sends the body."""

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes) -> Arrival:
        """Add received bytes and return how much of the next request is there."""
        self._data += data
        return self.arrival()

    def arrival(self) -> Arrival:
        """Return how much of the next request has been received."""
        if not self._wanted and not self._read_head():
            return Arrival.TOO_LARGE if len(self._data) > HEAD_LIMIT else Arrival.PARTIAL
        if self._bodiless:
            return Arrival.BODILESS
        return Arrival.WHOLE if len(self._data) >= self._wanted else Arrival.PARTIAL

    def take(self) -> bytes:
        """Remove and return the next request, or only its head if it is ``BODILESS``."""
        request = bytes(self._data[: self._wanted])
        del self._data[: self._wanted]
        self._wanted, self._head_seen, self._bodiless, self.awaits_word = 0, 0, False, False
        return request

    def _read_head(self) -> bool:
        """Find the end of the head and of the body after it; False if the head is not complete."""
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
    """Return the framing headers. Fast path: most requests have none."""
    lowered = head.lower()
    if not any(name in lowered for name in _NAMES):
        return []
    return [(name.lower(), value.strip(b" \t")) for name, value in _FIELDS.findall(head)]


def _body_bytes(fields: list[tuple[bytes, bytes]]) -> int | None:
    """Return the bytes of the body that a head announces; ``None`` if they are too many, or not a plain number."""
    if any(name == b"transfer-encoding" for name, _ in fields):
        return None
    lengths = [value for name, value in fields if name == b"content-length"]
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,12}", lengths[0]):
        return None
    length = int(lengths[0])
    return length if length <= BODY_LIMIT else None
