"""Warden's output in a terminal: its address, and why it cannot start."""

from __future__ import annotations

import sys

from webapp.error_texts import english
from webapp.errors import WardenError


def say(line: str) -> None:
    """Write a line to standard output and flush it, in case that is a pipe."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def page_url(host: str, port: int) -> str:
    """Return the URL of the page: localhost if Warden listens on all addresses; IPv6 addresses get brackets."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  compared, not bound  # nosec B104
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def explain(error: WardenError) -> str:
    """Return in one sentence why Warden cannot start, and what to do."""
    return f"Warden cannot start: {sentence(error)}"


def sentence(error: WardenError) -> str:
    """Return an error as a sentence, with what to do."""
    detail = str(error.params.get("detail", "")).removeprefix("Value error, ")
    return english(error.code, {**error.params, "detail": detail})
