"""Takes the screenshots of README and docs: ``python -m bench screenshots``. All are in English, as the documents are.

They show a real server with real models in a real browser. Machines that are not available here are served from states
of the browser tests.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.e2e.states import STATES, served
from tests.engine.models import make_model
from tests.engine.server import WardenServer, running, wait_for

FOLDER: Final = Path(__file__).parents[1] / "docs"
HEADER: Final = "X-Person"
PROXY: Final = {"proxy_user_header": HEADER, "trusted_proxies": '["127.0.0.1"]', "proxy_default_role": "operator"}
SMALL: Final = {
    "memory_limit_gib": 0.5,
    "reserve_mib": 0,
    "reserve_percent": 0,
}  # room for one of the two models, not for both
SLOW: Final = {"launcher": "off"}  # a load takes some seconds, so that its steps can be seen
WIDE: Final = {"width": 1440, "height": 900}
PHONE: Final = {"width": 390, "height": 844}
FILM: Final = {"width": 1280, "height": 1060}
LOAD_MS: Final = 60_000
HELD_MS: Final = 1800
"""The default time for which a frame of the film is shown."""


def main(options: Sequence[str] = ()) -> None:
    """Take all pictures, or only the parts in ``options``: ``--film --alone --shared --machines``."""
    wanted = {option.removeprefix("--") for option in options} or set(PARTS)
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name in sorted(wanted):
            PARTS[name](browser, Path(folder) / name)
        browser.close()


def _server(folder: Path, **settings: object) -> WardenServer:
    """Return a server with two small models."""
    cache = folder / "cache"
    make_model(
        cache, "lab/writer-small", hidden=512, intermediate=1024, layers=6, heads=8, kv_heads=4, dtype="bfloat16"
    )
    make_model(
        cache, "lab/coder-small", hidden=768, intermediate=2048, layers=8, heads=12, kv_heads=4, dtype="bfloat16"
    )
    return WardenServer(folder / "state", cache, **settings)


@dataclass
class Film:
    """Frames of one page, joined to an animation."""

    page: Page
    frames: list[Image.Image] = field(default_factory=list)
    holds: list[int] = field(default_factory=list)

    def take(self, hold_ms: int = HELD_MS) -> None:
        """Add the current page as a frame, shown for ``hold_ms``."""
        self.page.evaluate("scrollTo(0, 0)")
        self.frames.append(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))
        self.holds.append(hold_ms)

    def save(self, path: Path) -> None:
        """Write the film, which loops."""
        first, *rest = self.frames
        first.save(path, save_all=True, append_images=rest, duration=self.holds, loop=0, quality=70, method=6)


def _film(browser: Browser, folder: Path) -> None:
    """Load a model, ask it, unload it."""
    with running(_server(folder, **SLOW)) as server:
        server.models(2)
        _play(browser, server)


def _play(browser: Browser, server: WardenServer) -> None:
    page = _open(browser, server.url, size=FILM)
    film = Film(page)
    film.take()
    page.locator("#switch-form select[name=model]").select_option("lab/writer-small")
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "fits")
    page.wait_for_timeout(500)
    film.take(2500)
    page.locator("[data-action=apply]").click()
    expect(page.locator("[data-step=launch][data-state=running]")).to_be_visible(timeout=LOAD_MS)
    film.take(1200)
    page.wait_for_timeout(1500)
    film.take(1200)
    _ready(page)
    page.wait_for_timeout(1000)
    film.take(2500)
    _ask(page, film.take)
    page.keyboard.press("Escape")
    wait_for(lambda: server.instance_of("lab/writer-small")["in_flight"] == 0, 20, lambda: "the model is still busy")
    page.locator("#transformers [data-action=unload]").click()
    expect(page.locator("#operations .receipt").first).to_have_attribute("data-ok", "yes", timeout=LOAD_MS)
    page.wait_for_timeout(1000)
    film.take(3500)
    film.save(FOLDER / "load-use-unload.webp")
    page.close()


def _alone(browser: Browser, folder: Path) -> None:
    """Take a switch in progress (light), a loaded model (dark), the phone, an answer, a self-test, the history."""
    with running(_server(folder, **SLOW)) as server:
        server.models(2)
        _use(browser, server)


def _use(browser: Browser, server: WardenServer) -> None:
    server.load("lab/writer-small")
    page = _open(browser, server.url)
    server.switch("lab/coder-small")
    expect(page.locator("[data-step=launch][data-state=running]")).to_be_visible(timeout=LOAD_MS)
    page.wait_for_timeout(1500)
    _take(page, "switch-light-en")
    _ready(page)
    _take(_open(browser, server.url, scheme="dark"), "loaded-dark-en")
    _take(_open(browser, server.url, size=PHONE), "phone-light-en")
    _ask(page, lambda: _take(page, "ask-light-en", whole=False))
    page.close()
    tested = server.post("/api/v1/selftest").json()
    server.finished(tested["id"])
    _take(_open(browser, f"{server.url}/selftest", shown=".selftest, [data-check]"), "selftest-light-en")
    _take(_open(browser, f"{server.url}/history", shown="main"), "history-light-en")


def _shared(browser: Browser, folder: Path) -> None:
    """Take the pages of two people: one has leased a model, the other requests its release and queues."""
    with running(_server(folder, **SLOW, **SMALL, **PROXY)) as server:
        _share(browser, server.url)


def _share(browser: Browser, url: str) -> None:
    maria, ivan = (_open(browser, url, person=name) for name in ("maria", "ivan"))
    maria.locator("#switch-form select[name=model]").select_option("lab/writer-small")
    maria.locator("#lease").select_option("2h")
    maria.locator("#reason").fill("eval, 3 runs")
    maria.locator("[data-action=apply]").click()
    _ready(ivan)
    ivan.locator("#switch-form select[name=model]").select_option("lab/coder-small")
    ivan.locator("[data-action=wait-start]").click()
    ivan.wait_for_timeout(4000)  # the plan is drawn again with the place in the queue
    ivan.locator("#plan [data-action=ask-release]").click()
    ivan.locator("[name=why]").fill("a paper, until tonight")
    ivan.locator("[data-action=send-ask]").click()
    expect(maria.locator("[data-ask-for]")).to_be_visible(timeout=15_000)
    _take(ivan, "refused-light-en")
    _take(maria, "asked-light-en")


def _machines(browser: Browser, folder: Path) -> None:
    """Take the page of a machine that is not available here: a GPU on which a load ran out of memory."""
    with served(STATES["out-of-memory"](), folder) as url:
        _take(_open(browser, url), "failed-light-en")


def _ready(page: Page) -> None:
    expect(page.locator("#transformers [data-state=ready]")).to_be_visible(timeout=LOAD_MS)


def _open(
    browser: Browser,
    url: str,
    *,
    scheme: str = "light",
    size: dict[str, int] = WIDE,
    person: str | None = None,
    shown: str = "#plan",
) -> Page:
    headers = {HEADER: person} if person else {}
    context = browser.new_context(color_scheme=scheme, locale="en-US", viewport=size, extra_http_headers=headers)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    expect(page.locator(shown).first).to_be_visible()
    return page


def _ask(page: Page, *looks: Callable[[], None]) -> None:
    """Ask the model on the page; call each of ``looks`` once a part of the answer is there."""
    page.locator("[data-action=ask]").first.click()
    dialog = page.locator("#dialog")
    dialog.locator("textarea[name=prompt]").fill("What holds the memory of a GPU?")
    dialog.locator("[data-ask-send]").click()
    expect(dialog.locator("[data-ask-answer]")).to_contain_text(re.compile(r"\w{3}"), timeout=LOAD_MS)
    for look in looks:
        look()
    if dialog.locator("[data-ask-stop]").is_visible():  # with random weights the answer never ends
        dialog.locator("[data-ask-stop]").click()
    expect(dialog.locator("[data-ask-stop]")).to_be_hidden(timeout=LOAD_MS)


def _take(page: Page, name: str, *, whole: bool = True) -> None:
    FOLDER.mkdir(exist_ok=True)
    page.screenshot(path=FOLDER / f"{name}.png", full_page=whole)


PARTS: Final[Mapping[str, Callable[[Browser, Path], None]]] = {
    "film": _film,
    "alone": _alone,
    "shared": _shared,
    "machines": _machines,
}
