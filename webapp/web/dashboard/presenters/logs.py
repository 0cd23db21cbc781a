"""The log of a model: the lines that a page has not seen yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from webapp.web.versions import content_tag

WITNESSES: Final = 32
"""How many lines identify a position in the log. That many equal lines in a row look like one position."""
_SIGNS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")
"""Colours and other control characters of a terminal."""


@dataclass(frozen=True)
class LogView:
    """Lines of a log and ``cursor``, which identifies the position after the last one."""

    lines: tuple[str, ...]
    cursor: str
    follows: bool
    """Whether the lines continue those of the page; otherwise they replace them."""

    @property
    def is_news(self) -> bool:
        """Whether the page has to change."""
        return bool(self.lines) or not self.follows


def log_view(lines: Sequence[str], after: str = "") -> LogView:
    """Return the lines after the cursor ``after``, or the whole log if that position is gone."""
    place = _find(lines, after)
    shown = lines if place is None else lines[place:]
    return LogView(tuple(_SIGNS.sub("", line) for line in shown), _cursor(lines, len(lines)), follows=place is not None)


def _cursor(lines: Sequence[str], end: int) -> str:
    witnesses = lines[max(0, end - WITNESSES) : end]
    return f"{len(witnesses)}-{content_tag(*witnesses)}"


def _find(lines: Sequence[str], cursor: str) -> int | None:
    """Return the position of ``cursor``, although lines before it may have been dropped and lines after it added."""
    count, found, _ = cursor.partition("-")
    if not found or not count.isdecimal() or len(count) > 2:
        return None
    if not int(count):  # nothing identifies the position: new lines may have been dropped already
        return None if lines else 0
    if int(count) < WITNESSES:  # those lines were the whole log, so they are its beginning now
        end = int(count)
        return end if end <= len(lines) and _cursor(lines, end) == cursor else None
    return next((end for end in range(len(lines), WITNESSES - 1, -1) if _cursor(lines, end) == cursor), None)
