"""Who acts. There are no accounts yet: it is the person who started Warden on this machine."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from functools import cache
from typing import Final, cast

from flask import current_app, has_app_context

EXTENSION: Final = "warden_actor"
"""Where ``app.extensions`` keeps what tells people apart, if anything does: a call that names who sends the request."""


def current_actor() -> str:
    """Return the name that operations are recorded under."""
    named = current_app.extensions.get(EXTENSION) if has_app_context() else None
    return _started_by() if named is None else cast(Callable[[], str], named)()


@cache
def _started_by() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "local"
