"""Tokens become text without half characters, and stop strings are found across pieces."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.worker.text import Detokenizer, StopScan


def decode(tokens: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes: the worst case for characters of several bytes."""
    return bytes(tokens).decode("utf-8", errors="replace")


@given(st.text())
def test_the_pieces_of_a_text_add_up_to_it_and_none_has_half_a_character(text: str) -> None:
    detokenizer = Detokenizer(decode)

    pieces = [detokenizer.feed(byte) for byte in text.encode("utf-8", errors="replace")]
    pieces.append(detokenizer.finish())

    assert "".join(pieces) == text.encode("utf-8", errors="replace").decode()
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)


def test_bytes_that_never_become_a_character_are_given_in_the_end() -> None:
    detokenizer = Detokenizer(decode)

    assert detokenizer.feed(0xE2) == ""
    assert detokenizer.finish() == "\ufffd"


@pytest.mark.parametrize(
    ("pieces", "stops", "out", "stopped"),
    [
        (["one ", "two ", "three"], ["two"], "one ", True),
        (["one t", "w", "o three"], ["two"], "one ", True),
        (["one t", "wi", "ce"], ["two"], "one twice", False),
        (["abab", "abc"], ["ababc"], "ab", True),
        (["text"], [], "text", False),
        (["a STOP b END"], ["END", "STOP"], "a ", True),
    ],
)
def test_a_stop_string_cuts_the_text_wherever_it_lies(
    pieces: list[str], stops: list[str], out: str, stopped: bool
) -> None:
    scan = StopScan(stops)

    text = "".join(scan.feed(piece) for piece in pieces) + scan.finish()

    assert (text, scan.stopped) == (out, stopped)


@given(st.text("ab"), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3), st.integers(1, 4))
def test_a_stop_scan_gives_what_a_search_in_the_whole_text_gives(text: str, stops: list[str], size: int) -> None:
    scan = StopScan(stops)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]

    got = "".join(scan.feed(piece) for piece in pieces)
    got += "" if scan.stopped else scan.finish()

    ends = [(text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text]
    if not ends:
        assert got == text
    else:
        assert scan.stopped
        assert text.startswith(got)
        assert not any(stop in got for stop in stops)
