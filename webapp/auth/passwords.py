"""Passwords as argon2 hashes; the only module that imports argon2. Each hash takes some 50 ms and 64 MiB."""

from __future__ import annotations

import secrets
from functools import cached_property
from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

AT_ONCE: Final = 2
"""Hashes that are computed at once: a flood of sign-ins takes no more memory than they do."""


class Passwords:
    """Creates and checks hashes with the cost that RFC 9106 recommends if memory is scarce; tests pass a faster one."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._places = BoundedSemaphore(AT_ONCE)

    def hash(self, password: str) -> str:
        """Return a hash of ``password``, with a salt of its own."""
        with self._places:
            return self._hasher.hash(_bytes(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Return whether the hash is one of ``password``. Without a hash the result is False, and takes as long to
        find.
        """
        nobodys = self._nobodys  # created in any case: the time of the first sign-in must reveal nothing either
        with self._places:
            try:
                return self._hasher.verify(password_hash or nobodys, _bytes(password)) and password_hash is not None
            except (VerificationError, InvalidHashError):
                return False

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(secrets.token_hex())


def _bytes(password: str) -> bytes:
    """Return the bytes of a password. A terminal can send invalid text, which must not match but must not raise either."""
    return password.encode("utf-8", "surrogatepass")
