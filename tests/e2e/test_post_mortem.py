"""From a failure on the dashboard to its explanation, and from there to what would have fitted, with scripts and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.states import STATES, served

Open = Callable[..., Page]


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "plain"])
def test_the_failure_leads_to_its_explanation_and_on_to_what_would_have_fitted(
    open_page: Open, tmp_path: Path, scripts: bool
) -> None:
    with served(STATES["out-of-memory"](), tmp_path) as url:
        page = open_page(url, java_script_enabled=scripts)
        page.locator("[data-action=post-mortem]").first.click()
        section = page.locator("#post-mortem")
        expect(section).to_be_in_viewport()
        expect(section.locator("tbody tr")).to_have_count(7)
        section.locator("[data-action=fit]").click()
        expect(page.locator("#max_tokens")).to_have_value("2048")
        expect(page.locator("#model")).to_have_value("Qwen/Qwen3-8B")
        page.goto("about:blank")
