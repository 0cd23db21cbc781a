"""What is drawn once for everybody: how often, and that nothing of one session reaches another."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask, template_rendered

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance
from tests.web.test_fragments import hidden
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.view_cache import EXTENSION, Same, ViewCache

RUNNING = Operation(
    "op2", OperationKind.SWITCH, "me", OperationState.RUNNING, 1.0, model_id="lab/one", mode=Mode.TRANSFORMERS
)
LIVE = "fragments/live.html"
PLAN = "fragments/plan_answer.html"
FORM = "mode=transformers&precision=auto&max_tokens=512&batch_size=1"
ENDED = Operation(
    "op1", OperationKind.CLEAN, "me", OperationState.SUCCEEDED, 1.0, ended_at=2.0,
    outcome=Message("clean_done", {"freed_bytes": gib(1), "free_bytes": gib(2)}),
)  # fmt: skip


@pytest.fixture
def drawn(app: Flask) -> Iterator[Counter[str]]:
    """How often each template was drawn."""
    counted: Counter[str] = Counter()

    def count(sender: Flask, template: Any, **_: object) -> None:
        counted[template.name] += 1

    with template_rendered.connected_to(count, app):
        yield counted


def visitors(app: Flask, count: int, language: str = "ru") -> list[Visitor]:
    made = [Visitor(app.test_client()) for _ in range(count)]
    for visitor in made:
        visitor.client.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
    return made


def tokens(html: str) -> set[str]:
    return set(re.findall(r'name="csrf_token" value="([^"]*)"', html))


@pytest.fixture
def frozen(app: Flask) -> None:
    """One second that does not end."""
    app.extensions[EXTENSION] = ViewCache(clock=lambda: 1_000_000.5)


@pytest.mark.usefixtures("frozen")
def test_a_body_is_drawn_once_for_all_who_speak_a_language(app: Flask, drawn: Counter[str]) -> None:
    for visitor in (*visitors(app, 5), *visitors(app, 5, "en")):
        assert visitor.get("/fragments/live", headers=HTMX).status_code == 200

    assert drawn[LIVE] == 2


def test_unchanged_content_is_not_drawn_at_all(app: Flask, drawn: Counter[str]) -> None:
    (visitor,) = visitors(app, 1)
    page = visitor.get("/").text
    drawn.clear()

    live = visitor.get(f"/fragments/live?version={hidden(page, 'version')}", headers=HTMX)
    plan = visitor.get(f"/fragments/plan?{FORM}", headers=HTMX)
    again = visitor.get(f"/fragments/plan?{FORM}&plan_version={hidden(plan.text, 'plan_version')}", headers=HTMX)

    assert (live.status_code, again.status_code) == (204, 204)
    assert drawn == {PLAN: 1}


@pytest.mark.usefixtures("frozen")
def test_a_change_is_drawn_once_more(app: Flask, controller: FakeController, drawn: Counter[str]) -> None:
    first, second = visitors(app, 2)
    first.get("/fragments/live")
    drawn.clear()
    controller.changed(instances=(instance("i1"),))

    assert 'data-instance="i1"' in first.get("/fragments/live").text
    assert 'data-instance="i1"' in second.get("/fragments/live").text
    assert drawn[LIVE] == 1


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/fragments/live", {"instances": (instance("i1"),), "running": (RUNNING,)}),
        ("/fragments/models", {"models": ()}),
    ],
)
def test_each_session_gets_its_own_token_in_every_form(
    app: Flask, controller: FakeController, path: str, state: dict[str, object]
) -> None:
    controller.changed(**state)
    shown = [(visitor, visitor.get(path).text) for visitor in visitors(app, 3)]

    own = [tokens(text) for _, text in shown]

    assert [len(found) for found in own] == [1, 1, 1]
    assert len(set.union(*own)) == 3
    for (visitor, text), (token,) in zip(shown, own, strict=True):
        assert text.count("csrf_token") == text.count(token)
        answer = visitor.client.post("/clean", data={"csrf_token": token}, headers=HTMX)
        assert answer.status_code == 202, answer.text


@pytest.mark.usefixtures("frozen")
def test_a_token_of_another_session_is_refused(app: Flask, controller: FakeController) -> None:
    controller.changed(instances=(instance("i1"),))
    first, second = visitors(app, 2)
    first.get("/fragments/live")
    (theirs,) = tokens(second.get("/fragments/live").text)

    assert first.client.post("/clean", data={"csrf_token": theirs}, headers=HTMX).status_code == 400
    assert not controller.calls


@pytest.mark.usefixtures("frozen")
def test_the_end_of_an_operation_is_announced_to_each_page_once(app: Flask, controller: FakeController) -> None:
    first, second = visitors(app, 2)
    before = [hidden(visitor.get("/").text, "seen") for visitor in (first, second)]
    controller.changed(recent=(ENDED,))

    told = [v.get(f"/fragments/live?seen={seen}").text for v, seen in zip((first, second), before, strict=True)]
    later = first.get(f"/fragments/live?seen={hidden(told[0], 'seen')}").text
    just_opened = second.get("/fragments/live").text

    assert [text.count('<hx-partial id="say">') for text in (*told, later, just_opened)] == [1, 1, 0, 0]


@pytest.mark.usefixtures("frozen")
def test_who_changes_the_language_gets_the_other_body(app: Flask) -> None:
    (visitor,) = visitors(app, 1)
    russian = visitor.get("/fragments/live")
    visitor.get("/language/en")
    english = visitor.get(f"/fragments/live?version={hidden(russian.text, 'version')}")

    assert "Недавние операции" in russian.text
    assert english.status_code == 200
    assert "Недавние операции" not in english.text


@pytest.mark.usefixtures("frozen")
def test_the_plan_of_equal_forms_is_drawn_once_and_that_of_others_apart(app: Flask, drawn: Counter[str]) -> None:
    first, second = visitors(app, 2)

    same = [visitor.get(f"/fragments/plan?{FORM}").text for visitor in (first, second)]
    other = second.get(f"/fragments/plan?{FORM.replace('512', '1024')}").text

    assert same[0] == same[1]
    assert hidden(other, "plan_version") != hidden(same[0], "plan_version")
    assert drawn[PLAN] == 2


def test_a_caller_waits_for_a_value_that_another_thread_makes() -> None:
    kept = ViewCache(4)
    begun, go_on = threading.Event(), threading.Event()
    made: list[int] = []

    def make() -> int:
        begun.set()
        assert go_on.wait(5)
        made.append(len(made))
        return made[-1]

    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.append(kept.of("a", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert begun.wait(5)
    go_on.set()
    for thread in threads:
        thread.join(5)

    assert (made, got) == ([0], [0] * 8)


def test_only_so_many_values_are_kept_and_those_longest_unused_go() -> None:
    kept = ViewCache(2)
    for key in ("a", "b", "a", "c"):
        kept.of(key, lambda key=key: key)  # type: ignore[misc]

    assert [kept.of(key, lambda: "made again") for key in ("a", "c", "b")] == ["a", "c", "made again"]


def test_one_value_may_be_made_of_others_and_keys_do_not_wait_for_each_other() -> None:
    kept = ViewCache()

    assert kept.of("sum", lambda: kept.of("a", lambda: 1) + kept.of("b", lambda: 2)) == 3


def test_a_value_that_could_not_be_made_is_tried_again() -> None:
    kept = ViewCache()

    with pytest.raises(ZeroDivisionError):
        kept.of("a", lambda: 1 // 0)

    assert kept.of("a", lambda: None) is None
    assert kept.of("a", lambda: 5) is None


def test_a_large_part_of_a_key_is_compared_by_what_it_is_and_not_by_what_is_in_it() -> None:
    one, other = [1], [1]

    assert {Same(one): 1} == {Same(one): 1}
    assert Same(one) != Same(other)
