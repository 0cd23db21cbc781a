"""The form's main button says what it will do, and cannot be pressed when that would be refused."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from tests.web.conftest import FORM, MODEL, Visitor
from tests.web.fakes import FakeController, foreign, instance, model, reading, worker
from webapp.domain.instance import InstanceState
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, Step, StepName, StepState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.actor import current_actor

ASKED = SwitchRequest(Mode.TRANSFORMERS, MODEL.id, LaunchOptions(max_tokens=2048), ("gpu-0",))


def button(page: str) -> tuple[str, bool]:
    """What the main button says, and whether it can be pressed."""
    (tag, text) = re.findall(r'<button([^>]*\bid="main-(?:load|queue)"[^>]*)>(.*?)</button>', page, re.S)[0]
    return text.strip(), "disabled" not in tag


def hint(page: str) -> str:
    found = re.search(r'id="main-hint" data-hint>([^<]*)<', page)
    return "" if found is None else found[1]


def plan(page: str) -> str:
    """The plan's box."""
    return page.split('id="plan-version"')[1].split("<noscript>", maxsplit=1)[0]


def loading(actor: str, **changes: object) -> Operation:
    """An operation that loads what the form says."""
    steps = (
        Step(StepName.PLAN, StepState.DONE, 1.0, 2.0),
        Step(StepName.LAUNCH, StepState.RUNNING, time.time() - 3, progress=0.4),
    )
    made = Operation("op1", OperationKind.SWITCH, actor, OperationState.RUNNING, 1.0, steps, request=ASKED)
    return replace(made, devices=("gpu-0",), model_id=MODEL.id, **changes)  # type: ignore[arg-type]


def test_nothing_is_chosen_for_anybody_and_the_first_sight_refuses_nothing(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.changed(readings=(reading(held=(foreign("maria", "train.py", gib(23)),)),))

    page = visitor.get("/").text

    assert '<option value="" selected>Выберите модель</option>' in page
    assert 'data-verdict="none"' in page
    assert "pill--bad" not in plan(page)
    assert button(page) == ("Загрузить", False)
    assert hint(page) == "Сначала выберите модель."


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({"lease": "time", "lease_time": ""}, "Поле «Аренда до» не может быть «»."),
        ({"idle": "999999"}, "Поле «Выгрузка при простое» не может быть «999999.0»."),
        ({"reason": "x" * 201}, "Поле «Цель» не может быть"),
    ],
    ids=["no time", "too long idle", "too long a reason"],
)
def test_terms_that_would_be_refused_are_refused_before_the_click(
    visitor: Visitor, terms: dict[str, str], why: str
) -> None:
    page = visitor.get("/", query_string={**FORM, **terms}).text

    assert why in plan(page)
    assert button(page) == ("Загрузить", False)
    assert visitor.post("/switch", {**FORM, **terms}).status_code == 422


def test_an_empty_cache_is_why_nothing_can_be_loaded(visitor: Visitor, controller: FakeController) -> None:
    controller.models = ()

    assert hint(visitor.get("/").text) == "В кеше нет модели, которую можно загрузить."


def test_what_fits_beside_everything_is_loaded(visitor: Visitor) -> None:
    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("Загрузить", True)
    assert hint(page) == ""


def test_models_that_will_go_are_named_in_it(visitor: Visitor, controller: FakeController) -> None:
    me = current_actor()
    controller.instances = (instance("i1", "lab/one", owner=me),)
    assert button(visitor.get("/", query_string=FORM).text) == ("Заменить one и загрузить", True)

    controller.changed(instances=(instance("i1", "lab/one", owner=me), instance("i2", "lab/two", owner=me)))
    assert button(visitor.get("/", query_string=FORM).text) == ("Выгрузить 2 модели и загрузить", True)

    controller.changed(instances=(instance("i1", "lab/one", owner=me, state=InstanceState.DEAD),))
    assert button(visitor.get("/", query_string=FORM).text) == ("Загрузить", True)


@pytest.mark.usefixtures("full")
def test_what_may_fit_later_joins_the_queue(visitor: Visitor) -> None:
    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("⏳ Встать в очередь", True)
    assert re.search(r'id="main-queue" name="then" value="start" formaction="/tickets"', page)
    assert "Сейчас не хватает памяти" in hint(page)


def test_a_device_on_which_an_operation_runs_is_waited_for(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(claims={"gpu-0": "op9"})

    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("⏳ Встать в очередь", True)
    assert hint(page) == "Устройство занято операцией. Модель загрузится после неё."


def test_an_operation_on_a_device_of_what_would_go_is_waited_for_too(
    visitor: Visitor, controller: FakeController
) -> None:
    both = instance("i1", "lab/other", owner=current_actor(), devices=("gpu-0", "gpu-1"))
    controller.changed(readings=(reading(), reading("gpu-1")), instances=(both,), claims={"gpu-1": "op9"})

    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("⏳ Встать в очередь", True)
    assert hint(page) == "Устройство занято операцией. Модель загрузится после неё."


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({}, "Модель загрузится автоматически."),
        ({"starts_by_itself": False}, "Когда модель поместится, появится уведомление."),
        ({"paused_by": "maria"}, "Модель приостановлена и не запустится, пока её не возобновят."),
    ],
    ids=["starts automatically", "notify only", "paused"],
)
def test_who_waits_already_is_told_the_place_and_what_will_come_of_it(
    visitor: Visitor, full: FakeController, changes: dict[str, object], what: str
) -> None:
    ticket = replace(QueuedLaunch("t1", 1, ASKED, current_actor(), 1.0), **changes)  # type: ignore[arg-type]
    full.changed(waiting=(QueueEntry(ticket, 1, Message("waits_memory", {})),))

    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("Уже в очереди", False)
    assert hint(page) == f"Место в очереди: 1. {what}"
    assert 'class="wait"' not in page


def test_nobody_is_led_into_a_queue_that_is_full(visitor: Visitor, full: FakeController) -> None:
    others = QueuedLaunch("t1", 1, replace(ASKED, model_id="lab/other"), "maria", 1.0)
    full.changed(waiting=(QueueEntry(others, 1, Message("waits_memory", {})),), queue_limit=1)

    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("Загрузить", False)
    assert hint(page) == "Очередь заполнена (1). Повторите позже."
    assert 'class="wait"' not in page


@pytest.mark.parametrize("free_bytes", [gib(20), gib(2)], ids=["would load", "would wait"])
def test_nothing_is_loaded_or_queued_while_nothing_can_be_kept(
    visitor: Visitor, controller: FakeController, free_bytes: int
) -> None:
    problem = Message("keeping_full", {"file": "/state/warden.db", "detail": "disk full", "lost": 0})
    controller.changed(readings=(reading(free_bytes=free_bytes),), store_problem=problem)

    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("Загрузить", False)
    assert hint(page) == "Сейчас ничего не сохраняется: причина указана вверху страницы."
    assert 'class="wait"' not in page


def test_what_never_fits_cannot_be_pressed_and_gets_no_false_hope(visitor: Visitor, controller: FakeController) -> None:
    controller.models = (model(weights_bytes=gib(132)),)

    page = visitor.get("/", query_string=FORM).text

    assert button(page) == ("Загрузить", False)
    assert hint(page) == "Не хватает памяти."
    assert "Не поместится" in plan(page)
    for no_help in ("🧹", "🚨", "data-trouble", 'data-action="load-anyway"', "Ничего не выгружено"):
        assert no_help not in plan(page)


def test_a_loaded_model_is_no_error(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", options=LaunchOptions(max_tokens=2048)),)

    page = visitor.get("/", query_string=FORM).text

    assert 'data-verdict="loaded"' in page
    assert "data-refusal" not in plan(page)
    assert button(page) == ("Загрузить", False)
    assert "уже загружена" in hint(page)


def test_what_the_limit_never_lets_in_is_not_offered_to_wait(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(policy=AdmissionPolicy(memory_limit_bytes=gib(1)))

    page = visitor.get("/", query_string=FORM).text

    assert 'data-verdict="refused"' in page
    assert button(page)[1] is False
    assert 'data-action="wait-start"' not in page


def test_ones_own_load_stands_instead_of_a_plan_against_it(visitor: Visitor, controller: FakeController) -> None:
    me = current_actor()
    started = instance("i1", owner=me, state=InstanceState.LOADING)
    controller.changed(instances=(started,), running=(loading(me),), claims={"gpu-0": "op1"})

    page = visitor.get("/", query_string=FORM).text

    assert 'data-verdict="loading" data-under-way="op1"' in page
    assert 'Запуск</a> · <span class="number">40 %</span>' in plan(page)
    assert "Будет выгружено" not in plan(page)
    assert button(page) == ("Загружается…", False)
    assert 'data-action="wait-start"' not in page


@pytest.mark.parametrize(
    "other",
    [
        loading("maria"),
        replace(loading(current_actor()), kind=OperationKind.UNLOAD),
        replace(loading(current_actor()), request=replace(ASKED, model_id="lab/other")),
        replace(loading(current_actor()), request=replace(ASKED, options=LaunchOptions(max_tokens=512))),
        replace(loading(current_actor()), request=None),
        replace(loading(current_actor()), request=replace(ASKED, devices=("gpu-1",)), devices=("gpu-1",)),
        replace(loading(current_actor()), cancel_requested_by="maria"),
        replace(loading(current_actor()), steps=(Step(StepName.ROLLBACK, StepState.RUNNING, 1.0),)),
    ],
    ids=[
        "another person's",
        "another kind",
        "another model",
        "other options",
        "older",
        "elsewhere",
        "cancelled",
        "being undone",
    ],
)
def test_any_other_operation_leaves_the_plan(visitor: Visitor, controller: FakeController, other: Operation) -> None:
    controller.changed(running=(other,), claims={"gpu-0": "op1"})

    assert 'data-verdict="fits"' in visitor.get("/", query_string=FORM).text


def test_a_context_beyond_the_models_own_is_still_ones_own_load(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(models=(model(context_length=1024),), running=(loading(current_actor()),))

    assert 'data-verdict="loading"' in visitor.get("/", query_string=FORM).text


@pytest.mark.parametrize(("asked", "form"), [(None, "gpu-0"), (("gpu-0",), "auto")])
def test_a_load_that_chose_its_own_device_is_still_ones_own(
    visitor: Visitor, controller: FakeController, asked: tuple[str, ...] | None, form: str
) -> None:
    controller.changed(running=(replace(loading(current_actor()), request=replace(ASKED, devices=asked)),))

    assert 'data-verdict="loading"' in visitor.get("/", query_string={**FORM, "device": form}).text


def test_without_scripts_a_button_sends_what_the_server_has_not_seen_yet(visitor: Visitor) -> None:
    page = visitor.get("/").text
    unseen = page.split("<noscript>")[2 if "models-q" in page.split("<noscript>")[0] else 1]
    assert 'data-action="apply-unseen"' in page
    assert "disabled" not in unseen.split("</noscript>")[0]

    assert visitor.post("/switch", data=FORM).status_code == 303


def test_a_form_without_a_model_is_told_to_choose_one(visitor: Visitor, controller: FakeController) -> None:
    answer = visitor.post("/switch", data={**FORM, "model": ""})

    assert answer.status_code == 404
    assert "Модель не выбрана. Выберите модель из списка." in answer.text.split('id="say"')[1].split("</p>")[0]
    assert controller.calls == []


def test_docker_that_is_not_there_is_one_grey_line(visitor: Visitor, controller: FakeController) -> None:
    controller.mode_problems = {Mode.TRANSFORMERS: None, Mode.VLLM: Message("engine_missing", {"socket": "/d.sock"})}

    page = visitor.get("/").text

    assert "🛑" not in page
    assert "notice--bad" not in page
    assert re.search(r'<p class="hint optional" id="vllm" data-reason hidden>', page)
    shown = page.replace(page.split('id="vllm"')[1].split("</p>")[0], "")
    assert len(re.findall(r"<p>vLLM: Docker на этом сервере не найден", shown)) == 1


def test_a_clean_up_is_offered_where_it_makes_room(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(readings=(reading(held=(worker("gone", gib(22)),)),))

    page = visitor.get("/", query_string=FORM).text

    assert 'data-action="trouble-clean"' in plan(page)
    assert 'data-action="trouble-emergency"' not in plan(page)
