"""Other people's models on the page and in JSON: named, confirmed one by one, and to be saved until the last moment."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.datastructures import MultiDict

from tests.web.conftest import FORM, HTMX, MODEL, Visitor
from tests.web.fakes import FakeController, instance, reading, worker
from tests.web.people import Lab
from webapp.domain.lease import Lease, ReleaseAnswer
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Grace, Operation, OperationKind, OperationState, Step, StepName, StepState
from webapp.domain.people import Role
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib
from webapp.web.actor import current_actor

BODY = {"mode": "transformers", "model": MODEL.id}
CHECKBOX = '<input type="checkbox" name="unload" id="unload-i1" value="i1"'


@pytest.fixture
def full(controller: FakeController) -> FakeController:
    """The device is full of an idle model of Maria's."""
    controller.changed(instances=(instance("i1", "lab/other"),), readings=(reading(free_bytes=gib(2)),))
    return controller


def apply(visitor: Visitor, *confirmed: str, **kwargs: Any) -> int:
    """The status of the form that is sent with these checkboxes ticked."""
    fields = MultiDict([("csrf_token", visitor.token()), *FORM.items(), ("unload", "")])
    for instance_id in confirmed:
        fields.add("unload", instance_id)
    return visitor.client.post("/switch", data=fields, **kwargs).status_code


def test_the_form_asks_for_another_persons_model_by_name(visitor: Visitor, full: FakeController) -> None:
    page = visitor.get("/", query_string=FORM).text
    assert 'data-verdict="confirm"' in page
    assert f"{CHECKBOX}><span>Выгрузить other, владелец maria</span>" in page
    confirmed = visitor.get("/", query_string={**FORM, "unload": "i1"}).text
    assert 'data-verdict="fits"' in confirmed
    assert f"{CHECKBOX} checked>" in confirmed
    assert full.calls == []


def test_a_confirmation_outlives_one_request_to_the_model(visitor: Visitor, full: FakeController) -> None:
    full.changed(instances=(instance("i1", "lab/other", in_flight=1),))
    assert CHECKBOX not in visitor.get("/", query_string=FORM).text
    confirmed = visitor.get("/", query_string={**FORM, "unload": "i1"}).text
    assert 'data-verdict="refused"' in confirmed
    assert f"{CHECKBOX} checked>" in confirmed


def test_nothing_begins_before_the_name_is_confirmed(visitor: Visitor, full: FakeController) -> None:
    assert apply(visitor) == 409
    assert apply(visitor, headers=HTMX) == 409
    assert full.calls == []
    assert apply(visitor, "i1") == 303
    (call,) = full.calls
    request = call[-1]
    assert isinstance(request, SwitchRequest)
    assert request.unload == ("i1",)


def test_where_there_is_room_another_persons_model_is_not_named_at_all(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.changed(instances=(instance("i1", "lab/other"),), readings=(reading(),))
    page = visitor.get("/", query_string=FORM).text
    assert 'data-verdict="fits"' in page
    assert CHECKBOX not in page
    assert "other</span><b" not in page.partition("data-unload")[2].partition("</ul>")[0]
    assert apply(visitor) == 303


def test_json_is_confirmed_by_the_ids(client: FlaskClient, full: FakeController) -> None:
    plan = client.post("/api/v1/plan", json=BODY).json
    assert plan is not None
    assert (plan["verdict"], plan["refusal"]["code"]) == ("refused", "confirmation_needed")
    assert [(e["instance_id"], e["owner"], e["confirmed"]) for e in plan["unload"]] == [("i1", "maria", False)]
    refused = client.post("/api/v1/switch", json=BODY)
    assert refused.status_code == 409
    assert refused.json is not None
    assert refused.json["code"] == "confirmation_needed"
    assert refused.json["params"]["instances"] == "i1"
    assert refused.json["params"]["models"] == "lab/other (maria)"
    assert full.calls == []
    assert client.post("/api/v1/switch", json={**BODY, "unload": ["i1"]}).status_code == 202


def test_json_that_keeps_the_others_unloads_only_what_it_names(client: FlaskClient, full: FakeController) -> None:
    kept = client.post("/api/v1/switch", json={**BODY, "keep_others": True}).json
    assert kept is not None
    assert kept["code"] == "not_enough_memory"
    assert client.post("/api/v1/switch", json={**BODY, "keep_others": True, "unload": ["i1"]}).status_code == 202


def test_a_model_that_fits_now_by_the_list_is_not_refused_by_the_form(
    visitor: Visitor, controller: FakeController
) -> None:
    """Maria's model is leased and stays; an own model in use would have to be unloaded first."""
    leased = replace(instance("i1", "lab/other"), lease=replace(instance().lease, until=time.time() + 600))
    controller.changed(instances=(leased,), readings=(reading(),))
    page = visitor.get("/", query_string=FORM).text
    assert 'model__fit--good" data-fit' in page
    assert 'data-verdict="fits"' in page
    own = instance("i2", "lab/mine", owner=current_actor(), in_flight=1)
    controller.changed(instances=(own,))
    page = visitor.get("/", query_string=FORM).text
    assert 'model__fit--warn" data-fit' in page
    assert 'data-verdict="refused"' in page


# The seconds before


def going(actor: str = "olga", owner: str = "maria", **changes: object) -> Operation:
    made = Operation(
        id="op1",
        kind=OperationKind.UNLOAD,
        actor=actor,
        state=OperationState.RUNNING,
        started_at=time.time(),
        steps=(Step(StepName.GRACE, StepState.RUNNING, time.time()), Step(StepName.UNLOAD)),
        model_id="lab/other",
        grace=Grace(time.time() + 9, ("i1",), (owner,)),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "owner", "stops"),
    [
        (Role.OPERATOR, "olga", True),
        (Role.OPERATOR, "maria", False),
        (Role.VIEWER, "victor", False),
        (Role.ADMINISTRATOR, "maria", True),
    ],
)
def test_it_is_stopped_by_the_owner_of_what_goes(lab: Lab, role: Role, owner: str, stops: bool) -> None:
    lab.controller.changed(running=(going("ivan", owner),), instances=(instance("i1", "lab/other", owner=owner),))
    browser = lab.signed_in(role)
    page = browser.get("/").text
    assert "data-countdown" in page
    assert ('data-action="cancel"' in page) is stops
    statuses = [
        browser.post("/operations/op1/cancel").status_code,
        lab.app.test_client().post("/api/v1/operations/op1/cancel", headers=lab.token(role)).status_code,
    ]
    assert statuses == ([303, 202] if stops else [403, 403])


def test_who_began_it_reads_until_when_it_can_be_stopped(visitor: Visitor, full: FakeController) -> None:
    full.grace = Grace(time.time() + 10, ("i1",), ("maria",))

    answer = visitor.post("/instances/i1/unload", {"confirmed": "1"}, headers=HTMX)

    assert "Начнётся через 10\u00a0с, до этого можно остановить. maria получит уведомление." in answer.text
    assert "начато" not in answer.text


def test_its_owner_reads_of_it_on_every_page_with_a_button(lab: Lab) -> None:
    own = instance("i1", "lab/other", owner="olga")
    lab.controller.changed(running=(going("ivan", "olga"),), instances=(own,))
    browser = lab.signed_in(Role.OPERATOR)
    for path in ("/history", "/account"):
        page = browser.get(path).text
        assert 'data-going="op1"' in page
        assert 'data-action="stop-going"' in page
    assert 'data-going="op1"' not in lab.signed_in(Role.ADMINISTRATOR).get("/account").text
    lab.controller.changed(running=(going("ivan", "olga", grace=Grace(time.time() + 9, ("i1",), ())),))
    taken = browser.get("/history").text
    assert 'data-going="op1"' in taken
    assert 'data-action="stop-going"' not in taken


def test_a_page_knows_whether_something_may_happen_to_what_is_theirs(
    visitor: Visitor, controller: FakeController
) -> None:
    def is_watched() -> bool:
        return "data-watched" in visitor.get("/fragments/notices").text

    me = current_actor()
    assert not is_watched()
    for own in ({"instances": (instance("i1", owner=me),)}, {"running": (going(me),)}):
        controller.changed(instances=(), running=())
        controller.changed(**own)
        assert is_watched()


def test_who_has_the_page_in_a_hidden_tab_is_not_there(visitor: Visitor, controller: FakeController) -> None:
    visitor.get("/fragments/notices", headers={"Warden-Hidden": "true"})
    assert controller.seen == set()
    visitor.get("/fragments/notices")
    assert controller.seen == {current_actor()}


def test_once_it_acts_the_owner_stops_nothing_more(lab: Lab) -> None:
    steps = (Step(StepName.GRACE, StepState.DONE), Step(StepName.UNLOAD, StepState.RUNNING))
    own = instance("i1", "lab/other", owner="olga")
    lab.controller.changed(running=(going("ivan", "olga", steps=steps),), instances=(own,))
    browser = lab.signed_in(Role.OPERATOR)
    page = browser.get("/").text
    assert ("data-countdown" in page, "data-going" in page) == (False, False)
    for late in (
        going("ivan", "olga", steps=steps),
        going("ivan", "olga", steps=steps, state=OperationState.SUCCEEDED),
    ):
        lab.controller.changed(running=(late,))
        answer = browser.post("/operations/op1/cancel", headers=HTMX)
        assert answer.status_code == 403
        assert "already being unloaded; it is too late to stop that. You can load it again." in answer.text


@pytest.mark.parametrize(
    "path",
    ["", "account", "audit", "confirm/emergency", "history", "instances/i1/ask", "instances/i1/log", "nowhere"],
)
def test_every_page_has_one_place_for_what_became_of_a_click_in_the_banner(
    visitor: Visitor, full: FakeController, path: str
) -> None:
    assert visitor.get(f"/{path}").text.count('id="say"') == 1


def test_json_says_until_when_it_can_be_stopped_and_by_whom(client: FlaskClient, controller: FakeController) -> None:
    controller.changed(running=(going(),))
    (operation,) = client.get("/api/v1/operations").get_json()
    assert (operation["grace"]["instances"], operation["grace"]["owners"]) == (["i1"], ["maria"])
    assert operation["grace"]["until"] > operation["started_at"]


def test_what_was_unloaded_can_be_loaded_again_from_its_page(visitor: Visitor, controller: FakeController) -> None:
    asked = SwitchRequest(Mode.TRANSFORMERS, MODEL.id, LaunchOptions(max_tokens=777), ("gpu-0",), keep_others=True)
    ended = going(state=OperationState.SUCCEEDED, ended_at=time.time(), request=asked)
    controller.changed(recent=(ended,))
    page = visitor.get("/operations/op1").text
    found = re.search(r'data-action="load-again" href="([^"]+)"', page)
    assert found is not None
    assert 'name="max_tokens" id="max_tokens" value="777"' in visitor.get(found[1].replace("&amp;", "&")).text


def test_a_model_that_was_given_up_stays_named_in_the_form(visitor: Visitor, controller: FakeController) -> None:
    me = current_actor()
    given = Lease().asked_by(me, "", 1.0).answered(ReleaseAnswer.RELEASE, 2.0, "maria", "")
    controller.changed(
        instances=(instance("i1", "lab/other", lease=given),), readings=(reading(held=(worker("i1", gib(21)),)),)
    )
    beside = {**FORM, "keep_others": "1"}
    page = visitor.get("/", query_string=beside).text
    (way,) = re.findall(r'href="/\?([^"]*)#switch" data-fill data-way-out>Выгрузить lab/other', page)

    filled = visitor.get(f"/?{unescape(way)}").text

    assert 'data-verdict="fits"' in filled
    (named,) = re.findall(r'name="unload" id="unload" value="([^"]*)"', filled)
    assert visitor.post("/switch", data={**beside, "unload": named}).status_code == 303
