"""Clients that are slow, silent, deaf or endless take nothing from the others, against the real gunicorn with four threads."""

from __future__ import annotations

import re
import time

import pytest

from tests.engine.server import WardenServer, wait_for
from tests.integration.attacks.sockets import HOST, connected, exchange, own_request, rest_of, sending
from webapp.incoming import BODY_LIMIT, HEAD_LIMIT
from webapp.web_worker import REQUEST_S

MANY = 40
"""Ten for each thread."""


@pytest.mark.parametrize(
    "begun",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"G", id="one byte"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST, id="no end of the head"),
        pytest.param(
            b"POST /clean HTTP/1.1\r\n"
            + HOST
            + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nx",
            id="no end of the body",
        ),
        pytest.param(
            b"POST /clean HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nx", id="no end of a chunk"
        ),
        pytest.param(b"POST /clean HTTP/1.1\r\n" + HOST + b"Content-Length: 900000\r\n\r\nx", id="a long body"),
        pytest.param(b"GET /healthz HTTP/1.0\r\n" + HOST + b"\r\n", id="does not hang up"),
        pytest.param(b"GET / HTTP/9\r\n\r\n", id="no HTTP and does not hang up"),
    ],
)
def test_clients_that_stop_in_the_middle_keep_nobody_waiting(server: WardenServer, begun: bytes) -> None:
    with sending(server.url, begun, MANY):
        for _ in range(5):
            assert own_request(server.url).status_code == 200


def test_clients_that_do_not_read_their_answers_keep_nobody_waiting(server: WardenServer) -> None:
    """A page fits into what the kernel keeps for a client; no thread waits for the reader."""
    asked = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    with sending(server.url, asked, MANY, receive_buffer=4096):
        assert own_request(server.url).status_code == 200
        assert own_request(server.url, "/").status_code == 200


def test_more_connections_than_there_is_room_for_close_the_idlest(server: WardenServer) -> None:
    with sending(server.url, b"G", 500) as sockets:
        assert own_request(server.url).status_code == 200
        assert rest_of(sockets[0]) == b""
        sockets[-1].sendall(b"ET /healthz HTTP/1.0\r\n" + HOST + b"\r\n")
        assert b" 200 OK" in rest_of(sockets[-1])
    assert own_request(server.url).status_code == 200
    assert len(server.web_processes()) == 1


def test_a_request_that_comes_in_drops_is_cut_off(server: WardenServer) -> None:
    """Each byte is in time for itself; the request as a whole is not."""
    with connected(server.url) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"X-Slow: ")
        sock.settimeout(0.5)
        began = time.monotonic()

        def is_cut_off() -> bool:
            try:
                sock.sendall(b"a")
                return sock.recv(1) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_for(is_cut_off, REQUEST_S + 5, lambda: "the connection is still open")
        assert time.monotonic() - began > REQUEST_S / 2


def test_a_request_in_small_pieces_is_answered(server: WardenServer) -> None:
    whole = (
        b"POST /api/v1/plan HTTP/1.1\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        + HOST
        + b"\r\n{}"
    )
    with connected(server.url) as sock:
        for number in range(0, len(whole), 7):
            sock.sendall(whole[number : number + 7])
        assert b" 422 " in rest_of(sock)


def test_requests_behind_each_other_are_answered_one_by_one(server: WardenServer) -> None:
    one = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    last = b"GET /nothing HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"

    answers = exchange(server.url, one + one + last)

    assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200", b"404"]


def test_who_waits_to_be_told_to_go_on_is_told(server: WardenServer) -> None:
    head = b"POST /api/v1/plan HTTP/1.1\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n" + HOST
    with connected(server.url) as sock:
        sock.sendall(head + b"Content-Type: application/json\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 100 ")
        sock.sendall(b"{}")
        assert b" 422 " in rest_of(sock)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, id="a long address"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 9000 + b"\r\n\r\n", 431, id="a long header"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 100 + b"\r\n", 431, id="many headers"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n" * HEAD_LIMIT, 431, id="endless headers"),
        pytest.param(
            b"POST /api/v1/plan HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (BODY_LIMIT + 1),
            413,
            id="a long body",
        ),
        pytest.param(
            b"POST /api/v1/plan HTTP/1.1\r\n" + HOST + b"Content-Length: 9" + b"9" * 30 + b"\r\n\r\n",
            413,
            id="a huge body",
        ),
        pytest.param(
            b"POST /api/v1/plan HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            411,
            id="a body of unknown length",
        ),
        pytest.param(
            b"POST /api/v1/plan HTTP/1.1\r\n"
            + HOST
            + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="two lengths",
        ),
        pytest.param(
            b"POST /clean HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nxxx",
            400,
            id="twice a length",
        ),
        pytest.param(b"POST /clean HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\n", 400, id="less than nothing"),
        pytest.param(b"GET / HTTP/1.1\r\n" + HOST + b"A\x00: b\r\n\r\n", 400, id="a header's name that is none"),
        pytest.param(b"\x16\x03\x01\x02\x00\r\n\r\n", 400, id="TLS"),
    ],
)
def test_what_is_too_large_or_no_request_is_refused_and_the_connection_ends(
    server: WardenServer, request_: bytes, status: int
) -> None:
    answer = exchange(server.url, request_)

    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert b"Traceback" not in answer
    assert own_request(server.url).status_code == 200


def test_a_request_hidden_in_anothers_body_is_not_answered(server: WardenServer) -> None:
    """Smuggling: where two readers could disagree on the length there is one answer, and the connection ends."""
    hidden = b"GET /api/v1/status HTTP/1.1\r\n" + HOST + b"\r\n"
    for lengths in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Content-Length: +4\r\n",
    ):
        answer = exchange(server.url, b"POST /api/v1/plan HTTP/1.1\r\n" + HOST + lengths + b"\r\n0\r\n\r\n" + hidden)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b"gpu" not in answer
        assert b'"devices"' not in answer
