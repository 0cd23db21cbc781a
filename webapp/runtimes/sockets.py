"""HTTP over a unix socket whose path may be longer than the kernel allows."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

MAX_ANSWER_BYTES = 1 << 20


class Unreachable(Exception):
    """The connection was refused or closed."""


class Silent(Exception):
    """The connection was accepted, but no answer came in time."""


class Garbled(Exception):
    """The answer is not HTTP, is too long, or has an unexpected status; the text says which."""


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """Yield a short path of the socket that is valid for the block.

    The kernel accepts at most 107 bytes; a descriptor of the socket's folder makes any path short enough. Raises
    OSError.
    """
    folder, _, name = path.rpartition("/")
    descriptor = os.open(folder or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


def connect(path: str, timeout_s: float) -> socket.socket:
    """Return a connection to the socket at ``path``. Raises OSError, TimeoutError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        with short_path(path) as short:
            connection.connect(short)
    except BaseException:
        connection.close()
        raise
    return connection


def ask(path: str, token: str, method: str, route: str, *, body: bytes | None = None, timeout_s: float) -> bytes:
    """Send one request and return the body of the answer; takes at most about ``timeout_s`` in total.

    Raises:
        Unreachable, Silent, Garbled
    """
    deadline = time.monotonic() + timeout_s
    try:
        with closing(_WorkerConnection(path, timeout_s)) as connection:
            connection.request(method, route, body, {"Authorization": f"Bearer {token}"})
            response = connection.getresponse()
            data = _read(response, connection, deadline)
    except TimeoutError as exc:
        raise Silent(f"no answer in {timeout_s} s") from exc
    except OSError as exc:
        raise Unreachable(str(exc)) from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise Garbled(f"{type(exc).__name__}: {exc}") from exc
    if not 200 <= response.status < 300:
        raise Garbled(f"status {response.status}: {data[:120]!r}")
    return data


class _WorkerConnection(http.client.HTTPConnection):
    """A connection to a unix socket, for one request."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("worker")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = connect(self._path, self._timeout_s)


def _read(response: http.client.HTTPResponse, connection: _WorkerConnection, deadline: float) -> bytes:
    """Read an answer by ``deadline``, even if each of its pieces arrives within the socket's timeout."""
    data = bytearray()
    while piece := response.read1(65536):
        data += piece
        if len(data) > MAX_ANSWER_BYTES:
            raise Garbled(f"more than {MAX_ANSWER_BYTES} bytes")
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError
        if connection.sock is not None:
            connection.sock.settimeout(remaining)
    if response.length:
        raise ConnectionResetError("the answer was cut off")
    return bytes(data)
