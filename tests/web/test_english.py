"""A page is in one language: no Russian on the English one, and no English phrase on the Russian one, in every state of the dashboard."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.e2e.states import STATES
from tests.web.conftest import FORM, HTMX, MODEL
from tests.web.fakes import FakeController, FakeServices, FakeTimeline, container, instance
from tests.web.test_rights import RULES, address
from webapp import create_app
from webapp.settings import load_settings
from webapp.web.actor import current_actor

PHRASE = re.compile(r"[A-Za-z][A-Za-z'’-]+(?: [a-z][a-z'’-]+)+")
NOT_READ = re.compile(r"<(code|script|style|pre|option)\b.*?</\1>", re.DOTALL)
"""Commands, logs and names of models."""
READ_ALOUD = re.compile(r'(?:title|aria-label|placeholder|alt)="([^"]*)"')
SAID_BY_MACHINES = {
    "python train",
    "python alice",
    "python bob",
    "python carol",
    "python dave",
    "CUDA out of memory",
    "GPU is lost",
    "timed out",
    "Permission denied",
    "loading weights",
}
"""Command lines of other people's processes, and what a driver, a worker or the kernel has answered."""
CYRILLIC = re.compile("[а-яё]+", re.IGNORECASE)
SAID_BY_PEOPLE = (
    "Русский",
    "проверка перед статьёй",
    "нужно место до вечера",
    "до обеда считаю",
    "eval, 3 прогона",
    "Привет",
    "мир",
)
"""A language's own name, and what people have typed or a model has answered."""
PATHS = sorted({address(rule) for rule in RULES if "GET" in rule.methods})
ACTIONS = sorted({address(rule) for rule in RULES if "POST" in rule.methods})


@contextmanager
def reader(controller: FakeController, language: str = "en") -> Iterator[FlaskClient]:
    """A browser of somebody who reads one language."""
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(state_dir=Path(folder), hf_cache=Path(folder), default_language=language)
        with create_app(settings, FakeServices(settings, controller, FakeTimeline())).test_client() as client:
            client.environ_base["HTTP_ACCEPT_LANGUAGE"] = language
            yield client


def russian_in(answer: TestResponse) -> list[str]:
    """The Russian words of an answer that no person has typed."""
    text = "" if answer.mimetype == "text/event-stream" else answer.get_data(as_text=True)
    for said in SAID_BY_PEOPLE:
        text = text.replace(said, "")
    return CYRILLIC.findall(text)


def english_in(answer: TestResponse) -> set[str]:
    """The phrases of two and more English words in an answer: what the program says and nobody has translated."""
    if answer.mimetype != "text/html" or answer.status_code // 100 == 3:
        return set()
    page = NOT_READ.sub(" | ", answer.get_data(as_text=True))
    text = " | ".join([re.sub(r"<[^>]+>", " | ", page), *READ_ALOUD.findall(page)])
    return set(PHRASE.findall(unescape(text))) - SAID_BY_MACHINES


@pytest.mark.parametrize("state", STATES)
def test_the_dashboard_is_russian_in_every_state(state: str) -> None:
    with reader(STATES[state](), "ru") as client:
        for path in ("/", "/fragments/live", f"/?model={MODEL.id}", "/history", "/confirm/emergency"):
            assert english_in(client.get(path)) == set(), path


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
def test_every_address_is_russian(headers: dict[str, str]) -> None:
    with reader(STATES["leases"](), "ru") as client:
        for path in PATHS:
            if not path.startswith("/language/"):
                assert english_in(client.get(path, headers=headers)) == set(), path


@pytest.mark.parametrize("state", STATES)
def test_the_dashboard_is_english_in_every_state(state: str) -> None:
    with reader(STATES[state]()) as client:
        for path in ("/", "/fragments/live", f"/?model={MODEL.id}", "/history", "/confirm/emergency"):
            assert russian_in(client.get(path)) == [], path


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "fragment"])
def test_every_address_is_english(headers: dict[str, str]) -> None:
    with reader(STATES["leases"]()) as client:
        for path in PATHS:
            assert russian_in(client.get(path, headers=headers)) == [], path


@pytest.mark.parametrize("owner", [None, "maria"])
@pytest.mark.parametrize("in_flight", [0, 2])
def test_every_answer_to_a_button_is_english(owner: str | None, in_flight: int) -> None:
    """Of one's own model and another person's, free and busy; accepted, asked about or refused."""
    controller = FakeController(
        instances=(instance("i1", owner=owner or current_actor(), in_flight=in_flight),), containers=(container(),)
    )
    with reader(controller) as client:
        found = re.search(r'name="csrf_token" value="([^"]+)"', client.get("/").text)
        assert found is not None
        for path in ACTIONS:
            for fields in (
                FORM,
                {**FORM, "confirmed": "1", "override_reason": "night run", "then": "start", "answer": "keep"},
            ):
                answer = client.post(path, data={"csrf_token": found[1], **fields}, headers=HTMX)
                assert russian_in(answer) == [], (path, fields, answer.status_code)
                answer = client.post(path, data={"csrf_token": found[1], **fields})
                assert russian_in(answer) == [], (path, fields, answer.status_code)
                assert russian_in(client.get("/")) == [], (path, fields)


def test_the_other_language_would_be_seen() -> None:
    with reader(FakeController()) as client:
        assert russian_in(client.get("/", headers={"Accept-Language": "ru"}))
        assert english_in(client.get("/"))
