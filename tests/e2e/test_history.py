"""The history and the help at an error in a real browser, against the real server and real models."""

from __future__ import annotations

import re
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, expect

from tests.e2e.conftest import POLL_S
from tests.e2e.states import LONG, served
from tests.e2e.test_states import look
from tests.engine import axe
from tests.engine.engine_fixtures import need
from tests.engine.server import WardenServer
from tests.web.fakes import FakeController
from webapp.domain.operation import (
    Finding,
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    Receipt,
    Step,
    StepName,
    StepState,
)
from webapp.domain.units import gib
from webapp.message import Message

Start = Callable[..., WardenServer]
Open = Callable[..., Page]

LOAD_MS = 90_000


def told() -> FakeController:
    """One operation that runs and one of each trouble, with everything in them that a page can show, and names without an end."""
    now = time.time()
    steps = tuple(
        Step(StepName.LAUNCH, state, now - 30, now - 20, Message("settle_slow"), 0.4)
        for state in StepState
        if state is not StepState.RUNNING
    )
    held = HeldBy(4242, "alice", f"python train.py --config /home/{LONG}.yaml", gib(2.8), "D")
    receipt = Receipt("gpu-0", gib(4), gib(1.2), None, 30.0, settled=False, still_held_by=(held,), model_id=LONG)
    ended = Operation(
        "memory",
        OperationKind.SWITCH,
        "maria",
        OperationState.FAILED,
        now - 60,
        steps,
        now,
        "vllm",
        LONG,
        "i9",
        ("gpu-0",),
    )
    ended = replace(ended, evicted=(LONG,), receipts=(receipt,), findings=(Finding(Message("x"), ok=False),))
    codes = {"memory": "out_of_memory", "launch": "worker_died", "stop": "stop_failed"}
    params = {"model": LONG, "log": "INFO a line\n" * 40}
    failed = (replace(ended, id=name, error=Message(code, params)) for name, code in codes.items())
    running = replace(
        ended, id="running", state=OperationState.RUNNING, ended_at=None, steps=(Step(StepName.READY), *steps)
    )
    return FakeController(running=(running,), recent=tuple(failed))


def faulty(fault: str) -> str:
    """The command of workers of which the one for ``lab/two`` fails."""
    program = Path(__file__).parents[1] / "engine" / "workers" / "faulty_worker.py"
    return shlex.join([sys.executable, str(program), "--fault", fault, "--model", "lab/two"])


def requests_of(page: Page) -> list[Request]:
    """What the page asks for from now on, but for what every page asks: whether somebody has told its person something."""
    seen: list[Request] = []

    def note(request: Request) -> None:
        if "/fragments/notices" not in request.url:
            seen.append(request)

    page.on("request", note)
    return seen


def test_a_failed_switch_is_read_while_it_runs_and_after_and_helps_itself(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache, worker_command=faulty("dies_in_load"))
    assert server.load("lab/one")["state"] == "succeeded"
    page = open_page(server.url, language="en-US")
    operation = server.switch("lab/two")
    card = page.locator(f"#operations [data-operation='{operation['id']}']")
    card.locator("[data-action=operation]").click()
    told = page.locator("#operation")
    expect(told).to_have_attribute("data-state", "running")
    expect(page.locator("#operation-poll")).to_have_attribute("hx-trigger", re.compile("every"))
    expect(told).to_have_attribute("data-state", "failed", timeout=LOAD_MS)
    expect(page.locator("[data-sentence]")).to_contain_text("SIGKILL")
    expect(page.locator("[data-step=launch]")).to_have_attribute("data-state", "failed")
    expect(page.locator("[data-step=rollback]")).to_have_attribute("data-state", "done")
    expect(page.locator("[data-receipt]").first).to_have_attribute("data-ok", "yes")
    expect(page.locator("#say")).to_contain_text("SIGKILL")
    expect(page.locator("[data-trouble=launch] [data-way]")).to_have_count(4)
    seen = requests_of(page)
    page.wait_for_timeout(3 * 1000 * POLL_S)  # three polls long: an ended operation asks for nothing
    assert [request.url for request in seen] == []
    page.locator("[data-action=trouble-memory]").click()
    expect(page.locator("#memory")).to_be_in_viewport()
    page.locator(f"#recent-{operation['id']} [data-action=operation]").click()
    page.locator("[data-action=trouble-emergency]").click()
    expect(page.locator("[data-confirm=emergency]")).to_contain_text("lab/one")


def test_what_is_refused_for_memory_is_offered_only_what_would_help(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    """Warden itself holds nothing here, so neither a clean-up nor an emergency would make room."""
    server = start_server(cache, memory_limit_gib=0.5, reserve_mib=0, reserve_percent=0)
    page = open_page(server.url)
    page.locator("#switch-form select[name=model]").select_option("lab/one")
    page.locator("#batch_size").fill("1024")
    plan = page.locator("#plan-box")
    expect(plan).to_have_attribute("data-verdict", "refused")
    expect(plan.locator("[data-way-out]").first).to_be_visible()
    expect(plan.locator("[data-action=trouble-clean], [data-action=trouble-emergency]")).to_have_count(0)
    expect(page.locator("#main-load")).to_be_disabled()


def test_the_history_is_filtered_in_place_and_without_scripts(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache)
    server.load("lab/one")
    server.finished(server.post("/api/v1/clean").json()["id"])
    page = open_page(server.url)
    page.locator(".nav a").nth(1).click()
    rows = page.locator("#history [data-operation]")
    expect(rows).to_have_count(2)
    page.locator("select[name=kind]").focus()
    page.locator("select[name=kind]").select_option("clean")
    expect(rows).to_have_count(1)
    expect(page.locator("select[name=kind]")).to_be_focused()
    page.locator("select[name=model]").select_option("lab/one")
    expect(page.locator("[data-empty=filtered]")).to_be_visible()
    page.locator("[data-action=clear-filter]").click()
    expect(rows).to_have_count(2)
    plain = open_page(f"{server.url}/history", java_script_enabled=False)
    plain.locator("select[name=kind]").select_option("switch")
    plain.locator("[data-action=filter]").click()
    expect(plain.locator("#history [data-operation]")).to_have_count(1)
    plain.locator("#history a", has_text="one").click()
    expect(plain.locator("#operation")).to_have_attribute("data-state", "succeeded")


def test_what_runs_is_followed_in_the_list_and_cancelled_on_its_page(
    start_server: Start, open_page: Open, cache: Path
) -> None:
    server = start_server(cache, worker_command=faulty("hangs_in_load"))
    operation = server.switch("lab/two")
    history = open_page(f"{server.url}/history")
    row = history.locator(f"#history-{operation['id']}")
    expect(row).to_have_attribute("data-state", "running")
    page = open_page(f"{server.url}/operations/{operation['id']}")
    page.locator("[data-action=cancel]").click()
    expect(page.locator("#operation")).to_have_attribute("data-state", "cancelled", timeout=LOAD_MS)
    expect(row).to_have_attribute("data-state", "cancelled")
    expect(history.locator("#history-poll")).to_have_count(0)
    seen = requests_of(history)
    history.wait_for_timeout(3 * 1000 * POLL_S)
    assert [request.url for request in seen] == []


@pytest.mark.parametrize("language", ["ru-RU", "en-US"])
@pytest.mark.parametrize(
    "path",
    [
        "history",
        "history?actor=nobody",
        *(f"operations/{name}" for name in ("running", "memory", "launch", "stop", "no")),
    ],
)
def test_page_is_whole_everywhere(path: str, language: str, open_page: Open, tmp_path: Path) -> None:
    need(axe.why_missing())
    name = re.sub(r"\W", "-", path)
    with served(told(), tmp_path) as url:
        page = open_page(f"{url.rstrip('/')}/{path}", language=language, reduced_motion="reduce")
        problems = [line for scheme in ("light", "dark") for line in look(page, name, language, scheme)]
        page.goto("about:blank")
    assert problems == []


def test_the_pause_after_a_failed_load_is_ended_by_a_click(start_server: Start, open_page: Open, cache: Path) -> None:
    server = start_server(cache, worker_command=faulty("dies_in_load"), cooldown_s=200)
    server.finished(server.switch("lab/two")["id"])
    page = open_page(server.url, language="en-US")
    page.locator("#switch-form select[name=model]").select_option("lab/two")
    expect(page.locator("[data-refusal]")).to_contain_text("has just failed to load")
    page.locator("#max_tokens").fill("300")
    page.locator("[data-action=end-pause]").click()
    expect(page.locator("#say")).to_contain_text("Model lab/two can be loaded again.")
    expect(page.locator("[data-action=end-pause]")).to_have_count(0)
    expect(page.locator("[data-action=apply]")).to_be_enabled()
    expect(page.locator("#max_tokens")).to_have_value("300")
