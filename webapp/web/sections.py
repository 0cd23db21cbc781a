"""The parts of the site that every page leads to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flask import current_app, request, url_for

from webapp.web.translate import gettext
from webapp.web.words import N_

SECTIONS: Final = (
    ("pages.dashboard", N_("Память")),
    ("history.history", N_("История")),
    ("timeline.page", N_("График")),
    ("selftest.page", N_("Проверка")),
)


@dataclass(frozen=True)
class Section:
    """A link of the navigation. ``current`` is ``page`` on the page itself, ``true`` below it, else empty."""

    name: str
    href: str
    current: str


def sections() -> tuple[Section, ...]:
    """Return the parts that this application has."""
    known = current_app.view_functions
    return tuple(Section(gettext(name), url_for(to), _current(to)) for to, name in SECTIONS if to in known)


def _current(endpoint: str) -> str:
    if request.endpoint == endpoint:
        return "page"
    within = endpoint.partition(".")[0]
    return "true" if within == request.blueprint != "pages" else ""
