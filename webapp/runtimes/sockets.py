"""HTTP to a unix socket, however long the path of its folder is."""

from __future__ import annotations

import http.client
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

# httpx logs every request with its address, at a level that is meant for people.
logging.getLogger("httpx").setLevel(logging.WARNING)

MAX_ANSWER_BYTES = 1 << 20
_BASE_URL = "http://worker"
_CONNECT_S = 5.0


class Unreachable(Exception):
    """Nobody takes the connection, or it was hung up."""


class Silent(Exception):
    """The connection was taken and no answer came in time."""


class Garbled(Exception):
    """The answer is not HTTP, too long, or of a status that was not expected; the text says which."""


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """Give a socket's path a short name for as long as the block lasts.

    The kernel takes at most 107 bytes; a descriptor of the socket's folder makes any path short enough. Raises OSError.
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


@contextmanager
def unix_client(path: str, *, timeout: httpx.Timeout, headers: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Give an httpx client of the socket at ``path``, for answers that come in pieces.

    Raises:
        OSError: nobody takes connections there. It is tried first, because httpcore forgets to close a socket that was refused.
    """
    import httpx  # noqa: PLC0415  0.1 s of every start that only an answer in pieces needs

    connect(path, timeout.connect or _CONNECT_S).close()
    with (
        short_path(path) as uds,
        httpx.HTTPTransport(uds=uds, verify=False) as transport,
        # No environment: a proxy set there would be asked for "worker".
        httpx.Client(
            transport=transport, base_url=_BASE_URL, timeout=timeout, headers=dict(headers), trust_env=False
        ) as client,
    ):
        yield client


def ask(path: str, token: str, method: str, route: str, *, body: bytes | None = None, timeout_s: float) -> bytes:
    """Make one request and return the body of its answer; takes at most about ``timeout_s`` in all.

    Raises:
        Unreachable, Silent, Garbled: see there.
    """
    deadline = time.monotonic() + timeout_s
    try:
        with closing(_Connection(path, timeout_s)) as connection:
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


class _Connection(http.client.HTTPConnection):
    """A connection to a unix socket; one question, one answer."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("worker")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = connect(self._path, self._timeout_s)


def _read(response: http.client.HTTPResponse, connection: _Connection, deadline: float) -> bytes:
    """Read an answer whose pieces may each come in time and all together not."""
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
