"""The self-test's button in a real browser: the checks come one by one, and the poll ends with the last."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.engine.server import WardenServer


@pytest.mark.parametrize("scripts", [True, False])
def test_the_button_tests_everything_and_the_page_shows_what_was_seen(
    start_server: Callable[..., WardenServer], open_page: Callable[..., Page], cache: Path, scripts: bool
) -> None:
    server = start_server(cache)
    page = open_page(f"{server.url}/selftest", java_script_enabled=scripts)
    latest = page.locator("#selftest-latest")

    page.locator("[data-action=selftest]").click()

    expect(latest).to_have_attribute("data-state", "running")
    expect(page.locator("[data-mark=waiting]").first).to_be_visible()
    if not scripts:
        server.finished(server.get("/api/v1/operations?limit=1")[0]["id"], 120)
        page.reload()
    expect(latest).to_have_attribute("data-state", "warning", timeout=120_000)  # there is no Docker
    expect(latest.locator("[data-mark=ok]")).to_have_count(10)
    expect(latest.locator("[data-check=vllm]")).to_have_attribute("data-mark", "warning")
    expect(page.locator("#selftest-poll")).to_have_count(0)
    expect(page.locator("[data-action=selftest]")).to_be_enabled()
