"""Passwords as argon2 hashes; the one module that knows argon2. Each hash takes some 50 ms and 64 MiB."""

from __future__ import annotations

import secrets
from functools import cached_property
from threading import BoundedSemaphore
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

AT_ONCE: Final = 2
"""Hashes that are computed side by side: a flood of sign-ins takes no more memory than that."""


class Passwords:
    """Makes and checks hashes, by the cost that RFC 9106 advises for little memory; tests give a hasher that is quick."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._places = BoundedSemaphore(AT_ONCE)

    def hash(self, password: str) -> str:
        """Return a hash of ``password``, with a salt of its own."""
        with self._places:
            return self._hasher.hash(_bytes(password))

    def verify(self, password_hash: str | None, password: str) -> bool:
        """Return whether the hash is one of ``password``. Without a hash it is not, and to find that out takes as long."""
        nobodys = self._nobodys  # made before it is known whether it is needed: the first sign-in tells nothing either
        with self._places:
            try:
                return self._hasher.verify(password_hash or nobodys, _bytes(password)) and password_hash is not None
            except (VerificationError, InvalidHashError):
                return False

    @cached_property
    def _nobodys(self) -> str:
        return self._hasher.hash(secrets.token_hex())


def _bytes(password: str) -> bytes:
    """A terminal can send what is no text; that fails to match, and nothing else."""
    return password.encode("utf-8", "surrogatepass")
