"""Short names for content: a page says which one it shows, and gets nothing while that stays the same."""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import Final

from webapp.web.translate import language

TAG_BYTES: Final = 12


def content_tag(*content: object) -> str:
    """Return a short name for ``content``, by its ``repr``: equal names mean that there is nothing to draw."""
    return blake2b(repr(content).encode("utf-8", "replace"), digest_size=TAG_BYTES).hexdigest()


class Versioned:
    """The base of frozen views that a page compares with what it shows."""

    @cached_property
    def version(self) -> str:
        """The name of this content in the language in force."""
        return content_tag(language(), self)
