"""What Warden says in a terminal: where it is, and why it cannot start."""

from __future__ import annotations

import sys

from webapp.errors import AlreadyRunning, ConfigurationError, StoreUnavailable, WardenError


def say(line: str) -> None:
    """Write a line to the terminal at once, also when it is a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def page_url(host: str, port: int) -> str:
    """Return the page's address, on this machine where it listens everywhere; an IPv6 address stands in brackets."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound  # nosec B104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def explain(error: WardenError) -> str:
    """Return in one sentence why Warden cannot start, and what to do."""
    params = error.params
    if isinstance(error, AlreadyRunning):
        return (
            f"Warden cannot start: process {params.get('pid')} is a Warden that holds {params.get('state_dir')}. "
            "Use its page, stop it, or give this one a folder of its own with WARDEN_STATE_DIR."
        )
    if isinstance(error, ConfigurationError):
        detail = str(params.get("detail")).removeprefix("Value error, ")
        return f"Warden cannot start with {params.get('setting')}={params.get('value')}: {detail}."
    if isinstance(error, StoreUnavailable):
        return f"Warden cannot start without its database: {params.get('reason')}."
    return f"Warden cannot start: {error}."
