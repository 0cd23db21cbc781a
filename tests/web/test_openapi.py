"""The OpenAPI document is what the interface really answers, and the page shows the same in both languages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from flask import Flask
from pydantic import TypeAdapter

from tests.web.conftest import Visitor
from tests.web.contract import SCENARIOS, recorded
from webapp import schema
from webapp.web.api.calls import CALLS, Call
from webapp.web.api.openapi import document, problems
from webapp.web.rights import right_of


def met(app: Flask, recorded_call: str) -> tuple[Call, str, str] | None:
    """The declared call that a recorded one has met, with its method and the path of its route."""
    method, path = recorded_call.split(" ", 1)
    for call in CALLS:
        for route in call.routes:
            declared, rule = route.split(" ")
            pattern = re.sub(r"<\w+>", "[^/]+", f"/api/v1{rule}")
            if declared == method and re.fullmatch(pattern, path.partition("?")[0]):
                return call, method, re.sub(r"<(\w+)>", r"{\1}", rule)
    return None


def everything_recorded() -> Iterator[Mapping[str, Any]]:
    for name in SCENARIOS:
        yield from recorded(name)


def test_every_recorded_answer_is_the_declared_document(app: Flask) -> None:
    for each in everything_recorded():
        found = met(app, each["call"])
        if found is None or each["status"] >= 400:
            continue
        call, _, _ = found
        answer = each["answer"]
        if call.answer is schema.StatusDocument:
            answer = {"version": "1", **answer}
        kind: Any = list[call.answer] if call.is_list else call.answer  # type: ignore[name-defined]
        assert each["status"] == call.status, each["call"]
        TypeAdapter(kind).validate_json(json.dumps(answer))


def test_every_recorded_refusal_is_documented(app: Flask) -> None:
    for each in everything_recorded():
        found = met(app, each["call"])
        if found is None or each["status"] < 400:
            continue
        problem = schema.ProblemDocument.model_validate(each["answer"])
        assert problem.code in problems(*found).get(problem.status, {}), (each["call"], problem)


def test_the_document_has_every_address_and_no_other(app: Flask) -> None:
    described = {f"{method.upper()} {path}" for path, calls in document()["paths"].items() for method in calls}
    rules = {
        f"{method} {rule.rule.replace('<', '{').replace('>', '}')}"
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/api/v1/") and rule.endpoint != "reference.openapi"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }

    assert described == rules


def test_the_document_is_served_and_closed(visitor: Visitor) -> None:
    answer = visitor.get("/api/v1/openapi.json")
    made = answer.get_json()

    assert (answer.status_code, made["openapi"]) == (200, "3.1.0")
    assert made == json.loads(json.dumps(document()))
    calls = [call for path in made["paths"].values() for call in path.values()]
    assert [call["operationId"] for call in calls if "default" in call["responses"]] == []
    assert len({call["operationId"] for call in calls}) == len(calls)
    reached = set(re.findall(r'"#/components/schemas/(\w+)"', answer.text))
    assert reached <= set(made["components"]["schemas"])


def test_a_call_needs_the_right_that_it_names(app: Flask) -> None:
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith("/api/v1/") and rule.endpoint != "reference.openapi":
            (method, *_) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            path = rule.rule.replace("<", "{").replace(">", "}")
            named = document()["paths"][path][method.lower()]["x-permission"]
            assert right_of(app.view_functions[rule.endpoint]) == named


@pytest.mark.parametrize(("language", "heading"), [("ru", "Загрузить модель"), ("en", "Load a model")])
def test_the_page_shows_every_call(visitor: Visitor, language: str, heading: str) -> None:
    page = visitor.get("/api", headers={"Accept-Language": language})

    assert page.status_code == 200
    assert heading in page.text
    for call in CALLS:
        for route in call.routes:
            method, path = route.split(" ")
            shown = f"{method} /api/v1{path.replace('<', '{').replace('>', '}')}"
            assert f"<code>{shown}</code>" in page.text
    assert "<script>" not in page.text


def test_every_link_of_the_page_leads_somewhere(visitor: Visitor) -> None:
    page = visitor.get("/api").text

    assert set(re.findall(r'href="#(model-\w+)"', page)) <= set(re.findall(r'id="(model-\w+)"', page))


def test_a_call_with_a_tag_says_so() -> None:
    described = document()["paths"]["/api/v1/status"]["get"]

    assert "If-None-Match" in [each["name"] for each in described["parameters"]]
    assert all("ETag" in described["responses"][status]["headers"] for status in ("200", "304"))
