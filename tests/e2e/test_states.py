"""Every state of the dashboard, in both languages and schemes, from a phone to a wide screen: it fits, and axe finds nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import SCREENSHOTS
from tests.e2e.states import STATES, served
from tests.engine import axe
from tests.engine.engine_fixtures import need
from tests.web.fakes import container

Open = Callable[..., Page]

WIDTHS = (390, 720, 1440, 1920)
"""A phone, a window of 1440 px at a zoom of 200 %, and two screens."""
PAGES = (
    "instances/i1/ask",
    "instances/i1/log",
    "confirm/emergency",
    "confirm/unload/i1",
    f"confirm/container/{container().id}",
    "nowhere",
)
LOOKED_AT = {"light": 1440, "dark": 390}
"""The width at which axe looks and a picture is kept: colours do not follow the width, nor the layout the scheme."""


@pytest.mark.parametrize(("language", "scheme"), [("ru-RU", "light"), ("en-US", "dark")])
@pytest.mark.parametrize("state", STATES)
def test_state_is_whole_everywhere(state: str, language: str, scheme: str, open_page: Open, tmp_path: Path) -> None:
    """Each language in one scheme; every page is looked at in all four below."""
    need(axe.why_missing())
    with served(STATES[state](), tmp_path) as url:
        page = open_page(
            url, language=language, reduced_motion="reduce"
        )  # a colour on its way has no contrast of its own
        expect(page.locator("#live")).to_be_visible()
        problems = look(page, state, language, scheme)
        page.goto("about:blank")
    assert problems == []


def look(page: Page, state: str, language: str, scheme: str) -> list[str]:
    """Return what is wrong with the page in a scheme, at all widths; keep its pictures."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    found = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1000})
        if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
            found.append(f"{scheme} {width}: the page is {wide} px wide")
        if width == LOOKED_AT[scheme]:
            found += [f"{scheme} {width}: {line}" for line in axe.complaints(page)]
            SCREENSHOTS.mkdir(exist_ok=True)
            page.screenshot(path=SCREENSHOTS / f"state-{state}-{language[:2]}-{scheme}-{width}.png", full_page=True)
    return found


@pytest.mark.parametrize("language", ["ru-RU", "en-US"])
@pytest.mark.parametrize(
    ("state", "path"),
    [
        ("foreign-containers", ""),
        *(("foreign-containers", path) for path in PAGES),
        ("leases", "instances/i1/release"),
        ("leases", "instances/i2/lease"),
        ("usual", "selftest"),
        ("tested", "selftest"),
        ("testing", "selftest"),
        ("tested", "operations/op-test"),
        ("out-of-memory", "operations/op-bad"),
    ],
)
def test_page_is_whole_everywhere(state: str, path: str, language: str, open_page: Open, tmp_path: Path) -> None:
    need(axe.why_missing())
    with served(STATES[state](), tmp_path) as url:
        page = open_page(url + path, language=language, reduced_motion="reduce")
        name = f"{state}-{path}".replace("/", "-")[:40]
        problems = [line for scheme in ("light", "dark") for line in look(page, name, language, scheme)]
        page.goto("about:blank")
    assert problems == []
