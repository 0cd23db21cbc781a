"""The parts of a launch's need: each with its source and confidence, on the page and as JSON."""

from __future__ import annotations

import re

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.conftest import Visitor
from tests.web.fakes import FakeController, model
from tests.web.test_calibration import taught
from webapp.domain.model import WeightFacts
from webapp.domain.units import gib

MODEL = model()
ADDRESS = f"/?mode=transformers&model={MODEL.id}&precision=auto&max_tokens=2048&batch_size=1&device=auto"
BODY = {"mode": "transformers", "model": MODEL.id}
HEAVY_TO_LOAD = WeightFacts(gib(3.4), gib(1.7), gib(1.5), 300_000, (("BF16", gib(1.7)),), twice_bytes=gib(4))
"""Saved twice under tied names: both are there until they were compared."""


@pytest.fixture(name="client")
def _client(visitor: Visitor) -> FlaskClient:
    return visitor.client


def rows(page: str) -> list[list[str]]:
    table = page[page.index('class="parts"') :]
    body = table[table.index("<tbody>") : table.index("</tfoot>")]
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", body)]


def test_every_part_stands_with_its_source_and_confidence_in_words(visitor: Visitor) -> None:
    page = visitor.get(ADDRESS).text
    assert rows(page)[0] == ["веса", "3,4\u00a0GiB", "заголовки файлов", "высокая"]
    assert [row[0] for row in rows(page)] == ["веса", "кеш KV", "вычисления", "среда выполнения", "Всего"]
    assert "точность оценки: высокая" in page


def test_part_that_was_measured_says_so(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(calibration=taught(3.7, 3.8))
    page = visitor.get(ADDRESS).text
    assert ["среда выполнения", "374\u00a0MiB", "измерено здесь", "высокая"] in rows(page)
    assert "измерено здесь 2 раза, ±1,3\u00a0%" in page


def test_doubtful_estimate_says_why(visitor: Visitor, controller: FakeController) -> None:
    controller.changed(models=(model(shape=None, weights=None),))
    page = visitor.get(ADDRESS).text
    assert rows(page)[0][2:] == ["размер файлов", "низкая"]
    assert "точность оценки: низкая" in page
    assert "Веса не в safetensors: взят размер файлов на диске." in page


@pytest.mark.parametrize(("twice", "said"), [(False, False), (True, True)])
def test_load_peak_is_said_where_it_decides(
    visitor: Visitor, controller: FakeController, twice: bool, said: bool
) -> None:
    controller.changed(models=(model(weights=HEAVY_TO_LOAD) if twice else model(),))
    page = visitor.get(ADDRESS).text
    assert ("data-load-peak" in page) is said
    assert ("решает этот пик" in page) is said


def test_english_has_no_russian_left(app: Flask, controller: FakeController) -> None:
    controller.changed(models=(model(shape=None, weights=None),))
    page = app.test_client().get(ADDRESS, headers={"Accept-Language": "en"}).text
    plan = page[page.index('id="plan-box"') : page.index("</details>", page.index('id="plan-box"'))]
    assert "Breakdown" in plan
    assert not re.search("[а-яё]", plan, re.IGNORECASE)


def test_json_gives_every_part_in_bytes(client: FlaskClient, controller: FakeController) -> None:
    controller.changed(calibration=taught(3.7))
    plan = client.post("/api/v1/plan", json=BODY).json
    assert plan is not None
    footprint = plan["footprints"]["gpu-0"]
    assert {part["name"]: part["bytes"] for part in footprint["parts"]} == plan["needed_bytes"]["gpu-0"]
    assert footprint["parts"][0] == {
        "name": "weights",
        "bytes": gib(3.4),
        "source": "headers",
        "confidence": "high",
    }
    assert footprint["run_peak_bytes"] == plan["total_needed_bytes"]["gpu-0"]
    assert footprint["load_peak_bytes"] > 0
    assert (footprint["confidence"], footprint["notes"]) == ("high", [])
    assert footprint["seen"] == {"count": 1, "spread_percent": 0.0, "same_options": True}


def test_json_notes_have_a_code_and_a_sentence(client: FlaskClient, controller: FakeController) -> None:
    controller.changed(models=(model(weights=None),))
    plan = client.post("/api/v1/plan", json=BODY).json
    assert plan is not None
    notes = {note["code"]: note["text"] for note in plan["footprints"]["gpu-0"]["notes"]}
    assert notes["weights_from_files"]
