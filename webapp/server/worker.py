"""gunicorn's worker with threads, in which slow clients occupy no thread: a thread gets a request once it is complete.

With gunicorn 27's own worker a few idle connections can stop the server in three ways: a thread waits indefinitely for
the rest of a request, another for a client that does not accept its answer, and the thread of the poller waits two
seconds for each client that does not close its connection. Here the poller collects requests (see ``incoming``) and
sends the unsent part of an answer (see ``outgoing``) before it handles the connection's next request. A thread never
reads from a socket, and waits for a client only during a streamed answer, as long as the client accepts some of it. A
client that does not close its connection waits in the poller, too. If there are too many connections, those that have
been idle longest are closed.
"""

from __future__ import annotations

import errno
import selectors
import socket
import sys
import time
from collections import deque
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Barrier
from typing import Any, Final

from gunicorn import util
from gunicorn.http import get_parser
from gunicorn.http.errors import (
    InvalidResponseHeader,
    InvalidResponseHeaderName,
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
)
from gunicorn.workers.gthread import TConn, ThreadWorker

from webapp.server.incoming import Arrival, Incoming
from webapp.server.outgoing import Outgoing

REQUEST_S: Final = 20.0
"""The time after its first byte within which a request must be complete; a new connection counts as a first byte."""
SEND_S: Final = 20.0
"""The time within which a client must accept part of an answer; the time for the whole answer does not matter."""
SEND_BUFFER: Final = 128 * 1024
"""Bytes that the kernel may buffer for a client. It reports space in steps of a third, so a client must accept some KB
per second.
"""
KEPT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of unsent answers for all clients together; above, the client that has accepted nothing for longest is
disconnected.
"""
LINGER_S: Final = 2.0
"""How long the client may continue to send after the last answer before the connection is closed."""
STOP_S: Final = 0.5
"""How long a stop waits for incomplete requests."""
MADE_S: Final = 5.0
"""How long the start waits until all request threads exist."""
READ: Final = 64 * 1024
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_GONE: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED})
_REFUSALS: Final = (
    ((InvalidResponseHeader, InvalidResponseHeaderName), 500, "Internal Server Error"),
    (LimitRequestLine, 414, "URI Too Long"),
    (LimitRequestHeaders, 431, "Request Header Fields Too Large"),
    (ParseException, 400, "Bad Request"),
)


class Connection(TConn):  # type: ignore[misc]
    """A connection with its received bytes; its ``sock`` holds the unsent ones."""

    sock: Outgoing

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.incoming = Incoming()
        self.is_last = False
        """Whether the connection ends with this request, whatever its answer says."""
        self.since = 0.0
        """When its current wait began, or when it last accepted part of an answer."""
        self.is_kept = False
        """Whether it has had its answer and is idle."""
        self.is_closed = False


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """The worker that the module describes.

    ``pending_conns`` holds connections without a complete request, ``sending`` those with an unsent answer,
    ``lingering`` those after their last answer; each oldest first.
    """

    send_s: float = SEND_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_s = float(self.cfg.keepalive)  # reading one of gunicorn's settings is a search
        self.sending: deque[Connection] = deque()
        self.lingering: deque[Connection] = deque()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse TLS: the poller reads requests, not records."""
        if cfg.is_ssl:
            sys.exit("Warden speaks plain HTTP: let a proxy speak TLS, and name its address in WARDEN_TRUSTED_PROXIES.")
        super().check_config(cfg, log)

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the pool with all request threads already created: if the machine later refuses threads, an emergency
        stop has its own.
        """
        pool, together = ThreadPoolExecutor(self.cfg.threads), Barrier(self.cfg.threads)
        with suppress(RuntimeError):  # no more can be created: the existing ones suffice
            for made in [pool.submit(together.wait, MADE_S) for _ in range(self.cfg.threads)]:
                made.result()
        return pool

    # In the thread of the poller

    def accept(self, listener: socket.socket) -> None:
        """Accept a connection, and let it wait in the poller for its request."""
        try:
            sock, address = listener.accept()
        except OSError as exc:
            if exc.errno in _NO_ROOM:
                self._close_idlest()
            elif exc.errno not in _GONE:
                raise
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.nr_conns += 1
        self._wait_for_request(Connection(self.cfg, Outgoing(sock, self.send_s), address, listener.getsockname()))
        if self.nr_conns >= self.worker_connections:
            self._close_idlest()

    def _wait_for_request(self, conn: Connection) -> None:
        self._expect(conn)
        self._listen(conn)

    def _expect(self, conn: Connection) -> None:
        conn.since = time.monotonic()
        self.pending_conns.append(conn)

    def _listen(self, conn: Connection) -> None:
        conn.sock.setblocking(False)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    def on_client_socket_readable(self, conn: Connection, client: socket.socket) -> None:
        """Collect the received bytes; a complete request is passed to a thread."""
        if conn.is_closed:
            return  # closed to free a connection after the poller had reported it readable
        if conn.is_kept:
            conn.is_kept = False
            self.keepalived_conns.remove(conn)
            self._expect(conn)
        data = _read(client)
        if data is None:
            return
        waited_for_word = conn.incoming.awaits_word
        arrival = conn.incoming.feed(data)
        if not data:
            self._forget(self.pending_conns, conn)
        elif arrival is Arrival.TOO_LARGE:
            self._refuse_head(conn)
        elif arrival is not Arrival.PARTIAL:
            self.poller.unregister(client)
            self.pending_conns.remove(conn)
            self.enqueue_req(conn)
        elif conn.incoming.awaits_word and not waited_for_word:
            _send(client, b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse_head(self, conn: Connection) -> None:
        self.log.warning("A request from %s was refused: its head is too large", _address_of(conn.client))
        _refuse(conn.sock, 431, "Request Header Fields Too Large")
        self.poller.unregister(conn.sock)
        self.pending_conns.remove(conn)
        self._linger(conn)

    def finish_request(self, conn: Connection, future: Future[Any]) -> None:
        """Send the rest of an answer, then continue with the connection."""
        conn.is_last = not _goes_on(future)
        if conn.sock.unsent:
            self._wait_for_room(conn)
        else:
            self._go_on(conn)

    def _wait_for_room(self, conn: Connection) -> None:
        conn.sock.setblocking(False)
        conn.since = time.monotonic()
        self.sending.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_WRITE, partial(self._send_more, conn))
        while len(self.sending) > 1 and sum(each.sock.unsent for each in self.sending) > KEPT_LIMIT:
            self._forget(self.sending, self.sending[0])

    def _send_more(self, conn: Connection, client: Outgoing) -> None:
        if conn.is_closed:
            return
        try:
            client.send_more()
        except (BlockingIOError, InterruptedError):
            return
        except OSError:  # the client has disconnected
            self._forget(self.sending, conn)
            return
        self.sending.remove(conn)
        if client.unsent:
            conn.since = time.monotonic()
            self.sending.append(conn)
        else:
            self.poller.unregister(client)
            self._go_on(conn)

    def _go_on(self, conn: Connection) -> None:
        if conn.is_last:
            self._linger(conn)
        elif not conn.incoming:
            self._keep(conn)
        elif conn.incoming.arrival() is Arrival.PARTIAL:
            self._wait_for_request(conn)
        else:
            self.enqueue_req(conn)

    def _keep(self, conn: Connection) -> None:
        conn.is_kept = True
        conn.timeout = time.monotonic() + (self.keep_s if self.alive else STOP_S)
        self.keepalived_conns.append(conn)
        self._listen(conn)

    def _linger(self, conn: Connection) -> None:
        """Shut down sending, and give the client time to close: closing at once could lose the end of the answer."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client has disconnected
            self._close(conn)
            return
        conn.since = time.monotonic()
        self.lingering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))

    def _drain(self, conn: Connection, client: socket.socket) -> None:
        if not conn.is_closed and _read(client) == b"":
            self._forget(self.lingering, conn)

    def murder_pending(self) -> None:
        """Close connections whose time is over; called in each round."""
        now = time.monotonic()
        patience = ((self.pending_conns, REQUEST_S), (self.sending, self.send_s), (self.lingering, LINGER_S))
        for waiting, patience_s in patience:
            while waiting and waiting[0].since + (patience_s if self.alive else STOP_S) <= now:
                self._forget(waiting, waiting[0])

    def _close_idlest(self) -> None:
        """Close one connection: lingering first, then the slowest reader or writer, then idle keep-alives."""
        by_since = sorted((w for w in (self.pending_conns, self.sending) if w), key=lambda w: w[0].since)
        for waiting in (self.lingering, *by_since, self.keepalived_conns):
            if waiting:
                self._forget(waiting, waiting[0])
                return

    def _forget(self, waiting: deque[Connection], conn: Connection) -> None:
        waiting.remove(conn)
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: Connection) -> None:
        self.nr_conns -= 1
        conn.is_closed = True
        conn.close()

    # In a thread of a request

    def handle(self, conn: Connection) -> Any:
        """Answer the received request. The parser gets its bytes and no socket, so that it cannot wait for more."""
        conn.is_last = conn.incoming.arrival() is Arrival.BODILESS
        conn.parser = get_parser(self.cfg, [conn.incoming.take()], conn.client)
        conn.initialized = conn.data_ready = True
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Answer the request; only a stream whose client accepts nothing is cut short."""
        try:
            return super().handle_request(req, conn)
        except TimeoutError:
            self.log.debug("A client did not take its answer")
            conn.sock.drop()
            return False

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:
        return bool(keepalive) and not conn.is_last

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse invalid HTTP, and log it without its content: a received header or URL may be a secret."""
        status, reason = next(
            ((s, r) for kind, s, r in _REFUSALS if isinstance(exc, kind)), (500, "Internal Server Error")
        )
        if status < 500:
            self.log.warning("A request from %s was refused: %s", _address_of(addr), type(exc).__name__)
        else:
            self.log.error("A request failed", exc_info=exc)
        _refuse(client, status, reason)


def _goes_on(answered: Future[Any]) -> bool:
    """Return whether the connection of a finished request can take another one."""
    try:
        return answered.exception() is None and bool(answered.result())
    except CancelledError:  # by a stop
        return False


def _read(sock: socket.socket) -> bytes | None:
    """Return the received bytes: empty at the end, ``None`` if there are none yet."""
    try:
        return sock.recv(READ)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


def _send(sock: socket.socket, data: bytes) -> None:
    try:
        sock.send(data)
    except OSError:
        return  # the next read reports it


def _refuse(sock: socket.socket, status: int, reason: str) -> None:
    try:
        util.write_error(sock, status, reason, "")
    except OSError:
        return


def _address_of(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) and address else "a socket"
