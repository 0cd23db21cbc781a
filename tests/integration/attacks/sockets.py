"""Clients that misbehave: raw connections to a running server."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import httpx

HOST = b"Host: localhost\r\n"
PATIENCE_S = 8.0
"""A person's own request has to be answered in this time, whatever the others do. The machine of the tests is a slow one."""


def connected(url: str, *, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection; with a small receive buffer the other side has to keep what is not read."""
    address = urlsplit(url)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE_S)
    sock.connect((address.hostname, address.port))
    return sock


@contextmanager
def sending(url: str, data: bytes, count: int, *, receive_buffer: int | None = None) -> Iterator[list[socket.socket]]:
    """Keep ``count`` connections that have sent ``data`` and nothing else."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(connected(url, receive_buffer=receive_buffer)) for _ in range(count)]
        for sock in sockets:
            sock.sendall(data)
        yield sockets


def exchange(url: str, data: bytes) -> bytes:
    """Send bytes and return all that comes back until the server hangs up."""
    with connected(url) as sock:
        sock.sendall(data)
        return rest_of(sock)


def rest_of(sock: socket.socket) -> bytes:
    """Return what comes until the server hangs up."""
    parts = []
    try:
        while data := sock.recv(65536):
            parts.append(data)
    except ConnectionResetError:
        pass  # what was sent and not wanted is thrown away with the connection
    return b"".join(parts)


def own_request(url: str, path: str = "/api/v1/status", **kwargs: object) -> httpx.Response:
    """What a person asks meanwhile, on a connection of its own."""
    return httpx.get(url + path, timeout=PATIENCE_S, verify=False, **kwargs)  # type: ignore[arg-type]
