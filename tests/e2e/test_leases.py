"""Two people on one server: one holds a model for a time, the other asks for it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import httpx
from playwright.sync_api import Page, expect

from tests.e2e.test_main_job import LOAD_MS, apply, choose, row
from tests.e2e.test_queue import ROOM_FOR_ONE
from tests.engine.server import WardenServer, wait_for
from webapp.domain.people import Role
from webapp.services import open_accounts
from webapp.settings import load_settings

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

HEADER = "X-Person"
NEWS_MS = 15_000
"""The banner polls every 5 s; a check does nothing else than wait for that."""
PROXY = {"proxy_user_header": HEADER, "trusted_proxies": '["127.0.0.1"]'}


def shared(start_server: Start, cache: Path, **settings: object) -> tuple[WardenServer, dict[str, str]]:
    """A server whose people a proxy names. Its JSON calls are Maria's, by a token; return what makes them Ivan's."""
    server = start_server(cache, **PROXY, **settings)
    if "launcher" in settings:
        server.launcher_ready()
    with open_accounts(load_settings(state_dir=server.state)) as accounts:
        people = [accounts.add(name, Role.OPERATOR, None) for name in ("maria", "ivan")]
        marias, ivans = (
            {"Authorization": f"Bearer {accounts.add_token(person, 'test', Role.OPERATOR, None)}"} for person in people
        )
    server.headers = marias
    return server, ivans


def as_person(open_page: Open, server: WardenServer, name: str, **options: object) -> Page:
    return open_page(server.url, extra_http_headers={HEADER: name}, **options)


def test_a_leased_model_is_asked_for_kept_and_then_released(start_server: Start, open_page: Open, cache: Path) -> None:
    server, _ = shared(start_server, cache, **ROOM_FOR_ONE, undo_s=1)
    maria = as_person(open_page, server, "maria")
    ivan = as_person(open_page, server, "ivan", language="en-US", scheme="dark")
    choose(maria, "lab/one")
    maria.locator("#lease").select_option("1h")
    maria.locator("#reason").fill("eval")
    apply(maria)
    expect(row(maria, "lab/one")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)
    maria.locator("[data-action=extend]").click()
    expect(row(maria, "lab/one").locator("[data-until]")).to_contain_text("1 ч 59 мин")

    ivan.locator("#switch-form select[name=model]").select_option("lab/two")
    expect(ivan.locator("[data-refusal]")).to_contain_text("“eval”")
    ivan.locator("#plan [data-action=ask-release]").click()
    expect(ivan.locator("[data-presence]")).to_contain_text("has the page open")
    ivan.locator("[name=why]").fill("a paper")
    ivan.locator("[data-action=send-ask]").click()

    banner = maria.locator("[data-ask-for]")
    expect(banner).to_contain_text("a paper", timeout=NEWS_MS)
    banner.locator("[name=word]").fill("ten minutes")
    banner.locator("[data-action=keep-mine]").click()
    expect(banner).to_have_count(0)
    expect(ivan.locator("[data-notice]")).to_contain_text("keeps model lab/one: “ten minutes”", timeout=NEWS_MS)
    ivan.locator("[data-action=dismiss]").click()
    expect(ivan.locator("[data-notice]")).to_have_count(0)

    row(ivan, "lab/one").locator("[data-action=ask-release]").click()
    ivan.locator("[data-action=send-ask]").click()
    banner.locator("[data-action=release-mine]").click()
    expect(ivan.locator("[data-notice]")).to_contain_text("releases model lab/one for you", timeout=NEWS_MS)
    choose(ivan, "lab/two")
    apply(ivan)
    expect(row(ivan, "lab/two")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)
    expect(row(maria, "lab/one")).to_have_count(0)
    (instance,) = server.status()["instances"]
    assert instance["owner"] == "ivan"


def test_who_is_refused_waits_asks_and_has_the_model_once_it_is_released(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server, _ = shared(start_server, cache, **ROOM_FOR_ONE, undo_s=1)
    maria, ivan = (as_person(open_page, server, name) for name in ("maria", "ivan"))
    choose(maria, "lab/one")
    maria.locator("#lease").select_option("2h")
    apply(maria)
    expect(ivan.locator("#operations")).to_contain_text("maria")
    expect(ivan.locator("[data-action=cancel]")).to_have_count(0)
    expect(row(ivan, "lab/one")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)

    ivan.locator("#switch-form select[name=model]").select_option("lab/two")
    expect(ivan.locator("[data-refusal]")).to_contain_text("maria")
    expect(ivan.locator("[data-action=override]")).to_have_count(0)
    ivan.locator("[data-action=wait-start]").click()
    ticket = ivan.locator("[data-ticket]")
    expect(ticket.locator("[data-why]")).to_contain_text("владелец maria")
    expect(maria.locator("[data-ticket]")).to_contain_text("ivan")
    expect(maria.locator("[data-action=ticket-cancel]")).to_have_count(0)
    row(ivan, "lab/one").locator("[data-action=ask-release]").click()
    ivan.locator("[data-action=send-ask]").click()
    maria.locator("[data-action=release-mine]").click()

    expect(row(maria, "lab/two")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)
    expect(ticket).to_have_count(0)
    (instance,) = server.status()["instances"]
    assert (instance["model"], instance["owner"]) == ("lab/two", "ivan")
    assert server.get("/api/v1/operations")[0]["actor"] == "ivan"


def test_an_idle_model_goes_after_its_countdown_unless_it_is_kept(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server, _ = shared(start_server, cache, idle_unload_minutes=0.25)
    page = as_person(open_page, server, "maria")
    choose(page, "lab/one")
    apply(page)
    countdown = row(page, "lab/one").locator("[data-idle]")
    expect(countdown).to_be_visible(timeout=LOAD_MS)
    row(page, "lab/one").locator("[data-action=keep]").click()
    expect(page.locator("#say")).to_contain_text("остаётся")
    expect(row(page, "lab/one")).to_have_count(0, timeout=30_000)
    expect(page.locator("[data-notice]")).to_contain_text("ею не пользовались", timeout=NEWS_MS)
    (operation,) = [o for o in server.get("/api/v1/operations") if o["kind"] == "unload"]
    assert (operation["actor"], operation["findings"][0]["message"]["code"]) == ("warden", "unloaded_idle")


def test_a_lease_and_an_ask_outlive_a_killed_dashboard(start_server: Start, cache: Path) -> None:
    server, ivans = shared(start_server, cache)
    server.load("lab/one", reason="eval", idle_unload_minutes=60)
    instance = server.instance_of("lab/one")
    address = f"/api/v1/instances/{instance['id']}"
    leased = server.post(f"{address}/lease", {"extend_s": 3600}).json()
    asked = httpx.post(
        f"{server.url}{address}/release-request", json={"why": "a paper"}, headers=ivans, verify=False
    ).json()
    assert asked["release"]["asker"] == "ivan"
    wait_for(lambda: "a paper" in kept(server), 10, lambda: "the lease was not written down")
    server.kill()
    server.start()
    again = server.becomes(instance["id"], "ready")
    assert again["adopted"]
    assert (again["lease"], again["release"]) == (leased["lease"], asked["release"])
    refused = httpx.post(f"{server.url}{address}/unload", json={}, headers=ivans, verify=False)
    assert (refused.status_code, refused.json()["code"]) == (409, "instance_leased")


def kept(server: WardenServer) -> str:
    with closing(sqlite3.connect(server.state / "warden.db")) as connection:
        return str(connection.execute("SELECT document FROM leases").fetchall())
