"""The page as a browser without scripts sees it."""

from __future__ import annotations

import html
import re
import time
from dataclasses import replace

import pytest

from tests.web.conftest import Visitor
from tests.web.fakes import FakeController, foreign, instance, model, reading, worker
from webapp.domain.instance import InstanceState
from webapp.domain.memory import without_figures
from webapp.domain.modes import NOT_INSTALLED, Mode
from webapp.domain.operation import Operation, OperationKind, OperationState, Receipt, Step, StepName, StepState
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.actor import current_actor


def text_of(piece: str) -> str:
    """The words of a piece of HTML, blanks made single."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", piece)).replace("\u00a0", " ")


def test_the_page_shows_the_four_figures_of_the_guide_in_the_readers_numbers(visitor: Visitor) -> None:
    page = text_of(visitor.get("/").text)

    for words in ("Видеопамять, всего 24,0 GiB", "Используется 0,40 GiB", "Доступно 23,6 GiB", "Занято памяти 2 %"):
        assert words in page


def test_english_has_its_own_words_and_numbers(visitor: Visitor) -> None:
    page = text_of(visitor.get("/", headers={"Accept-Language": "en"}).text)

    for words in ("GPU memory (total) 24.0 GiB", "Available 23.6 GiB", "Choose a model first.", "Emergency clean-up"):
        assert words in page


@pytest.mark.parametrize(
    ("free", "level", "words"),
    [(gib(4), "good", "Достаточно"), (gib(4) - 1, "low", "Мало памяти"), (gib(2) - 1, "critical", "Критически мало")],
)
def test_the_level_is_said_in_a_word_and_a_shape(
    visitor: Visitor, controller: FakeController, free: int, level: str, words: str
) -> None:
    controller.readings = (reading(free_bytes=free),)

    page = visitor.get("/").text

    assert f'data-level="{level}"' in page
    assert words in page


def test_the_bar_names_everybody_who_holds_memory(visitor: Visitor, controller: FakeController) -> None:
    held = (worker("i1", gib(3.8)), foreign("alice", "python train.py", gib(2.8)))
    controller.readings = (reading(held=held),)
    controller.instances = (instance("i1"),)

    page = text_of(visitor.get("/").text)

    for words in ("драйвер 410 MiB", "Qwen3-1.7B (Transformers) 3,8 GiB", "alice · python train.py 2,8 GiB"):
        assert words in page


def test_a_lost_gpu_says_so_and_hides_no_other(visitor: Visitor, controller: FakeController) -> None:
    lost = without_figures(reading("gpu-0"), Message("device_lost", {"device": "gpu-0", "detail": "GPU is lost"}))
    controller.readings = (lost, reading("gpu-1"))

    page = visitor.get("/").text

    assert "Видеокарта GPU 0 не отвечает: потеряна на шине PCIe" in page
    assert 'data-device="gpu-0" data-level="unknown"' in page
    assert 'data-device="gpu-1" data-level="good"' in page
    assert "нет данных" in page


def test_before_the_first_reading_nothing_is_invented(visitor: Visitor, controller: FakeController) -> None:
    controller.age_s = None

    page = visitor.get("/").text

    assert "Память ещё не прочитана" in page
    assert "data-metric" not in page


def test_stale_figures_are_marked(visitor: Visitor, controller: FakeController) -> None:
    controller.stale, controller.age_s = True, 15.0

    page = visitor.get("/").text

    assert "Показания устарели" in page
    assert "15\u00a0с назад" in page


def test_a_machine_without_a_gpu_shows_its_main_memory_and_why(visitor: Visitor, controller: FakeController) -> None:
    controller.readings = (reading("host", total=gib(32)),)
    controller.sample_problem = Message("driver_missing", {"detail": "no library"})

    page = text_of(visitor.get("/").text)

    assert "Оперативная память" in page
    assert "Драйвера NVIDIA здесь нет" in page
    assert "Память, всего 32,0 GiB" in page


def test_a_loaded_model_can_be_asked_and_unloaded(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", in_flight=3, owner=current_actor()),)

    page = visitor.get("/").text

    assert 'id="instance-i1"' in page
    assert "3 запроса сейчас" in page
    assert 'href="/instances/i1/ask"' in page
    assert 'action="/instances/i1/unload"' in page
    assert re.search(r'data-action="unload"[^>]*>Выгрузить</button>', page)


def test_a_model_that_does_not_say_how_busy_it_is_is_not_shown_as_idle(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.instances = (instance("i1", in_flight=None, owner=current_actor()),)

    assert "запросы: нет данных" in text_of(visitor.get("/").text)


def test_a_container_is_stopped_by_its_own_word(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("c1", mode=Mode.VLLM),)

    page = visitor.get("/").text

    assert 'aria-label="Остановить Qwen/Qwen3-1.7B"' in page
    assert re.search(r'data-action="unload"[^>]*>Остановить</button>', page)


def test_a_silent_model_says_why_and_cannot_be_asked(visitor: Visitor, controller: FakeController) -> None:
    problem = Message("worker_silent", {"instance": "i1", "seconds": 2.0})
    controller.instances = (instance("i1", state=InstanceState.SILENT, problem=problem),)

    page = visitor.get("/").text

    assert "Процесс модели Qwen/Qwen3-1.7B не ответил за 2,0\u00a0с" in page
    assert "/instances/i1/ask" not in page


def test_a_dead_model_holds_nothing_any_more(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", state=InstanceState.DEAD, measured_bytes={"gpu-0": gib(9.9)}),)

    page = visitor.get("/").text

    assert '<div class="row__memory number"><small>занимала 9,9\u00a0GiB</small></div>' in page


def test_a_file_that_names_absurd_numbers_does_not_take_the_page_away(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.models = (model("lab/absurd", context_length=10**400, parameters=10**400, size_bytes=10**30),)

    assert visitor.get("/").status_code == 200


def test_vllm_is_offered_with_the_reason_why_it_cannot_be_chosen(visitor: Visitor) -> None:
    page = visitor.get("/").text

    assert re.search(r'id="mode-vllm" value="vllm" disabled', page)
    assert page.count("ежим vLLM не установлен на этом сервере: нужно дополнение warden[vllm]") >= 2


@pytest.mark.parametrize("mode", list(Mode))
def test_the_page_and_json_name_the_extra_that_a_mode_needs(
    visitor: Visitor, controller: FakeController, mode: Mode
) -> None:
    controller.mode_problems = {mode: NOT_INSTALLED[mode]}

    page = visitor.get("/", headers={"Accept-Language": "en"}).text
    status = visitor.get("/api/v1/status", headers={"Accept-Language": "en"}).json

    assert f"it needs the extra warden[{mode.value}]." in page
    assert status is not None
    problem = status["mode_problems"][mode.value]
    assert problem["code"] == f"{mode.value}_not_installed"
    assert problem["text"].endswith(f"it needs the extra warden[{mode.value}]")
    assert problem["params"] == {"command": f"pip install 'warden[{mode.value}]'"}


def test_an_empty_cache_offers_the_demo_model_and_says_what_it_is(visitor: Visitor, controller: FakeController) -> None:
    controller.models = ()

    page = visitor.get("/").text

    assert 'id="cache-empty"' in page
    assert "со случайными весами" in page
    assert 'data-action="demo"' in page
    assert re.search(r'data-action="apply" disabled', page)


def test_an_unsuitable_model_is_listed_with_its_reason_and_cannot_be_chosen(
    visitor: Visitor, controller: FakeController
) -> None:
    broken = model("lab/broken", problem=Message("model_incomplete", {"missing": "model-2.safetensors"}))
    controller.models = (model(), broken)

    page = visitor.get("/").text

    assert "не хватает: model-2.safetensors" in page
    assert re.search(r'<option value="lab/broken" disabled>', page)


def test_the_query_fills_the_form(visitor: Visitor) -> None:
    page = visitor.get("/?mode=transformers&precision=int8&max_tokens=512&batch_size=2&keep_others=1").text

    assert '<option value="int8" selected>' in page
    assert 'id="max_tokens" value="512"' in page
    assert 'id="batch_size" value="2"' in page
    assert 'id="keep_others" value="1" checked' in page
    assert 'id="restore_on_failure" value="1">' in page


def test_a_running_operation_has_steps_progress_and_cancel(visitor: Visitor, controller: FakeController) -> None:
    steps = (
        Step(StepName.PLAN, StepState.DONE, 100.0, 100.005, Message("planned", {"needed_bytes": gib(2)})),
        Step(StepName.LAUNCH, StepState.RUNNING, 101.0, progress=0.5, message=Message("launch_loading")),
    )
    running = Operation(
        "op1", OperationKind.SWITCH, "ivan", OperationState.RUNNING, 100.0, steps, mode="vllm", model_id="Qwen/Qwen3-8B"
    )
    controller.running = (running,)

    page = text_of(visitor.get("/").text)

    for words in ("Переключение → Qwen3-8B · vLLM", "нужно 2,0 GiB · 5 мс", "веса загружаются · 50 %", "Отменить"):
        assert words in page
    assert 'value="75"' in visitor.get("/").text


def test_an_ended_operation_shows_its_receipt_and_who_still_holds(visitor: Visitor, controller: FakeController) -> None:
    receipt = Receipt("gpu-0", gib(3.8), gib(3.75), None, 1.2, settled=True)
    controller.recent = (
        Operation("op1", OperationKind.UNLOAD, "me", OperationState.SUCCEEDED, 1.0, ended_at=3.0, receipts=(receipt,)),
    )

    page = visitor.get("/").text

    assert "GPU 0: освобождено 3,8\u00a0GiB из 3,8\u00a0GiB за 1,2\u00a0с" in page
    assert 'data-state="succeeded"' in page


def test_what_a_process_is_called_cannot_break_the_page(visitor: Visitor, controller: FakeController) -> None:
    nasty = '"><script>alert(1)</script>'
    controller.readings = (reading(held=(foreign(nasty, nasty, gib(3)),)),)
    controller.models = (model(nasty),)
    controller.instances = (instance("i1", nasty, owner=nasty),)

    assert "<script>alert" not in visitor.get("/").text


def test_nothing_of_the_page_is_inline(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance(),)

    page = visitor.get("/").text

    assert not re.search(r"<script(?![^>]*\bsrc=)", page)
    assert not re.search(r"\s(?:style|on\w+)=", page)
    assert "<style" not in page


def test_every_id_of_the_page_is_its_own(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1"), instance("i2", "lab/other"))
    controller.readings = (reading("gpu-0"), reading("gpu-1"))

    ids = re.findall(r'\sid="([^"]+)"', visitor.get("/").text)

    assert sorted(ids) == sorted(set(ids))


def test_a_way_out_is_one_click_that_fills_the_form(visitor: Visitor, controller: FakeController) -> None:
    controller.readings = (replace(reading(), free_bytes=gib(4)),)

    page = visitor.get("/?mode=transformers&model=Qwen/Qwen3-1.7B&precision=fp16&max_tokens=2048&batch_size=1").text

    assert 'data-verdict="refused"' in page
    link = re.search(r'href="/\?([^"]+)#switch" data-fill data-way-out', page)
    assert link is not None
    assert 'data-verdict="refused"' not in visitor.get("/?" + link[1].replace("&amp;", "&")).text


def way_out(page: str, text: str) -> str:
    """The address of the way out that says ``text``."""
    links = re.findall(r'href="/\?([^"]+)#switch" data-fill data-way-out>([^<]+)', page)
    return next("/?" + html.unescape(query) for query, said in links if text in said)


def test_a_model_is_unloaded_by_name_from_a_plan_that_keeps_the_others(
    visitor: Visitor, controller: FakeController
) -> None:
    idle = {"owner": "maria", "last_used_at": time.time() - 1230, "measured_bytes": {"gpu-0": gib(6)}}
    controller.readings = (replace(reading(), free_bytes=gib(2)),)
    controller.instances = (instance("i1", "lab/one", **idle), instance("i2", "lab/two"))
    asked = "/?mode=transformers&model=Qwen/Qwen3-1.7B&max_tokens=2048&batch_size=1&keep_others=1"

    filled = visitor.get(way_out(visitor.get(asked).text, "Выгрузить lab/one (maria, простаивает 20\u00a0мин)")).text

    assert 'data-verdict="refused"' not in filled
    assert 'name="unload" id="unload" value=""' in filled
    assert re.search(r'name="unload" id="unload-i1" value="i1" checked><span>Выгрузить one, владелец maria<', filled)
    assert 'id="keep_others" value="1" checked' in filled
    unload = filled.partition("data-unload")[2].partition("</ul>")[0]
    assert ("one" in unload, "two" in unload) == (True, False)
    back = re.search(r'href="(/\?[^"]+)#switch" data-fill data-keep-all', filled)
    assert back is not None
    assert 'data-verdict="refused"' in visitor.get(html.unescape(back[1])).text


def test_several_devices_are_one_choice_of_the_field(visitor: Visitor, controller: FakeController) -> None:
    controller.readings = tuple(reading(f"gpu-{n}", total=gib(24)) for n in range(2))
    controller.readings = tuple(replace(each, free_bytes=gib(4)) for each in controller.readings)
    page = visitor.get("/?mode=transformers&model=Qwen/Qwen3-1.7B&max_tokens=2048&batch_size=1&device=gpu-0").text
    assert '<option value="gpu-0,gpu-1">GPU 0 + GPU 1</option>' in page

    filled = visitor.get(way_out(page, "Разделить между GPU 0, GPU 1")).text

    assert '<option value="gpu-0,gpu-1" selected>GPU 0 + GPU 1</option>' in filled
    assert filled.count("data-plan-device=") == 2
    assert 'data-verdict="refused"' not in filled


def test_interrupting_is_offered_only_where_somebody_would_be_interrupted(
    visitor: Visitor, controller: FakeController
) -> None:
    assert 'name="interrupt_busy"' not in visitor.get("/").text

    own = instance("i1", "lab/other", in_flight=1, owner=current_actor())
    controller.changed(instances=(own,), models=(model(), model("lab/other")))

    assert 'name="interrupt_busy"' in visitor.get("/?mode=transformers&model=Qwen/Qwen3-1.7B").text


def test_a_model_that_runs_like_this_already_is_said_without_figures(
    visitor: Visitor, controller: FakeController
) -> None:
    controller.instances = (instance("i1"),)

    page = visitor.get("/?mode=transformers&model=Qwen/Qwen3-1.7B&precision=auto&max_tokens=1024&batch_size=1").text

    assert "Уже загружена" in page
    assert "data-needed" not in page


def test_a_model_that_is_still_loading_does_not_count_as_loaded(visitor: Visitor, controller: FakeController) -> None:
    controller.instances = (instance("i1", state=InstanceState.LOADING, progress=0.4),)
    assert 'pill--good">загружена' not in visitor.get("/").text
    assert "загружается 40 %" in visitor.get("/").text

    controller.changed(instances=(instance("i1"),))
    assert 'pill--good">загружена' in visitor.get("/").text


@pytest.mark.parametrize(
    ("resting", "said"),
    [
        ({}, "ожидалось 3,7\u00a0GiB"),
        ({"gpu-0": gib(3.7)}, "ожидалось 3,7\u00a0GiB"),
        ({"gpu-0": gib(3.5)}, "ожидалось 3,5\u00a0GiB, пик 3,7\u00a0GiB"),
    ],
)
def test_measured_memory_is_held_against_what_was_expected_at_rest(
    visitor: Visitor, controller: FakeController, resting: dict[str, int], said: str
) -> None:
    controller.instances = (instance("i1", resting_bytes=resting),)
    assert f"<small>{said}</small>" in visitor.get("/").text
