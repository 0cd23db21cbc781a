"""The actions: a redirect for a plain form, a partial for HTMX, and the controller asked exactly once."""

from __future__ import annotations

import pytest

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance
from webapp.domain.modes import Dtype, Quantization
from webapp.domain.operation import Operation, OperationKind, OperationState
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.state import Cooldown
from webapp.errors import Busy, StoreUnavailable
from webapp.web.actor import current_actor

FORM = {
    "mode": "transformers",
    "model": "Qwen/Qwen3-1.7B",
    "precision": "int8",
    "max_tokens": "1024",
    "batch_size": "2",
    "device": "gpu-0",
}


def switched(controller: FakeController) -> SwitchRequest:
    (call,) = controller.calls
    request = call[2]
    assert isinstance(request, SwitchRequest)
    return request


def test_apply_sends_what_the_form_says(visitor: Visitor, controller: FakeController) -> None:
    answer = visitor.post("/switch", {**FORM, "keep_others": "1"})

    assert (answer.status_code, answer.location) == (303, "/")
    request = switched(controller)
    assert controller.calls[0][1] == current_actor()
    assert (request.options.dtype, request.options.quantization) == (Dtype.FLOAT16, Quantization.INT8)
    assert (request.options.max_tokens, request.options.batch_size, request.devices) == (1024, 2, ("gpu-0",))
    assert (request.keep_others, request.restore_on_failure, request.interrupt_busy) == (True, False, False)
    assert "Переключение → Qwen3-1.7B · Transformers. Операция начата." in visitor.get("/").text


def test_apply_by_htmx_answers_with_a_partial_and_a_refresh(visitor: Visitor) -> None:
    answer = visitor.post("/switch", FORM, headers=HTMX)

    assert answer.status_code == 202
    assert answer.headers["HX-Trigger"].startswith("warden:refresh")
    assert answer.text.startswith('<hx-partial id="say">')


def test_a_refused_form_keeps_what_was_typed_and_says_why(visitor: Visitor) -> None:
    answer = visitor.post("/switch", {**FORM, "model": "lab/gone", "max_tokens": "777"})

    assert answer.status_code == 404
    assert "Модели lab/gone нет в кеше" in answer.text
    assert 'value="777"' in answer.text


def test_a_refusal_by_htmx_is_a_sentence_for_the_status_line(visitor: Visitor, controller: FakeController) -> None:
    controller.refusal = Busy(
        operation="op1", kind="switch", actor="ivan", since=1.0, step="launch", model="Qwen/Qwen3-8B"
    )

    answer = visitor.post("/switch", FORM, headers=HTMX)

    assert answer.status_code == 409
    assert "hx-partial" not in answer.text
    for words in ("Переключение Qwen/Qwen3-8B", "шаг «Запуск»", "ivan"):
        assert words in answer.text


def test_a_server_error_by_htmx_comes_as_a_partial_because_5xx_is_not_swapped(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.refusal = StoreUnavailable(reason="disk full")

    answer = visitor.post("/clean", headers=HTMX)

    assert answer.status_code == 503
    assert answer.text.startswith('<hx-partial id="say">')


@pytest.mark.parametrize(
    ("path", "data", "kind"),
    [
        ("/clean", {}, "clean"),
        ("/demo", {}, "demo"),
        ("/emergency", {"confirmed": "1"}, "emergency"),
        ("/instances/i1/unload", {"confirmed": "1"}, "unload"),
    ],
)
def test_every_action_is_a_form_first(
    visitor: Visitor, controller: FakeController, path: str, data: dict[str, str], kind: str
) -> None:
    controller.instances = (instance("i1"),)

    plain = visitor.post(path, data)
    htmx = visitor.post(path, data, headers=HTMX)

    assert (plain.status_code, htmx.status_code) == (303, 202)
    assert [call[0] for call in controller.calls] == [kind, kind]


def test_an_emergency_is_never_begun_without_its_confirmation(visitor: Visitor, controller: FakeController) -> None:
    answer = visitor.post("/emergency")

    assert (answer.status_code, answer.location, controller.calls) == (303, "/confirm/emergency", [])


def test_the_confirmation_is_a_page_without_scripts_and_a_dialog_with_them(visitor: Visitor) -> None:
    page = visitor.get("/confirm/emergency")
    fragment = visitor.get("/confirm/emergency", headers=HTMX)

    assert "<html" in page.text
    assert 'data-action="confirm-emergency"' in page.text
    assert "<html" not in fragment.text
    assert fragment.headers["HX-Trigger"] == "warden:dialog"


def test_a_busy_model_is_unloaded_only_when_that_was_confirmed(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", in_flight=2, owner=current_actor()),)

    plain = visitor.post("/instances/i1/unload")
    htmx = visitor.post("/instances/i1/unload", headers=HTMX)

    assert (plain.status_code, plain.location) == (303, "/confirm/unload/i1")
    assert (htmx.status_code, htmx.headers["HX-Trigger"]) == (200, "warden:dialog")
    assert controller.calls == []
    assert "2 запроса сейчас" in visitor.get("/confirm/unload/i1").text

    assert visitor.post("/instances/i1/unload", {"confirmed": "1"}).status_code == 303
    assert [call[0] for call in controller.calls] == ["unload"]


def test_where_it_is_unknown_whether_a_model_answers_the_question_says_so(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.instances = (instance("i1", in_flight=None, owner=current_actor()),)

    page = visitor.get("/confirm/unload/i1").text

    assert "Неизвестно, отвечает ли модель сейчас. Если отвечает, ответы оборвутся." in page
    assert "Модель сейчас отвечает" not in page


def test_an_operation_can_be_cancelled(visitor: Visitor, controller: FakeController) -> None:
    controller.running = (Operation("op1", OperationKind.CLEAN, "ivan", OperationState.RUNNING, 1.0),)

    answer = visitor.post("/operations/op1/cancel", headers=HTMX)

    assert answer.status_code == 202
    assert "Остановка запрошена" in answer.text
    assert "начата" not in answer.text
    assert controller.calls == [("cancel", current_actor(), "op1", False)]


def test_showing_the_plan_without_scripts_keeps_the_token_out_of_the_address(visitor: Visitor) -> None:
    answer = visitor.post("/preview", FORM)

    assert answer.status_code == 303
    assert "precision=int8" in answer.location
    assert "csrf" not in answer.location


@pytest.mark.parametrize("path", ["/instances/gone/unload", "/operations/gone/cancel", "/instances/gone/ask"])
def test_what_is_gone_is_a_404_with_a_page(visitor: Visitor, path: str) -> None:
    answer = visitor.post(path, {"prompt": "x"})

    assert answer.status_code == 404
    assert 'data-error="404"' in answer.text


def test_a_pause_after_a_failed_load_is_ended_in_the_form_and_its_values_stay(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.changed(cooldowns={FORM["model"]: Cooldown(2, 90.0)})
    page = visitor.get("/", query_string=FORM).text
    assert 'data-action="end-pause"' in page
    assert "неудач подряд: 2" in page

    answer = visitor.post("/models/end-pause", {**FORM, "max_tokens": "777"})

    assert (answer.status_code, controller.cooldowns) == (303, {})
    after = visitor.get(answer.location).text
    assert 'value="777"' in after
    assert 'data-action="end-pause"' not in after


def test_a_pause_is_ended_by_htmx(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(cooldowns={FORM["model"]: Cooldown(1, 90.0)})

    answer = visitor.post("/models/end-pause", FORM, headers=HTMX)

    assert (answer.status_code, controller.cooldowns) == (202, {})
    assert "Модель Qwen/Qwen3-1.7B снова можно загрузить" in answer.text
    assert visitor.post("/models/end-pause", {"model": "lab/gone"}, headers=HTMX).status_code == 404
