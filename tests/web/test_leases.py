"""Leases and release requests on the page: real forms, both languages, and the JSON interface."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance, model, reading
from webapp.domain.lease import NO_LEASE, Lease, Notice, ReleaseAnswer, Terms
from webapp.domain.plan import SwitchRequest
from webapp.domain.units import gib
from webapp.errors import NotOwner
from webapp.message import Message
from webapp.web.actor import current_actor

HOUR = 3600.0
ENGLISH = {"Accept-Language": "en"}


def leased(**changes: object) -> Lease:
    return Lease(**{"until": time.time() + HOUR, "reason": "eval", **changes})  # type: ignore[arg-type]


def show(controller: FakeController, lease: Lease = NO_LEASE, **changes: object) -> None:
    """One loaded model and another in the cache."""
    made = instance("i1", "lab/other", lease=lease, **changes)
    controller.changed(instances=(made,), models=(model(), model("lab/other")))


# The row


def test_a_row_says_until_when_it_is_leased_and_what_for(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased())
    page = visitor.get("/").text
    assert 'data-lease="runs"' in page
    assert "аренда до" in page
    assert ">eval</q>" in page
    assert re.search(r'data-until="[\d.]+">59\xa0мин \d+\xa0с<', page)


def test_a_lease_that_is_over_says_since_when(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased(until=time.time() - 300))
    page = visitor.get("/", headers=ENGLISH).text
    assert 'data-lease="over"' in page
    assert "lease ended at" in page
    assert "5\xa0min ago" in page


def test_its_owner_extends_it_in_one_click_and_others_ask(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased())
    stranger = visitor.get("/").text
    assert 'data-action="ask-release" href="/instances/i1/release"' in stranger
    assert 'data-action="extend"' not in stranger
    assert 'action="/instances/i1/unload"' not in stranger
    show(controller, leased(), owner=current_actor())
    own = visitor.get("/").text
    assert 'data-action="extend"' in own
    assert 'action="/instances/i1/unload"' in own
    assert visitor.post("/instances/i1/lease", {"extend": "1"}).status_code == 303
    assert controller.calls == [("lease", current_actor(), "i1", Terms.longer())]


def test_another_persons_free_model_is_unloaded_once_its_name_was_confirmed_and_its_owner_is_told(
    visitor: Visitor, controller: FakeController
) -> None:
    show(controller)
    plain, asked = visitor.post("/instances/i1/unload"), visitor.post("/instances/i1/unload", headers=HTMX)
    assert (plain.status_code, plain.location) == (303, "/confirm/unload/i1")
    for question in (asked.text, visitor.get("/confirm/unload/i1").text):
        assert "Выгрузить lab/other" in question
        assert "Это модель пользователя maria" in question
        assert "до этого её можно остановить" in question
    assert controller.calls == []
    answer = visitor.post("/instances/i1/unload", {"confirmed": "1"}, headers=HTMX)
    assert answer.status_code == 202
    assert "maria получит уведомление" in answer.text


def test_a_model_that_goes_within_a_minute_is_counted_down_with_a_button(
    visitor: Visitor, controller: FakeController
) -> None:
    show(controller, Lease(idle_minutes=1), started_at=time.time() - 20, last_used_at=None)
    page = visitor.get("/").text
    assert "data-idle" in page
    assert 'action="/instances/i1/keep"' in page
    assert visitor.post("/instances/i1/keep").status_code == 303
    assert controller.calls == [("keep", current_actor(), "i1", None)]


def test_a_model_that_goes_later_says_after_how_long(visitor: Visitor, controller: FakeController) -> None:
    show(controller, Lease(idle_minutes=15), last_used_at=time.time())
    page = visitor.get("/", headers=ENGLISH).text
    assert "unloads after 15\xa0min idle" in page
    assert "data-idle" not in page


# The dialogs


def test_terms_are_a_page_with_a_form_where_scripts_are_off(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased(), owner=current_actor())
    page = visitor.get("/instances/i1/lease").text
    assert 'action="/instances/i1/lease"' in page
    assert 'value="eval"' in page
    answer = visitor.post("/instances/i1/lease", {"lease": "2h", "idle": "15", "reason": " paper "})
    assert answer.status_code == 303
    terms = controller.calls[-1][-1]
    assert isinstance(terms, Terms)
    assert (terms.reason, terms.idle_minutes, terms.sets_idle) == ("paper", 15.0, True)
    assert terms.until == pytest.approx(time.time() + 2 * HOUR, abs=5)


def test_terms_that_stay_as_they_are_are_not_set(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased(), owner=current_actor())
    visitor.post("/instances/i1/lease", {"lease": "same", "idle": "", "reason": "x"})
    assert controller.calls[-1][-1] == Terms(sets_until=False, reason="x", sets_idle=True)


@pytest.mark.parametrize(
    "values",
    [
        {"lease": "never expires"},
        {"lease": "time", "lease_time": "25:00"},
        {"lease": "time"},
        {"lease": "1h", "idle": "x"},
    ],
)
def test_terms_that_cannot_be_meant_are_said(
    visitor: Visitor, controller: FakeController, values: dict[str, str]
) -> None:
    show(controller, owner=current_actor())
    answer = visitor.post("/instances/i1/lease", values, headers=HTMX)
    assert answer.status_code == 422
    assert controller.calls == []


def test_only_the_owner_finds_a_form_of_terms(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased())
    assert "Условия меняет только владелец" in visitor.get("/instances/i1/lease").text


def test_asking_says_whose_it_is_and_whether_he_is_there(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased(), in_flight=1)
    page = visitor.get("/instances/i1/release").text
    for said in ("maria", "Цель: eval", "Сейчас модель отвечает", "сейчас не на странице", "1\xa0мин"):
        assert said in page
    controller.changed(present=frozenset({"maria"}))
    assert "увидит просьбу" in visitor.get("/instances/i1/release").text
    answer = visitor.post("/instances/i1/release-request", {"why": " paper "})
    assert answer.status_code == 303
    assert controller.calls == [("ask", current_actor(), "i1", "paper")]
    assert "Вы уже попросили" in visitor.get("/instances/i1/release").text
    assert "просит освободить" in visitor.get("/").text


def test_unloading_a_held_model_leads_to_the_question(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased())
    plain = visitor.post("/instances/i1/unload", {"confirmed": "1"})
    assert (plain.status_code, plain.location) == (303, "/instances/i1/release")
    htmx = visitor.post("/instances/i1/unload", headers=HTMX)
    assert (htmx.status_code, htmx.headers["HX-Trigger"]) == (200, "warden:dialog")
    assert controller.calls == []


def test_an_administrator_takes_it_with_a_reason(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased())
    assert visitor.post("/instances/i1/unload", {"confirmed": "1", "override_reason": "fire"}).status_code == 303
    assert controller.calls == [("unload", current_actor(), "i1", "fire")]


# The banner


def ask(controller: FakeController, why: str = "<b>paper</b>") -> None:
    show(controller, NO_LEASE.asked_by("ivan", why, time.time()), owner=current_actor())


@pytest.mark.parametrize("path", ["/", "/history", "/timeline", "/selftest", "/nowhere"])
def test_every_page_asks_the_owner(visitor: Visitor, controller: FakeController, path: str) -> None:
    ask(controller)
    page = visitor.get(path).text
    assert "ivan просит освободить other" in page
    assert "<q>&lt;b&gt;paper&lt;/b&gt;</q>" in page
    assert controller.seen == {current_actor()}


def test_the_owner_keeps_or_releases_by_a_plain_form(visitor: Visitor, controller: FakeController) -> None:
    ask(controller)
    answer = visitor.post("/instances/i1/release-request/answer", {"answer": "keep", "word": "until noon"})
    assert answer.status_code == 303
    assert controller.calls == [("answer", current_actor(), "i1", (ReleaseAnswer.KEEP, "until noon"))]
    assert "просит освободить" not in visitor.get("/").text
    assert visitor.post("/instances/i1/release-request/answer", {"answer": "maybe"}).status_code == 422


def test_an_answer_by_htmx_draws_the_banner_anew(visitor: Visitor, controller: FakeController) -> None:
    ask(controller)
    answer = visitor.post("/instances/i1/release-request/answer", {"answer": "release"}, headers=HTMX)
    assert (answer.status_code, answer.headers["HX-Trigger"]) == (200, "warden:refresh")
    assert "data-ask-for" not in answer.text


def test_the_banner_that_stays_is_not_drawn_again(visitor: Visitor, controller: FakeController) -> None:
    shown = visitor.get("/fragments/notices").text
    version = re.search(r'value="(\w+)"', shown)
    assert version is not None
    again = f"/fragments/notices?notices_version={version[1]}"
    assert visitor.get(again).status_code == 204
    ask(controller)
    assert "data-ask-for" in visitor.get(again).text


def test_each_person_is_told_his_own_and_sends_it_away(visitor: Visitor, controller: FakeController) -> None:
    params = {"model": "lab/other", "owner": "maria", "word": "until noon"}
    controller.changed(
        notices=(
            Notice(1, current_actor(), time.time(), Message("release_kept", params)),
            Notice(2, "olga", time.time(), Message("release_given", {**params, "word": None})),
        )
    )
    page = visitor.get("/", headers=ENGLISH).text
    assert "The owner, maria, keeps model lab/other: “until noon”." in page
    assert "releases model" not in page
    assert visitor.post("/notices/1/dismiss").status_code == 303
    assert [notice.number for notice in controller.notices] == [2]


# The form and the plan


def test_the_form_loads_on_the_terms_that_were_chosen(visitor: Visitor, controller: FakeController) -> None:
    values = {"mode": "transformers", "model": model().id, "lease": "1h", "reason": "eval", "idle": "60"}
    assert visitor.post("/switch", values).status_code == 303
    request = controller.calls[-1][-1]
    assert isinstance(request, SwitchRequest)
    assert (request.reason, request.idle_minutes) == ("eval", 60.0)
    assert request.lease_until == pytest.approx(time.time() + HOUR, abs=5)


def test_a_plan_that_a_lease_forbids_offers_to_ask(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased())
    controller.changed(readings=(reading(free_bytes=gib(2)),))
    query = f"/?mode=transformers&model={model().id}"
    page = visitor.get(query).text
    assert "владелец maria: «eval». Попросите" in page
    assert re.search(r'<a [^>]*data-action="ask-release" href="/instances/i1/release"[^>]*>🙋', page)
    assert 'name="override_reason"' in page
    assert 'data-verdict="confirm"' in visitor.get(f"{query}&override_reason=fire").text
    assert 'data-verdict="fits"' in visitor.get(f"{query}&override_reason=fire&unload=i1").text


def test_a_strangers_answers_are_not_offered_to_be_cut_off(visitor: Visitor, controller: FakeController) -> None:
    show(controller, in_flight=1)
    controller.changed(readings=(reading(free_bytes=gib(2)),))
    page = visitor.get(f"/?mode=transformers&model={model().id}").text
    assert 'name="interrupt_busy"' not in page
    assert 'data-action="ask-release"' in page


def test_a_way_out_keeps_the_terms_of_the_form(visitor: Visitor, controller: FakeController) -> None:
    large = model("lab/large", weights_bytes=20 * 2**30)
    controller.changed(models=(large,))
    page = visitor.get("/?mode=transformers&model=lab/large&lease=2h&reason=eval&max_tokens=40000").text
    (link, *_) = re.findall(r'href="([^"]+)" data-fill data-way-out', page)
    assert "lease=2h" in link
    assert "reason=eval" in link


def test_english_dialogs_have_no_russian_left(visitor: Visitor, controller: FakeController) -> None:
    show(controller, leased().asked_by("ivan", "", time.time()), in_flight=1)
    for path in ("/instances/i1/release", "/instances/i1/lease"):
        main = visitor.get(path, headers=ENGLISH).text.partition('id="content"')[2]
        assert not re.search("[а-яё]", main, re.IGNORECASE)


# JSON


def test_the_status_says_the_terms(client: FlaskClient, controller: FakeController) -> None:
    asked = leased(idle_minutes=15.0).asked_by("ivan", "paper", 1000.0)
    show(controller, asked)
    (document,) = client.get("/api/v1/status").json["instances"]  # type: ignore[index]
    assert asked.until is not None
    until = datetime.fromtimestamp(asked.until, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert document["lease"] == {"until": until, "reason": "eval"}
    assert document["idle_unload_minutes"] == 15
    assert document["idle_unload_at"] > until
    assert document["release"] == {
        "asker": "ivan",
        "asked_at": "1970-01-01T00:16:40.000Z",
        "why": "paper",
        "answer": None,
        "answered_at": None,
        "answered_by": None,
        "word": None,
    }


def test_terms_are_changed_by_json(client: FlaskClient, controller: FakeController) -> None:
    show(controller, owner=current_actor())
    address = "/api/v1/instances/i1/lease"
    moment = "2030-01-01T00:00:00+00:00"
    for body, terms in (
        ({"extend_s": 60}, Terms(extend_s=60.0, sets_until=False)),
        ({"until": moment, "reason": "x"}, Terms(until=1893456000.0, reason="x")),
        ({"until": None}, Terms()),
        ({"idle_unload_minutes": 5}, Terms(sets_until=False, idle_minutes=5.0, sets_idle=True)),
    ):
        assert client.post(address, json=body).status_code == 200
        assert controller.calls[-1][-1] == terms


@pytest.mark.parametrize(
    "body",
    [
        {"until": "soon"},
        {"until": 5},
        {"until": "2030-01-01T00:00:00"},
        {"extend_s": -1},
        {"extend_s": 60, "until": None},
        {"idle_unload_minutes": -1},
        {"reason": "x" * 201},
        {"owner": "ivan"},
    ],
)
def test_terms_that_cannot_be_read_are_refused(
    client: FlaskClient, controller: FakeController, body: dict[str, object]
) -> None:
    show(controller, owner=current_actor())
    answer = client.post("/api/v1/instances/i1/lease", json=body)
    assert (answer.status_code, answer.json["code"]) == (422, "invalid")  # type: ignore[index]
    assert controller.calls == []


def test_an_ask_and_its_answer_by_json(client: FlaskClient, controller: FakeController) -> None:
    show(controller, leased())
    asked = client.post("/api/v1/instances/i1/release-request", json={"why": "paper"})
    assert asked.json["release"]["asker"] == current_actor()  # type: ignore[index]
    kept = client.post("/api/v1/instances/i1/release-request/answer", json={"answer": "keep", "word": "no"})
    assert (kept.json["release"]["answer"], kept.json["release"]["word"]) == ("keep", "no")  # type: ignore[index]
    assert client.post("/api/v1/instances/i1/keep").status_code == 200
    controller.refusal = NotOwner(model="m", instance="i1", owner="maria")
    refused = client.post("/api/v1/instances/i1/lease", json={"extend_s": 60})
    assert (refused.status_code, refused.json["code"]) == (403, "not_owner")  # type: ignore[index]


def test_a_leased_model_is_not_taken_by_json_without_a_reason(client: FlaskClient, controller: FakeController) -> None:
    show(controller, leased())
    controller.changed(readings=(reading(free_bytes=gib(2)),))
    body = {"mode": "transformers", "model": model().id, "unload": ["i1"]}
    refused = client.post("/api/v1/switch", json=body)
    assert (refused.status_code, refused.json["code"]) == (409, "instance_leased")  # type: ignore[index]
    assert client.post("/api/v1/instances/i1/unload").json["code"] == "instance_leased"  # type: ignore[index]
    assert client.post("/api/v1/instances/i1/unload", json={"override_reason": "fire"}).status_code == 202
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    terms = {"lease_until": until.isoformat(), "reason": "x", "idle_unload_minutes": 15, "override_reason": "fire"}
    assert client.post("/api/v1/switch", json={**body, **terms}).status_code == 202
    request = controller.calls[-1][-1]
    assert isinstance(request, SwitchRequest)
    assert (request.lease_until, request.idle_minutes, request.override_reason) == (until.timestamp(), 15.0, "fire")


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)
FIELDS = ("until", "extend_s", "reason", "idle_unload_minutes", "why", "answer", "word", "override_reason", "x")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from(["lease", "release-request", "release-request/answer", "keep", "unload"]),
    body=VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES),
)
def test_no_body_breaks_the_interface(client: FlaskClient, controller: FakeController, path: str, body: object) -> None:
    show(controller, leased().asked_by("ivan", "", time.time()), owner=current_actor())
    answer = client.post(f"/api/v1/instances/i1/{path}", json=body)
    assert answer.status_code < 500, (path, body, answer.text)
