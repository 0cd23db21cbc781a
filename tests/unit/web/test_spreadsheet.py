"""CSV by RFC 4180 that runs nothing in a spreadsheet."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.web.spreadsheet import FORMULA_STARTS, to_csv


def test_lines_end_with_cr_lf_and_unknown_is_empty() -> None:
    assert to_csv(("a", "b"), [("x", None), (None, 5)]) == b"a,b\r\nx,\r\n,5\r\n"


def test_quotes_commas_and_line_ends_are_quoted() -> None:
    assert to_csv(("a",), [('he said "no", twice\nor more',)]) == b'a\r\n"he said ""no"", twice\nor more"\r\n'


@pytest.mark.parametrize("start", FORMULA_STARTS)
def test_a_text_that_could_be_a_formula_has_an_apostrophe(start: str) -> None:
    (row,) = list(csv.reader(io.StringIO(to_csv((), [(f"{start}1+1",)]).decode(), newline="")))[1:]

    assert row == [f"'{start}1+1"]


def test_a_negative_number_stays_a_number() -> None:
    assert to_csv(("a",), [(-5,)]) == b"a\r\n-5\r\n"


def test_half_a_character_does_not_fail_the_table() -> None:
    assert to_csv(("a",), [("\ud800",)]) == b"a\r\n?\r\n"


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=5))
def test_every_text_comes_back_and_no_cell_is_a_formula(rows: list[list[str]]) -> None:
    text = to_csv(("a", "b"), rows).decode()
    back = list(csv.reader(io.StringIO(text, newline="")))[1:]

    assert [[cell.removeprefix("'") for cell in row] for row in back] == [
        [c.removeprefix("'") for c in row] for row in rows
    ]
    assert not any(cell.startswith(FORMULA_STARTS) for row in back for cell in row)
