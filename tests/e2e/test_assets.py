"""What a browser asks for when it opens the page, the first time and the next."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.engine.server import WardenServer


def test_a_page_asks_for_one_style_sheet_and_the_next_one_for_no_file_again(
    start_server: Callable[..., WardenServer], open_page: Callable[..., Page], cache: Path
) -> None:
    server = start_server(cache)
    page = open_page(server.url)
    expect(page.locator("html[data-notify]")).to_be_visible()  # the modules have run
    timed = "() => performance.getEntriesByType('resource').map((entry) => [new URL(entry.name).pathname, entry.transferSize])"
    first = dict(page.evaluate(timed))

    page.goto(f"{server.url}/history")
    expect(page.locator("html[data-notify]")).to_be_visible()
    again = dict(page.evaluate(timed))

    assert [path for path in first if path.endswith(".css")] != []
    assert len([path for path in first if path.endswith(".css")]) == 1
    assert {size for path, size in again.items() if path.startswith("/static/")} == {0}
    assert {path for path in again if path.endswith((".css", ".js"))} == {
        path for path in first if path.endswith((".css", ".js"))
    }
