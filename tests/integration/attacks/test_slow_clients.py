"""Clients that are slow, silent, deaf or endless take nothing from the others, against the real gunicorn with four threads."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator

import pytest

from tests.engine.large_wsgi import SEND_S, WHOLE
from tests.engine.server import WardenServer, running, wait_for
from tests.integration.attacks.conftest import THREADS
from tests.integration.attacks.sockets import HOST, PATIENCE_S, connected, exchange, own_request, rest_of, sending
from webapp.server.incoming import BODY_LIMIT, HEAD_LIMIT
from webapp.server.worker import REQUEST_S

MANY = 40
"""Ten for each thread."""


@pytest.fixture(scope="module")
def large_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WardenServer]:
    """A Warden with answers of 8 MiB and a shorter patience."""
    folder = tmp_path_factory.mktemp("large")
    server = WardenServer(folder / "state", folder / "cache", "tests.engine.large_wsgi:make_app()", threads=THREADS)
    server.environment["GUNICORN_CMD_ARGS"] = "--worker-class tests.engine.large_wsgi.HastyWorker"
    with running(server) as started:
        yield started


@pytest.fixture(autouse=True)
def _large_answers_first(large_answers: WardenServer) -> None:
    """The server is there before the leak check looks."""


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
    asked = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
    with sending(server.url, asked, MANY, receive_buffer=4096):
        assert own_request(server.url).status_code == 200
        assert own_request(server.url, "/").status_code == 200


def test_clients_that_ask_on_and_on_and_read_nothing_keep_nobody_waiting(large_answers: WardenServer) -> None:
    """The kernel keeps one answer or a few; forty behind each other are more than it ever does."""
    asked = b"GET /large/page HTTP/1.1\r\n" + HOST + b"\r\n"
    with sending(large_answers.url, asked * 40, MANY, receive_buffer=4096):
        for _ in range(10):
            assert own_request(large_answers.url).status_code == 200


def test_clients_that_do_not_read_an_answer_of_megabytes_keep_nobody_waiting(large_answers: WardenServer) -> None:
    """Also not where their answers together are more than is kept: who has taken nothing for longest is cut off."""
    asked = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
    with sending(large_answers.url, asked, MANY, receive_buffer=4096) as sockets:
        for _ in range(5):
            assert own_request(large_answers.url).status_code == 200
        assert len(rest_of(sockets[0])) < len(WHOLE)
    assert own_request(large_answers.url).status_code == 200


@pytest.mark.parametrize("path", ["/large", "/large/pieces"])
def test_who_stops_reading_is_cut_off(large_answers: WardenServer, path: str) -> None:
    with connected(large_answers.url, receive_buffer=4096) as sock:
        sock.sendall(b"GET " + path.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n")
        ours = sock.getsockname()

        def is_cut_off() -> bool:
            (process,) = large_answers.web_processes()
            return all(each.raddr != ours for each in process.net_connections("tcp"))

        wait_for(is_cut_off, SEND_S + PATIENCE_S, lambda: "the connection is still open")


@pytest.mark.parametrize("path", ["/large", "/large/pieces"])
def test_who_reads_slowly_and_steadily_gets_it_all(large_answers: WardenServer, path: str) -> None:
    """It takes longer than a client may take nothing."""
    began = time.monotonic()
    parts = []
    with connected(large_answers.url, receive_buffer=65536) as sock:
        sock.sendall(b"GET " + path.encode() + b" HTTP/1.0\r\n" + HOST + b"\r\n")
        taking_s = 2 * SEND_S
        while data := sock.recv(65536):
            parts.append(data)
            behind_s = began + taking_s * sum(map(len, parts)) / len(WHOLE) - time.monotonic()
            if behind_s > 0:
                threading.Event().wait(behind_s)

    assert b"".join(parts).partition(b"\r\n\r\n")[2] == WHOLE
    assert time.monotonic() - began > SEND_S


def test_a_client_that_does_not_read_holds_its_own_next_request_alone(server: WardenServer) -> None:
    """What is behind an answer that nobody takes is answered once that is taken, and all of it in its order."""
    one = b"GET /static/vendor/htmx-4.0.1.min.js HTTP/1.1\r\n" + HOST + b"\r\n"
    last = b"GET /nothing HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
    with connected(server.url, receive_buffer=4096) as sock:
        sock.sendall(one * 20 + last)
        assert own_request(server.url).status_code == 200
        assert re.findall(rb"HTTP/1.1 (\d+)", rest_of(sock)) == [b"200"] * 20 + [b"404"]


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
