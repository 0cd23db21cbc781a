"""The list of cached models: searched, sorted, each with how it fits, and drawn only when it shows something else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask

from tests.web.conftest import HTMX, Visitor
from tests.web.fakes import FakeController, foreign, instance, model, reading, worker
from tests.web.people import Lab
from tests.web.test_fragments import hidden
from webapp.domain.model import ModelShape
from webapp.domain.modes import Mode
from webapp.domain.people import Role
from webapp.domain.units import gib
from webapp.message import Message
from webapp.web.view_cache import EXTENSION, ViewCache

MODELS = (
    model("Qwen/Qwen3-1.7B", weights_bytes=gib(3.4)),
    model("lab/Large", weights_bytes=gib(14), architecture="LlamaForCausalLM"),
    model("lab/huge", weights_bytes=gib(70), quantization="gptq"),
    model("lab/broken", problem=Message("model_no_weights")),
)
FORM = "mode=transformers&precision=auto&max_tokens=512&batch_size=1&device=auto"


@pytest.fixture(autouse=True)
def _machine(controller: FakeController) -> None:
    """24 GiB of which a model holds 4 and somebody else 4."""
    controller.changed(
        models=MODELS,
        readings=(reading(held=(worker("i1", gib(4)), foreign("alice", "train", gib(4)))),),
        instances=(instance("i1", "Qwen/Qwen3-1.7B", predicted_bytes={"gpu-0": gib(4)}),),
    )


def listed(html: str) -> list[str]:
    return re.findall(r'data-cached="([^"]+)"', html)


def fits(html: str) -> dict[str, str]:
    """What the list says of each model, by name."""
    rows = re.split(r'(?=<div class="model[ "])', html)[1:]
    found = {listed(row)[0]: re.search(r"data-fit>.*?</span> ([^<]+)<", row) for row in rows if listed(row)}
    return {name: said[1] if said else "" for name, said in found.items()}


def search(visitor: Visitor, **values: str) -> str:
    return visitor.client.get("/fragments/models", query_string=values, headers=HTMX).text


def test_each_model_says_how_it_fits(visitor: Visitor) -> None:
    assert fits(visitor.get("/").text) == {
        "lab/broken": "",
        "lab/huge": "не поместится",
        "lab/Large": "поместится после выгрузки",
        "Qwen/Qwen3-1.7B": "поместится сейчас",
    }


def test_nothing_fits_in_a_mode_that_cannot_be_chosen(visitor: Visitor) -> None:
    usable, away = search(visitor, mode="transformers"), search(visitor, mode="vllm")

    assert fits(usable)["Qwen/Qwen3-1.7B"] == "поместится сейчас"
    assert set(fits(away).values()) == {""}


def test_nobody_gets_the_list_of_a_person_whose_model_cannot_be_ended(lab: Lab) -> None:
    """Within one second, too, in which the list is kept."""
    lab.app.extensions[EXTENSION] = ViewCache(clock=lambda: 1_000_000.5)
    away = {Mode.TRANSFORMERS: None, Mode.VLLM: Message("engine_unreachable", {"socket": "/d.sock", "detail": ""})}
    lab.controller.changed(instances=(instance("i1", owner="olga", mode=Mode.VLLM),), mode_problems=away)

    def fit(role: Role) -> str:
        path = f"/fragments/models?{FORM}&restore_on_failure=1"
        return fits(lab.signed_in(role).get(path, headers=HTMX).text)["Qwen/Qwen3-1.7B"]

    assert [fit(Role.ADMINISTRATOR), fit(Role.OPERATOR)] == ["fits now", "fits after unloading"]


def test_fit_follows_the_options_and_the_device_of_the_form(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(readings=(*controller.readings, reading("gpu-1", total=gib(96))))

    assert fits(search(visitor, device="gpu-1"))["lab/huge"] == "поместится сейчас"
    assert fits(search(visitor, device="gpu-0"))["lab/huge"] == "не поместится"
    assert fits(search(visitor))["lab/huge"] == "поместится сейчас"
    many = {"mode": "transformers", "precision": "auto", "max_tokens": "40960", "batch_size": "64", "device": "gpu-0"}
    assert fits(search(visitor, **many))["Qwen/Qwen3-1.7B"] == "не поместится"


def test_unknown_memory_says_nothing_about_fit(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(stale=True)

    assert set(fits(visitor.get("/").text).values()) == {""}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("lab", ["lab/broken", "lab/huge", "lab/Large"]),
        ("LARGE", ["lab/Large"]),
        ("llama", ["lab/Large"]),
        ("gptq", ["lab/huge"]),
        ("lab qwen3for", ["lab/broken", "lab/huge"]),
        ("no such model", []),
        ("", ["lab/broken", "lab/huge", "lab/Large", "Qwen/Qwen3-1.7B"]),
    ],
)
def test_search_finds_every_word_in_names_and_facts(visitor: Visitor, typed: str, found: list[str]) -> None:
    assert listed(search(visitor, q=typed)) == found


@pytest.mark.parametrize(
    ("sort", "first"), [("name", "lab/broken"), ("size", "lab/huge"), ("fit", "Qwen/Qwen3-1.7B"), ("x", "lab/broken")]
)
def test_list_is_sorted(visitor: Visitor, sort: str, first: str) -> None:
    assert listed(search(visitor, sort=sort))[0] == first


def test_search_works_as_a_page_without_scripts_and_keeps_what_was_typed(visitor: Visitor) -> None:
    page = visitor.get("/?q=large&sort=size").text

    assert listed(page) == ["lab/Large"]
    assert 'value="large"' in page
    assert '<option value="size" selected>' in page
    assert "1 из 4" in page


def test_what_is_typed_is_shown_as_text(visitor: Visitor) -> None:
    found = search(visitor, q="<img src=x onerror=alert(1)>")

    assert "<img" not in found
    assert "Ничего не нашлось" in found


def test_name_of_a_model_is_shown_as_text(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(models=(model('lab/"><script>alert(1)</script>'),))

    assert "<script>alert" not in visitor.get("/").text


BOUNDLESS = ModelShape(28, 2048, 6144, 16, 8, 128, 10**400)
"""Sizes that no float holds; the catalogue lets none through."""


@pytest.mark.parametrize("mode", ["transformers", "vllm"])
@pytest.mark.parametrize(
    "odd", [{"shape": BOUNDLESS}, {"architecture": 7}, {"weights": "none"}], ids=lambda odd: next(iter(odd))
)
def test_a_model_that_cannot_be_judged_is_one_row_that_says_so(
    visitor: Visitor, controller: FakeController, odd: dict[str, Any], mode: str
) -> None:
    controller.changed(models=(model("lab/good"), model("lab/odd", **odd)), mode_problems={})
    form = {"mode": mode, "precision": "auto", "max_tokens": "512", "batch_size": "1", "device": "auto"}

    for chosen in ("lab/good", "lab/odd"):
        page = visitor.get("/", query_string={**form, "model": chosen})
        found = fits(page.text)
        assert page.status_code == 200
        assert found["lab/good"] == "поместится сейчас"
        assert found["lab/odd"] or "Warden не смог разобрать модель lab/odd" in page.text
        assert search(visitor, **form, model=chosen).count("data-cached") == 2
    names = [each["id"] for each in visitor.get("/api/v1/models").get_json()]
    assert names == ["lab/good", "lab/odd"]


def test_a_model_that_cannot_be_described_is_one_document_that_says_so(
    visitor: Visitor, controller: FakeController
) -> None:
    no_mapping: Any = 7
    problem = Message("model_broken_config", no_mapping)
    controller.changed(models=(model("lab/good"), model("lab/odd", problem=problem)))

    good, odd = visitor.get("/api/v1/models").get_json()

    assert (good["id"], good["problem"]) == ("lab/good", None)
    assert (odd["id"], odd["problem_code"]) == ("lab/odd", "model_misread")
    assert "lab/odd" in odd["problem"]


def test_unchanged_list_is_not_sent_again(visitor: Visitor) -> None:
    version = hidden(search(visitor), "models_version")

    again = visitor.get(f"/fragments/models?models_version={version}", headers=HTMX)

    assert (again.status_code, again.text) == (204, "")


def test_list_that_has_changed_comes_with_the_answer_to_the_plan(
    app: Flask, visitor: Visitor, controller: FakeController
) -> None:
    page = visitor.get(f"/?{FORM}").text
    asked = f"/fragments/plan?{FORM}&plan_version={{}}&models_version={{}}"
    versions = hidden(page, "plan_version"), hidden(page, "models_version")
    assert visitor.get(asked.format(*versions), headers=HTMX).status_code == 204

    controller.changed(models=(*MODELS, model("lab/new")))
    news = visitor.get(asked.format(*versions), headers=HTMX).text

    assert '<hx-partial hx-target="#model-list" hx-swap="innerMorph">' in news
    assert "lab/new" in listed(news)
    again = asked.format(hidden(news, "plan_version"), hidden(news, "models_version"))
    assert visitor.get(again, headers=HTMX).status_code == 204


def test_the_model_of_the_form_is_marked(visitor: Visitor) -> None:
    found = search(visitor, mode="transformers", model="lab/Large")

    assert re.findall(r'data-cached="([^"]+)" aria-current="true"', found) == ["lab/Large"]


def test_english_page_counts_and_judges_in_english(app: Flask) -> None:
    client = app.test_client()
    client.environ_base["HTTP_ACCEPT_LANGUAGE"] = "en"

    found = client.get("/fragments/models?q=lab").text

    assert "3 of 4" in found
    assert fits(found)["lab/Large"] == "fits after unloading"


# Long lists


@pytest.fixture
def many(controller: FakeController) -> FakeController:
    """500 models of rising size, of which every tenth cannot be loaded."""
    broken = Message("model_no_weights")
    controller.changed(
        models=tuple(
            model(f"lab/model-{n:03}", weights_bytes=gib(1 + n / 20), problem=None if n % 10 else broken)
            for n in range(500)
        )
    )
    return controller


@pytest.mark.usefixtures("many")
def test_a_long_list_begins_with_fifty_and_says_so(visitor: Visitor) -> None:
    page = visitor.get("/").text

    assert listed(page) == [f"lab/model-{n:03}" for n in range(50)]
    assert "Показано: 50 из 500" in page
    assert re.search(r'<a id="models-more" href="/\?all=1#models"', page)


@pytest.mark.usefixtures("many")
def test_all_of_a_long_list_is_shown_as_a_page_without_scripts_and_can_be_shortened(visitor: Visitor) -> None:
    page = visitor.get("/?sort=size&all=1").text

    assert len(listed(page)) == 500
    assert re.search(r'<a id="models-more" href="/\?sort=size#models"[^>]*>Свернуть', page)


@pytest.mark.usefixtures("many")
def test_search_and_order_look_at_all_models_whatever_is_shown(visitor: Visitor) -> None:
    assert listed(search(visitor, sort="size"))[0] == "lab/model-499"
    assert listed(search(visitor, q="model-49")) == [f"lab/model-{n}" for n in range(490, 500)]
    assert 'id="models-more"' not in search(visitor, q="model-49")


@pytest.mark.usefixtures("many")
def test_what_was_shown_whole_stays_whole_when_it_changes(visitor: Visitor) -> None:
    """The page sends the field back with every question, so a poll does not fold the list."""
    assert hidden(search(visitor, all="1"), "all") == "1"
    assert 'name="all"' not in search(visitor)


def test_memory_that_moves_without_changing_a_word_draws_nothing(visitor: Visitor, many: FakeController) -> None:
    version = hidden(search(visitor), "models_version")
    many.changed(readings=(reading(held=(worker("i1", gib(4)), foreign("alice", "train", gib(4) + 4096))),))

    assert visitor.get(f"/fragments/models?models_version={version}", headers=HTMX).status_code == 204


@pytest.mark.usefixtures("many")
def test_models_that_cannot_be_loaded_stand_apart_in_the_form(visitor: Visitor) -> None:
    select = re.search(r'<select[^>]* id="model".*?</select>', visitor.get("/").text, re.S)
    assert select is not None
    usable, apart = select[0].split('<optgroup label="Загрузить нельзя">')

    assert (usable.count("<option"), apart.count("<option"), apart.count("disabled")) == (1 + 450, 50, 50)


def test_choosing_without_scripts_keeps_what_was_looked_for(visitor: Visitor) -> None:
    page = visitor.get("/?q=large&sort=size").text

    assert 'href="/?model=lab/Large&amp;q=large&amp;sort=size#switch"' in page
