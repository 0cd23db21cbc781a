"""vLLM mode in a real browser: the real vLLM on the CPU, in containers of a real engine, next to real Transformers
models.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.engine.dockerd import PrivateEngine
from tests.engine.engine_fixtures import engine_settings
from tests.engine.images import STANDIN
from tests.engine.models import make_model
from tests.engine.server import WardenServer, wait_for

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

START_MS = 120_000
SHOTS = Path(__file__).parents[2] / "build" / "shots"
"""A picture of each stage, kept for whoever wants to look."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two tiny models with attention heads that vLLM's CPU kernels take (64 wide)."""
    folder = tmp_path / "cache"
    for number, name in enumerate(("lab/one", "lab/two")):
        make_model(folder, name, seed=number, hidden=256, heads=4, kv_heads=2, intermediate=256)
    return folder


@pytest.fixture(autouse=True)
def nothing_stays(engine: PrivateEngine) -> Iterator[None]:
    """No test leaves a container."""
    yield
    assert engine.containers() == []


def choose(page: Page, mode: str, model: str) -> None:
    page.locator(f"#switch-form input[name=mode][value={mode}]").check(force=True)
    page.locator("#switch-form select[name=model]").select_option(model)
    page.locator("#max_tokens").fill("256")
    expect(page.locator("#plan-box")).to_have_attribute("data-verdict", re.compile("fits|tight"))


def apply(page: Page, mode: str, model: str) -> None:
    choose(page, mode, model)
    page.locator("[data-action=apply]").click()


def row(page: Page, mode: str, model: str) -> Locator:
    return page.locator(f"#{mode} [data-instance][data-model='{model}']")


def expect_ready(page: Page, mode: str, model: str) -> None:
    expect(row(page, mode, model)).to_have_attribute("data-state", "ready", timeout=START_MS)


def shot(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"vllm-{name}.png", full_page=True)


def test_from_transformers_to_vllm_and_back_on_one_form(
    start_server: Start, open_page: Open, cache: Path, real_vllm: dict[str, object], engine: PrivateEngine
) -> None:
    server = start_server(cache, **real_vllm)
    page = open_page(server.url)
    apply(page, "transformers", "lab/one")
    expect_ready(page, "transformers", "lab/one")
    shot(page, "1-transformers")

    choose(page, "vllm", "lab/two")
    expect(page.locator(".plan__unload .plan__model")).to_have_text("one")
    shot(page, "2-plan")
    page.locator("[data-action=apply]").click()
    expect(row(page, "vllm", "lab/two")).to_be_visible(timeout=30_000)
    launch = page.locator("#operations [data-step=launch]")
    expect(launch).to_have_attribute("data-state", "running", timeout=30_000)
    shot(page, "3-starting")
    log = page.context.new_page()
    log.goto(f"{server.url}/instances/{server.instance_of('lab/two')['id']}/log")
    expect(log.locator("#log")).to_contain_text("version 0.32.0", timeout=START_MS)
    expect_ready(page, "vllm", "lab/two")
    expect(row(page, "transformers", "lab/one")).to_have_count(0)
    expect(log.locator("#log")).to_contain_text("KV cache size", timeout=10_000)
    shot(log, "4-log")
    log.locator("[data-log-pause]").click()
    log.wait_for_load_state("networkidle")
    log.close()
    shot(page, "5-ready")

    row(page, "vllm", "lab/two").locator("[data-action=ask]").click()
    dialog = page.locator("#dialog")
    dialog.locator("textarea[name=prompt]").fill("Привет")
    dialog.locator("[data-ask-send]").click()
    expect(dialog.locator("[data-ask-answer]")).to_contain_text(re.compile(r"\S"), timeout=60_000)
    expect(dialog.locator("[data-ask-stop]")).to_be_hidden(timeout=60_000)
    shot(page, "6-answer")
    page.keyboard.press("Escape")
    wait_for(
        lambda: not server.instance_of("lab/two")["in_flight"], 10, lambda: "the answer has ended and still counts"
    )

    held = server.instance_of("lab/two")["measured_bytes"]
    apply(page, "transformers", "lab/one")
    expect_ready(page, "transformers", "lab/one")
    expect(page.locator("#vllm [data-instance]")).to_have_count(0)
    expect(page.locator("#operations .receipt").first).to_have_attribute("data-ok", "yes")
    shot(page, "7-back")
    (receipt,) = server.get("/api/v1/operations?limit=1")[0]["receipts"]
    assert abs(receipt["freed_bytes"] - receipt["expected_bytes"]) < 0.1 * receipt["expected_bytes"]
    assert abs(receipt["expected_bytes"] - held) < 0.2 * held
    assert engine.containers() == []


def test_vllm_that_cannot_start_brings_the_old_model_back(
    start_server: Start, open_page: Open, cache: Path, real_vllm: dict[str, object]
) -> None:
    server = start_server(cache, **{**real_vllm, "vllm_args": "--enforce-eager --no-such-flag"})
    page = open_page(server.url)
    apply(page, "transformers", "lab/one")
    expect_ready(page, "transformers", "lab/one")
    apply(page, "vllm", "lab/two")
    failed = page.locator("#operations [data-kind=switch][data-state=failed]")
    expect(failed).to_contain_text("--no-such-flag", timeout=START_MS)
    expect_ready(page, "transformers", "lab/one")
    expect(page.locator("#vllm [data-instance]")).to_have_count(0)
    shot(page, "8-failed")
    operation = server.get("/api/v1/operations?limit=1")[0]
    assert operation["error"]["code"] == "argument_rejected"


def test_start_that_is_cancelled_leaves_nothing(
    start_server: Start, open_page: Open, cache: Path, real_vllm: dict[str, object], engine: PrivateEngine
) -> None:
    server = start_server(cache, **real_vllm)
    page = open_page(server.url)
    apply(page, "vllm", "lab/two")
    wait_for(engine.containers, 30, lambda: "no container was started")
    page.locator("#operations [data-state=running] [data-action=cancel]").click()
    expect(page.locator("#operations [data-kind=switch][data-state=cancelled]")).to_be_visible(timeout=30_000)
    assert engine.containers() == []


def test_killed_while_vllm_starts_the_next_start_removes_what_was_half_done(
    start_server: Start, cache: Path, real_vllm: dict[str, object], engine: PrivateEngine
) -> None:
    server = start_server(cache, **real_vllm)
    server.models(2)
    operation = server.switch("lab/two", mode="vllm", options={"max_tokens": 256, "batch_size": 1})
    wait_for(lambda: engine.containers(running=True), 30, lambda: "no container was started")
    server.kill()
    assert engine.containers(running=True)
    server.start()
    assert server.get(f"/api/v1/operations/{operation['id']}")["state"] == "abandoned"
    assert server.status()["instances"] == []
    assert engine.containers() == []


def test_somebody_elses_container_is_stopped_only_by_its_name(
    start_server: Start, open_page: Open, cache: Path, engine: PrivateEngine
) -> None:
    theirs = engine.cli(
        "run", "--detach", "--init", "--name", "annas-model", f"--volume={cache}:/hf-cache:ro", STANDIN, "/hf-cache"
    )
    server = start_server(cache, **engine_settings(engine))
    page = open_page(server.url)
    foreign = page.locator(f"#vllm [data-container='{theirs}']")
    expect(foreign).to_contain_text("annas-model", timeout=15_000)
    foreign.locator("[data-action=stop-container]").click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text("annas-model")
    dialog.locator("input[name=name]").fill("annas-modell")
    dialog.locator("[data-action=confirm-stop-container]").click()
    expect(dialog).to_be_visible()
    assert engine.containers(running=True) == [theirs]
    dialog.locator("input[name=name]").fill("annas-model")
    shot(page, "9-foreign")
    dialog.locator("[data-action=confirm-stop-container]").click()
    expect(page.locator("#operations [data-kind=stop_container]")).to_be_visible(timeout=15_000)
    expect(foreign).to_have_count(0, timeout=20_000)
    assert engine.containers(running=True) == []
    assert engine.containers() == [theirs], "its log and files are its owner's"
    engine.remove_everything()
