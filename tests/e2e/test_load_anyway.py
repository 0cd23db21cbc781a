"""Loading against the estimate in a real browser: a dialog with scripts, a page without; the worker is real and does fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.engine.server import WardenServer

Start = Callable[..., WardenServer]
Open = Callable[..., Page]
LOAD_MS = 90_000
WITHOUT_ROOM = {"memory_limit_gib": 0.05}
"""Less than any worker takes; the machine itself has enough."""


def test_it_is_asked_twice_loaded_and_kept_in_the_history(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache, **WITHOUT_ROOM)
    server.models(2)
    page = open_page(server.url, language="en-US")
    page.locator("#switch-form select[name=model]").select_option("lab/one")
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "refused")
    page.locator(".parts summary").click()
    page.locator("[data-action=load-anyway]").click()
    dialog = page.locator("#dialog")
    dialog.locator("[data-action=confirm-load-anyway]").click()
    assert not server.status()["operations"]  # the box is not ticked
    dialog.locator("[name=confirmed]").check()
    dialog.locator("[data-action=confirm-load-anyway]").click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#transformers [data-model='lab/one']")).to_have_attribute(
        "data-state", "ready", timeout=LOAD_MS
    )
    expect(page.locator(".parts")).to_have_count(0)  # loaded already: no figures
    page.goto(f"{server.url}/history")
    expect(page.locator("[data-risk]")).to_contain_text("lab/one")


def test_without_scripts_it_is_a_page(browser: Browser, start_server: Start, cache: Path) -> None:
    server = start_server(cache, **WITHOUT_ROOM)
    server.models(2)
    context = browser.new_context(java_script_enabled=False, locale="ru-RU")
    try:
        page = context.new_page()
        page.goto(f"{server.url}/?model=lab%2Ftwo")
        page.locator("[data-action=load-anyway]").click()
        page.locator("[name=confirmed]").check()
        page.locator("[data-action=confirm-load-anyway]").click()
        expect(page.locator("#say")).to_contain_text("Операция начата")
        (operation,) = server.get("/api/v1/operations?limit=1")
        assert server.finished(operation["id"])["findings"][0]["message"]["code"] == "loaded_anyway"
    finally:
        context.close()
