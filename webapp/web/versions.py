"""Content tags: a page sends the tag of what it shows, and gets nothing while the tag stays the same."""

from __future__ import annotations

from functools import cached_property
from hashlib import blake2b
from typing import Final

from webapp.web.translate import language

TAG_BYTES: Final = 12


def content_tag(*content: object) -> str:
    """Return a short tag for ``content``, by its ``repr``: equal tags mean that there is nothing to redraw."""
    return blake2b(repr(content).encode("utf-8", "replace"), digest_size=TAG_BYTES).hexdigest()


class Versioned:
    """The base of frozen views with a content tag."""

    @cached_property
    def version(self) -> str:
        """The tag of this content in the current language."""
        return content_tag(language(), self)
