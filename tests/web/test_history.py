"""The history, each operation's own page, and the help at an error, as a browser without scripts and as htmx see them."""

from __future__ import annotations

import html
import re
import time
from dataclasses import replace

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance, model, reading, worker
from webapp.domain.operation import (
    Evicted,
    Finding,
    HeldBy,
    Operation,
    OperationKind,
    OperationState,
    Receipt,
    Step,
    StepName,
    StepState,
)
from webapp.domain.units import gib
from webapp.errors import StoreUnavailable
from webapp.message import Message, Param

ENGLISH = {"Accept-Language": "en"}
NASTY = "<img src=x onerror=alert(1)>"


def ended(number: int, **changes: object) -> Operation:
    """A switch that ended well, the newest has the largest number."""
    made = Operation(
        id=f"op{number}",
        kind=OperationKind.SWITCH,
        actor="maria",
        state=OperationState.SUCCEEDED,
        started_at=1_700_000_000.0 + number,
        ended_at=1_700_000_009.0 + number,
        steps=(Step(StepName.PLAN, StepState.DONE, 1_700_000_000.0, 1_700_000_000.5),),
        mode="transformers",
        model_id="Qwen/Qwen3-1.7B",
        outcome=Message("switch_done", {"model": "Qwen/Qwen3-1.7B", "mode": "transformers", "seconds": 9.0}),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def failed(code: str = "out_of_memory", **changes: object) -> Operation:
    error = Message(code, {"model": "Qwen/Qwen3-1.7B", "detail": "CUDA", "log": "line 1\nline <2>"})
    return ended(7, **{"state": OperationState.FAILED, "error": error, "mode": "vllm", "outcome": None, **changes})


def under_way(**changes: object) -> Operation:
    steps = (Step(StepName.PLAN, StepState.DONE, 1.0, 1.5), Step(StepName.LAUNCH, StepState.RUNNING, time.time()))
    values = {"state": OperationState.RUNNING, "ended_at": None, "outcome": None, "steps": steps}
    return ended(90, **{"id": "running", "started_at": time.time() - 20, **values, **changes})


def listed(answer: TestResponse) -> list[str]:
    return re.findall(r'id="history-(\w+)" data-operation', answer.text)


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))).replace("\u00a0", " ")


@pytest.fixture(autouse=True)
def _some(controller: FakeController) -> None:
    controller.recent = (
        ended(3, actor="ivan"),
        ended(2, kind=OperationKind.CLEAN, model_id=None, outcome=Message("clean_done", {"freed_bytes": gib(1)})),
        failed(id="op1"),
    )


# The list


def test_operations_stand_newest_first_with_who_what_and_how(visitor: Visitor) -> None:
    answer = visitor.get("/history")

    assert listed(answer) == ["op3", "op2", "op1"]
    page = text_of(answer.text)
    for words in ("Переключение → Qwen3-1.7B · Transformers", "ivan", "✅ успех", "9,0 с", "не хватило памяти"):
        assert words in page
    assert 'href="/operations/op3"' in answer.text


def test_what_runs_stands_on_top_and_has_the_list_ask_again(visitor: Visitor, controller: FakeController) -> None:
    still = visitor.get("/history").text
    controller.running = (under_way(),)

    answer = visitor.get("/history")

    assert listed(answer) == ["running", "op3", "op2", "op1"]
    assert "history-poll" in answer.text
    assert "history-poll" not in still


def test_what_runs_is_left_out_where_it_does_not_match(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)

    assert listed(visitor.get("/history?actor=ivan")) == ["op3"]
    assert listed(visitor.get("/history?state=running")) == ["running"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("kind=clean", ["op2"]),
        ("actor=ivan", ["op3"]),
        ("model=Qwen/Qwen3-1.7B", ["op3", "op1"]),
        ("state=failed", ["op1"]),
        ("kind=switch&actor=maria&state=failed", ["op1"]),
        ("kind=&actor=&model=&state=", ["op3", "op2", "op1"]),
    ],
)
def test_filters_hold_together(visitor: Visitor, query: str, found: list[str]) -> None:
    assert listed(visitor.get(f"/history?{query}")) == found


@pytest.mark.parametrize(
    "query",
    ["kind=%00", "kind=SWITCH", "state=ok", "actor=" + "x" * 900, "model=%ED%A0%80", "before=nobody", f"actor={NASTY}"],
)
def test_rubbish_matches_nothing_and_can_be_cleared(visitor: Visitor, query: str) -> None:
    answer = visitor.get(f"/history?{query}")

    assert answer.status_code == 200
    assert listed(answer) == []
    assert 'data-empty="filtered"' in answer.text
    assert 'href="/history" data-action="clear-filter"' in answer.text
    assert "<img" not in answer.text


def test_the_fields_offer_what_is_kept_and_keep_what_was_chosen(visitor: Visitor) -> None:
    page = visitor.get("/history?actor=ivan").text

    actors = re.search(r'<select class="input" name="actor".*?</select>', page)
    assert actors is not None
    assert re.findall(r'<option value="([^"]*)"( selected)?', actors[0]) == [
        ("", ""),
        ("ivan", " selected"),
        ("maria", ""),
    ]


def test_htmx_gets_the_list_alone(visitor: Visitor) -> None:
    answer = visitor.get("/history?kind=clean", headers=HTMX)

    assert listed(answer) == ["op2"]
    assert "<html" not in answer.text
    assert "<select" not in answer.text


def test_pages_follow_one_another_without_a_gap(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = tuple(ended(number) for number in reversed(range(70)))
    controller.running = (under_way(),)
    seen: list[str] = []
    path: str | None = "/history?actor=maria"

    while path is not None:
        answer = visitor.get(path)
        seen += listed(answer)
        link = re.search(r'href="([^"]+)" data-action="older"', answer.text)
        path = None if link is None else html.unescape(link[1])

    assert seen == ["running", *(f"op{number}" for number in reversed(range(70)))]
    assert 'href="/history?actor=maria" data-action="newest"' in answer.text


def test_nothing_done_yet_says_what_will_be_here(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = ()

    assert 'data-empty="nothing"' in visitor.get("/history").text
    assert "No operations yet" in visitor.get("/history", headers=ENGLISH).text


def test_a_store_that_does_not_answer_hides_nothing_that_runs(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)
    controller.refusal = StoreUnavailable(reason="disk is full")

    page, fragment = visitor.get("/history"), visitor.get("/history", headers=HTMX)

    assert (page.status_code, fragment.status_code) == (503, 200)
    for answer in (page, fragment):
        assert listed(answer) == ["running"]
        assert "disk is full" in answer.text
        assert "data-empty" not in answer.text


def test_names_of_people_and_models_are_only_text(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (ended(1, actor=NASTY, model_id=f"lab/{NASTY}"),)

    for path in ("/history", "/operations/op1", "/"):
        page = visitor.get(path).text

        assert "<img" not in page
        assert "&lt;img src=x" in page


def test_english_has_no_russian_left(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)
    receipts = (
        Receipt("gpu-0", gib(4), gib(3), gib(3), 30.0, settled=False, still_held_by=(HeldBy(1, None, None, 5),)),
    )
    controller.recent = (failed("stop_failed", receipts=receipts, evicted=("lab/x",)), *controller.recent)

    for path in ("/history", "/history?kind=x", "/operations/op7", "/operations/running", "/operations/none"):
        page = visitor.get(path, headers=ENGLISH).text.replace("Русский", "")

        assert not re.search("[а-яё]", text_of(page), re.IGNORECASE), path


# One operation


def test_an_operation_is_told_in_full(visitor: Visitor, controller: FakeController) -> None:
    held = tuple(HeldBy(pid, "alice", "python train.py", gib(1)) for pid in range(9))
    receipt = Receipt("gpu-0", gib(4), gib(3), gib(2), 30.0, False, held, "i1", "lab/old", others_bytes=-gib(1))
    findings = (Finding(Message("ended_instance", {"name": "lab/old"})), Finding(Message("x"), ok=False))
    controller.recent = (
        failed(receipts=(receipt,), findings=findings, evicted=("lab/old",), cancel_requested_by="ivan"),
    )

    answer = visitor.get("/operations/op7")

    page = text_of(answer.text)
    for words in (
        "Переключение → Qwen3-1.7B · vLLM",
        "❌ ошибка",
        "Модели Qwen/Qwen3-1.7B не хватило памяти (CUDA)",
        "Начата 1",
        "Выгружены для освобождения памяти lab/old",
        "Отменил ivan",
        "План",
        "0,5 с",
        "Ожидалось 4,0 GiB",
        "Освобождено 3,0 GiB",
        "Из них — сама модель 2,0 GiB",
        "Другие процессы за это время отдали 1,0 GiB",
        "Длительность 30 с",
        "освобождена не вся",
        "line <2>",
    ):
        assert words in page
    assert answer.text.count("data-held") == 9
    assert answer.text.count('data-ok="no"') == 2
    assert "every 2000ms" not in answer.text


def test_a_running_operation_asks_for_news_until_it_ends(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)
    page = visitor.get("/operations/running").text
    poll = re.search(r'id="operation-poll"[^>]*hx-get="([^"]+)"[^>]*every 2000ms', page)
    assert poll is not None
    path = html.unescape(poll[1])

    same = visitor.get(path, headers=HTMX)
    controller.running = (under_way(steps=(Step(StepName.READY, StepState.RUNNING, 1.0),)),)
    news = visitor.get(path, headers=HTMX)
    controller.running, controller.recent = (), (ended(1, id="running"),)
    last = visitor.get(path, headers=HTMX)

    assert (same.status_code, same.data) == (204, b"")
    assert 'data-step="ready"' in news.text
    assert "every 2000ms" in news.text
    assert 'data-state="succeeded"' in last.text
    assert 'id="operation-poll"' in last.text
    assert "hx-trigger" not in last.text


def test_what_could_not_come_back_is_loaded_again_by_one_click(visitor: Visitor, controller: FakeController) -> None:
    owed = Evicted.of(instance("gone", "lab/old"))
    controller.recent = (failed("launch_failed", id="op7", to_restore=(owed,)), *controller.recent)

    for path in ("/", "/operations/op7"):
        assert 'action="/operations/op7/restore"' in visitor.get(path).text, path
    answer = visitor.post("/operations/op7/restore")

    assert answer.status_code == 303
    assert controller.calls[-1][0] == "restore"


def test_what_came_back_offers_no_second_load(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (failed("launch_failed", id="op7"), *controller.recent)

    assert "/restore" not in visitor.get("/").text + visitor.get("/operations/op7").text


def test_a_running_operation_is_cancelled_where_it_is_read(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)
    page = visitor.get("/operations/running").text
    assert 'action="/operations/running/cancel"' in page
    assert 'name="next" value="/operations/running"' in page
    assert 'data-action="reload"' in page

    answer = visitor.post("/operations/running/cancel", {"next": "/operations/running"})

    assert (answer.status_code, answer.location) == (303, "/operations/running")
    assert controller.calls[-1][0] == "cancel"
    assert "Остановка запрошена" in visitor.get("/operations/running").text


def test_nobody_is_sent_away_by_a_form(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)

    assert visitor.post("/operations/running/cancel", {"next": "//elsewhere"}).location == "/"


def test_its_log_can_be_read_while_the_model_is_listed(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(instance_id="i1"),)
    assert "/instances/i1/log" not in visitor.get("/operations/running").text

    controller.instances = (instance("i1"),)

    assert "/instances/i1/log" in visitor.get("/operations/running").text


def test_an_unknown_operation_says_what_to_do(visitor: Visitor) -> None:
    answer = visitor.get("/operations/gone")

    assert answer.status_code == 404
    assert "найдите её в истории" in answer.text
    assert 'class="button button--primary" href="/history"' in answer.text
    assert visitor.get("/operations/gone", headers=HTMX).status_code == 404


# The way there


@pytest.mark.parametrize(
    ("path", "current"),
    [("/", [("/", "page")]), ("/history", [("/history", "page")]), ("/operations/op1", [("/history", "true")])],
)
def test_every_page_leads_to_the_others(visitor: Visitor, path: str, current: list[tuple[str, str]]) -> None:
    page = visitor.get(path).text
    nav = re.search(r'<nav class="nav".*?</nav>', page, re.DOTALL)

    assert nav is not None
    assert re.findall(r'href="([^"]+)"', nav[0])[:2] == ["/", "/history"]
    assert re.findall(r'href="([^"]+)" aria-current="(\w+)"', nav[0]) == current


def test_the_dashboard_leads_to_each_operation(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (under_way(),)

    page = visitor.get("/").text

    for operation_id in ("running", "op3", "op2", "op1"):
        assert f'href="/operations/{operation_id}"' in page


# Troubles


def ways(page: str) -> list[str]:
    return re.findall(r'data-way="([\w-]+)"', page)


def test_a_failure_meets_its_steps_on_its_card_and_on_its_page(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (failed(ended_at=time.time()),)

    card, page = visitor.get("/").text, visitor.get("/operations/op7").text

    for place in (card, page):
        assert ways(place) == ["clean", "emergency", "lighter", "transformers"]
        assert 'form="clean-form" data-action="trouble-clean"' in place
        assert '<form id="clean-form" method="post" action="/clean"' in place
        assert '<form id="emergency-form" method="get" action="/confirm/emergency"' in place
        assert re.search(r'href="/\?mode=transformers&amp;model=Qwen%2FQwen3-1.7B[^"]*#switch" data-fill', place)
    assert 'href="#models"' in card
    assert 'href="/#models"' in page


def test_a_container_that_does_not_stop_meets_commands_to_copy(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (failed("stop_failed", kind=OperationKind.STOP_CONTAINER, mode=None),)

    page = visitor.get("/operations/op7").text

    assert ways(page) == ["emergency", "docker-list", "docker-status", "docker-restart"]
    assert 'data-copy-text="docker ps --all"' in page
    assert "чужие тоже" in page


def test_memory_that_is_still_held_meets_its_steps_on_its_card_and_on_its_page(
    visitor: Visitor, controller: FakeController
) -> None:
    params: dict[str, Param] = {
        "model": "Qwen/Qwen3-1.7B",
        "freed_bytes": gib(1),
        "expected_bytes": gib(3),
        "seconds": 30.0,
    }
    held = Message("unload_held", params)
    warning = {"kind": OperationKind.UNLOAD, "state": OperationState.WARNING, "ended_at": time.time()}
    controller.recent = (ended(7, outcome=held, **warning),)

    card, page = visitor.get("/").text, visitor.get("/operations/op7").text

    for place in (card, page):
        assert ways(place) == ["memory", "clean", "emergency"]
    assert 'href="#memory"' in card
    assert 'href="/#memory"' in page


def test_an_incomplete_emergency_meets_its_steps_in_both_languages(
    visitor: Visitor, controller: FakeController
) -> None:
    params = {"count": 1, "freed_bytes": gib(1), "expected_bytes": gib(3)}
    left = Finding(Message("not_reached", {"name": "Qwen/Qwen3-1.7B", "mode": "vllm"}), ok=False)
    made = {"kind": OperationKind.EMERGENCY, "state": OperationState.WARNING, "mode": None, "model_id": None}
    outcome = Message("emergency_incomplete", params)
    controller.recent = (ended(7, outcome=outcome, findings=(left,), **made),)

    russian = visitor.get("/operations/op7").text
    english = visitor.get("/operations/op7", headers=ENGLISH).text

    for page in (russian, english):
        assert ways(page) == ["memory", "clean", "emergency", "docker-list", "docker-status", "docker-restart"]
    assert "Что можно сделать" in russian
    assert "What you can do" in english


def test_what_went_well_or_was_wanted_offers_nothing(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (ended(1), failed("cancelled", id="op2", state=OperationState.CANCELLED))

    assert "data-trouble" not in visitor.get("/operations/op1").text
    assert "data-trouble" not in visitor.get("/operations/op2").text


def test_a_plan_refused_for_memory_offers_only_what_would_change_that(
    visitor: Visitor, controller: FakeController
) -> None:
    asked = "/?mode=transformers&model=Qwen/Qwen3-1.7B&max_tokens=2048&batch_size=4&precision=int4"
    large = model(weights_bytes=gib(120))
    controller.changed(models=(large,))
    assert 'data-verdict="refused"' in visitor.get(asked).text
    assert ways(visitor.get(asked).text) == []

    controller.changed(models=(large, model("lab/small", weights_bytes=gib(1))))
    assert ways(visitor.get(asked).text) == ["lighter"]

    left = reading(held=(worker("gone", gib(22)),))
    controller.changed(readings=(left,), models=(model(),))
    assert ways(visitor.get(asked).text) == ["clean"]
    assert ways(visitor.get("/?mode=tgi").text) == []


def test_no_form_stands_inside_another(visitor: Visitor, controller: FakeController) -> None:
    controller.readings = (reading(total=gib(2)),)
    controller.recent = (failed(ended_at=time.time()),)
    controller.running = (under_way(),)

    for path in ("/", "/history", "/operations/op7", "/operations/running"):
        depth = 0
        for tag in re.findall(r"<(/?)form\b", visitor.get(path).text):
            depth += -1 if tag else 1
            assert depth in (0, 1), path


# JSON


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("kind=clean", ["op2"]),
        ("actor=maria&state=failed", ["op1"]),
        ("model=Qwen/Qwen3-1.7B&limit=1", ["op3"]),
        ("before=op3", ["op2", "op1"]),
        ("before=op3&kind=switch", ["op1"]),
        ("actor=nobody", []),
    ],
)
def test_json_takes_the_same_filters(client: FlaskClient, query: str, found: list[str]) -> None:
    answer = client.get(f"/api/v1/operations?{query}").json

    assert answer is not None
    assert [operation["id"] for operation in answer] == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=tidy", "kind"),
        ("state=ok", "state"),
        ("actor=" + "x" * 201, "actor"),
        ("model=" + "x" * 5000, "model"),
        ("before=gone", "before"),
        ("limit=0&kind=clean", "limit"),
    ],
)
def test_json_names_a_filter_that_cannot_be_meant(client: FlaskClient, query: str, field: str) -> None:
    answer = client.get(f"/api/v1/operations?{query}")

    assert answer.status_code == 422
    assert answer.json is not None
    assert (answer.json["code"], answer.json["params"]["field"]) == ("invalid", field)
    assert len(answer.json["params"]["value"]) <= 100
