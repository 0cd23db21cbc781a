"""vLLM mode on the page: our containers and others', ending one of others', the form in both modes, and a start that is under way."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, container, held_by, instance, reading
from webapp.domain.instance import InstanceState
from webapp.domain.modes import Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, Step, StepName, StepState
from webapp.domain.units import gib
from webapp.errors import Busy
from webapp.message import Message, Param
from webapp.web.actor import current_actor

NASTY = '"><script>alert(1)</script>'
DOWN = Message("engine_unreachable", {"socket": "/var/run/docker.sock", "detail": "timed out"})
NO_IMAGE = Message(
    "image_missing", {"image": "vllm/vllm-openai:latest", "command": "docker pull vllm/vllm-openai:latest"}
)
ENGLISH = {"Accept-Language": "en"}
RUSSIAN = re.compile("[а-яё]", re.IGNORECASE)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).replace("\u00a0", " ")


def card(html: str, name: str = "vllm") -> str:
    return html.split(f'id="{name}"')[1].split("</section>", maxsplit=1)[0]


def row(html: str, container_id: str) -> str:
    return html.split(f'data-container="{container_id}"')[1].split('role="listitem"', maxsplit=1)[0]


@pytest.fixture
def vllm(controller: FakeController) -> FakeController:
    """Where vLLM mode can be chosen."""
    controller.mode_problems = {Mode.TRANSFORMERS: None, Mode.VLLM: None}
    return controller


def hidden(html: str, name: str) -> str:
    found = re.search(rf'name="{name}"[^>]* value="([^"]*)"', html)
    assert found is not None
    return found[1]


# The card


def test_a_foreign_container_is_listed_with_all_that_is_known_of_it(visitor: Visitor, vllm: FakeController) -> None:
    alice = container()
    vllm.containers = (alice,)
    vllm.readings = (reading(held=(held_by(alice, gib(5.5)), held_by(alice, gib(0.5), 9002))),)

    shown = row(visitor.get("/").text, alice.id)

    assert shown.startswith(" data-foreign")
    for words in (
        "alice-vllm", "сторонний", "работает", "vllm/vllm-openai:v0.11.0", "Qwen/Qwen3-8B", "0.0.0.0:8000",
        "GPU 0", "6,0 GiB", "создан 1 д назад", "alice",
    ):  # fmt: skip
        assert words in text_of(shown)


def test_what_is_not_known_of_a_container_is_not_invented(visitor: Visitor, vllm: FakeController) -> None:
    vague = container(owner=None, model=None, ports=(), pids=())
    vllm.containers = (vague,)
    vllm.readings = (reading(held=(held_by(vague, None),)),)

    shown = text_of(row(visitor.get("/").text, vague.id))

    assert "владелец неизвестен" in shown
    assert "нет данных" in shown
    assert "0 GiB" not in shown


def test_a_container_of_another_warden_is_marked_as_such(visitor: Visitor, vllm: FakeController) -> None:
    other = container(of_warden="/home/boris/warden")
    vllm.containers = (other,)

    shown = row(visitor.get("/").text, other.id)

    assert "другой Warden" in shown
    assert 'title="/home/boris/warden"' in shown


def test_what_a_container_holds_on_each_device_adds_up(visitor: Visitor, vllm: FakeController) -> None:
    alice = container()
    vllm.containers = (alice,)
    vllm.readings = (reading("gpu-0", held=(held_by(alice, gib(5)),)), reading("gpu-1", held=(held_by(alice, gib(4)),)))

    shown = text_of(row(visitor.get("/").text, alice.id))

    for words in ("GPU 0 + GPU 1", "9,0 GiB", "GPU 0: 5,0 GiB", "GPU 1: 4,0 GiB"):
        assert words in shown


def test_a_process_without_a_control_group_counts_by_its_pid(visitor: Visitor, vllm: FakeController) -> None:
    alice = container(pids=(9001,))
    vllm.containers = (alice,)
    vllm.readings = (reading(held=(replace(held_by(alice, gib(2)), container_id=None),)),)

    assert "2,0 GiB" in text_of(row(visitor.get("/").text, alice.id))


def test_a_hostile_container_cannot_break_the_page(visitor: Visitor, vllm: FakeController) -> None:
    bad = container(
        name=NASTY, image=NASTY, owner=NASTY, model=NASTY, ports=(NASTY,), state=NASTY, of_warden=NASTY,
    )  # fmt: skip
    long = container(2, name="x" * 10_000)
    vllm.containers = (bad, long)

    for path in ("/", f"/confirm/container/{bad.id}", f"/confirm/container/{long.id}"):
        answer = visitor.get(path)

        assert answer.status_code == 200
        assert "<script>alert" not in answer.text


@pytest.mark.parametrize("path", ["/", "/confirm/container/{id}"])
def test_everything_about_containers_is_said_in_english_too(visitor: Visitor, vllm: FakeController, path: str) -> None:
    alice = container()
    vllm.containers = (alice, container(2, "w", of_warden="/w"), container(3, "c", state="created", owner=None))
    vllm.mode_problems[Mode.VLLM] = DOWN

    page = visitor.get(path.format(id=alice.id), headers=ENGLISH).text
    part = card(page) if path == "/" else page.split("data-confirm")[1]

    assert not RUSSIAN.search(text_of(part))


@pytest.mark.parametrize("problem", [DOWN, NO_IMAGE, Message("engine_forbidden", {"socket": "/s", "user": "me"})])
def test_the_reason_stands_in_the_card_and_in_the_form(
    visitor: Visitor, vllm: FakeController, problem: Message
) -> None:
    vllm.mode_problems[Mode.VLLM] = problem
    vllm.containers = (container(),)

    page = visitor.get("/").text
    said = (
        text_of(card(page))
        .split("⚠️")[1]
        .strip()
        .split("Скопировать")[0]
        .split(" Ниже показано")[0]
        .split("Запущены не")[0]
        .strip()
    )

    assert said.endswith(".")
    assert ".." not in said
    assert said in text_of(page.split('id="modes"')[1].split("</select>")[0])


def test_the_command_that_gets_the_image_can_be_copied(visitor: Visitor, vllm: FakeController) -> None:
    vllm.mode_problems[Mode.VLLM] = NO_IMAGE

    page = visitor.get("/").text

    assert page.count('data-copy-text="docker pull vllm/vllm-openai:latest"') == 2


def test_the_rows_stay_while_docker_is_gone(visitor: Visitor, vllm: FakeController) -> None:
    vllm.instances = (instance("v1", mode=Mode.VLLM),)
    vllm.containers = (container(),)
    vllm.mode_problems[Mode.VLLM] = DOWN

    shown = card(visitor.get("/").text)

    assert "Docker не отвечает" in shown
    assert 'data-instance="v1"' in shown
    assert "alice-vllm" in shown
    assert "последнее известное состояние" in shown


def test_containers_that_stand_still_are_not_drawn_again(visitor: Visitor, vllm: FakeController) -> None:
    vllm.containers = (container(),)
    version = hidden(visitor.get("/").text, "version")
    vllm.changed()

    assert visitor.get(f"/fragments/live?version={version}", headers=HTMX).status_code == 204

    vllm.changed(containers=())

    assert visitor.get(f"/fragments/live?version={version}", headers=HTMX).status_code == 200


# Ending somebody else's container


def test_the_question_names_the_container_and_what_ends_with_it(visitor: Visitor, vllm: FakeController) -> None:
    alice = container()
    vllm.containers = (alice,)
    vllm.readings = (reading(held=(held_by(alice, gib(5.5)),)),)

    page = visitor.get(f"/confirm/container/{alice.id}")
    fragment = visitor.get(f"/confirm/container/{alice.id}", headers=HTMX)

    assert "<html" in page.text
    assert "hx-post" not in page.text.split("data-confirm")[1]
    assert fragment.headers["HX-Trigger"] == "warden:dialog"
    for words in ("alice-vllm", "vllm/vllm-openai:v0.11.0", "Qwen/Qwen3-8B", "5,5 GiB · GPU 0", "оборвутся"):
        assert words in text_of(page.text)
        assert words in text_of(fragment.text)


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_the_very_name_ends_it(visitor: Visitor, vllm: FakeController, headers: dict[str, str]) -> None:
    alice = container()
    vllm.containers = (alice,)

    answer = visitor.post(f"/containers/{alice.id}/stop", {"name": " alice-vllm "}, headers=headers)

    assert answer.status_code == (202 if headers else 303)
    assert vllm.calls == [("stop_container", current_actor(), alice.id, "alice-vllm")]


@pytest.mark.parametrize("typed", ["bob", "ALICE-VLLM", "alice-vllm2", NASTY])
def test_a_wrong_name_is_said_where_it_was_typed(visitor: Visitor, vllm: FakeController, typed: str) -> None:
    alice = container()
    vllm.containers = (alice,)

    for headers in ({}, HTMX):
        answer = visitor.post(f"/containers/{alice.id}/stop", {"name": typed}, headers=headers)

        assert answer.status_code == (200 if headers else 409)
        assert "data-problem" in answer.text
        assert 'data-action="confirm-stop-container"' in answer.text
        assert "<script>alert" not in answer.text
        assert "warden:close-dialog" not in answer.headers.get("HX-Trigger", "")
    assert vllm.calls == []


def test_without_a_name_a_browser_is_led_to_the_question(visitor: Visitor, vllm: FakeController) -> None:
    alice = container()
    vllm.containers = (alice,)

    answer = visitor.post(f"/containers/{alice.id}/stop")

    assert (answer.status_code, answer.location) == (303, f"/confirm/container/{alice.id}")
    assert vllm.calls == []


def test_other_refusals_go_where_they_always_go(visitor: Visitor, vllm: FakeController) -> None:
    alice = container()
    vllm.containers = (alice,)
    vllm.refusal = Busy(operation="op1", kind="switch", actor="ivan", since=1.0, step="launch", model="Qwen/Qwen3-8B")

    answer = visitor.post(f"/containers/{alice.id}/stop", {"name": alice.name}, headers=HTMX)

    assert answer.status_code == 409
    assert answer.text.startswith('<p class="say')


def test_a_container_that_is_gone_is_a_404(visitor: Visitor, vllm: FakeController) -> None:
    assert visitor.get("/confirm/container/gone").status_code == 404
    assert visitor.post("/containers/gone/stop", {"name": "x"}).status_code == 404


def test_an_emergency_says_which_containers_stay(visitor: Visitor, vllm: FakeController) -> None:
    vllm.containers = (container(name=NASTY), container(2))

    listed = visitor.get("/fragments/emergency").text.split('data-list="containers"')[1]

    assert "alice-vllm" in listed
    assert "vllm/vllm-openai:v0.11.0" in listed
    assert "<script>alert" not in listed


# The form


def test_what_a_mode_cannot_do_is_disabled_with_the_reason(visitor: Visitor, vllm: FakeController) -> None:
    query = "model=Qwen/Qwen3-1.7B&max_tokens=512&batch_size=1&precision=fp16"
    container_mode = visitor.get(f"/fragments/plan?mode=vllm&{query}").text
    process_mode = visitor.get(f"/fragments/plan?mode=transformers&{query}").text

    for precision in ("int8", "int4"):
        assert re.search(rf'<option value="{precision}" disabled>[^<]*только Transformers', container_mode)
        assert f'<option value="{precision}">' in process_mode
    assert "переводит bitsandbytes" in container_mode
    assert "переводит bitsandbytes" not in process_mode


def test_a_precision_that_was_chosen_before_stays_visible_with_its_reason(
    visitor: Visitor, vllm: FakeController
) -> None:
    page = visitor.get("/?mode=vllm&model=Qwen/Qwen3-1.7B&max_tokens=512&batch_size=1&precision=int8").text

    assert re.search(r'<option value="int8" selected>INT8 — только Transformers', page)
    assert "только в режиме Transformers. Выберите другую точность." in page.split("data-refusal")[1]
    assert "data-needed" not in page


def test_the_plan_follows_the_mode(visitor: Visitor, vllm: FakeController) -> None:
    query = "model=Qwen/Qwen3-1.7B&max_tokens=512&batch_size=1&precision=fp16"
    version = hidden(visitor.get(f"/fragments/plan?mode=transformers&{query}").text, "plan_version")

    assert visitor.get(f"/fragments/plan?mode=vllm&{query}&plan_version={version}").status_code == 200


def test_a_chosen_mode_stays_chosen_while_it_cannot_be_had(visitor: Visitor, vllm: FakeController) -> None:
    vllm.mode_problems[Mode.VLLM] = DOWN

    page = visitor.get("/?mode=vllm&model=Qwen/Qwen3-1.7B&max_tokens=512&batch_size=1").text

    assert re.search(r'value="vllm" checked aria-describedby', page)
    assert 'data-verdict="refused"' in page


def test_the_advice_is_vllm_where_it_can_be_chosen(visitor: Visitor, vllm: FakeController) -> None:
    free = "/fragments/advice?mode=transformers&max_tokens=2048&batch_size=1"

    assert "mode=vllm" in visitor.get(free).text

    vllm.changed(mode_problems={Mode.TRANSFORMERS: None, Mode.VLLM: DOWN})

    assert "mode=vllm" not in visitor.get(free).text


# A start


def launching(progress: float | None, message: Message) -> Operation:
    steps = (
        Step(StepName.LAUNCH, StepState.RUNNING, time.time() - 5, message=message, progress=progress),
        Step(StepName.READY),
    )
    return Operation(
        "op1", OperationKind.SWITCH, "ivan", OperationState.RUNNING, time.time() - 9, steps,
        mode="vllm", model_id="Qwen/Qwen3-8B", instance_id="v1",
    )  # fmt: skip


def test_a_start_tells_its_stage_once_and_leads_to_its_log(visitor: Visitor, vllm: FakeController) -> None:
    vllm.instances = (instance("v1", mode=Mode.VLLM, state=InstanceState.LOADING),)
    vllm.running = (launching(0.45, Message("vllm_weights", {"percent": 45})),)

    shown = card(visitor.get("/").text, "operation-op1")

    assert "веса загружаются: 45 %" in text_of(shown)
    assert text_of(shown).count("45 %") == 1
    assert 'href="/instances/v1/log"' in shown
    assert 'data-action="cancel"' in shown


def test_before_the_instance_is_listed_there_is_no_log_to_lead_to(visitor: Visitor, vllm: FakeController) -> None:
    vllm.running = (launching(None, Message("vllm_starting")),)

    assert 'data-action="log"' not in card(visitor.get("/").text, "operation-op1")


def test_progress_is_drawn_as_it_comes(visitor: Visitor, vllm: FakeController) -> None:
    vllm.running = (launching(0.45, Message("vllm_weights", {"percent": 45})),)
    version = hidden(visitor.get("/").text, "version")
    vllm.changed(running=(launching(0.9, Message("vllm_weights", {"percent": 90})),))

    assert "90 %" in text_of(visitor.get(f"/fragments/live?version={version}").text)


def test_a_failed_start_shows_its_cause_what_to_do_and_the_last_lines(visitor: Visitor, vllm: FakeController) -> None:
    cause: dict[str, Param] = {
        "model": "Qwen/Qwen3-8B",
        "max_tokens": 40960,
        "needed_bytes": gib(5.6),
        "available_bytes": gib(2.1),
    }
    error = Message("kv_cache_too_small", {**cause, "fits_tokens": 15280, "log": "ValueError: <b>\nlast"})
    steps = (Step(StepName.LAUNCH, StepState.FAILED, 1.0, 2.0, Message("vllm_profiling")),)
    ended = time.time() - 1
    vllm.recent = (
        Operation(
            "op1", OperationKind.SWITCH, "ivan", OperationState.FAILED, ended - 9, steps, ended_at=ended, mode="vllm",
            error=error, outcome=Message("nothing_changed"),
        ),
    )  # fmt: skip

    shown = card(visitor.get("/").text, "operation-op1")

    assert "Уменьшите число токенов до 15 280" in text_of(shown)
    assert "ValueError: &lt;b&gt;\nlast" in shown.split("<details")[1]


def test_ending_a_foreign_container_has_its_own_card(visitor: Visitor, vllm: FakeController) -> None:
    vllm.running = (Operation("op1", OperationKind.STOP_CONTAINER, "ivan", OperationState.RUNNING, time.time()),)

    assert "🛑" in card(visitor.get("/").text, "operation-op1")
