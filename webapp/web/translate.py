"""gettext with types, and with the request's catalogue at hand: a page asks for some hundred texts.

The texts in the code are English. A language without a catalogue, as English is, shows them as they are.
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
    """Let templates use the same functions."""
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
    """Let texts be in the language of ``words`` outside of a request: a stream outlives the one that began it."""
    with app.app_context():
        g.spoken = words
        yield


def language() -> str:
    """Return the code of the language in force."""
    return spoken().language


def gettext(text: str, **values: object) -> str:
    """Return ``text`` in the language in force, with ``values`` in its ``%(name)s``."""
    translated = str(spoken().catalogue.gettext(text)).rpartition(CONTEXT_MARK)[2]
    return translated % values if values else translated


def pgettext(context: str, text: str, **values: object) -> str:
    """Return ``text`` as it is meant in ``context``, in the language in force, with ``values`` in its ``%(name)s``."""
    return gettext(f"{context}{CONTEXT_MARK}{text}", **values)


def ngettext(one: str, many: str, num: int, **values: object) -> str:
    """Return the form for ``num`` in the language in force; with ``num`` and ``values`` in its ``%(name)s``."""
    return plural(one, many, num) % {"num": num, **values}


def plural(one: str, many: str, num: int) -> str:
    """Return the form for ``num`` in the language in force, its ``%(name)s`` still open."""
    return str(spoken().catalogue.ngettext(one, many, num))
