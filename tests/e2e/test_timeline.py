"""The timeline in a real browser: recorded by the real server, whole in every state, and usable by keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.states import STATES, served
from tests.e2e.test_states import look
from tests.engine import axe
from tests.engine.engine_fixtures import need
from tests.engine.server import WardenServer
from tests.web import timelines
from tests.web.fakes import FakeTimeline

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

MADE: Mapping[str, Callable[[], FakeTimeline]] = {
    "usual": timelines.usual,
    "gaps": timelines.with_gaps,
    "many": timelines.many_holders,
    "eight": timelines.eight_gpus,
    "nothing": timelines.nothing,
}
RECORDED_MS = 30_000
"""Three rounds of the recorder."""


def test_a_load_is_recorded_marked_and_read_back_after_a_restart(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache)
    operation = server.load("lab/one")
    page = open_page(server.url)
    page.locator(".nav a[href='/timeline']").click()
    mark = page.locator(f".timeline__mark[href='/operations/{operation['id']}']")
    expect(mark).to_have_attribute("data-mark", "load", timeout=RECORDED_MS)
    expect(page.locator("[data-holder=worker]")).to_contain_text("one · Transformers", timeout=RECORDED_MS)
    version = page.locator("#timeline-state input").input_value()
    mark.focus()
    expect(page.locator("#timeline-state input")).not_to_have_value(version, timeout=RECORDED_MS)
    expect(mark).to_be_focused()  # the drawing was rendered again around it
    page.keyboard.press("Enter")
    expect(page.locator("#operation")).to_have_attribute("data-state", "succeeded")

    server.stop()
    again = start_server(cache)
    points = again.get("/api/v1/timeline?device=host")["points"]
    assert any(holder["model"] == "lab/one" for point in points for holder in point["holders"])
    again.finished(again.post(f"/api/v1/instances/{again.instance_of('lab/one')['id']}/unload").json()["id"])


def test_without_scripts_device_and_span_and_table_are_links(open_page: Open, tmp_path: Path) -> None:
    with served(STATES["usual"](), tmp_path, timelines.eight_gpus()) as url:
        page = open_page(f"{url}timeline", java_script_enabled=False)
        page.locator("[data-device=gpu-5]").click()
        page.locator("[data-span=week]").click()
        expect(page.locator("#timeline")).to_have_attribute("data-device", "gpu-5")
        expect(page.locator(".timeline__plot")).to_be_visible()
        page.locator("[data-view=table]").click()
        expect(page.locator("[data-rows='252']")).to_be_visible()
        with page.expect_download() as download:
            page.locator("[data-view=csv]").click()
        assert download.value.suggested_filename == "warden-gpu-5-week.csv"
        page.goto("about:blank")


@pytest.mark.parametrize("language", ["ru-RU", "en-US"])
@pytest.mark.parametrize(
    ("state", "path"),
    [
        *((state, "timeline") for state in MADE),
        ("gaps", "timeline?span=week"),
        ("many", "timeline/table"),
        ("gaps", "timeline/table?span=week"),
    ],
)
def test_page_is_whole_everywhere(state: str, path: str, language: str, open_page: Open, tmp_path: Path) -> None:
    need(axe.why_missing())
    with served(STATES["usual"](), tmp_path, MADE[state]()) as url:
        page = open_page(url + path, language=language, reduced_motion="reduce")
        name = re.sub(r"\W+", "-", f"timeline-{state}-{path}")
        problems = [line for scheme in ("light", "dark") for line in look(page, name, language, scheme)]
        page.goto("about:blank")
    assert problems == []


def test_marks_and_the_drawing_have_names_for_a_screen_reader(open_page: Open, tmp_path: Path) -> None:
    with served(STATES["usual"](), tmp_path, timelines.usual()) as url:
        page = open_page(f"{url}timeline?span=week", language="en-US")
        expect(page.get_by_role("link", name=re.compile("^38 operations, "))).to_have_attribute(
            "href", "#timeline-events"
        )
        expect(page.get_by_role("img", name="Memory by holder")).to_be_visible()
        page.goto(f"{url}timeline")
        expect(page.get_by_role("link", name=re.compile("^Switch: .*, error, ivan, "))).to_be_visible()
        page.goto("about:blank")
