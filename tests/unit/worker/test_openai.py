"""What a request may say, and how answers look."""

from __future__ import annotations

import json
from typing import Any

import pytest

from webapp.worker.engine import FinishReason
from webapp.worker.openai import Answers, ApiError, Usage, event, new_tokens, parse_request

MODEL = "owner/name"


def completion(**values: Any) -> bytes:
    return json.dumps({"prompt": "a", **values}).encode()


def test_what_is_left_open_stays_open() -> None:
    request = parse_request(completion(), MODEL, chat=False)

    assert not request.is_chat
    assert (request.prompt, request.max_tokens, request.temperature, request.top_p, request.seed) == ("a", *[None] * 4)
    assert (request.stop, request.stream, request.include_usage) == ((), False, False)


def test_every_field_is_taken() -> None:
    body = completion(
        model=MODEL,
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        top_k=3,
        stop="x",
        seed=-1,
        stream=True,
        stream_options={"include_usage": True},
    )

    request = parse_request(body, MODEL, chat=False)

    assert (request.max_tokens, request.temperature, request.top_p, request.top_k) == (5, 0.0, 0.5, 3)
    assert (request.stop, request.seed, request.stream, request.include_usage) == (("x",), -1, True, True)


def test_a_message_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    body = json.dumps({"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 7}).encode()

    request = parse_request(body, MODEL, chat=True)

    assert request.messages == ({"role": "user", "content": "ab"},)
    assert request.max_tokens == 7


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": -0.1}, "top_p"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"seed": "1"}, "seed"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "half \ud83d"}, "prompt"),
        ({"n": 2}, "n"),
        ({"logprobs": 3}, "logprobs"),
        ({"model": 5}, "model"),
    ],
)
def test_a_value_that_cannot_be_meant_names_its_field(values: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_request(completion(**values), MODEL, chat=False)

    assert (refused.value.status, refused.value.body()["error"]["param"]) == (400, param)


def test_another_model_is_not_found() -> None:
    with pytest.raises(ApiError) as refused:
        parse_request(completion(model="other"), MODEL, chat=False)

    assert refused.value.status == 404


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_request(body, MODEL, chat=False)

    assert refused.value.code == "invalid_json"


@pytest.mark.parametrize(("asked", "prompt", "room"), [(None, 10, 90), (5, 10, 5), (500, 10, 90), (1, 99, 1)])
def test_an_answer_has_the_room_that_the_prompt_leaves(asked: int | None, prompt: int, room: int) -> None:
    request = parse_request(completion(max_tokens=asked), MODEL, chat=False)

    assert new_tokens(request, prompt, 100) == room


def test_a_prompt_that_fills_the_context_is_refused_with_the_figures() -> None:
    with pytest.raises(ApiError, match="100 tokens and the context is 100 tokens") as refused:
        new_tokens(parse_request(completion(), MODEL, chat=False), 100, 100)

    assert refused.value.code == "context_length_exceeded"


def test_the_pieces_of_a_chat_begin_with_the_role_and_end_with_the_reason() -> None:
    answers = Answers(MODEL, 1, chat=True)

    first, piece, last = answers.first(), answers.piece("a"), answers.last(FinishReason.LENGTH)

    assert first is not None
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert piece["choices"][0]["delta"] == {"content": "a"}
    assert last["choices"][0]["finish_reason"] == "length"
    assert len({first["id"], piece["id"], last["id"]}) == 1
    assert answers.usage(Usage(2, 3))["usage"]["total_tokens"] == 5
    assert Answers(MODEL, 1, chat=False).first() is None
    assert event({"a": "ж"}) == 'data: {"a": "ж"}\n\n'.encode()
