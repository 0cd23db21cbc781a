"""A real Chromium in front of the real server; the figures of a test that fails are in its screenshot."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.engine.models import make_model
from tests.engine.server import WardenServer

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
POLL_S = 0.5
"""Pages poll four times as often as by default, so that a test waits less."""
SCREENSHOTS = Path(__file__).parents[2] / "test-results"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests: the one that ``make test`` found, or the machine's own."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "no Chromium: run the tests with `make test`, which finds or installs one"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture(autouse=True)
def _browser_first(browser: Browser) -> None:
    """The browser is there before the leak check looks."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A Hugging Face cache with two tiny models."""
    folder = tmp_path / "cache"
    for number, name in enumerate(("lab/one", "lab/two")):
        make_model(folder, name, seed=number)
    return folder


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., WardenServer]]:
    """Start servers with settings of one's own; each is stopped at the end, and its models with it."""
    started: list[WardenServer] = []

    def start(cache: Path, app: str = "wsgi:app", **settings: object) -> WardenServer:
        server = WardenServer(tmp_path / "state", cache, app, **{"page_poll_s": POLL_S, **settings})
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()
        server.end_models()


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Page]]:
    """Open a page as a person with a language, a scheme and a width; errors on the page's console fail the test."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_(
        url: str, *, language: str = "ru-RU", scheme: str = "light", width: int = 1440, **options: object
    ) -> Page:
        context = browser.new_context(
            locale=language,
            color_scheme=scheme,  # type: ignore[arg-type]
            viewport={"width": width, "height": 1000},
            **options,  # type: ignore[arg-type]
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        return page

    yield open_
    for number, context in enumerate(contexts):
        for page in context.pages:
            _keep_screenshot(page, request.node.name, number)
        context.close()
    real = [
        line
        for line in complaints
        if not re.search(r"status of (4\d\d|503)|net::ERR_(CONNECTION|EMPTY|INCOMPLETE|SOCKET)|Failed to fetch", line)
    ]
    assert not real, f"the page complained: {real}"


def _keep_screenshot(page: Page, test: str, number: int) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", test)
    page.screenshot(path=SCREENSHOTS / f"{name}-{number}.png", full_page=True)
