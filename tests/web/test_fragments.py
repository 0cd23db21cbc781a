"""The refreshable regions: what they bring, and that they cost nothing while nothing changes."""

from __future__ import annotations

import html
import re

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance, model, reading
from webapp.domain.memory import Holder, HolderKind
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.actor import current_actor


def hidden(html: str, name: str) -> str:
    found = re.search(rf'name="{name}"[^>]* value="([^"]*)"', html)
    assert found is not None
    return found[1]


def test_the_page_polls_one_region_and_only_that(visitor: Visitor) -> None:
    page = visitor.get("/").text

    assert page.count("every 2000ms") == 1
    assert re.search(r'<div id="live"[^>]*hx-get="/fragments/live"[^>]*hx-swap="innerMorph"[^>]*this:drop', page)


def test_unchanged_content_is_answered_with_204_and_a_fresh_age(visitor: Visitor, controller: FakeController) -> None:
    version = hidden(visitor.get("/").text, "version")
    controller.age_s = 1.5

    answer = visitor.get(f"/fragments/live?version={version}", headers=HTMX)

    assert (answer.status_code, answer.data) == (204, b"")
    assert answer.headers["Warden-Reading-Age"] == "1.500"
    assert float(answer.headers["Warden-Clock"]) > 0


def test_a_change_is_drawn(visitor: Visitor, controller: FakeController) -> None:
    version = hidden(visitor.get("/").text, "version")
    controller.changed(readings=(reading(free_bytes=gib(1)),))

    answer = visitor.get(f"/fragments/live?version={version}", headers=HTMX)

    assert answer.status_code == 200
    assert "Критически мало" in answer.text
    assert hidden(answer.text, "version") != version


def test_the_same_state_in_the_other_language_is_a_change(visitor: Visitor) -> None:
    version = hidden(visitor.get("/").text, "version")

    assert visitor.get(f"/fragments/live?version={version}", headers={"Accept-Language": "en"}).status_code == 200


def test_the_end_of_an_operation_is_announced_once(visitor: Visitor, controller: FakeController) -> None:
    seen = hidden(visitor.get("/").text, "seen")
    ended = Operation(
        "op1", OperationKind.CLEAN, "me", OperationState.SUCCEEDED, 1.0, ended_at=2.0,
        outcome=Message("clean_done", {"freed_bytes": gib(1), "free_bytes": gib(2)}),
    )  # fmt: skip
    controller.changed(recent=(ended,))

    first = visitor.get(f"/fragments/live?seen={seen}").text
    again = visitor.get(f"/fragments/live?seen={hidden(first, 'seen')}").text

    assert '<hx-partial id="say">' in first
    assert "Память очищена: освобождено 1,0\u00a0GiB" in first
    assert "<hx-partial" not in again


def test_a_page_just_opened_announces_nothing_old(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (Operation("op1", OperationKind.CLEAN, "me", OperationState.SUCCEEDED, 1.0, ended_at=2.0),)

    assert "<hx-partial" not in visitor.get("/").text


def test_the_plan_follows_the_form(visitor: Visitor) -> None:
    answer = visitor.get(
        "/fragments/plan?mode=transformers&model=Qwen/Qwen3-1.7B&precision=int8&max_tokens=512&batch_size=1",
        headers=HTMX,
    )

    assert 'data-verdict="fits"' in answer.text
    assert "Будет выгружено" in answer.text


def test_the_plan_names_what_would_be_unloaded(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", "lab/other", owner=current_actor()),)

    answer = visitor.get("/fragments/plan?mode=transformers&model=Qwen/Qwen3-1.7B&max_tokens=512&batch_size=1")

    assert re.search(r'plan__model">other<.*−3,8', answer.text)


def test_a_value_that_cannot_be_meant_is_said_in_the_plan(visitor: Visitor) -> None:
    for bad in ("0", "-1", "1e3", "", "99999999999", "٣"):
        answer = visitor.get(
            "/fragments/plan", query_string={"mode": "transformers", "model": "Qwen/Qwen3-1.7B", "max_tokens": bad}
        )

        assert answer.status_code == 200
        assert "Поле «Токены» не может быть" in answer.text


def test_the_plan_brings_a_model_that_has_just_come(visitor: Visitor, controller: FakeController) -> None:
    controller.models = ()
    version = hidden(visitor.get("/").text, "plan_version")
    controller.changed(models=(model("lab/new"),))

    answer = visitor.get(f"/fragments/plan?mode=transformers&max_tokens=512&batch_size=1&plan_version={version}")

    assert '<hx-partial hx-target="#model"' in answer.text
    assert '<option value="lab/new">' in answer.text


def test_an_unchanged_plan_is_answered_with_204(visitor: Visitor) -> None:
    query = "mode=transformers&max_tokens=512&batch_size=1"
    version = hidden(visitor.get(f"/fragments/plan?{query}").text, "plan_version")

    assert visitor.get(f"/fragments/plan?{query}&plan_version={version}").status_code == 204


def test_a_model_that_vanished_stays_chosen_and_says_so(visitor: Visitor) -> None:
    answer = visitor.get("/fragments/plan?mode=transformers&model=lab/gone&max_tokens=512&batch_size=1")

    assert "Модели lab/gone нет в кеше" in answer.text
    assert re.search(r'<option value="lab/gone" selected>lab/gone — нет в кеше', answer.text)


def test_the_advice_follows_the_guides_table(visitor: Visitor, controller: FakeController) -> None:
    controller.readings = (reading(free_bytes=gib(4) - 1),)

    answer = visitor.get("/fragments/advice?mode=transformers&max_tokens=2048&batch_size=1")

    assert "INT8 · 512 токенов · батч 1" in answer.text
    assert "precision=int8" in answer.text


def test_the_advice_for_a_chosen_model_fills_the_form_with_what_fits(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.readings = (reading(free_bytes=gib(5)),)
    fields = "mode=transformers&max_tokens=&batch_size=x"

    answer = visitor.get(f"/fragments/advice?{fields}&model=Qwen/Qwen3-1.7B").text

    (query,) = re.findall(r'href="/\?([^"#]*)#switch"', answer)
    plan = visitor.get("/fragments/plan?" + html.unescape(query)).text
    assert 'data-verdict="refused"' not in plan
    assert "data-verdict" in plan


def test_where_nothing_of_a_model_fits_the_advice_says_what_lacks_and_offers_nothing(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.readings = (reading(free_bytes=gib(1)),)

    answer = visitor.get("/fragments/advice?mode=transformers&max_tokens=2048&batch_size=1&model=Qwen/Qwen3-1.7B").text

    assert "· 256 токенов · батч 1" in answer
    assert "Не поместится даже это" in answer
    assert "data-fill" not in answer


def test_no_advice_is_given_on_unknown_memory(visitor: Visitor, controller: FakeController) -> None:
    controller.stale = True

    assert "Совета нет" in visitor.get("/fragments/advice").text


def test_the_emergency_list_is_exact(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", in_flight=2),)
    controller.unlisted_workers = 2

    answer = visitor.get("/fragments/emergency").text

    assert 'data-instance="i1"' in answer
    assert "2 служебных процесса" in answer
    assert "2 запроса сейчас" in answer


def test_a_card_lists_the_processes_with_user_command_and_container(
    visitor: Visitor, controller: FakeController
) -> None:
    holder = Holder(77, "alice", "python train.py", gib(2), HolderKind.FOREIGN, container_id="ab" * 32)
    controller.readings = (reading(held=(holder,)),)

    page = visitor.get("/fragments/live").text

    row = page.split('data-holder="77"')[1].split("</li>")[0]
    assert "python train.py" in row
    assert "alice" in row
    assert "abababababab" in row
