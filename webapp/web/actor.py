"""Who acts. There are no accounts yet: it is the person who started Warden on this machine."""

from __future__ import annotations

import getpass
from functools import cache


@cache
def current_actor() -> str:
    """Return the name that operations are recorded under."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in a container
        return "local"
