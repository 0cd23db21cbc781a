"""Typed gettext that looks up the catalogue once per request: a page needs some hundred texts.

The texts in the code are English. A language without a catalogue, such as English, shows them unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, cast

import flask_babel
from babel.support import NullTranslations
from flask import Flask, g

from webapp.texts import CONTEXT_MARK


class Spoken(NamedTuple):
    """A language and its catalogue."""

    language: str
    catalogue: NullTranslations


def init_texts(app: Flask) -> None:
    """Make the same functions available to templates."""
    app.jinja_env.install_gettext_callables(gettext, ngettext, newstyle=True, pgettext=pgettext)  # type: ignore[attr-defined]


def spoken() -> Spoken:
    """Return the request's language and its catalogue, looked up once."""
    found = g.get("spoken")
    if found is None:
        locale = flask_babel.get_locale()
        found = g.spoken = Spoken(str(locale.language), flask_babel.get_domain().get_translations())
    return cast(Spoken, found)


@contextmanager
def speaking(app: Flask, words: Spoken) -> Iterator[None]:
    """Use the language of ``words`` outside of a request: a stream outlives its request."""
    with app.app_context():
        g.spoken = words
        yield


def language() -> str:
    """Return the code of the current language."""
    return spoken().language


def gettext(text: str, **values: object) -> str:
    """Return ``text`` in the current language, with ``values`` in its ``%(name)s``."""
    translated = str(spoken().catalogue.gettext(text)).rpartition(CONTEXT_MARK)[2]
    return translated % values if values else translated


def pgettext(context: str, text: str, **values: object) -> str:
    """Return ``text`` with the meaning of ``context`` in the current language, with ``values`` in its ``%(name)s``."""
    return gettext(f"{context}{CONTEXT_MARK}{text}", **values)


def ngettext(one: str, many: str, num: int, **values: object) -> str:
    """Return the form for ``num`` in the current language; ``%(num)s`` and ``values`` are filled in."""
    return plural(one, many, num) % {"num": num, **values}


def plural(one: str, many: str, num: int) -> str:
    """Return the form for ``num`` in the current language, with its placeholders."""
    return str(spoken().catalogue.ngettext(one, many, num))
