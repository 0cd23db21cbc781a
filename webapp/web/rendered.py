"""Fragments that are drawn once for everybody who is to see the same; only the token in their forms is a session's own."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Final, Generic, TypeVar

from flask import render_template
from flask_wtf.csrf import generate_csrf

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_PLACE: Final = secrets.token_hex(16)
"""Stands where a form's token belongs. Made anew at every start, so that no name on the page can be taken for it."""


@dataclass(frozen=True)
class RenderedFragment:
    """A drawn fragment, cut where a form's token belongs."""

    parts: tuple[str, ...]

    def for_session(self) -> str:
        """Return the fragment with the token of the session that asks."""
        return self.parts[0] if len(self.parts) == 1 else generate_csrf().join(self.parts)


def draw(template: str, **context: object) -> RenderedFragment:
    """Return ``template`` drawn for any session.

    Macros that hold a form are imported ``with context``: otherwise they would find the token of the session that asked first.
    """
    return RenderedFragment(tuple(render_template(template, csrf_token=lambda: _PLACE, **context).split(_PLACE)))


class SingleFlightCache(Generic[K, V]):
    """The values of the last ``limit`` keys that were asked for. One thread makes a value, and who comes meanwhile waits for it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._values: OrderedDict[K, V] = OrderedDict()

    def of(self, key: K, make: Callable[[], V]) -> V:
        """Return the value of ``key``; ``make`` is called where it is not kept."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            value = self._values[key] = make()
            if len(self._values) > self._limit:
                self._values.popitem(last=False)
            return value
