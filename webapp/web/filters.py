"""Reads the values of query parameters and form fields."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeVar

from webapp.errors import InvalidRequest

NAME_LIMIT: Final = 200
SHOWN_LIMIT: Final = 100

E = TypeVar("E", bound=StrEnum)


def member(field: str, text: str, of: type[E]) -> E | None:
    """Return the member of an enum that a field names, ``None`` if the field is empty. Raises InvalidRequest."""
    return chosen(of, field, text) if text else None


def chosen(of: type[E], field: str, text: str) -> E:
    """Return the member of an enum that a field names. Raises InvalidRequest."""
    if text not in set(of):
        raise InvalidRequest(field=field, value=text[:SHOWN_LIMIT], allowed=", ".join(of))
    return of(text)


def name_of(field: str, text: str) -> str | None:
    """Return the name in a field, ``None`` if the field is empty. Raises InvalidRequest."""
    if len(text) > NAME_LIMIT:
        raise InvalidRequest(field=field, value=text[:SHOWN_LIMIT], allowed=f"≤ {NAME_LIMIT}")
    return text or None
