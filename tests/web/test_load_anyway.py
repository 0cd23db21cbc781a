"""Loading against the estimate: offered only below a shortage of memory, asked twice, without scripts too, and by JSON."""

from __future__ import annotations

import html
import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.conftest import FORM, HTMX, MODEL, Visitor
from tests.web.fakes import FakeController, instance, reading
from webapp.domain.operation import Finding, Operation, OperationKind, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib
from webapp.message import Message, Param
from webapp.web.actor import current_actor

BODY = {"mode": "transformers", "model": MODEL.id}
OFFER = 'data-action="load-anyway"'


def asked(page: str) -> str:
    """The address of the question."""
    found = re.search(r'href="([^"]+)"[^>]*data-action="load-anyway"', page)
    assert found is not None
    return html.unescape(found[1])


def hidden(page: str) -> dict[str, str]:
    """The fields that the question sends once it is confirmed."""
    form = page[page.index('id="load-anyway-form"') :]
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form[: form.index("</form>")]))


def test_it_is_offered_below_a_lack_of_memory_alone(visitor: Visitor, controller: FakeController) -> None:
    assert OFFER not in visitor.get("/", query_string=FORM).text
    controller.changed(stale=True)
    assert OFFER not in visitor.get("/", query_string=FORM).text
    controller.changed(stale=False, readings=(reading(free_bytes=gib(2)),))
    assert OFFER in visitor.get("/", query_string=FORM).text


@pytest.mark.usefixtures("full")
def test_question_says_what_lacks_what_may_happen_and_to_whom(visitor: Visitor) -> None:
    page = visitor.get(asked(visitor.get("/", query_string=FORM).text)).text
    assert "GPU 0: по оценке нужно" in page
    assert "Модели может не хватить памяти при загрузке." in page
    assert "Памяти может не хватить соседним процессам" in page
    assert "train.py" in page
    assert re.search(r'type="checkbox" name="confirmed" value="1" required', page)
    dialog = visitor.get(f"/confirm/load-anyway?mode=transformers&model={MODEL.id}", headers=HTMX)
    assert (dialog.headers["HX-Trigger"], "<html" in dialog.text) == ("warden:dialog", False)


def test_it_is_loaded_once_confirmed_as_the_form_says(visitor: Visitor, full: FakeController) -> None:
    page = visitor.get(asked(visitor.get("/", query_string={**FORM, "max_tokens": "1024"}).text)).text
    answer = visitor.post("/switch", {**hidden(page), "confirmed": "1"})
    assert (answer.status_code, answer.location) == (303, "/")
    ((_, _, request),) = full.calls
    assert isinstance(request, SwitchRequest)
    assert (request.load_anyway, request.restore_on_failure, request.devices) == (True, True, ("gpu-0",))
    assert request.options.max_tokens == 1024


def test_nothing_is_loaded_before_the_confirmation(visitor: Visitor, full: FakeController) -> None:
    answer = visitor.post("/switch", {**FORM, "load_anyway": "1"})
    assert answer.status_code == 303
    assert answer.location.startswith("/confirm/load-anyway?mode=transformers&")
    assert "load_anyway" not in answer.location
    refused = visitor.post("/switch", {**FORM, "confirmed": "1"})
    assert (refused.status_code, full.calls) == (409, [])


def test_address_alone_confirms_nothing(visitor: Visitor, full: FakeController) -> None:
    page = visitor.get("/", query_string={**FORM, "load_anyway": "1", "confirmed": "1"}).text
    assert OFFER in page
    assert 'name="load_anyway"' not in page
    assert full.calls == []


def test_where_there_is_nothing_to_pass_over_it_says_so(visitor: Visitor, controller: FakeController) -> None:
    page = visitor.get("/confirm/load-anyway", query_string=FORM).text
    assert "Памяти уже достаточно, модель можно загрузить." in page
    assert "confirm-load-anyway" not in page
    controller.changed(
        readings=(reading(free_bytes=gib(0.1)),),
        instances=(instance("i1", "lab/other", owner=current_actor(), in_flight=2, measured_bytes={}),),
    )
    busy = visitor.get("/confirm/load-anyway", query_string=FORM).text
    assert "сейчас отвечает на запросы" in busy
    assert "confirm-load-anyway" not in busy


@pytest.mark.usefixtures("full")
def test_english_has_no_russian_left(app: Flask) -> None:
    client = app.test_client()
    headers = {"Accept-Language": "en"}
    page = client.get("/confirm/load-anyway", query_string=FORM, headers=headers).text
    assert "Load anyway" in page
    body = page[page.index('<div class="confirm"') : page.index("</main>")]
    assert not re.search("[а-яё]", body, re.IGNORECASE)


@pytest.mark.usefixtures("full")
def test_json_plan_keeps_its_verdict_and_names_what_is_passed_over(client: FlaskClient) -> None:
    plan = client.post("/api/v1/plan", json={**BODY, "load_anyway": True}).json
    assert plan is not None
    assert (plan["verdict"], plan["refusal"]) == ("refused", None)
    assert plan["overruled"]["code"] == "plan_load_anyway"
    assert plan["overruled"]["params"]["missing_bytes"] > 0
    assert plan["reasons"][0] == plan["overruled"]


def test_json_switch_takes_it(client: FlaskClient, full: FakeController) -> None:
    assert client.post("/api/v1/switch", json=BODY).status_code == 409
    assert client.post("/api/v1/switch", json={**BODY, "load_anyway": True}).status_code == 202
    ((_, _, request),) = full.calls
    assert isinstance(request, SwitchRequest)
    assert request.load_anyway


def test_history_says_who_took_the_risk(visitor: Visitor, client: FlaskClient, controller: FakeController) -> None:
    params: dict[str, Param] = {"model": MODEL.id, "device": "gpu-0", "missing_bytes": gib(2), "actor": "ivan"}
    operation = Operation(
        "op9",
        OperationKind.SWITCH,
        "ivan",
        OperationState.SUCCEEDED,
        1000.0,
        ended_at=1010.0,
        findings=(Finding(Message("loaded_anyway", params), ok=False),),
    )
    controller.changed(recent=(operation,))
    said = f"{MODEL.id}: загрузка вопреки оценке, так решил пользователь ivan (GPU 0, недостаёт 2,0\u00a0GiB)"
    for path in ("/history", "/operations/op9", "/"):
        assert said in visitor.get(path).text, path
    (listed,) = client.get("/api/v1/operations").json or [None]
    assert listed is not None
    assert listed["findings"][0]["message"]["code"] == "loaded_anyway"
