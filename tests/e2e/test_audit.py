"""An administrator reads in a browser who did what, against the real server, and after a stop nothing is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.e2e.test_people import PASSWORD, make_administrator, sign_in
from tests.engine.server import WardenServer

Start = Callable[..., WardenServer]
Open = Callable[..., Page]


def acts(page: Page) -> list[str | None]:
    return [row.get_attribute("data-act") for row in page.locator("[data-entry]").all()]


def test_what_was_done_is_read_filtered_taken_along_and_still_there_after_a_restart(
    start_server: Start, cache: Path, open_page: Open
) -> None:
    server = start_server(cache)
    make_administrator(server, "boss")
    page = open_page(server.url)
    page.get_by_label("Имя").fill("boss")
    page.get_by_label("Пароль").fill("not the password")
    page.locator("[data-action=sign-in]").click()
    expect(page.locator("main")).to_contain_text("Неверное имя или пароль")
    sign_in(page, "boss")
    page.locator("[data-action=clean]").click()
    expect(page.locator("#say")).to_contain_text("Очистка")

    page.locator(".nav a[href='/audit']").click()
    expect(page.locator("[data-entry]")).to_have_count(4)
    assert acts(page) == ["clean", "sign_in", "sign_in", "person_made"]
    expect(page.locator("[data-act=clean]")).to_contain_text("127.0.0.1")
    expect(page.locator("[data-act=person_made]")).to_contain_text("командная строка")

    page.locator("#audit-filter select[name=group]").select_option("signing")
    expect(page.locator("[data-entry]")).to_have_count(2)
    expect(page.locator("[data-result=refused]")).to_contain_text("неверное имя или пароль")
    with page.expect_download() as download:
        page.locator("[data-action=csv]").click()
    table = Path(download.value.path()).read_text(encoding="utf-8")
    assert table.count("sign_in,signing") == 2
    assert PASSWORD not in table

    page.goto(f"{server.url}/audit?group=server")
    page.locator(".audit__operation").click()
    expect(page.locator("h1")).to_contain_text("Очистка")

    page.locator("[data-action=sign-out]").click()
    server.stop()
    page.goto(f"{start_server(cache).url}/audit")
    sign_in(page, "boss")
    expect(page.locator("[data-entry]")).to_have_count(6)
    assert acts(page)[:3] == ["sign_in", "sign_out", "clean"]
