"""Measurements of this server are shown on the page and in the plan as JSON, and count in the list of models."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask

from tests.web.conftest import Visitor
from tests.web.fakes import FakeController, instance, model, reading
from tests.web.test_models import fits
from webapp.domain.calibration import UNCALIBRATED, Calibration, Measurement
from webapp.domain.footprint.activation import CUDA_WORKSPACE_BYTES
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.units import gib

MODEL = model()
BODY = {"mode": "transformers", "model": MODEL.id}
USUAL = LaunchOptions()
FORM = f"mode=transformers&model={MODEL.id}&precision=auto&max_tokens=2048&batch_size=1&device=auto"


def taught(*measured: float, options: LaunchOptions = USUAL) -> Calibration:
    """What is known after loads that took so many GiB."""
    names = [reading().name]
    kind = UNCALIBRATED.kind_of(MODEL.id, MODEL.revision, Mode.TRANSFORMERS, options, names)
    return UNCALIBRATED.including(Measurement(kind, float(n), 0, gib(size)) for n, size in enumerate(measured))


@pytest.fixture(name="said")
def _said(app: Flask, controller: FakeController) -> Callable[[Calibration, str], list[str]]:
    """What the plan box notes after some lessons, in a language."""

    def said(calibration: Calibration, language: str) -> list[str]:
        controller.changed(calibration=calibration)
        page = app.test_client().get(f"/?{FORM}", headers={"Accept-Language": language}).text
        return re.findall(r'<p class="hint">(GPU 0: [^<]+)</p>', page)

    return said


def test_plan_says_how_often_it_was_measured_and_how_far_apart(said: Callable[[Calibration, str], list[str]]) -> None:
    assert said(UNCALIBRATED, "ru") == []
    assert said(taught(3.7), "ru") == ["GPU 0: измерено здесь 1 раз."]
    assert said(taught(3.7, 3.75, 3.85), "ru") == ["GPU 0: измерено здесь 3 раза, ±2,0\u00a0%."]
    assert said(taught(*[3.7] * 5), "ru") == ["GPU 0: измерено здесь 5 раз, ±0,0\u00a0%."]
    assert said(taught(3.7), "en") == ["GPU 0: measured here once."]
    assert said(taught(3.7, 3.75, 3.85), "en") == ["GPU 0: measured here 3 times, ±2.0\u00a0%."]


def test_other_options_are_said_to_be_others(said: Callable[[Calibration, str], list[str]]) -> None:
    other = LaunchOptions(max_tokens=512)
    assert said(taught(3.7, options=other), "ru") == ["GPU 0: уточнено по 1 загрузке с другим контекстом или батчем."]
    assert said(taught(3.7, 3.7, options=other), "ru") == [
        "GPU 0: уточнено по 2 загрузкам с другим контекстом или батчем, ±0,0\u00a0%."
    ]
    assert said(taught(3.7, 3.7, options=other), "en") == [
        "GPU 0: corrected by 2 loads with another context or batch, ±0.0\u00a0%."
    ]


def test_nothing_is_said_of_figures_that_are_not_shown(
    said: Callable[[Calibration, str], list[str]], controller: FakeController
) -> None:
    controller.changed(instances=(instance("i1", MODEL.id, options=USUAL, revision=MODEL.revision),))
    assert said(taught(3.7), "ru") == []


def test_json_plan_tells_count_and_spread(app: Flask, controller: FakeController) -> None:
    client = app.test_client()
    plan = client.post("/api/v1/plan", json=BODY).json
    assert plan is not None
    assert plan["measured"] is None
    controller.changed(calibration=taught(3.7, 3.85))
    after = client.post("/api/v1/plan", json=BODY).json
    assert after is not None
    assert after["measured"] == {"count": 2, "spread_percent": 2.0, "same_options": True}
    assert after["needed_bytes"]["gpu-0"]["context"] == gib(3.85) - gib(3.4) - CUDA_WORKSPACE_BYTES


def test_list_of_models_follows_what_is_learned(visitor: Visitor, controller: FakeController) -> None:
    asked = f"/?{FORM}"
    assert fits(visitor.get(asked).text) == {MODEL.id: "поместится сейчас"}
    controller.changed(calibration=taught(30))
    assert fits(visitor.get(asked).text) == {MODEL.id: "не поместится"}
