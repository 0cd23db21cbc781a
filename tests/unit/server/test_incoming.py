"""A request is whole when it is whole, however its bytes come."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.server.incoming import BODY_LIMIT, HEAD_LIMIT, Arrival, Incoming

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\ncontent-LENGTH : 5 \r\n\r\nhello"


@given(st.lists(st.sampled_from([GET, POST]), min_size=1, max_size=4), st.data())
def test_requests_are_found_again_however_they_are_cut(requests: list[bytes], data: st.DataObject) -> None:
    sent, incoming, found, at = b"".join(requests), Incoming(), [], 0
    while at < len(sent):
        size = data.draw(st.integers(1, 40))
        incoming.feed(sent[at : at + size])
        at += size
        while incoming.arrival() is Arrival.WHOLE:
            found.append(incoming.take())

    assert found == requests
    assert len(incoming) == 0


@given(st.binary(max_size=200))
def test_anything_may_come(data: bytes) -> None:
    incoming = Incoming()
    if incoming.feed(data) in (Arrival.WHOLE, Arrival.BODILESS):
        assert data.startswith(incoming.take())


@pytest.mark.parametrize(
    "fields",
    [
        b"Content-Length: %d" % (BODY_LIMIT + 1),
        b"Content-Length: 1\r\nContent-Length: 1",
        b"Content-Length: -1",
        b"Content-Length: 0x1",
        b"Content-Length: ",
        b"Content-Length: \xb2",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity\r\nContent-Length: 1",
    ],
)
def test_a_body_of_no_plain_length_is_not_waited_for(fields: bytes) -> None:
    incoming = Incoming()
    head = b"POST / HTTP/1.1\r\n" + fields + b"\r\n\r\n"

    assert incoming.feed(head + b"x") is Arrival.BODILESS
    assert incoming.take() == head


def test_the_longest_body_is_waited_for() -> None:
    incoming = Incoming()

    assert incoming.feed(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % BODY_LIMIT) is Arrival.PARTIAL
    assert incoming.feed(b"x" * (BODY_LIMIT - 1)) is Arrival.PARTIAL
    assert incoming.feed(b"x") is Arrival.WHOLE


def test_a_head_without_an_end_is_too_large() -> None:
    incoming = Incoming()

    assert incoming.feed(b"x" * HEAD_LIMIT) is Arrival.PARTIAL
    assert incoming.feed(b"x") is Arrival.TOO_LARGE


@pytest.mark.parametrize(("length", "awaits"), [(2, True), (0, False), (BODY_LIMIT + 1, False)])
def test_who_waits_for_a_word_is_known_where_its_body_is_wanted(length: int, awaits: bool) -> None:
    incoming = Incoming()
    incoming.feed(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % length)

    assert incoming.awaits_word is awaits


@pytest.mark.parametrize("value", [b"1%sb", b"%s\rb", b"%s\r%s", b"a%s"])
@pytest.mark.parametrize("field", [b"Expect:", b"Expect", b"Content-Length:", b"Transfer-Encoding : "])
def test_a_head_full_of_spaces_is_read_in_one_pass(field: bytes, value: bytes) -> None:
    """In two it is a matter of milliseconds still; where each space is tried with each other one, of ten seconds."""
    spaces = b" " * (30_000 // value.count(b"%s"))
    head = b"GET / HTTP/1.1\r\n" + field + value.replace(b"%s", spaces) + b"\r\n\r\n"
    began = time.process_time()

    assert Incoming().feed(head) in (Arrival.WHOLE, Arrival.BODILESS)
    assert time.process_time() - began < 1


def test_blanks_around_a_value_are_not_part_of_it() -> None:
    incoming = Incoming()

    assert (
        incoming.feed(b"POST / HTTP/1.1\r\nContent-Length \t:\t 5 \t\r\nExpect:100-continue\t\r\n\r\n")
        is Arrival.PARTIAL
    )
    assert incoming.awaits_word
    assert incoming.feed(b"hello") is Arrival.WHOLE
