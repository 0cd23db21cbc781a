"""A message as a code and its values; the web layer renders it in a language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Param = str | int | float | bool | None


@dataclass(frozen=True)
class Message:
    """One message.

    ``code`` is stable and has a sentence in ``webapp/web/words``. Parameters whose names end in ``_bytes`` are bytes,
    in ``_s`` or ``seconds`` seconds; the sentence formats them for the reader's language.
    """

    code: str
    params: Mapping[str, Param] = field(default_factory=dict)
