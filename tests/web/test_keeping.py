"""While the database takes nothing every page says so and why, and answers say what is not stored."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance
from webapp.errors import NotStored
from webapp.message import Message

FILE = "/state/warden.db"
FULL = Message("keeping_full", {"file": FILE, "detail": "disk full", "lost": 0})
ENGLISH = {"Accept-Language": "en"}


@pytest.mark.parametrize("path", ["/", "/history", "/fragments/notices"])
def test_every_page_says_why_nothing_can_be_kept_and_what_still_works(
    visitor: Visitor, controller: FakeController, path: str
) -> None:
    controller.changed(store_problem=FULL)
    russian, english = visitor.get(path).text, visitor.get(path, headers=ENGLISH).text
    assert "data-store-problem" in russian
    assert f"на диске, где лежит {FILE}, закончилось место. Освободите место." in russian
    assert f"the disk that holds {FILE} is full. Free some space." in english
    assert "the emergency clean-up work" in english
    controller.changed(store_problem=None)
    assert "data-store-problem" not in visitor.get(path).text


def test_what_was_lost_is_counted(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(store_problem=Message("keeping_locked", {"file": FILE, "lost": 2}))
    page = visitor.get("/").text
    assert f"fuser -v {FILE}" in page
    assert "потеряны 2 записи" in page


def test_an_open_page_learns_of_it_and_of_its_end(visitor: Visitor, controller: FakeController) -> None:
    def token() -> str:
        return visitor.get("/fragments/notices").text.partition('value="')[2].partition('"')[0]

    before = token()
    controller.changed(store_problem=FULL)
    during = token()
    controller.changed(store_problem=None)
    assert before == token() != during


def test_an_answer_says_whether_its_record_is_stored(client: FlaskClient, controller: FakeController) -> None:
    controller.changed(instances=(instance("i1"),))
    path = "/api/v1/instances/i1/unload"
    assert client.post(path, json={}).json["stored"] is True  # type: ignore[index]
    controller.changed(store_problem=FULL)
    assert client.post(path, json={}).json["stored"] is False  # type: ignore[index]


def test_the_page_says_that_the_record_comes_later(visitor: Visitor, controller: FakeController) -> None:
    assert "появится в истории позже" not in visitor.post("/clean", headers=HTMX).text
    controller.changed(store_problem=FULL)
    assert "появится в истории позже" in visitor.post("/clean", headers=HTMX).text


def test_what_the_database_refuses_is_503_with_the_reason(client: FlaskClient, controller: FakeController) -> None:
    controller.changed(instances=(instance("i1"),), refusal=NotStored(reason="store_full"))
    answer = client.post("/api/v1/instances/i1/lease", json={"extend_s": 60}, headers=ENGLISH)
    assert answer.status_code == 503
    assert answer.json is not None
    assert (answer.json["code"], answer.json["params"]) == ("not_stored", {"reason": "store_full"})
    assert "the disk is full" in answer.json["detail"]


def test_the_status_says_it_whole_and_health_which_is_open_to_all_by_its_code(
    client: FlaskClient, controller: FakeController
) -> None:
    controller.changed(store_problem=FULL)
    health, status = client.get("/healthz"), client.get("/api/v1/status").json
    assert status is not None
    assert (status["store_problem"]["code"], status["store_problem"]["params"]["file"]) == ("keeping_full", FILE)
    assert health.json is not None
    assert health.json["store_problem"] == {"code": "keeping_full"}
    assert FILE not in health.text
