"""Caches views and rendered fragments for everybody who sees the same."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from threading import Lock
from typing import Final, Generic, TypeVar, cast

from flask import Flask, current_app, render_template
from flask_wtf.csrf import generate_csrf

EXTENSION: Final = "warden_views"
KEPT: Final = 128
"""Room for a few kinds of values in two languages, for viewers, administrators and each operator, and for those of the
second before. The largest take some 100 KB each."""

V = TypeVar("V")

_PLACE: Final = secrets.token_hex(16)
"""The placeholder of a form's token; it is new at every start, so that no text on the page can equal it."""


class _Slot:
    """One value. The lock is held while it is computed, so that other threads wait for it."""

    __slots__ = ("lock", "value")

    def __init__(self) -> None:
        self.lock = Lock()
        self.value: tuple[object] | None = None


class ViewCache:
    """The ``limit`` most recently used values. One thread computes the value of a key while the others wait for it."""

    def __init__(self, limit: int = KEPT, clock: Callable[[], float] = time.time) -> None:
        self.now = clock
        """The moment of the views, in seconds since the epoch."""
        self._limit = limit
        self._lock = Lock()
        self._slots: OrderedDict[Hashable, _Slot] = OrderedDict()

    def of(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value of ``key``; call ``make`` if it is not cached. If ``make`` fails, the next call tries
        again."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = _Slot()
                if len(self._slots) > self._limit:
                    self._slots.popitem(last=False)
            else:
                self._slots.move_to_end(key)
        if slot.value is None:
            with slot.lock:
                if slot.value is None:
                    slot.value = (make(),)
        return cast(V, slot.value[0])


@dataclass(frozen=True, eq=False)
class Same(Generic[V]):
    """A large value as part of a key, compared by identity, which costs nothing; the key keeps the object alive."""

    value: V

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


@dataclass(frozen=True)
class RenderedFragment:
    """A rendered fragment, split where a form's token belongs."""

    parts: tuple[str, ...]

    def for_session(self) -> str:
        """Return the fragment with the token of the current session."""
        return self.parts[0] if len(self.parts) == 1 else generate_csrf().join(self.parts)


def draw(template: str, **context: object) -> RenderedFragment:
    """Return ``template`` rendered for any session.

    Macros with a form must be imported ``with context``: otherwise they would contain the token of the first session.
    """
    return RenderedFragment(tuple(render_template(template, csrf_token=lambda: _PLACE, **context).split(_PLACE)))


def init_view_cache(app: Flask) -> None:
    """Give ``app`` its cache."""
    app.extensions[EXTENSION] = ViewCache()


def view_cache() -> ViewCache:
    """Return the cache of the current application."""
    return cast(ViewCache, current_app.extensions[EXTENSION])
