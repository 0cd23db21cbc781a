"""What Warden says in a terminal: where it is, and why it cannot start."""

from __future__ import annotations

import sys

from webapp.error_texts import english
from webapp.errors import WardenError


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
    return f"Warden cannot start: {sentence(error)}"


def sentence(error: WardenError) -> str:
    """Return what an error is in words, with what to do."""
    detail = str(error.params.get("detail", "")).removeprefix("Value error, ")
    return english(error.code, {**error.params, "detail": detail})
