"""Text in a form that a column of any database can hold."""

from __future__ import annotations


def column_text(value: str) -> str:
    """Return ``value`` in a form that a column can hold: a lone surrogate or a NUL, which JSON allows, would fail the
    whole write."""
    return str(value).encode("utf-8", "replace").decode().replace("\0", "?")
