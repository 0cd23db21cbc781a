"""Marks for the texts that people read: English in the code, other languages in the catalogues."""

from __future__ import annotations

from typing import Final

CONTEXT_MARK: Final = "\4"
"""Separates a context from its text, as in gettext's catalogues: one English text may have several translations."""


def N_(text: str) -> str:  # noqa: N802  gettext's name for a text that is translated later
    """Mark ``text`` for the catalogue."""
    return text


def NP_(context: str, text: str) -> str:  # noqa: N802
    """Mark ``text`` with its ``context`` for the catalogue."""
    return f"{context}{CONTEXT_MARK}{text}"


def NN_(one: str, many: str) -> tuple[str, str]:  # noqa: N802
    """Mark a text and its plural for the catalogues."""
    return one, many
