"""Several people in real browsers, against the real server: the first administrator, an invitation, a viewer who can
change nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.states import LONG, serving
from tests.e2e.test_states import look
from tests.engine import axe
from tests.engine.engine_fixtures import need
from tests.engine.server import WardenServer
from tests.web.people import Lab, made_lab
from webapp.domain.audit import Action, AuditActor, AuditChannel, AuditEntry, Detail, Kind, Result, Target
from webapp.domain.people import Role

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

PASSWORD = "correct horse"
LOAD_MS = 90_000


def make_administrator(server: WardenServer, name: str) -> None:
    """Create an administrator next to the running server, as README.md says."""
    command = [sys.executable, "-m", "webapp.cli", "users", "add", name, "--role", "administrator", "--password-stdin"]
    own = {"WARDEN_STATE_DIR": str(server.state), "WARDEN_CONFIG": str(server.state / "none.toml")}
    subprocess.run(command, input=f"{PASSWORD}\n", text=True, check=True, env=os.environ | own, capture_output=True)


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Имя").fill(name)
    page.get_by_label("Пароль").fill(PASSWORD)
    page.locator("[data-action=sign-in]").click()


def test_an_administrator_invites_a_viewer_who_sees_everything_and_no_buttons(
    start_server: Start, cache: Path, open_page: Open
) -> None:
    server = start_server(cache)
    server.models(2)
    boss = open_page(server.url)
    expect(boss.locator("#switch")).to_be_visible()

    make_administrator(server, "boss")

    # The page that is open is led to the sign-in by its own poll, and back.
    expect(boss.locator("#sign-in-form")).to_be_visible()
    sign_in(boss, "boss")
    expect(boss.locator(".top__actor")).to_have_text("boss")
    boss.locator("#switch select[name=model]").select_option("lab/one")
    boss.locator("[data-action=apply]").click()

    boss.locator(".nav a[href='/people']").click()
    boss.locator("#invite select[name=role]").select_option("viewer")
    boss.locator("[data-action=invite]").click()
    link = boss.locator("#new-link").inner_text()

    viewer = open_page(link)
    viewer.get_by_label("Имя").fill("vera")
    viewer.get_by_label("Пароль, не короче").fill(PASSWORD)
    viewer.get_by_label("Повторите пароль").fill(PASSWORD)
    viewer.locator("[data-action=accept]").click()

    # She sees the administrator's load, live, and nothing that she could press to change it.
    expect(viewer.locator("#watching")).to_be_visible()
    expect(viewer.locator("[data-model='lab/one'][data-state=ready]")).to_be_visible(timeout=LOAD_MS)
    expect(viewer.locator(".row__owner").first).to_contain_text("boss")
    for action in ("ask", "unload", "clean", "emergency", "apply", "cancel", "demo"):
        expect(viewer.locator(f"[data-action={action}]")).to_have_count(0)
    expect(viewer.locator("#switch, a[data-fill]")).to_have_count(0)
    viewer.goto(f"{server.url}/people")
    expect(viewer.locator("[data-error='403']")).to_contain_text("нужна роль «администратор»")

    # Her role grows; her page offers the form the next time that it is opened.
    boss.goto(f"{server.url}/people")
    row = boss.locator("[data-person=vera]")
    row.locator("select").select_option("operator")
    row.locator("[data-action=set-role]").click()
    viewer.goto(server.url)
    expect(viewer.locator("#switch")).to_be_visible()
    expect(viewer.locator("[data-action=unload]")).to_have_count(1)
    expect(viewer.locator("[data-action=emergency]")).to_have_count(0)

    # Her sign-in is ended from the other browser; her open page notices automatically.
    row.locator("[data-action=end-sessions]").click()
    expect(viewer.locator("#sign-in-form")).to_be_visible()

    boss.locator("[data-action=sign-out]").click()
    expect(boss.locator("#sign-in-form")).to_be_visible()
    boss.goto(server.url)
    expect(boss.locator("#sign-in-form")).to_be_visible()


def test_the_pages_work_on_a_phone_without_scripts(start_server: Start, cache: Path, open_page: Open) -> None:
    server = start_server(cache)
    make_administrator(server, "boss")
    page = open_page(server.url, width=390, java_script_enabled=False)
    sign_in(page, "boss")

    page.locator(".nav a[href='/people']").click()
    page.locator("[data-action=invite]").click()
    expect(page.locator("#new-link")).to_contain_text("/invitation?key=")
    page.locator(".top__me").click()
    page.locator("[name=label]").fill("ночь")
    page.locator("[data-action=add-token]").click()
    expect(page.locator("#new-token")).to_contain_text("wdn_")
    page.locator("[data-action=revoke-token]").click()
    expect(page.locator("#new-token")).to_have_count(0)
    expect(page.locator("[data-action=revoke-token]")).to_have_count(0)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("[data-action=sign-out]").click()
    expect(page.locator("#sign-in-form")).to_be_visible()


def crowded(lab: Lab) -> str:
    """People of every kind and long names; returns the key of an open invitation."""
    lab.clock.now = time.time()
    lab.accounts.add("a" * 50 + ".petrov@lab", Role.OPERATOR, PASSWORD)
    lab.accounts.set_disabled("a" * 50 + ".petrov@lab", True)
    lab.accounts.by_proxy("carol", Role.VIEWER)
    lab.accounts.add_token(lab.accounts.person("anna"), LONG[:60], Role.OPERATOR, 1.0)
    lab.token(Role.ADMINISTRATOR)
    reason, model = ((Detail.OVERRIDE_REASON, LONG),), Target(Kind.MODEL, "i1", LONG)
    for result, problem in ((Result.DONE, None), (Result.REFUSED, "not_enough_memory"), (Result.FAILED, "error")):
        doer = AuditActor("a" * 50 + ".petrov@lab", AuditChannel.TOKEN, "p", LONG[:60])
        at = lab.clock.now
        lab.audit.record(AuditEntry(at, doer, Action.SWITCH, model, result, "2001:db8::ffff", problem, reason, "op1"))
    return lab.accounts.invite(Role.OPERATOR, 86_400, "anna")


@pytest.mark.parametrize("language", ["ru-RU", "en-US"])
@pytest.mark.parametrize("path", ["sign-in?next=/history", "invitation", "people", "account", "audit"])
def test_a_page_of_people_is_whole_everywhere(path: str, language: str, open_page: Open, tmp_path: Path) -> None:
    need(axe.why_missing())
    with made_lab(tmp_path) as lab, serving(lab.app) as url:
        key = crowded(lab)
        address = f"{url}{path}?key={key}" if path == "invitation" else url + path
        page = open_page(
            address, language=language, reduced_motion="reduce"
        )  # a colour on its way has no contrast of its own
        if path in ("people", "account", "audit"):
            page.locator("[name=name]").fill("anna")
            page.locator("[name=password]").fill(PASSWORD)
            page.locator("[data-action=sign-in]").click()
            expect(page.locator(".entry, .audit__item").first).to_be_visible()
        if path == "people":
            page.locator("[data-action=invite]").click()
            page.locator(".sure summary").first.click()
            expect(page.locator("#new-link")).to_be_visible()
        name = path.partition("?")[0]
        problems = [line for scheme in ("light", "dark") for line in look(page, name, language, scheme)]
        page.goto("about:blank")
    assert problems == []
