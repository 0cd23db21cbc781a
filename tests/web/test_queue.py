"""Waiting for room, on the page without scripts, for HTMX and as JSON, in both languages."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.conftest import FORM, HTMX, MODEL, Visitor
from tests.web.fakes import FakeController, instance, model, reading
from webapp.domain.lease import Lease
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.queue import QueuedLaunch, QueueEntry, QueueState
from webapp.domain.units import gib
from webapp.errors import AlreadyWaiting, QueueFull
from webapp.message import Message

BODY = {"mode": "transformers", "model": MODEL.id}
OFFER = 'data-action="wait-start"'


def wait_for(controller: FakeController, actor: str = "maria", **changes: object) -> QueuedLaunch:
    """Queue a launch; return it as queued, with some of its values changed."""
    request = SwitchRequest(mode=instance().mode, model_id=MODEL.id, devices=("gpu-0",))
    queued = controller.enqueue(request, actor, starts_by_itself=True)
    changed = replace(queued, launch=replace(queued.launch, **changes))  # type: ignore[arg-type]
    if changed.launch.state is not QueueState.WAITING:
        changed = replace(changed, why=None)
    controller.changed(waiting=(*controller.waiting[:-1], changed), calls=[])
    return changed.launch


def region(page: str) -> str:
    """The region of the waiting requests; empty where there is none."""
    found = re.search(r'<section class="card" id="waiting".*?</section>', page, re.DOTALL)
    return "" if found is None else html.unescape(found[0])


# The offer


def test_it_is_offered_where_waiting_may_help(visitor: Visitor, controller: FakeController) -> None:
    assert OFFER not in visitor.get("/", query_string=FORM).text
    controller.changed(readings=(reading(free_bytes=gib(2)),))
    assert OFFER in visitor.get("/", query_string=FORM).text
    controller.changed(instances=(instance("i1", "lab/other", in_flight=2),))
    assert OFFER in visitor.get("/", query_string=FORM).text
    controller.changed(readings=(reading(),), instances=(), claims={"gpu-0": "op1"})
    assert OFFER in visitor.get("/", query_string=FORM).text


def test_it_is_not_offered_where_waiting_would_be_in_vain(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(models=(model(weights_bytes=gib(60)),))
    assert OFFER not in visitor.get("/", query_string=FORM).text
    controller.changed(models=(MODEL,), stale=True)
    assert OFFER not in visitor.get("/", query_string=FORM).text


def test_it_is_offered_exactly_where_the_server_takes_it(visitor: Visitor, controller: FakeController) -> None:
    """What the driver keeps is never free; several GPUs hold together what none holds alone."""

    def answers(device: str) -> tuple[bool, int]:
        form = {**FORM, "device": device}
        return OFFER in visitor.get("/", query_string=form).text, visitor.post("/tickets", form).status_code

    reserved: dict[str, Any] = {"reserved_bytes": gib(6), "free_bytes": gib(2)}
    controller.changed(models=(model(weights_bytes=gib(19)),), readings=(reading(**reserved),))
    assert answers("gpu-0") == (False, 409)
    controller.changed(models=(model(weights_bytes=gib(30)),))
    controller.changed(readings=tuple(reading(f"gpu-{n}", free_bytes=gib(2)) for n in range(2)))
    assert answers("auto") == (True, 303)


@pytest.mark.usefixtures("full")
def test_enter_key_still_applies_the_form(visitor: Visitor) -> None:
    """The first button of a form is the one that the Enter key presses, of those that send it; without scripts that is
    the plan's.
    """
    page = visitor.get("/", query_string=FORM).text
    form = page[page.index('id="switch-form"') :]
    own = [
        tag
        for tag in re.findall(r"<button[^>]*>", form[: form.index("</form>")])
        if not re.search(r' (?:form=|type="button")', tag)
    ]
    names = [found[1] for tag in own if (found := re.search(r'data-action="([\w-]+)"', tag))]
    assert names == ["show-plan", "apply-unseen", "wait-start", "wait-tell"]


def test_who_acts_now_is_told_who_waits_there(visitor: Visitor, full: FakeController) -> None:
    wait_for(full, "ivan")
    assert "В очереди на это устройство" not in visitor.get("/", query_string=FORM).text
    full.changed(readings=(reading(),))
    assert (
        "В очереди на это устройство уже стоит пользователь ivan (Qwen3-1.7B)."
        in visitor.get("/", query_string=FORM).text
    )


# Taking a ticket


@pytest.mark.parametrize(("then", "by_itself"), [("start", True), ("tell", False)])
def test_form_takes_a_ticket_for_what_it_says(
    visitor: Visitor, full: FakeController, then: str, by_itself: bool
) -> None:
    answer = visitor.post("/tickets", {**FORM, "max_tokens": "1024", "keep_others": "1", "then": then})
    assert (answer.status_code, answer.location) == (303, "/")
    ((call, _, request, starts),) = full.calls
    assert isinstance(request, SwitchRequest)
    assert (call, starts, request.keep_others, request.devices) == ("take_ticket", by_itself, True, ("gpu-0",))
    assert request.options.max_tokens == 1024
    assert "в очереди, место 1" in visitor.get("/").text


def test_htmx_is_answered_with_a_sentence_and_a_refresh(visitor: Visitor, full: FakeController) -> None:
    answer = visitor.post("/tickets", {**FORM, "then": "start"}, headers=HTMX)
    assert (answer.status_code, "warden:refresh" in answer.headers["HX-Trigger"]) == (202, True)
    assert "Запустится автоматически" in answer.text
    full.refusal = QueueFull(limit=8)
    refused = visitor.post("/tickets", FORM, headers=HTMX)
    assert (refused.status_code, "Очередь заполнена (8)" in refused.text) == (409, True)


def test_second_click_is_told_its_place(visitor: Visitor, full: FakeController) -> None:
    full.refusal = AlreadyWaiting(ticket="t1", model=MODEL.id, place=2)
    answer = visitor.post("/tickets", FORM, headers=HTMX)
    assert (answer.status_code, "место 2" in answer.text) == (202, True)


def test_refusal_keeps_what_was_typed(visitor: Visitor, full: FakeController) -> None:
    full.changed(models=(model(weights_bytes=gib(60)),))
    answer = visitor.post("/tickets", {**FORM, "max_tokens": "777"})
    assert answer.status_code == 409
    assert "Ожидание не поможет" in answer.text
    assert 'value="777"' in answer.text


def test_ticket_needs_the_forms_token(visitor: Visitor, full: FakeController) -> None:
    assert visitor.client.post("/tickets", data=FORM).status_code == 400
    assert full.calls == []


# The region


def test_there_is_no_region_while_nobody_waits(visitor: Visitor) -> None:
    assert region(visitor.get("/").text) == ""


def test_it_says_place_person_and_what_lacks_in_figures(visitor: Visitor, full: FakeController) -> None:
    wait_for(full)
    wait_for(full, "ivan")
    shown = region(visitor.get("/").text)
    assert re.search(r"недостаёт \d,\d\u00a0GiB\. Нужно \d,\d\u00a0GiB и запас", shown)
    assert "Впереди maria: Qwen3-1.7B." in shown
    assert [int(n) for n in re.findall(r"Место в очереди </span>(\d)", shown)] == [1, 2]
    assert "запустится автоматически" in shown
    assert visitor.get("/fragments/live").text.count('data-action="ticket-cancel"') == 2


def test_what_has_room_and_is_behind_somebody_says_so(visitor: Visitor, full: FakeController) -> None:
    first = wait_for(full)
    second = wait_for(full, "ivan")
    full.changed(waiting=(full.waiting[0], QueueEntry(second, 2, None, first)))
    assert "раньше встал пользователь maria (Qwen3-1.7B)" in region(visitor.get("/").text)


def test_what_fits_now_has_a_button_and_news_for_the_browser(visitor: Visitor, full: FakeController) -> None:
    wait_for(full, state=QueueState.READY, told_at=time.time(), starts_by_itself=False)
    shown = region(visitor.get("/").text)
    assert "Теперь помещается, можно запускать." in shown
    assert 'data-news="Qwen3-1.7B теперь помещается, можно запускать." data-news-key="t1-ready"' in shown
    assert 'data-action="ticket-start"' in shown


def test_what_an_emergency_has_paused_says_whose_and_can_go_on(visitor: Visitor, full: FakeController) -> None:
    wait_for(full, paused_by="ivan")
    shown = region(visitor.get("/").text)
    assert "экстренную очистку запустил пользователь ivan" in shown
    assert visitor.post("/tickets/t1/resume").status_code == 303
    assert full.calls[-1][0] == "resume_ticket"


@pytest.mark.usefixtures("full")
def test_emergency_says_beforehand_that_it_pauses_what_waits(visitor: Visitor, controller: FakeController) -> None:
    assert 'data-list="tickets"' not in visitor.get("/confirm/emergency").text
    wait_for(controller)
    wait_for(controller, "ivan")
    assert "2 модели в очереди будут приостановлены" in visitor.get("/confirm/emergency").text


def test_one_that_waited_in_vain_stays_for_a_while_with_the_reason(
    visitor: Visitor, controller: FakeController
) -> None:
    request = SwitchRequest(instance().mode, MODEL.id)
    why = Message("ticket_waited_long", {"seconds": 86400.0})
    ended = QueuedLaunch("t9", 9, request, "maria", 0.0, state=QueueState.EXPIRED, ended_at=time.time(), outcome=why)
    controller.changed(waited=(ended, replace(ended, id="t8", ended_at=time.time() - 3600)))
    shown = region(visitor.get("/").text)
    assert "место не освободилось" in shown
    assert re.findall(r'data-ticket="(\w+)"', shown) == ["t9"]


def test_one_whose_model_somebody_else_loaded_says_so(visitor: Visitor, controller: FakeController) -> None:
    why = Message("ticket_satisfied", {"model": MODEL.id, "owner": "ivan"})
    asked = SwitchRequest(instance().mode, MODEL.id)
    ended = QueuedLaunch("t9", 9, asked, "maria", 0.0, state=QueueState.STARTED, ended_at=time.time(), outcome=why)
    controller.changed(waited=(ended, replace(ended, id="t8", outcome=None)))
    shown = region(visitor.get("/").text)
    assert re.findall(r'data-ticket="(\w+)"', shown) == ["t9"]
    assert "✅" in shown
    assert "уже загружена, владелец ivan" in shown
    assert "не загружена" not in shown


@pytest.mark.parametrize("state", [QueueState.WAITING, QueueState.READY, QueueState.STARTING])
def test_english_has_no_russian_left(app: Flask, full: FakeController, state: QueueState) -> None:
    wait_for(full)
    wait_for(full, "ivan", state=state, paused_by="maria")
    client = app.test_client()
    page = client.get("/", query_string=FORM, headers={"Accept-Language": "en"}).text
    shown = region(page)
    assert "Queue" in shown
    offer = page[page.index('<div class="wait"') : page.index("</form>", page.index('<div class="wait"'))]
    assert not re.search("[а-яё]", shown + offer, re.IGNORECASE)


def test_names_are_shown_as_text(visitor: Visitor, full: FakeController) -> None:
    wait_for(full, "<b>eve</b>")
    page = visitor.get("/").text
    assert "<b>eve" not in page
    assert "&lt;b&gt;eve" in page


# Actions on a ticket


@pytest.mark.parametrize("action", ["cancel", "resume", "start"])
def test_actions_reach_the_controller(visitor: Visitor, full: FakeController, action: str) -> None:
    wait_for(full)
    full.changed(readings=(reading(),))
    answer = visitor.post(f"/tickets/t1/{action}")
    assert (answer.status_code, answer.location) == (303, "/")
    assert full.calls[0][::2] == (f"{action}_ticket", "t1")
    assert visitor.post(f"/tickets/gone/{action}", headers=HTMX).status_code == 404


def test_start_that_is_refused_says_why(visitor: Visitor, full: FakeController) -> None:
    wait_for(full)
    answer = visitor.post("/tickets/t1/start", headers=HTMX)
    assert (answer.status_code, "не хватает памяти" in answer.text) == (409, True)


# JSON


def test_json_takes_lists_and_takes_back(client: FlaskClient, full: FakeController) -> None:
    taken = client.post("/api/v1/tickets", json={**BODY, "starts_by_itself": False})
    assert taken.json is not None
    assert (taken.status_code, taken.headers["Location"]) == (201, "/api/v1/tickets/t1")
    assert (taken.json["place"], taken.json["state"], taken.json["starts_by_itself"]) == (1, "waiting", False)
    assert taken.json["why"]["code"] == "waits_memory"
    assert taken.json["why"]["params"]["missing_bytes"] > 0
    assert taken.json["request"]["model"] == MODEL.id
    assert client.get("/api/v1/tickets").json == [taken.json]
    assert client.get("/api/v1/tickets/t1").json == taken.json
    gone = client.delete("/api/v1/tickets/t1").json
    assert gone is not None
    assert (gone["state"], gone["place"], gone["ended_at"] is not None) == ("cancelled", None, True)
    assert client.get("/api/v1/tickets").json == []


def test_json_names_each_refusal(client: FlaskClient, full: FakeController) -> None:
    def code(answer: object) -> tuple[int, str]:
        return answer.status_code, answer.json["code"]  # type: ignore[attr-defined]

    post: Callable[..., object] = client.post
    assert code(post("/api/v1/tickets", json={**BODY, "model": "lab/gone"})) == (404, "unknown_model")
    assert code(post("/api/v1/tickets", json={**BODY, "load_anyway": True})) == (422, "invalid")
    assert code(post("/api/v1/tickets", json={**BODY, "starts_by_itself": 1})) == (422, "invalid")
    assert code(client.get("/api/v1/tickets/gone")) == (404, "unknown_ticket")
    for path in ("cancel", "resume", "start"):
        assert code(post(f"/api/v1/tickets/gone/{path}", json={})) == (404, "unknown_ticket")
    full.refusal = QueueFull(limit=8)
    assert code(post("/api/v1/tickets", json=BODY)) == (409, "queue_full")
    full.refusal = AlreadyWaiting(ticket="t1", model=MODEL.id, place=1)
    assert code(post("/api/v1/tickets", json=BODY)) == (409, "already_waiting")


def test_json_cancel_and_start_are_calls_too(client: FlaskClient, full: FakeController) -> None:
    wait_for(full)
    full.changed(readings=(reading(),))
    begun = client.post("/api/v1/tickets/t1/start", json={})
    assert (begun.status_code, begun.json and begun.json["kind"]) == (202, "switch")
    assert client.post("/api/v1/tickets/t1/resume", json={}).status_code == 200
    assert client.post("/api/v1/tickets/t1/cancel", json={}).status_code == 200


def test_what_became_of_a_ticket_says_whether_it_is_stored(
    client: FlaskClient, visitor: Visitor, full: FakeController
) -> None:
    wait_for(full)
    later = "сохранится позже"
    assert client.post("/api/v1/tickets/t1/resume", json={}).json["stored"] is True  # type: ignore[index]
    assert later not in visitor.post("/tickets/t1/resume", headers=HTMX).text
    full.changed(store_problem=Message("keeping_full"))
    assert client.post("/api/v1/tickets/t1/resume", json={}).json["stored"] is False  # type: ignore[index]
    assert later in visitor.post("/tickets/t1/resume", headers=HTMX).text
    assert client.delete("/api/v1/tickets/t1").json["stored"] is False  # type: ignore[index]


def test_list_has_those_that_ended_behind_those_that_wait(client: FlaskClient, full: FakeController) -> None:
    ended = QueuedLaunch(
        "t9", 9, SwitchRequest(instance().mode, MODEL.id), "maria", 0.0, state=QueueState.FAILED, operation_id="op1",
        ended_at=1000.5, outcome=Message("worker_died", {"model": MODEL.id, "exit": "1"}),
    )  # fmt: skip
    wait_for(full)
    full.changed(waited=(ended,))
    listed = client.get("/api/v1/tickets").json
    assert listed is not None
    assert [(one["id"], one["state"]) for one in listed] == [("t1", "waiting"), ("t9", "failed")]
    assert (listed[1]["operation_id"], listed[1]["outcome"]["code"]) == ("op1", "worker_died")
    assert listed[1]["ended_at"] == "1970-01-01T00:16:40.500Z"


def test_operation_that_runs_there_is_named(visitor: Visitor, full: FakeController) -> None:
    running = Operation("op1", OperationKind.UNLOAD, "ivan", OperationState.RUNNING, time.time(), model_id="lab/x")
    launch = wait_for(full)
    params = {"device": "gpu-0", "kind": running.kind.value, "model": "lab/x", "actor": "ivan", "since": time.time()}
    full.changed(waiting=(QueueEntry(launch, 1, Message("waits_operation", params)),))
    assert "GPU 0: идёт операция «Выгрузка», lab/x, запустил пользователь ivan" in region(visitor.get("/").text)


# Next to other people's leases


def test_it_is_offered_where_another_person_holds_the_place_and_waits_with_the_lease_and_without_the_override(
    visitor: Visitor, controller: FakeController
) -> None:
    held = instance("i1", "lab/other", owner="maria", lease=Lease(until=time.time() + 600))
    controller.changed(instances=(held,), readings=(reading(free_bytes=gib(2)),))
    form = {**FORM, "lease": "1h", "reason": "a paper", "override_reason": "a demo"}
    assert OFFER in visitor.get("/", query_string=FORM).text

    visitor.post("/tickets", form)

    (queued,) = controller.waiting
    asked = queued.launch.request
    assert (asked.reason, asked.override_reason) == ("a paper", None)
    assert asked.lease_until is not None
    assert abs(asked.lease_until - time.time() - 3600) < 60
    assert queued.why is not None
    assert queued.why.code == "waits_leased"
    assert "жду, пока её освободят" in region(visitor.get("/").text)
