"""How a model ran out of memory: on its operation's page, next to the failure on the dashboard, and in the JSON
interface.
"""

from __future__ import annotations

import html
import re
from dataclasses import replace
from typing import Any

import pytest

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, instance
from tests.web.reports import ASKED, report
from tests.web.test_history import ENGLISH, failed, text_of
from webapp.domain.instance import InstanceState
from webapp.domain.postmortem import Cause, Phase
from webapp.domain.units import gib
from webapp.message import Message, Param

FENCED: dict[str, Param] = {
    "model": "Qwen/Qwen3-8B",
    "device": "gpu-0",
    "needed_bytes": gib(3),
    "free_bytes": gib(1),
    "missing_bytes": gib(2),
    "grown_bytes": gib(3.3),
    "grown_to_bytes": gib(6.1),
    "who": "alice · python train.py · pid 777",
    "pid": 777,
    "user": "alice",
    "command": "python train.py",
    "instance": None,
    "container": None,
}


def shown(visitor: Visitor, controller: FakeController, language: str = "ru", **changes: Any) -> str:
    controller.recent = (failed(**{"post_mortem": report(), "mode": "transformers", **changes}),)
    return visitor.get("/operations/op7", headers={"Accept-Language": language}).text


def rows_of(page: str) -> list[list[str]]:
    rows = re.findall(r'<tr class="post-mortem__row.*?</tr>', page, re.S)
    return [[text_of(cell).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)] for row in rows]


def test_the_page_says_who_held_what_before_and_at_the_moment(visitor: Visitor, controller: FakeController) -> None:
    page = shown(visitor, controller)

    assert rows_of(page) == [
        ["Qwen/Qwen3-8B эта модель · pid 4100", "0,0 GiB", "14,2 GiB", "+14,2 GiB"],
        ["python train.py alice · pid 777", "2,8 GiB", "6,1 GiB", "+3,3 GiB"],
        ["Qwen/Qwen3-1.7B me · pid 4000", "1,5 GiB", "1,5 GiB", "0"],
        ["процесс 778 пользователь неизвестен · контейнер cccccccccccc · pid 778", "0,20 GiB", "0,0 GiB", "−0,20 GiB"],
        ["остальные процессы", "0,30 GiB", "0,30 GiB", "0"],
        ["драйвер и прочее", "0,40 GiB", "0,40 GiB", "0"],
        ["свободно", "18,8 GiB", "1,5 GiB", "−17,3 GiB"],
    ]


def test_the_page_names_the_likely_cause_with_its_figures(visitor: Visitor, controller: FakeController) -> None:
    page = text_of(shown(visitor, controller))

    for words in (
        "Почему не хватило памяти",
        "соседний процесс занял память",
        "при загрузке весов",
        "Память занял соседний процесс: alice · python train.py · pid 777.",
        "Модели нужно 17,1 GiB (GPU 0), а доступно стало 15,7 GiB вместо 18,8 GiB.",
    ):
        assert words in page


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("phase", Phase)
def test_every_cause_is_said_in_both_languages(
    visitor: Visitor, controller: FakeController, cause: Cause, phase: Phase
) -> None:
    russian = shown(visitor, controller, post_mortem=report(cause, phase=phase))
    english = text_of(shown(visitor, controller, "en", post_mortem=report(cause, phase=phase)))

    assert f'data-cause="{cause}"' in russian
    assert "нет данных" not in text_of(russian).split("Почему не хватило памяти")[1].split("Шаги")[0]
    assert not re.search("[а-яё]", english.replace("Русский", ""), re.IGNORECASE)


def test_an_estimate_that_was_exceeded_says_by_how_much(visitor: Visitor, controller: FakeController) -> None:
    low = report(Cause.ESTIMATE_LOW)
    over = replace(low, accounts=(replace(low.account, held_bytes=gib(18.1)),))

    assert "asked for more" in text_of(shown(visitor, controller, "en", post_mortem=low))
    assert "1.0 GiB more" in text_of(shown(visitor, controller, "en", post_mortem=over))


def test_what_would_have_fitted_is_one_click(visitor: Visitor, controller: FakeController) -> None:
    page = shown(visitor, controller)

    link = re.search(r'data-action="fit"[^>]*href="([^"]+)"[^>]*>([^<]+)</a>\s*<small>([^<]+)', page)
    assert link is not None
    assert (link[2], html.unescape(link[3]).replace("\u00a0", " ")) == (
        "2048 токенов",
        "Transformers · Как в файлах · 2048 токенов · батч 1 · GPU 0",
    )
    form = visitor.get(html.unescape(link[1]).partition("#")[0]).text
    assert re.search(r'name="max_tokens"[^>]*value="2048"', form)


def test_where_nothing_would_have_fitted_it_says_so(visitor: Visitor, controller: FakeController) -> None:
    page = shown(visitor, controller, post_mortem=report(way_out=None))

    assert 'data-action="fit"' not in page
    assert "не поместилась бы в ту память ни с какими настройками" in page


def test_the_log_stands_there_once(visitor: Visitor, controller: FakeController) -> None:
    with_log = shown(visitor, controller)
    later = shown(visitor, controller, error=None, state=failed().state)

    assert "loading shard 3" not in with_log, "the page shows the error's own lines"
    assert "CUDA &lt;out&gt; of memory" in later


def test_figures_that_nobody_could_read_are_unknown(visitor: Visitor, controller: FakeController) -> None:
    unread = replace(report().account, free_before_bytes=None, total_bytes=None, lines=())
    page = shown(visitor, controller, post_mortem=report(Cause.UNKNOWN, accounts=(unread,)))

    assert rows_of(page) == [["свободно", "нет данных", "1,5 GiB", "нет данных"]]


def test_an_operation_without_a_report_has_no_section(visitor: Visitor, controller: FakeController) -> None:
    assert 'id="post-mortem"' not in shown(visitor, controller, post_mortem=None)


def test_htmx_gets_the_section_with_the_operation(visitor: Visitor, controller: FakeController) -> None:
    shown(visitor, controller)

    assert 'id="post-mortem"' in visitor.get("/operations/op7?version=other", headers=HTMX).text


# On the dashboard


def test_the_failure_leads_to_its_explanation(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (failed(post_mortem=report()),)

    assert 'data-action="post-mortem" href="/operations/op7#post-mortem"' in visitor.get("/").text
    controller.changed(recent=(failed(),))
    assert 'data-action="post-mortem"' not in visitor.get("/").text


def test_a_model_that_died_of_it_leads_to_the_explanation(visitor: Visitor, controller: FakeController) -> None:
    problem = Message("out_of_memory", {"model": "Qwen/Qwen3-1.7B", "detail": "CUDA"})
    controller.changed(instances=(instance(state=InstanceState.DEAD, problem=problem, explained_by="op7"),))

    assert 'data-action="post-mortem" href="/operations/op7#post-mortem"' in visitor.get("/").text


def test_a_fenced_load_offers_to_try_again_to_ask_for_less_and_to_make_room(
    visitor: Visitor, controller: FakeController
) -> None:
    page = shown(visitor, controller, error=Message("load_fenced", FENCED), request=ASKED)

    assert "Память занял соседний процесс: alice · python train.py · pid 777, +3,3 GiB" in text_of(page)
    assert re.findall(r'<li data-way="([\w-]+)"', page) == ["again", "smaller", "unload", "memory"]
    again, smaller = re.findall(r'href="([^"]+)" data-fill data-action="trouble-(?:again|smaller)"', page)
    assert "max_tokens=8192" in again
    assert "max_tokens=2048" in smaller
    assert '#transformers" data-action="trouble-unload"' in page


def test_a_fenced_load_that_nothing_would_have_fitted_offers_a_lighter_model(
    visitor: Visitor, controller: FakeController
) -> None:
    page = shown(
        visitor, controller, ENGLISH["Accept-Language"], error=Message("load_fenced", FENCED), post_mortem=None
    )

    assert re.findall(r'<li data-way="([\w-]+)"', page) == ["again", "lighter", "unload", "memory"]
    assert "Another process took the memory" in page


def test_what_would_have_fitted_is_the_first_step_against_the_failure(
    visitor: Visitor, controller: FakeController
) -> None:
    page = shown(visitor, controller)

    assert re.findall(r'<li data-way="([\w-]+)"', page)[:2] == ["smaller", "clean"]


# The JSON interface


def test_the_operations_document_has_the_whole_report(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (failed(post_mortem=report(), request=ASKED),)

    document = visitor.get("/api/v1/operations/op7").json
    assert document is not None
    found = document["post_mortem"]
    assert (found["cause"], found["phase"], found["device"]) == ("neighbour_grew", "loading", "gpu-0")
    assert (found["since"], found["taken_at"]) == ("2023-11-14T22:13:21.000Z", "2023-11-14T22:13:29.000Z")
    assert found["message"]["code"] == "why_neighbour_grew"
    (device,) = found["devices"]
    assert {name: size for name, size in device.items() if name != "holders"} == {
        "id": "gpu-0",
        "total_bytes": gib(24),
        "predicted_bytes": gib(17.1),
        "held_before_bytes": 0,
        "held_bytes": gib(14.2),
        "free_before_bytes": gib(18.8),
        "free_bytes": gib(1.5),
        "others_grown_bytes": gib(3.1),
    }
    assert device["holders"][1] == {
        "kind": "foreign",
        "own": False,
        "model": None,
        "instance_id": None,
        "container_id": None,
        "pid": 777,
        "user": "alice",
        "command": "python train.py",
        "before_bytes": gib(2.8),
        "bytes": gib(6.1),
    }
    assert found["log"][0] == "loading shard 3 of 4"
    assert found["way_out"]["request"]["options"]["max_tokens"] == 2048
    assert document["request"]["options"]["max_tokens"] == 8192


def test_an_operation_without_a_report_has_none(visitor: Visitor, controller: FakeController) -> None:
    controller.recent = (failed(),)

    document = visitor.get("/api/v1/operations/op7").json
    assert document is not None
    assert (document["post_mortem"], document["request"]) == (None, None)
