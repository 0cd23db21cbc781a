"""Passwords: argon2, and nobody's password takes as long as somebody's."""

from __future__ import annotations

from argon2 import PasswordHasher, extract_parameters
from argon2.profiles import RFC_9106_LOW_MEMORY

from webapp.auth.passwords import Passwords

QUICK = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


def test_a_hash_is_one_of_its_password_alone() -> None:
    made = QUICK.hash("десять слов")

    assert QUICK.verify(made, "десять слов")
    assert not QUICK.verify(made, "десять слов ")
    assert made != QUICK.hash("десять слов")


def test_without_a_hash_nothing_matches() -> None:
    assert not QUICK.verify(None, "")
    assert not QUICK.verify("not a hash", "x")


def test_what_is_no_text_is_no_error() -> None:
    assert not QUICK.verify(None, "\udcff\0")


def test_the_cost_is_the_one_of_rfc_9106_for_little_memory() -> None:
    assert extract_parameters(Passwords().hash("x")) == RFC_9106_LOW_MEMORY
