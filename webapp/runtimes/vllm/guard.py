"""Middleware for the server in vLLM's container: requires the API key on every route.

vLLM requires it only under ``/v1``, ``/v2``, ``/inference`` and ``/cohere`` (0.32,
entrypoints/serve/middleware/authenticate.py), although ``/invocations`` answers as ``/v1`` does. The port is on
127.0.0.1, which every local user can reach. This module runs with the image's Python and imports only the standard
library.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

OPEN = frozenset({"/health", "/ping", "/version", "/metrics"})
"""Routes that neither take nor reveal prompts; probes and collectors use them without a key."""


class Guard:
    """An ASGI application in front of vLLM's."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Pass on requests with the key or to an open route, and refuse all others."""
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
