"""Makes the screenshots of the README again: ``python -m bench screenshots``. Real server, real models, real browser."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.engine.models import make_model
from tests.engine.server import WardenServer, running

FOLDER = Path(__file__).parents[1] / "docs"
HEADER = "X-Person"
PROXY = {"proxy_user_header": HEADER, "trusted_proxies": '["127.0.0.1"]', "proxy_default_role": "operator"}
SMALL = {"memory_limit_gib": 0.18, "reserve_mib": 0, "reserve_percent": 0}  # one of the two models fits, not both
PEOPLE = {"maria": "ru-RU", "ivan": "en-US"}
WIDE, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


def main() -> None:
    """Take the pictures: a switch under way (light), a model loaded (dark), the phone, an answer; two people and one place."""
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        cache = Path(folder) / "cache"
        make_model(
            cache, "lab/writer-small", hidden=512, intermediate=1024, layers=6, heads=8, kv_heads=4, dtype="bfloat16"
        )
        make_model(
            cache, "lab/coder-small", hidden=768, intermediate=2048, layers=8, heads=12, kv_heads=4, dtype="bfloat16"
        )
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        with running(WardenServer(Path(folder) / "state", cache, launcher="off")) as server:  # slow enough to be seen
            server.models(2)
            server.load("lab/writer-small")
            page = _open(browser, server.url, "light", "ru-RU", WIDE)
            server.switch("lab/coder-small")
            expect(page.locator("[data-step=launch][data-state=running]")).to_be_visible(timeout=30_000)
            page.wait_for_timeout(1500)
            _take(page, "switch-light-ru")
            expect(page.locator("#transformers [data-state=ready]")).to_be_visible(timeout=60_000)
            _take(_open(browser, server.url, "dark", "en-US", WIDE), "loaded-dark-en")
            _take(_open(browser, server.url, "light", "en-US", PHONE), "phone-light-en")
            _ask(page)
            _take(page, "ask-light-ru", whole=False)
        with running(WardenServer(Path(folder) / "shared", cache, **SMALL, **PROXY)) as server:
            _share(browser, server.url)
        browser.close()


def _share(browser: Browser, url: str) -> None:
    """One person has leased a model; another asks for it, and waits."""
    maria, ivan = (_open(browser, url, "light", language, WIDE, name) for name, language in PEOPLE.items())
    maria.locator("#switch-form select[name=model]").select_option("lab/writer-small")
    maria.locator("#lease").select_option("2h")
    maria.locator("#reason").fill("eval, 3 runs")
    maria.locator("[data-action=apply]").click()
    expect(ivan.locator("#transformers [data-state=ready]")).to_be_visible(timeout=60_000)
    ivan.locator("#switch-form select[name=model]").select_option("lab/coder-small")
    ivan.locator("[data-action=wait-start]").click()
    ivan.locator("#plan [data-action=ask-release]").click()
    ivan.locator("[name=why]").fill("a paper, until tonight")
    ivan.locator("[data-action=send-ask]").click()
    expect(maria.locator("[data-ask-for]")).to_be_visible(timeout=15_000)
    _take(ivan, "refused-light-en")
    _take(maria, "asked-light-ru")


def _open(
    browser: Browser, url: str, scheme: str, language: str, size: dict[str, int], person: str | None = None
) -> Page:
    headers = {HEADER: person} if person else {}
    context = browser.new_context(color_scheme=scheme, locale=language, viewport=size, extra_http_headers=headers)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    expect(page.locator("#plan")).to_be_visible()
    return page


def _ask(page: Page) -> None:
    page.locator("[data-action=ask]").first.click()
    dialog = page.locator("#dialog")
    dialog.locator("textarea[name=prompt]").fill("Расскажи о памяти видеокарты")
    dialog.locator("[data-ask-send]").click()
    expect(dialog.locator("[data-ask-answer]")).to_be_visible(timeout=60_000)


def _take(page: Page, name: str, *, whole: bool = True) -> None:
    FOLDER.mkdir(exist_ok=True)
    page.screenshot(path=FOLDER / f"{name}.png", full_page=whole)
