"""What a client does not take at once is kept, and nothing waits for it but a stream."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator

import pytest

from webapp.server.outgoing import ROOM, Outgoing

LARGE = bytes(range(256)) * 16 * 1024
"""4 MiB: more than a pair of sockets keeps."""
PATIENCE_S = 0.2


@pytest.fixture
def ends() -> Iterator[tuple[Outgoing, socket.socket]]:
    """Our end of a connection and the client's."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    with Outgoing(ours, PATIENCE_S) as outgoing, theirs:
        yield outgoing, theirs


def taken(client: socket.socket, outgoing: Outgoing, count: int) -> bytes:
    """Read as a client does, while our end sends what has room."""
    parts = bytearray()
    while len(parts) < count:
        parts += client.recv(65536)
        if outgoing.unsent:
            outgoing.send_more()
    return bytes(parts)


def test_a_large_answer_is_taken_at_once_and_sent_bit_by_bit(ends: tuple[Outgoing, socket.socket]) -> None:
    outgoing, client = ends

    outgoing.sendall(b"head ")
    outgoing.sendall(LARGE)

    assert 0 < outgoing.unsent < len(LARGE)
    assert taken(client, outgoing, 5 + len(LARGE)) == b"head " + LARGE
    assert outgoing.unsent == 0


def test_what_is_sent_later_comes_later_whatever_sends_it(ends: tuple[Outgoing, socket.socket]) -> None:
    outgoing, client = ends
    outgoing.sendall(LARGE[:ROOM])

    assert outgoing.send(b"then this") == 9
    assert outgoing.sendfile(io.BytesIO(b"not a file"), offset=4, count=2) == 2

    assert taken(client, outgoing, ROOM + 11)[ROOM:] == b"then this" + b"a "


def test_a_stream_waits_for_room_and_gives_up_where_nothing_is_taken(ends: tuple[Outgoing, socket.socket]) -> None:
    outgoing, _ = ends
    outgoing.sendall(LARGE)

    with pytest.raises(TimeoutError):
        outgoing.sendall(b"more")


def test_who_has_gone_is_noticed(ends: tuple[Outgoing, socket.socket]) -> None:
    outgoing, client = ends
    outgoing.sendall(LARGE)
    client.close()

    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        outgoing.send_more()


def test_a_closed_connection_keeps_nothing(ends: tuple[Outgoing, socket.socket]) -> None:
    outgoing, _ = ends
    outgoing.sendall(LARGE)

    outgoing.close()

    assert outgoing.unsent == 0
