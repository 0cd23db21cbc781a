"""HTTP over the unix socket: one thread per connection, a bounded number of them; the token, body limits, streams."""

from __future__ import annotations

import hmac
import json
import logging
import select
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol

from webapp.worker.openai import ApiError

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 8 * 2**20
MAX_CONNECTIONS = 256
IDLE_S = 60.0
"""A connection without a request for this long is closed; its thread ends with it."""


class ClientGone(Exception):
    """The client has disconnected."""


class Exchange(Protocol):
    """One request and the way to answer it."""

    body: bytes

    def is_gone(self) -> bool:
        """Return whether the client has disconnected. Never waits."""

    def reply(self, status: int, value: Mapping[str, Any]) -> None:
        """Answer with JSON. Raises ClientGone."""

    def begin_stream(self) -> None:
        """Begin an answer of server-sent events. Raises ClientGone."""

    def send(self, data: bytes) -> None:
        """Send events. Raises ClientGone."""


Route = Callable[[Exchange], None]


class WorkerServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves ``routes`` (by method and path) on a unix socket at a path relative to the working folder."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, path: str, token: str, routes: Mapping[tuple[str, str], Route]) -> None:
        self.token = token.encode()
        self.routes = routes
        self._room = threading.BoundedSemaphore(MAX_CONNECTIONS)
        Path(path).unlink(missing_ok=True)
        super().__init__(path, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or close it if there are too many."""
        if not self._room.acquire(blocking=False):
            log.warning("more than %s connections, one was closed", MAX_CONNECTIONS)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the error of a connection, without its content; a client that disconnects is not an error."""
        if isinstance(sys.exception(), ConnectionError):
            log.debug("a connection was reset")
        else:
            log.exception("a connection failed")


class _Handler(BaseHTTPRequestHandler):
    """Finds the route and translates errors; is itself the ``Exchange``."""

    server: WorkerServer
    protocol_version = "HTTP/1.1"
    timeout = IDLE_S
    disable_nagle_algorithm = False  # a unix socket has none

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self._streaming = False
        try:
            self._check_token()
            self.body = self._read_body()
            self._route()(self)
            if self._streaming:
                self._write(b"0\r\n\r\n")
        except ApiError as exc:
            self._answer_error(exc)
        except ClientGone:
            self.close_connection = True
        except Exception as exc:  # noqa: BLE001 - the top of a connection
            _record(exc)
            self._answer_error(ApiError(500, "internal", f"{type(exc).__name__} while answering; see the model's log"))

    def _answer_error(self, error: ApiError) -> None:
        self.close_connection = True  # the rest of a refused body may still arrive
        if self._streaming:
            return
        try:
            self.reply(error.status, error.body())
        except ClientGone:
            return

    def _check_token(self) -> None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self.server.token):
            raise ApiError(401, "unauthorized", "the token is missing or wrong")

    def _route(self) -> Route:
        path = self.path.partition("?")[0]
        if (route := self.server.routes.get((self.command, path))) is not None:
            return route
        if any(known == path for _, known in self.server.routes):
            raise ApiError(405, "method_not_allowed", f"{path} does not take {self.command}")
        raise ApiError(404, "not_found", f"there is no {path}")

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding"):
            raise ApiError(411, "length_required", "the body has to come with its Content-Length")
        length = self.headers.get("Content-Length") or "0"
        if not length.isdecimal():
            raise ApiError(400, "invalid", "Content-Length is not a number")
        if int(length) > MAX_BODY_BYTES:
            raise ApiError(413, "too_large", f"the body has more than {MAX_BODY_BYTES} bytes")
        try:
            return self.rfile.read(int(length))
        except OSError as exc:
            raise ClientGone from exc

    # Exchange

    def is_gone(self) -> bool:
        """Return whether the client has disconnected, as ``Exchange.is_gone``."""
        try:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    def reply(self, status: int, value: Mapping[str, Any]) -> None:
        """Answer with JSON, as ``Exchange.reply``."""
        data = json.dumps(value, ensure_ascii=False).encode(errors="replace")
        self._head(status, {"Content-Type": "application/json", "Content-Length": str(len(data))})
        self._write(data)

    def begin_stream(self) -> None:
        """Start a stream, as ``Exchange.begin_stream``."""
        self._head(200, {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"})
        self._streaming = True

    def send(self, data: bytes) -> None:
        """Send events, as ``Exchange.send``."""
        self._write(b"%x\r\n%s\r\n" % (len(data), data))

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response_only(HTTPStatus(status))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        try:
            self.end_headers()
        except OSError as exc:
            raise ClientGone from exc

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
        except OSError as exc:
            raise ClientGone from exc

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a path or a header may contain secrets."""


def _record(error: Exception) -> None:
    """Log an error's kind and location; not its text, which may contain a prompt."""
    log.error("a request failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
