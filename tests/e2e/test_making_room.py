"""Two people and room for one model: nothing of a colleague's goes without its name, and until it goes it can be saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, expect

from tests.e2e.states import served
from tests.e2e.test_leases import NEWS_MS, as_person, shared
from tests.e2e.test_main_job import LOAD_MS, row
from tests.e2e.test_queue import ROOM_FOR_ONE
from tests.engine.server import WardenServer
from tests.web.conftest import FORM
from tests.web.fakes import FakeController, foreign, instance, model, reading, worker
from tests.web.test_making_room import going
from webapp.domain.units import gib
from webapp.web.actor import current_actor

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

UNDO_S = 12
"""Longer than the banner takes to ask for news."""


def test_a_colleagues_model_is_named_saved_and_then_unloaded(start_server: Start, open_page: Open, cache: Path) -> None:
    server, _ = shared(start_server, cache, **ROOM_FOR_ONE, undo_s=UNDO_S)
    server.models(2)
    server.load("lab/one")
    maria = as_person(open_page, server, "maria", language="en-US")
    ivan = as_person(open_page, server, "ivan", language="en-US")

    ivan.locator("#switch-form select[name=model]").select_option("lab/two")
    plan = ivan.locator("#plan-box")
    expect(plan).to_have_attribute("data-verdict", "confirm")
    confirm = plan.get_by_label("Unload one, owned by maria")
    confirm.check()
    expect(plan).not_to_have_attribute("data-verdict", "confirm")
    expect(confirm).to_be_checked()
    confirm.uncheck()
    expect(plan).to_have_attribute("data-verdict", "confirm")
    confirm.check()
    expect(plan).not_to_have_attribute("data-verdict", "confirm")
    ivan.locator("[data-action=apply]").click()

    expect(ivan.locator("#operations [data-countdown]")).to_contain_text("Unloads in")
    going = maria.locator("[data-going]")
    expect(going).to_contain_text("ivan is about to unload your model one", timeout=NEWS_MS)
    going.locator("[data-action=stop-going]").click()
    (stopped,) = [o for o in server.get("/api/v1/operations") if o["model"] == "lab/two"]
    stopped = server.finished(stopped["id"])
    assert (stopped["state"], stopped["cancel_requested_by"]) == ("cancelled", "maria")
    assert stopped["outcome"]["code"] == "nothing_changed"
    expect(row(ivan, "lab/one")).to_have_attribute("data-state", "ready")
    expect(going).to_have_count(0, timeout=NEWS_MS)

    unload = row(ivan, "lab/one").get_by_role("button", name="Unload lab/one")
    expect(unload).to_have_text("Unload")
    unload.click()
    expect(ivan.locator("[data-owner]")).to_contain_text("This model belongs to maria.")
    ivan.locator("[data-action=confirm-unload]").click()
    expect(ivan.locator("#operations [data-countdown]")).to_be_visible()
    expect(row(maria, "lab/one")).to_have_count(0, timeout=LOAD_MS)
    expect(maria.locator("[data-notice]")).to_contain_text("unloaded your model lab/one", timeout=NEWS_MS)
    (unloaded, *_) = server.get("/api/v1/operations?kind=unload")
    maria.goto(f"{server.url}/operations/{unloaded['id']}")
    maria.locator("[data-action=load-again]").click()
    expect(maria.locator("#switch-form select[name=model]")).to_have_value("lab/one")


def test_without_scripts_a_colleagues_model_is_confirmed_by_name_too(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server, _ = shared(start_server, cache, **ROOM_FOR_ONE, undo_s=UNDO_S)
    server.models(2)
    server.load("lab/one")
    ivan = as_person(open_page, server, "ivan", language="en-US", java_script_enabled=False)
    ivan.locator("#switch-form select[name=model]").select_option("lab/two")
    ivan.locator("[data-action=show-plan]").click()
    ivan.get_by_label("Unload one, owned by maria").check()
    ivan.locator("[data-action=show-plan]").click()
    expect(ivan.get_by_label("Unload one, owned by maria")).to_be_checked()
    ivan.locator("[data-action=apply-unseen]").click()
    expect(ivan.locator("#operations [data-countdown]")).to_be_visible()
    ivan.locator("#operations [data-action=cancel]").click()
    (operation, *_) = server.get("/api/v1/operations?kind=switch")
    assert server.finished(operation["id"])["state"] == "cancelled"

    row(ivan, "lab/one").locator("[data-action=unload]").click()
    expect(ivan.locator("[data-owner]")).to_contain_text("This model belongs to maria.")
    expect(row(ivan, "lab/one")).to_have_count(0)
    ivan.locator("[data-action=confirm-unload]").click()
    ivan.locator("#operations [data-action=cancel]").click()
    assert [i["state"] for i in server.status()["instances"]] == ["ready"]


def test_the_enter_key_presses_the_main_button_and_no_other(open_page: Open, tmp_path: Path) -> None:
    controller = FakeController(
        readings=(reading(held=(foreign("maria", "train.py", gib(21)),)),),
        models=(model("lab/large", weights_bytes=gib(132)), model("lab/small")),
    )
    with served(controller, tmp_path) as url:
        page = open_page(url)
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        page.locator("#switch-form select[name=model]").select_option("lab/large")
        expect(page.locator("#main-hint")).to_have_text("Не хватает памяти.")
        page.locator("#max_tokens").press("Enter")
        page.locator("#switch-form select[name=model]").select_option("lab/small")
        expect(page.locator("#main-queue")).to_be_enabled()
        assert sent == []
        page.locator("#max_tokens").press("Enter")
        expect(page.locator("#waiting [data-ticket]")).to_be_visible()
        assert [request.removeprefix(url) for request in sent] == ["tickets"]
        page.goto("about:blank")


HIDE = "Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})"
LOOK_AGAIN = "document.body.dispatchEvent(new Event('warden:refresh'))"


def test_an_owner_hears_of_it_in_a_hidden_tab_too_and_is_not_thought_to_look(open_page: Open, tmp_path: Path) -> None:
    me = current_actor()
    controller = FakeController(instances=(instance("i1", "lab/other", owner=me),))
    with served(controller, tmp_path) as url:
        page = open_page(url)
        title = page.title()
        page.evaluate(HIDE)
        page.evaluate(LOOK_AGAIN)
        controller.changed(running=(going("maria", me),), seen=set())
        expect(page).to_have_title(f"(1) {title}")
        assert controller.seen == set()
        controller.changed(running=())
        page.evaluate(LOOK_AGAIN)
        expect(page).to_have_title(title)
        page.goto("about:blank")


HOLD_A_PLAN = """() => {
    const send = window.fetch;
    window.fetch = async (url, options) => {
        if (!url.includes("/fragments/plan")) return send(url, options);
        window.fetch = send;
        const {status, headers, body} = await send(url).then(async (r) => ({status: r.status, headers: r.headers, body: await r.text()}));
        return new Promise((resolve, reject) => {
            options.signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
            window.answer = () => resolve(new Response(body, {status, headers}));
            document.documentElement.dataset.held = "";
        });
    };
}"""

CLICK_AND_ANSWER = """() => {
    [...document.querySelectorAll("[data-way-out]")].find((way) => way.text.includes("lab/other")).click();
    window.answer();
}"""


def test_a_plan_under_way_does_not_take_back_a_way_out(open_page: Open, tmp_path: Path) -> None:
    own = instance("i1", "lab/other", owner=current_actor())
    controller = FakeController(instances=(own,), readings=(reading(held=(worker("i1", gib(21)),)),))
    with served(controller, tmp_path) as url:
        page = open_page(f"{url}?{urlencode({**FORM, 'keep_others': '1'})}")
        expect(page.locator("[data-way-out]", has_text="Выгрузить lab/other")).to_be_visible()
        page.evaluate(HOLD_A_PLAN)
        page.locator("#max_tokens").fill("2000")
        expect(page.locator("html")).to_have_attribute("data-held", "")
        page.evaluate(CLICK_AND_ANSWER)
        expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "fits")
        expect(page.locator("#unload")).to_have_value("i1")
        page.goto("about:blank")
