"""Goes into vLLM's container, as a middleware of its server: asks for the key on every route.

vLLM asks for it under ``/v1``, ``/v2``, ``/inference`` and ``/cohere`` alone (0.32, entrypoints/serve/middleware/authenticate.py), and its
``/invocations`` answers as ``/v1`` does. The port is on 127.0.0.1, which every local user can reach. Nothing but the standard library
is imported: it runs with the image's own Python.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

OPEN = frozenset({"/health", "/ping", "/version", "/metrics"})
"""What tells of no prompt and takes none; probes and collectors ask it without a key."""


class Guard:
    """An ASGI application before vLLM's own."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on what may be passed on."""
        if scope["type"] == "lifespan" or self._may(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _may(self, scope: dict[str, Any]) -> bool:
        if scope.get("path") in OPEN and scope.get("method") in ("GET", "HEAD"):
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._expected)
