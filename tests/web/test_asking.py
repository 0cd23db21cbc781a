"""Asking a model: whole answers, pieces, and what goes wrong on the way."""

from __future__ import annotations

import threading

import pytest
from flask import Flask

from tests.web.conftest import Visitor
from tests.web.fakes import FakeController, instance
from webapp.control.contract import Question
from webapp.errors import GenerationFailed, NotReady, OutOfMemory
from webapp.schema.requests import LONGEST_PROMPT
from webapp.settings import Settings
from webapp.web.chat.views import PROBLEM_MARK


@pytest.fixture(autouse=True)
def _loaded(controller: FakeController) -> None:
    controller.instances = (instance("i1"),)


def test_without_scripts_the_whole_answer_is_a_page(visitor: Visitor, controller: FakeController) -> None:
    answer = visitor.post("/instances/i1/ask", {"prompt": " Как дела? "})

    assert "Привет, мир!" in answer.text
    assert "Как дела?" in answer.text
    assert controller.calls == [("ask", "i1", Question("Как дела?"))]
    assert controller.closed_answers == 1


def test_the_longest_question_fits_in_any_alphabet(visitor: Visitor, controller: FakeController) -> None:
    longest = "ы" * LONGEST_PROMPT

    assert visitor.post("/instances/i1/ask", {"prompt": longest}).status_code == 200
    assert visitor.client.post("/api/v1/instances/i1/ask", json={"prompt": "😀" * LONGEST_PROMPT}).status_code == 200
    assert controller.calls[0] == ("ask", "i1", Question(longest))


def test_with_scripts_the_pieces_come_as_plain_text(visitor: Visitor) -> None:
    answer = visitor.post("/instances/i1/ask/stream", {"prompt": "?"}, buffered=False)

    assert answer.content_type == "text/plain; charset=utf-8"
    assert list(answer.iter_encoded()) == [piece.encode() for piece in ("Привет", ", ", "мир!")]
    answer.close()


def test_the_first_piece_is_sent_before_the_second_is_made(visitor: Visitor, controller: FakeController) -> None:
    controller.gate = threading.Event()
    answer = visitor.post("/instances/i1/ask/stream", {"prompt": "?"}, buffered=False)
    pieces = iter(answer.iter_encoded())

    assert next(pieces) == "Привет".encode()

    controller.gate.set()
    assert b"".join(pieces) == ", мир!".encode()
    answer.close()


def test_a_reader_who_goes_away_ends_the_answer(visitor: Visitor, controller: FakeController) -> None:
    answer = visitor.post("/instances/i1/ask/stream", {"prompt": "?"}, buffered=False)
    next(iter(answer.iter_encoded()))

    answer.close()

    assert controller.closed_answers == 1


def test_an_answer_that_breaks_off_says_why_after_what_was_said(visitor: Visitor, controller: FakeController) -> None:
    controller.breaks_with = OutOfMemory(model="Qwen/Qwen3-1.7B", detail="CUDA", log="")

    said, _, why = visitor.post("/instances/i1/ask/stream", {"prompt": "?"}).text.partition(PROBLEM_MARK)
    page = visitor.post("/instances/i1/ask", {"prompt": "?"})

    assert said == "Привет, мир!"
    assert why.startswith("Модели Qwen/Qwen3-1.7B не хватило памяти")
    assert page.status_code == 500
    assert "Привет, мир!" in page.text
    assert "не хватило памяти" in page.text


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (NotReady(model="m", instance="i1", state="loading"), 409),
        (GenerationFailed(model="m", detail="prompt too long", reason=None), 502),
    ],
)
def test_a_refused_question_is_a_sentence(
    visitor: Visitor, controller: FakeController, refusal: Exception, status: int
) -> None:
    controller.refusal = refusal  # type: ignore[assignment]

    answer = visitor.post("/instances/i1/ask/stream", {"prompt": "?"})

    assert answer.status_code == status
    assert answer.content_type.startswith("text/plain")
    assert answer.text.endswith(".")


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 20_001])
def test_a_question_has_a_sensible_length(visitor: Visitor, controller: FakeController, prompt: str) -> None:
    assert visitor.post("/instances/i1/ask/stream", {"prompt": prompt}).status_code == 422
    assert controller.calls == []


def test_answers_never_take_more_than_half_of_the_threads(
    app: Flask, visitor: Visitor, controller: FakeController, settings: Settings
) -> None:
    controller.gate = threading.Event()
    places = settings.server.threads // 2
    under_way = [visitor.post("/instances/i1/ask/stream", {"prompt": "?"}, buffered=False) for _ in range(places)]

    refused = visitor.post("/instances/i1/ask/stream", {"prompt": "?"})
    controller.gate.set()
    for answer in under_way:
        answer.close()

    assert refused.status_code == 503
    assert "Слишком много вопросов" in refused.text
    assert visitor.post("/instances/i1/ask/stream", {"prompt": "?"}).status_code == 200


def test_a_refused_question_gives_its_place_back(visitor: Visitor, controller: FakeController) -> None:
    controller.refusal = NotReady(model="m", instance="i1", state="loading")
    for _ in range(8):
        assert visitor.post("/instances/i1/ask/stream", {"prompt": "?"}).status_code == 409

    controller.refusal = None

    assert visitor.post("/instances/i1/ask/stream", {"prompt": "?"}).status_code == 200
