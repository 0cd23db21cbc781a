"""Waiting for room in a real browser: a click waits, what comes free starts it, and who wants to be told is told, in a
hidden tab too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.engine.server import WardenServer

Start = Callable[..., WardenServer]
Open = Callable[..., Page]
LOAD_MS = 90_000
ROOM_FOR_ONE = {"memory_limit_gib": 0.045, "reserve_mib": 0, "reserve_percent": 0, "launcher": "start"}
"""A forked worker takes 20 to 30 MiB of its own; its load needs 21 to 35."""
RECORD_NOTIFICATIONS = """
window.Notification = class extends EventTarget {
  static permission = "default";
  static async requestPermission() { Notification.permission = "granted"; return "granted"; }
  constructor(title, options) { super(); document.documentElement.dataset.told = options.body; }
  close() {}
};
"""
"""Chromium without a screen shows no notifications: this keeps what the page would have shown."""


@pytest.fixture(name="server")
def _server(start_server: Start, cache: Path) -> WardenServer:
    """A server that one model has filled."""
    server = start_server(cache, **ROOM_FOR_ONE)
    server.models(2)
    server.launcher_ready()
    server.load("lab/one")
    return server


def ask_for_more(page: Page) -> None:
    """Choose the second model, to be loaded in addition to the first."""
    page.locator("#switch-form select[name=model]").select_option("lab/two")
    page.locator("#keep_others").check()
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "refused")


def test_click_waits_and_room_starts_it(server: WardenServer, open_page: Open) -> None:
    page = open_page(server.url, language="en-US")
    ask_for_more(page)
    page.locator("[data-action=wait-start]").click()
    launch = page.locator("#waiting [data-ticket][data-model='lab/two']")
    expect(launch).to_have_attribute("data-state", "waiting")
    expect(launch.locator("[data-why]")).to_contain_text("MiB")
    expect(page.locator("#main-load")).to_have_text("Already queued")
    expect(page.locator("#main-load")).to_be_disabled()
    assert len(server.get("/api/v1/tickets")) == 1
    assert not server.status()["operations"]
    page.locator("#transformers [data-model='lab/one'] [data-action=unload]").click()
    expect(page.locator("#transformers [data-model='lab/two']")).to_have_attribute(
        "data-state", "ready", timeout=LOAD_MS
    )
    expect(page.locator("#waiting")).to_have_count(0)
    (newest, *_) = server.get("/api/v1/operations?kind=switch")
    assert (newest["model"], newest["state"]) == ("lab/two", "succeeded")


def test_who_only_wants_to_be_told_is_told_in_a_hidden_tab_too(server: WardenServer, open_page: Open) -> None:
    page = open_page("about:blank")
    page.add_init_script(RECORD_NOTIFICATIONS)
    page.goto(server.url)
    ask_for_more(page)
    page.locator("[data-action=wait-tell]").click()
    assert page.evaluate("Notification.permission") == "default"  # nobody is asked before they click here
    page.locator("[data-notify-ask]").click()
    expect(page.locator("[data-notify-ask]")).to_be_hidden()
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    instance = server.instance_of("lab/one")
    server.finished(server.post(f"/api/v1/instances/{instance['id']}/unload").json()["id"])
    expect(page.locator("html")).to_have_attribute("data-told", re.compile("^two "))
    expect(page.locator("#say .say--good")).to_contain_text("two теперь помещается")
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => false, configurable: true})")
    page.locator("[data-action=ticket-start]").click()
    expect(page.locator("#transformers [data-model='lab/two']")).to_have_attribute(
        "data-state", "ready", timeout=LOAD_MS
    )


def test_without_scripts_it_is_a_form_and_can_be_taken_back(server: WardenServer, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False, locale="ru-RU")
    try:
        page = context.new_page()
        page.goto(f"{server.url}/?mode=transformers&model=lab%2Ftwo&keep_others=1")
        page.locator("[data-action=wait-start]").click()
        expect(page.locator("#say")).to_contain_text("в очереди, место 1")
        page.locator("[data-action=ticket-cancel]").click()
        expect(page.locator("#say")).to_contain_text("больше не в очереди")
        expect(page.locator("#waiting")).to_have_count(0)
        (launch,) = server.get("/api/v1/tickets")
        assert launch["state"] == "cancelled"
    finally:
        context.close()
