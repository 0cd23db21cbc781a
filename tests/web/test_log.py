"""The log of a model: readable while it grows, and cheap to follow."""

from __future__ import annotations

import re

import pytest

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance
from webapp.domain.instance import InstanceState
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.message import Message

PATH = "/instances/i1/log"


@pytest.fixture(autouse=True)
def _loaded(controller: FakeController) -> None:
    controller.instances = (instance("i1", state=InstanceState.LOADING),)
    controller.log = tuple(f"line {number}" for number in range(100))


def place(html: str) -> dict[str, str]:
    """What the page sends with its next question."""
    return dict(re.findall(r'name="(after|state)" value="([^"]*)"', html))


def lines_of(html: str) -> list[str]:
    return re.findall(r'<span class="log__line">(.*)\n</span>', html)


def test_a_page_shows_the_lines_and_asks_for_more_by_itself(visitor: Visitor) -> None:
    page = visitor.get(PATH).text

    assert lines_of(page)[-1] == "line 99"
    assert len(lines_of(page)) == 100
    assert re.search(r'id="log-poll" hx-get="/instances/i1/log"[^>]*every 2000ms', page)
    assert 'data-state="loading"' in page


def test_nothing_new_is_answered_with_204(visitor: Visitor) -> None:
    known = place(visitor.get(PATH).text)

    answer = visitor.get(PATH, query_string=known, headers=HTMX)

    assert (answer.status_code, answer.data) == (204, b"")


def test_only_what_has_come_is_sent(visitor: Visitor, controller: FakeController) -> None:
    known = place(visitor.get(PATH).text)
    controller.log = (*controller.log[2:], "new <b>", "newer")

    answer = visitor.get(PATH, query_string=known, headers=HTMX)

    assert lines_of(answer.text) == ["new &lt;b&gt;", "newer"]
    assert 'hx-target="#log" hx-swap="beforeend"' in answer.text
    assert visitor.get(PATH, query_string=place(answer.text), headers=HTMX).status_code == 204


def test_a_page_that_was_left_behind_gets_the_whole_log(visitor: Visitor, controller: FakeController) -> None:
    known = place(visitor.get(PATH).text)
    controller.log = ("all", "is", "new")

    answer = visitor.get(PATH, query_string=known, headers=HTMX)

    assert lines_of(answer.text) == ["all", "is", "new"]
    assert 'hx-target="#log" hx-swap="innerHTML"' in answer.text


def test_another_state_is_news_without_a_line(visitor: Visitor, controller: FakeController) -> None:
    known = place(visitor.get(PATH).text)
    controller.changed(instances=(instance("i1"),))

    answer = visitor.get(PATH, query_string=known, headers=HTMX)

    assert 'data-state="ready"' in answer.text
    assert 'hx-target="#log"' not in answer.text


@pytest.mark.parametrize("cursor", ["", "x", "-", "1-", "99999999-a", "-1-a", "٣-a", "32-\ud800"])
def test_any_place_may_be_named(visitor: Visitor, cursor: str) -> None:
    named = cursor.encode("utf-8", "surrogatepass")

    assert visitor.get(PATH, query_string={"after": named}, headers=HTMX).status_code == 200


def test_a_model_that_has_gone_is_said_once_and_the_lines_stay(visitor: Visitor, controller: FakeController) -> None:
    known = place(visitor.get(PATH).text)
    controller.changed(instances=())

    answer = visitor.get(PATH, query_string=known, headers=HTMX)

    assert answer.status_code == 200
    assert "Этой модели здесь уже нет" in answer.text
    assert 'hx-target="#log-poll" hx-swap="outerHTML"' in answer.text
    assert 'hx-target="#log"' not in answer.text
    assert "hx-trigger" not in answer.text


def test_the_last_lines_of_a_failed_start_can_still_be_opened(visitor: Visitor, controller: FakeController) -> None:
    error = Message("container_exited", {"model": "Qwen/Qwen3-8B", "exit": "1", "log": "one\ntwo"})
    failed = Operation(
        "op1", OperationKind.SWITCH, "ivan", OperationState.FAILED, 1.0, ended_at=2.0, error=error,
        model_id="Qwen/Qwen3-8B", instance_id="i9",
    )  # fmt: skip
    controller.changed(recent=(failed,))

    page = visitor.get("/instances/i9/log")

    assert lines_of(page.text) == ["one", "two"]
    assert "Qwen/Qwen3-8B" in page.text
    assert 'id="log-poll"' not in page.text


def test_a_model_that_nobody_knows_is_a_404(visitor: Visitor) -> None:
    assert visitor.get("/instances/gone/log").status_code == 404


def test_an_empty_log_says_so(visitor: Visitor, controller: FakeController) -> None:
    controller.log = ()
    page = visitor.get(PATH).text
    controller.log = ("first",)

    assert 'data-empty="Журнал пуст."' in page
    assert lines_of(visitor.get(PATH, query_string=place(page), headers=HTMX).text) == ["first"]


def test_the_log_is_in_english_too(visitor: Visitor) -> None:
    page = visitor.get(PATH, headers={"Accept-Language": "en"}).text.split("<main")[1]

    assert not re.search("[а-яё]", page, re.IGNORECASE)


def test_nothing_of_the_log_page_is_inline(visitor: Visitor) -> None:
    page = visitor.get(PATH).text

    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\s(?:style|on\w+)=", page)
