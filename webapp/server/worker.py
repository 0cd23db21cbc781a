"""gunicorn's worker with threads, in which slow clients hold no thread: a request goes to one when it is whole.

Three things of gunicorn 27's own worker let a few idle connections stop it: a thread waits without an end for the rest of a request,
another for a client that does not take its answer, and the thread of the poller waits two seconds for each client that does not
hang up. Here the poller collects requests (see ``incoming``) and sends what of an answer was not taken at once (see ``outgoing``), before
the connection's next request is looked at; a thread never reads from a socket, and waits for a client only in the middle of a streamed
answer, for so long as that takes something; who does not hang up waits in the poller too. Where connections become many, those that have
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
"""In this time after its first byte a request has to be whole; a new connection's first byte counts as come."""
SEND_S: Final = 20.0
"""In this time a client has to take something of an answer; how long it takes for all of it does not matter."""
SEND_BUFFER: Final = 128 * 1024
"""Bytes that the kernel may keep for a client. It tells of room in steps of a third, so a client has to take some KB in a second."""
KEPT_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of answers that wait for all clients together; above, who has taken nothing for longest is cut off."""
LINGER_S: Final = 2.0
"""For so long after an answer that ends the connection the client may go on sending before the connection is cut."""
STOP_S: Final = 0.5
"""How long a stop waits for requests that are not whole."""
MADE_S: Final = 5.0
"""How long the start waits until all threads of requests are there."""
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
    """A connection with what has come on it; its ``sock`` has what has still to go."""

    sock: Outgoing

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.incoming = Incoming()
        self.is_last = False
        """Whether the connection ends with this request, whatever its answer says."""
        self.since = 0.0
        """When it began to wait for what it waits for now, or last took something of an answer."""
        self.is_kept = False
        """Whether it has had its answer and asks nothing."""
        self.is_closed = False


class WebWorker(ThreadWorker):  # type: ignore[misc]
    """See the module.

    ``pending_conns`` holds who has sent no whole request, ``sending`` who has not taken its answer, ``lingering`` who has its
    last one; each with the oldest first.
    """

    send_s: float = SEND_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keep_s = float(self.cfg.keepalive)  # a look into gunicorn's settings is a search
        self.sending: deque[Connection] = deque()
        self.lingering: deque[Connection] = deque()

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """Refuse TLS: the poller reads requests, not records."""
        if cfg.is_ssl:
            sys.exit("Warden speaks plain HTTP: let a proxy speak TLS, and name its address in WARDEN_TRUSTED_PROXIES.")
        super().check_config(cfg, log)

    def get_thread_pool(self) -> ThreadPoolExecutor:
        """Return the threads of requests, all of them made already: once the machine gives no more, an emergency still has its own."""
        pool, together = ThreadPoolExecutor(self.cfg.threads), Barrier(self.cfg.threads)
        with suppress(RuntimeError):  # there are no more to be had: those that there are do
            for made in [pool.submit(together.wait, MADE_S) for _ in range(self.cfg.threads)]:
                made.result()
        return pool

    # In the thread of the poller

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, and wait in the poller for what it wants."""
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
        """Collect what has come; a whole request goes to a thread."""
        if conn.is_closed:
            return  # to make room, after the poller had seen that there is something to read
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
        """Send what of an answer is left, then go on with the connection."""
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
        except OSError:  # the client has gone
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
        """Send no more, and give the client time to hang up: closing at once could lose the end of the answer."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client has gone
            self._close(conn)
            return
        conn.since = time.monotonic()
        self.lingering.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._drain, conn))

    def _drain(self, conn: Connection, client: socket.socket) -> None:
        if not conn.is_closed and _read(client) == b"":
            self._forget(self.lingering, conn)

    def murder_pending(self) -> None:
        """Close whose time is over; called in each round."""
        now = time.monotonic()
        patience = ((self.pending_conns, REQUEST_S), (self.sending, self.send_s), (self.lingering, LINGER_S))
        for waiting, patience_s in patience:
            while waiting and waiting[0].since + (patience_s if self.alive else STOP_S) <= now:
                self._forget(waiting, waiting[0])

    def _close_idlest(self) -> None:
        """Make room: who has had its answer goes first, then who takes longest to ask or to take an answer, then who asks nothing."""
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
        """Answer the request that is there. The parser is given its bytes and no socket, so that it cannot wait for more."""
        conn.is_last = conn.incoming.arrival() is Arrival.BODILESS
        conn.parser = get_parser(self.cfg, [conn.incoming.take()], conn.client)
        conn.initialized = conn.data_ready = True
        return super().handle(conn)

    def handle_request(self, req: Any, conn: Connection) -> Any:
        """Answer; only a stream whose client takes nothing is left before its end."""
        try:
            return super().handle_request(req, conn)
        except TimeoutError:
            self.log.debug("A client did not take its answer")
            conn.sock.drop()
            return False

    def _keepalive_after(self, conn: Connection, keepalive: Any) -> bool:
        return bool(keepalive) and not conn.is_last

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Refuse what is no HTTP, and say so without its content: a header or an address that was sent may be a secret."""
        status, reason = next(
            ((s, r) for kind, s, r in _REFUSALS if isinstance(exc, kind)), (500, "Internal Server Error")
        )
        if status < 500:
            self.log.warning("A request from %s was refused: %s", _address_of(addr), type(exc).__name__)
        else:
            self.log.error("A request failed", exc_info=exc)
        _refuse(client, status, reason)


def _goes_on(answered: Future[Any]) -> bool:
    """Whether the connection of a request that a thread has done with is good for another one."""
    try:
        return answered.exception() is None and bool(answered.result())
    except CancelledError:  # by a stop
        return False


def _read(sock: socket.socket) -> bytes | None:
    """Return what has come: nothing at the end, ``None`` where there is nothing yet."""
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
        return  # the next read finds out


def _refuse(sock: socket.socket, status: int, reason: str) -> None:
    try:
        util.write_error(sock, status, reason, "")
    except OSError:
        return


def _address_of(address: Any) -> str:
    return str(address[0]) if isinstance(address, tuple) and address else "a socket"
