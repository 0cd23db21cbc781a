"""A text of the page with placeholders for values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sentence:
    """An English text, with its plural if ``count`` names the value that decides it."""

    one: str
    many: str | None = None
    count: str = ""


def one(text: str) -> Sentence:
    """Return a text without a plural."""
    return Sentence(text)


def many(one: str, many: str, count: str = "count") -> Sentence:
    """Return a text whose form follows the value ``count``."""
    return Sentence(one, many, count)
