"""The sections of the site, which every page links to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import current_app, request, url_for

from webapp.domain.people import allows
from webapp.texts import N_
from webapp.web.actor import shown_identity
from webapp.web.rights import right_of
from webapp.web.translate import gettext

SECTIONS: Final = (
    ("pages.dashboard", N_("Memory")),
    ("history.history", N_("History")),
    ("timeline.page", N_("Timeline")),
    ("selftest.page", N_("Self-test")),
    ("people.page", N_("People")),
    ("audit.page", N_("Audit")),
)


@dataclass(frozen=True)
class Section:
    """A link of the navigation. ``current`` is ``page`` on the page itself, ``true`` below it, else empty."""

    name: str
    href: str
    current: str


def sections() -> tuple[Section, ...]:
    """Return the sections that this application has and the person may see."""
    return tuple(Section(gettext(name), url_for(to), _current(to)) for to, name in SECTIONS if _is_open(to))


def _is_open(endpoint: str) -> bool:
    view = current_app.view_functions.get(endpoint)
    right = None if view is None else right_of(view)
    return right is not None and allows(shown_identity(), right)


def _current(endpoint: str) -> str:
    if request.endpoint == endpoint:
        return "page"
    within = endpoint.partition(".")[0]
    return "true" if within == request.blueprint != "pages" else ""
