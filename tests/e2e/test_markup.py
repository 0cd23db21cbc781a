"""HTML and JavaScript in every name, reason, line and answer are shown as text, in a real browser, and run nowhere."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Dialog, Page, Request, expect

from tests.e2e.states import served, serving
from tests.web.fakes import FakeController, FakeTimeline, container, foreign, instance, model, reading
from tests.web.people import PASSWORD, made_lab
from tests.web.timelines import at, user
from tests.web.timelines import model as model_in_time
from webapp.domain.instance import InstanceState
from webapp.domain.lease import Lease, Notice
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, Step, StepName, StepState
from webapp.domain.people import Role
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.timeline import TimelineEvent
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.actor import current_actor

Open = Callable[..., Page]

EVIL = (
    """<img src=/pwned onerror="window.pwned=1;alert(1)"><script>window.pwned=1</script>"'><svg onload=alert(1)>"""
    "{{7*7}}${7*7}</textarea></title>"
)
RAN = """() => [
    window.pwned, document.querySelector("img[src='/pwned'], svg[onload], script:not([src]), [onerror]")?.outerHTML,
].filter(Boolean)"""


def hostile() -> FakeController:
    """A state in which everything that has a name is called so."""
    now, me = time.time(), current_actor()
    said = Message("launch_failed", {"model": EVIL, "detail": EVIL, "log": EVIL})
    steps = (
        Step(StepName.PLAN, StepState.DONE, now - 20, now - 19),
        Step(StepName.LAUNCH, StepState.RUNNING, now - 19, progress=0.4, message=said),
    )
    running = Operation("op1", OperationKind.SWITCH, EVIL, OperationState.RUNNING, now - 20, steps, model_id=EVIL)
    failed = replace(running, id="op2", state=OperationState.FAILED, ended_at=now, error=said, outcome=said)
    asked = Lease(until=now + 900, reason=EVIL).asked_by(EVIL, EVIL, now)
    ticket = QueuedLaunch("t1", 1, SwitchRequest(Mode.TRANSFORMERS, EVIL, reason=EVIL), EVIL, now - 60)
    made = FakeController(
        readings=(reading(name=EVIL, held=(foreign(EVIL, EVIL, gib(2)),), problem=said),),
        models=(model(EVIL), model("lab/broken", problem=Message("model_broken_config", {"detail": EVIL}))),
        models_problem=Message("cache_unreadable", {"path": EVIL, "detail": EVIL}),
        instances=(
            instance("i1", EVIL, owner=me, lease=asked),
            instance("i2", EVIL, owner=EVIL, state=InstanceState.DEAD, problem=said, lease=Lease(reason=EVIL)),
        ),
        containers=(container(name=EVIL, image=EVIL, owner=EVIL, model=EVIL, ports=(EVIL,)),),
        running=(running,),
        recent=(failed,),
        waiting=(QueueEntry(ticket, 1, Message("waits_in_use", {"model": EVIL, "owner": EVIL, "in_flight": 3})),),
        notices=(Notice(1, me, now, Message("release_kept", {"model": EVIL, "owner": EVIL, "word": EVIL})),),
        log=(EVIL, f"\x1b[31m{EVIL}\x1b[0m", "</pre>" + EVIL),
        pieces=(EVIL[:40], EVIL[40:]),
        mode_problems={
            Mode.TRANSFORMERS: None,
            Mode.VLLM: Message("engine_unreachable", {"socket": EVIL, "detail": EVIL}),
        },
    )
    made.changed()
    return made


def past() -> FakeTimeline:
    now = time.time()
    held = {model_in_time(EVIL): 4.0, user(EVIL): 2.0}
    event = TimelineEvent(
        "op2", OperationKind.SWITCH, OperationState.FAILED, EVIL, now - 60, "transformers", EVIL, (EVIL,), ("gpu-0",)
    )
    return FakeTimeline(
        points={"gpu-0": tuple(at(now - 10 * n, held) for n in range(60, 0, -1))}, events=(event,), now=now
    )


def watched(page: Page) -> list[str]:
    """Collect what shows that something ran or was fetched; the fixture of the page collects violations of the policy."""
    found: list[str] = []

    def note_dialog(dialog: Dialog) -> None:
        found.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def note_request(request: Request) -> None:
        if urlsplit(request.url).path == "/pwned":
            found.append(request.url)

    page.on("dialog", note_dialog)
    page.on("request", note_request)
    return found


@pytest.mark.parametrize("scripts", [True, False])
def test_what_somebody_put_into_a_name_is_text_on_every_page(open_page: Open, tmp_path: Path, scripts: bool) -> None:
    with served(hostile(), tmp_path, past()) as url:
        page = open_page(url, java_script_enabled=scripts)
        found = watched(page)
        shown = set()
        for path in (
            "",
            "instances/i1/ask",
            "instances/i1/log",
            "instances/i2/log",
            "confirm/unload/i1",
            "confirm/unload/i2",
            "confirm/emergency",
            f"confirm/container/{container().id}",
            "history",
            "operations/op1",
            "operations/op2",
            "timeline",
            "timeline/table",
            "selftest",
            "?model=%3Cscript%3Ealert(1)%3C/script%3E&device=%3Csvg%20onload=alert(1)%3E&reason=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
            "%3Cscript%3Ealert(1)%3C/script%3E",
            "history?model=%3Csvg%20onload=alert(1)%3E&actor=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        ):
            page.goto(url + path)
            if EVIL[:40] in page.locator("body").inner_text():
                shown.add(path)
            if scripts:
                assert page.evaluate(RAN) == [], path
        page.goto("about:blank")
    assert found == []
    assert {"", "instances/i1/log", "history", "operations/op2", "confirm/emergency"} <= shown


def test_a_prompt_and_an_answer_are_text_as_they_come_and_afterwards(open_page: Open, tmp_path: Path) -> None:
    with served(hostile(), tmp_path) as url:
        for scripts in (True, False):
            page = open_page(f"{url}instances/i1/ask", java_script_enabled=scripts)
            found = watched(page)
            page.locator("textarea[name=prompt]").fill(EVIL)
            page.locator("[data-ask-send]").click()
            expect(page.locator("[data-ask-answer]")).to_contain_text(EVIL[:60])
            if scripts:
                assert page.evaluate(RAN) == []
            page.goto("about:blank")
            assert found == []


def test_a_line_of_news_is_text_too(open_page: Open, tmp_path: Path) -> None:
    """By the poll, by an answer to a button, and in a dialog: the parts that htmx puts in."""
    controller = hostile()
    with served(controller, tmp_path) as url:
        page = open_page(url)
        found = watched(page)
        for number in range(2):
            with page.expect_response("**/fragments/live*"):
                controller.changed(log=(f"{EVIL}{number}",))
        page.locator("[data-action=unload]").first.click()
        page.locator("[data-action=clean]").first.click(force=True)
        expect(page.locator("#say")).not_to_be_empty()
        assert page.evaluate(RAN) == []
        page.goto("about:blank")
    assert found == []


def test_what_people_are_called_and_call_things_is_text(open_page: Open, tmp_path: Path) -> None:
    """A name may hold nothing but plain letters; a token's label and what a browser says of itself may hold anything."""
    with made_lab(tmp_path) as lab, serving(lab.app) as url:
        lab.clock.now = time.time()
        lab.accounts.add_token(lab.accounts.person("anna"), EVIL[:60], Role.OPERATOR, None)
        page = open_page(f"{url}sign-in", user_agent=EVIL)
        found = watched(page)
        page.locator("[name=name]").fill(EVIL)
        page.locator("[name=password]").fill(EVIL)
        page.locator("[data-action=sign-in]").click()
        expect(page.locator("[name=name]")).to_have_value(re.compile("^" + re.escape(EVIL[:60])))
        page.locator("[name=name]").fill("anna")
        page.locator("[name=password]").fill(PASSWORD)
        page.locator("[data-action=sign-in]").click()
        for path in ("account", "people", "sign-in?next=//evil.example", "invitation?key=%22%3E%3Cscript%3E"):
            page.goto(url + path)
            assert page.evaluate(RAN) == []
        page.goto("about:blank")
    assert found == []
