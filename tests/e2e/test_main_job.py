"""The main job in a real browser, against the real gunicorn and real models."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.engine.server import WardenServer, wait_for

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

LOAD_MS = 90_000


def choose(page: Page, model: str) -> None:
    page.locator("#switch-form select[name=model]").select_option(model)
    expect(page.locator("#plan-box")).not_to_have_attribute("data-verdict", "refused")


def apply(page: Page) -> None:
    page.locator("[data-action=apply]").click()


def expect_outcome(page: Page, state: str, kind: str = "switch") -> None:
    card = page.locator(f"#operations [data-kind={kind}][data-state={state}]")
    expect(card.first).to_be_visible(timeout=LOAD_MS)


def load(page: Page, model: str) -> None:
    choose(page, model)
    apply(page)
    expect(row(page, model)).to_have_attribute("data-state", "ready", timeout=LOAD_MS)


def row(page: Page, model: str) -> Locator:
    return page.locator(f"#transformers [data-model='{model}']")


@pytest.mark.parametrize("language", ["ru-RU", "en-US"])
def test_from_an_empty_cache_to_an_answer_and_back(
    start_server: Start, open_page: Open, tmp_path: Path, language: str
) -> None:
    """Demo model, Apply, ready, a streamed answer, unload with a receipt."""
    server = start_server(tmp_path / "empty")
    page = open_page(server.url, language=language)
    page.locator("[data-action=demo]").click()
    demo = "warden/demo-tiny-random"
    expect(page.locator("#models")).to_contain_text(demo, timeout=30_000)
    expect(page.locator("#switch-form select[name=model]")).to_contain_text("demo-tiny-random")
    page.locator("#max_tokens").fill("256")  # random weights know no end of their answer
    load(page, demo)
    expect_outcome(page, "succeeded")
    expect(page.locator(".ledger").first).to_be_visible()
    row(page, demo).locator("[data-action=ask]").click()
    dialog = page.locator("#dialog")
    dialog.locator("textarea[name=prompt]").fill("Привет")
    dialog.locator("[data-ask-send]").click()
    expect(dialog.locator("[data-ask-answer]")).to_contain_text(re.compile(r"\w"), timeout=60_000)
    expect(dialog.locator("[data-ask-stop]")).to_be_hidden(timeout=60_000)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    wait_for(lambda: server.instance_of(demo)["in_flight"] == 0, 20, lambda: "the model is still busy")
    row(page, demo).locator("[data-action=unload]").click()
    expect_outcome(page, "succeeded", "unload")
    expect(page.locator("#operations .receipt").first).to_have_attribute("data-ok", "yes")
    expect(row(page, demo)).to_have_count(0)
    assert server.worker_pids() == []


def test_switch_shows_its_steps_to_everybody_and_unloads_the_other(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache)
    first, second = open_page(server.url), open_page(server.url, language="en-US", scheme="dark")
    load(first, "lab/one")
    choose(first, "lab/two")
    expect(first.locator(".plan__unload .plan__model")).to_have_text("one")
    apply(first)
    expect(second.locator("#operations [data-kind=switch][data-state=running]")).to_be_visible(timeout=10_000)
    expect(second.locator("[data-step=launch]")).to_be_visible()
    expect(row(second, "lab/two")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)
    expect(row(second, "lab/one")).to_have_count(0)


def test_the_button_says_what_it_will_do_and_the_plan_never_turns_against_ones_own_load(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    """Nothing chosen, chosen, under way, loaded, and another one in its place; what the plan says on the way is kept."""
    server = start_server(cache)
    page = open_page(server.url, language="en-US")
    button = page.locator("#main-load")
    expect(button).to_be_disabled()
    expect(page.locator("#main-hint")).to_have_text("Choose a model first.")
    choose(page, "lab/one")
    expect(button).to_have_text("Load")
    page.evaluate(
        """() => { window.verdicts = []; new MutationObserver(() => {
            const box = document.getElementById("plan-box");
            if (box) window.verdicts.push(box.dataset.verdict);
        }).observe(document.getElementById("plan"), {subtree: true, childList: true, attributes: true}); }"""
    )
    apply(page)
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "loading", timeout=10_000)
    expect(button).to_be_disabled()
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "loaded", timeout=LOAD_MS)
    expect(button).to_be_disabled()
    assert "refused" not in page.evaluate("window.verdicts")
    choose(page, "lab/two")
    expect(button).to_have_text("Replace one and load")
    expect(button).to_be_enabled()


def test_load_beside_keeps_both(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    page = open_page(server.url)
    load(page, "lab/one")
    page.locator("#keep_others").check()
    load(page, "lab/two")
    expect(row(page, "lab/one")).to_have_attribute("data-state", "ready")


def test_clean_says_what_was_given_back(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    page = open_page(server.url)
    load(page, "lab/one")
    page.locator("[data-action=clean]").click()
    expect_outcome(page, "succeeded", "clean")
    expect(page.locator("#operations .findings li").first).to_contain_text("lab/one")
    expect(row(page, "lab/one")).to_have_attribute("data-state", "ready")


def test_emergency_lists_what_it_ends_and_ends_it(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    page = open_page(server.url)
    load(page, "lab/one")
    page.locator("[data-action=emergency]").click()
    dialog = page.locator("#dialog")
    expect(dialog.locator("[data-list=instances]")).to_contain_text("lab/one")
    dialog.locator("[data-action=confirm-emergency]").click()
    expect_outcome(page, "succeeded", "emergency")
    expect(row(page, "lab/one")).to_have_count(0, timeout=30_000)
    assert server.worker_pids() == []


def test_cancelled_switch_brings_the_old_model_back(
    start_server: Start, open_page: Open, cache: Path, tmp_path: Path
) -> None:
    program = Path(__file__).parents[1] / "engine" / "workers" / "faulty_worker.py"
    never = ["--fault", "slow_load", "--model", "lab/two", "--gate", str(tmp_path / "never")]
    server = start_server(cache, worker_command=shlex.join([sys.executable, str(program), *never]))
    page = open_page(server.url)
    load(page, "lab/one")
    choose(page, "lab/two")
    apply(page)
    expect(page.locator("[data-step=launch][data-state=running]")).to_be_visible(timeout=30_000)
    page.locator("#operations [data-state=running] [data-action=cancel]").click()
    expect_outcome(page, "cancelled")
    expect(row(page, "lab/one")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)
    expect(row(page, "lab/two")).to_have_count(0)


def test_failed_switch_says_why_and_brings_the_old_model_back(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    program = Path(__file__).parents[1] / "engine" / "workers" / "faulty_worker.py"
    worker = shlex.join([sys.executable, str(program), "--fault", "dies_in_load", "--model", "lab/two"])
    server = start_server(cache, worker_command=worker)
    page = open_page(server.url)
    load(page, "lab/one")
    choose(page, "lab/two")
    apply(page)
    expect(page.locator("[data-step=rollback]")).to_be_visible(timeout=LOAD_MS)
    expect_outcome(page, "failed")
    expect(page.locator("#operations [data-operation][data-state=failed]")).to_contain_text("SIGKILL")
    expect(row(page, "lab/one")).to_have_attribute("data-state", "ready", timeout=LOAD_MS)
    expect(row(page, "lab/two")).to_have_count(0)


def test_what_does_not_fit_offers_ways_out_that_fill_the_form(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache, memory_limit_gib=0.5, reserve_mib=0, reserve_percent=0)
    page = open_page(server.url)
    page.locator("#switch-form select[name=model]").select_option("lab/one")
    page.locator("#batch_size").fill("1024")
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", "refused")
    way = page.locator("[data-way-out]").first
    way.click()
    expect(page.locator("#plan-box")).not_to_have_attribute("data-verdict", "refused")


def test_language_switch_stays(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    page = open_page(server.url)
    expect(page.locator("#switch-title")).to_contain_text("Загрузить модель")
    page.get_by_text("EN", exact=True).click()
    expect(page.locator("html")).to_have_attribute("lang", "en")
    page.goto(server.url)
    expect(page.locator("html")).to_have_attribute("lang", "en")
    assert not re.search("[а-яё]", page.locator("#switch").inner_text(), re.IGNORECASE)


def test_page_says_that_the_server_is_gone_and_comes_back(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    page = open_page(server.url)
    port = server.url.rpartition(":")[2]
    server.stop()
    expect(page.locator("#offline")).to_be_visible(timeout=20_000)
    server.environment["WARDEN_PORT"] = port
    server.start()
    expect(page.locator("#offline")).to_be_hidden(timeout=20_000)


def test_everything_works_without_scripts(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    page = open_page(server.url, java_script_enabled=False)
    page.locator("#switch-form select[name=model]").select_option("lab/one")
    page.locator("#max_tokens").fill("64")  # without scripts the answer is waited for as a whole
    expect(page.locator("[data-action=apply]")).to_be_hidden()
    page.locator("[data-action=apply-unseen]").click()
    (operation,) = server.get("/api/v1/operations?limit=1")
    server.finished(operation["id"])
    page.goto(server.url)
    row(page, "lab/one").locator("[data-action=ask]").click()
    page.locator("textarea[name=prompt]").fill("Hello")
    page.locator("[data-ask-send]").click()
    expect(page.locator("[data-ask-answer]")).to_be_visible(timeout=60_000)
    page.goto(server.url)
    page.locator("[data-action=emergency]").click()
    page.locator("[data-action=confirm-emergency]").click()
    expect(page.locator("#live")).to_be_visible()


def test_page_fits_every_width_in_both_schemes_and_languages(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache)
    for width, scheme, language in product((390, 1440), ("light", "dark"), ("ru-RU", "en-US")):
        page = open_page(server.url, language=language, scheme=scheme, width=width)
        expect(page.locator("#plan-empty")).to_be_visible()
        page.locator("#switch-form select[name=model]").select_option("lab/one")
        expect(page.locator("#plan-box")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (width, scheme, language)
