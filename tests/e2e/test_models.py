"""The list of cached models in a real browser: typed text stays, a chosen model fills the form, new models appear
automatically.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.engine.models import make_listed_models, make_model
from tests.engine.server import WardenServer

Start = Callable[..., WardenServer]
Open = Callable[..., Page]


def names(page: Page) -> list[str]:
    rows = page.locator("#model-list [data-cached]").all()
    return [row.get_attribute("data-cached") or "" for row in rows]


def page_height(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollHeight"))


def test_search_stays_while_polls_come_in_and_a_new_model_shows_by_itself(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache)
    server.models(2)
    page = open_page(server.url)
    search = page.locator("#models-q")
    search.press_sequentially("two", delay=30)
    expect(page.locator("#model-list [data-cached]")).to_have_count(1)
    assert names(page) == ["lab/two"]
    search.press("ArrowLeft")
    with page.expect_response("**/fragments/live**"), page.expect_response("**/fragments/live**"):
        pass
    expect(search).to_have_value("two")
    expect(search).to_be_focused()
    assert search.evaluate("box => box.selectionStart") == 2
    make_model(cache, "lab/twofold", seed=9)
    expect(page.locator("[data-cached='lab/twofold']")).to_be_visible(timeout=8_000)
    expect(search).to_be_focused()


def test_choosing_fills_the_form_and_an_empty_search_shows_all_again(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache)
    server.models(2)
    page = open_page(server.url)
    page.locator("[data-cached='lab/two'] a").click()
    expect(page.locator("#model")).to_have_value("lab/two")
    expect(page.locator("[data-cached='lab/two']")).to_have_attribute("aria-current", "true")
    page.locator("#models-q").fill("nothing like it")
    expect(page.locator("#models-none")).to_be_visible()
    page.locator("[data-clear-search]").click()
    expect(page.locator("#model-list [data-cached]")).to_have_count(2)
    expect(page.locator("#model")).to_have_value("lab/two")


def test_search_works_without_scripts(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    server.models(2)
    page = open_page(server.url, java_script_enabled=False)
    page.locator("#models-q").fill("one")
    page.locator("#models-q").press("Enter")
    expect(page.locator("#model-list [data-cached]")).to_have_count(1)
    assert "#models" in page.url
    page.locator("[data-cached='lab/one'] a").click()
    expect(page.locator("#model")).to_have_value("lab/one")


def test_new_model_shows_while_nothing_else_changes(start_server: Start, open_page: Open, cache: Path) -> None:
    """On a quiet machine every poll is answered with 204."""
    server = start_server(cache)
    server.models(2)
    page = open_page(server.url)
    page.route("**/fragments/live**", lambda route: route.fulfill(status=204))
    make_model(cache, "lab/three", seed=3)
    expect(page.locator("[data-cached='lab/three']")).to_be_visible(timeout=8_000)


def test_five_hundred_models_are_a_short_page_until_all_are_wanted(
    start_server: Start, open_page: Open, tmp_path: Path
) -> None:
    make_listed_models(tmp_path / "many", 500)
    server = start_server(tmp_path / "many")
    server.models(500)
    for width in (390, 1440):
        unfold_and_fold(open_page(server.url, width=width))


def unfold_and_fold(page: Page) -> None:
    rows = page.locator("#model-list [data-cached]")
    expect(rows).to_have_count(50)
    more = page.locator("#models-more")
    more.focus()
    more.press("Enter")
    expect(rows).to_have_count(500)
    expect(more).to_be_focused()
    assert page_height(page) < 3_000
    with page.expect_response("**/fragments/live**"), page.expect_response("**/fragments/live**"):
        pass
    expect(rows).to_have_count(500)
    page.locator("#models-sort").select_option("size")
    expect(rows.first).to_contain_text("GiB")
    assert len(names(page)) == 500
    more.press("Enter")
    expect(rows).to_have_count(50)
