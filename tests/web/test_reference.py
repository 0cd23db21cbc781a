"""The pages of docs/reference are what the code declares at this moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask

from scripts.reference import API, FOLDER, PAGES, application, call_of


@pytest.fixture(scope="module")
def app() -> Iterator[Flask]:
    with application() as made:
        yield made


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str, app: Flask) -> None:
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == PAGES[name](app), "run: make reference"


def test_no_page_is_written_by_hand() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} == set(PAGES)


def test_every_call_of_the_interface_is_described(app: Flask) -> None:
    page = PAGES["api"](app)

    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(API):
            assert app.view_functions[rule.endpoint].__doc__
            assert f"`{call_of(rule)}`" in page
