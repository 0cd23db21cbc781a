"""HTTP over a unix socket whose path may be longer than the kernel allows."""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx

# httpx logs every request with its URL at level INFO.
logging.getLogger("httpx").setLevel(logging.WARNING)

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


@contextmanager
def unix_client(path: str, *, timeout: httpx.Timeout, headers: Mapping[str, str]) -> Iterator[httpx.Client]:
    """Yield an httpx client of the socket at ``path``, for streamed answers.

    Raises:
        OSError: connections are refused. That is tried first, because httpcore does not close a refused socket.
    """
    import httpx  # noqa: PLC0415  takes 0.1 s, and only streamed answers need it

    connect(path, timeout.connect or _CONNECT_S).close()
    with (
        short_path(path) as uds,
        httpx.HTTPTransport(uds=uds, verify=False) as transport,
        # The environment is ignored: a proxy set there would be asked for the host "worker".
        httpx.Client(
            transport=transport, base_url=_BASE_URL, timeout=timeout, headers=dict(headers), trust_env=False
        ) as client,
    ):
        yield client


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


class _Connection(http.client.HTTPConnection):
    """A connection to a unix socket, for one request."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("worker")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = connect(self._path, self._timeout_s)


def _read(response: http.client.HTTPResponse, connection: _Connection, deadline: float) -> bytes:
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
