"""The self-test's page and its JSON: begun by a form, watched while it runs, read afterwards."""

from __future__ import annotations

import re

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController
from webapp.domain.operation import Operation, OperationKind, OperationState, Step, StepName, StepState
from webapp.domain.selftest import Check, CheckMark, CheckName
from webapp.errors import Busy, StoreUnavailable
from webapp.message import Message

DONE = Check(CheckName.MODEL, CheckMark.OK, Message("selftest_model_ok", {"model": "w/d", "size_bytes": 2**20}), 0.5)
BAD = Check(CheckName.SWITCH, CheckMark.FAILED, Message("selftest_not_ready"), 2.0, Message("selftest_advice_report"))
OPEN = Check(
    CheckName.STATE, CheckMark.WARNING, Message("selftest_files_open", {"files": "warden.db"}), 0.0,
    Message("selftest_advice_chmod", {"command": "chmod 600 /s/warden.db"}),
)  # fmt: skip


def run(operation_id: str = "s1", state: OperationState = OperationState.FAILED, *checks: Check) -> Operation:
    running = state is OperationState.RUNNING
    step = Step(StepName.CHECKS, StepState.RUNNING if running else StepState.DONE, 1000.0)
    return Operation(
        operation_id, OperationKind.SELFTEST, "ivan", state, 1000.0, (step,), None if running else 1010.0,
        outcome=None if running else Message("selftest_done_failed", {"count": 1}), checks=checks,
    )  # fmt: skip


def test_before_the_first_one_the_page_offers_it(visitor: Visitor) -> None:
    page = visitor.get("/selftest").text

    assert "Проверить сейчас" in page
    assert "Проверок ещё не было" in page
    assert "selftest-poll" not in page


def test_the_button_begins_one_and_a_plain_form_leads_back_to_the_page(
    visitor: Visitor, controller: FakeController
) -> None:
    answer = visitor.post("/selftest")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/selftest")
    assert controller.calls[0][0] == "selftest"


def test_htmx_gets_the_region_back(visitor: Visitor) -> None:
    answer = visitor.post("/selftest", headers=HTMX)

    assert answer.status_code == 202
    assert 'id="selftest-latest"' in answer.text
    assert "<html" not in answer.text


def test_a_refusal_names_what_runs(visitor: Visitor, controller: FakeController) -> None:
    controller.refusal = Busy(operation="s1", kind="selftest", actor="anna", since=0.0, step=None, model=None)

    answer = visitor.post("/selftest", headers=HTMX)

    assert answer.status_code == 409
    assert "Самопроверка" in answer.text


def test_while_it_runs_the_page_follows_it_and_shows_what_is_to_come(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.changed(running=(run("s1", OperationState.RUNNING, DONE),))

    page = visitor.get("/selftest").text

    assert 'hx-get="/selftest/live"' in page
    assert 'data-check="model" data-mark="ok"' in page
    assert re.findall(r'data-check="(\w+)" data-mark="running"', page) == ["memory"]
    assert 'data-check="unload" data-mark="waiting"' in page
    assert 'action="/selftest/s1/cancel"' in page
    assert "Проверить сейчас" not in page


def test_what_the_page_has_already_is_not_drawn_again(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(running=(run("s1", OperationState.RUNNING, DONE),))
    found = re.search(r'name="version" value="([^"]+)"', visitor.get("/selftest/live").text)
    assert found is not None

    assert visitor.get("/selftest/live", query_string={"version": found[1]}).status_code == 204
    controller.changed(running=(run("s1", OperationState.RUNNING, DONE, BAD),))
    assert visitor.get("/selftest/live", query_string={"version": found[1]}).status_code == 200


def test_a_result_says_mark_sight_time_and_advice_in_words(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(recent=(run("s2", OperationState.FAILED, DONE, OPEN, BAD), run("s1")))

    page = visitor.get("/selftest").text

    assert "не пройдено" in page
    assert "замечание" in page
    assert "модель w/d" in page.lower()
    assert "Повторите проверку" in page
    assert "chmod 600 /s/warden.db" in page
    assert 'id="selftest-s1"' in page
    assert "selftest-poll" not in page


def test_a_cancel_by_a_plain_form_leads_back(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(running=(run("s1", OperationState.RUNNING),))

    answer = visitor.post("/selftest/s1/cancel")

    assert (answer.status_code, answer.headers["Location"]) == (303, "/selftest")
    assert controller.calls[-1][0] == "cancel"


def test_without_the_store_the_page_shows_what_is_at_hand(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(recent=(run("s1", OperationState.FAILED, BAD),), refusal=StoreUnavailable(reason="disk full"))

    page = visitor.get("/selftest").text

    assert "disk full" in page
    assert 'data-check="switch"' in page


def test_the_page_is_in_english_too(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(recent=(run("s2", OperationState.FAILED, DONE, OPEN, BAD), run("s1")))

    page = visitor.get("/selftest", headers={"Accept-Language": "en"}).text.split("<main")[1]

    assert not re.search("[а-яё]", page, re.IGNORECASE)


def test_nothing_of_the_page_is_inline(visitor: Visitor) -> None:
    page = visitor.get("/selftest").text

    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\s(?:style|on\w+)=", page)


def test_json_begins_one_and_the_operation_carries_its_checks(visitor: Visitor, controller: FakeController) -> None:
    begun = visitor.client.post("/api/v1/selftest", json={})
    controller.changed(recent=(run("s2", OperationState.FAILED, DONE, BAD),))

    assert begun.status_code == 202
    assert begun.json is not None
    assert (begun.json["kind"], begun.json["checks"]) == ("selftest", [])
    document = visitor.client.get("/api/v1/operations/s2", headers={"Accept-Language": "en"}).json
    assert document is not None
    assert [(c["name"], c["mark"], c["seconds"]) for c in document["checks"]] == [
        ("model", "ok", 0.5),
        ("switch", "failed", 2.0),
    ]
    assert document["checks"][1]["advice"]["code"] == "selftest_advice_report"
