"""OpenAI's protocol: the fields of a request, and the format of answers and errors. Pure."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from webapp.worker.engine import FinishReason, Message

MAX_STOPS = 16
DONE = b"data: [DONE]\n\n"
_UNSUPPORTED = ("tools", "functions", "response_format", "logit_bias", "logprobs", "suffix", "echo")
"""Fields that would change the answer and are not supported: refused instead of ignored."""


class ApiError(Exception):
    """An answer other than success; ``status`` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Request:
    """One chat or completion request. ``prompt`` is set for a completion, ``messages`` for a chat."""

    messages: tuple[Message, ...] | None
    prompt: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    stop: tuple[str, ...]
    seed: int | None
    stream: bool
    include_usage: bool

    @property
    def is_chat(self) -> bool:
        """Whether the model's chat template is used."""
        return self.messages is not None


@dataclass(frozen=True)
class Usage:
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int

    def body(self) -> dict[str, int]:
        """Return OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def parse_request(body: bytes, model_id: str, *, chat: bool) -> Request:
    """Return the request in ``body``.

    Raises:
        ApiError: 400 with the invalid field, 404 for another model.
    """
    raw = _json_object(body)
    named = _text(raw, "model")
    if named is not None and named != model_id:
        raise ApiError(404, "model_not_found", f"this worker runs {model_id}, not {named}", "model")
    for field in _UNSUPPORTED:
        if raw.get(field):
            raise ApiError(400, "unsupported", f"{field} is not supported", field)
    if raw.get("n", 1) != 1 or raw.get("best_of", 1) != 1:
        raise ApiError(400, "unsupported", "one answer at a time: n has to be 1", "n")
    tokens_field = "max_completion_tokens" if raw.get("max_completion_tokens") is not None else "max_tokens"
    options = raw.get("stream_options") or {}
    return Request(
        messages=_messages(raw) if chat else None,
        prompt=None if chat else _prompt(raw),
        max_tokens=_integer(raw, tokens_field, 1, 2**31),
        temperature=_number(raw, "temperature", 0.0, 2.0),
        top_p=_number(raw, "top_p", 0.0, 1.0),
        top_k=_integer(raw, "top_k", 0, 2**31),
        stop=_stops(raw),
        seed=_integer(raw, "seed", -(2**63), 2**63),
        stream=_flag(raw, "stream"),
        include_usage=isinstance(options, dict) and _flag(options, "include_usage"),
    )


class Answers:
    """The bodies of one request's answer: whole, or in pieces."""

    def __init__(self, model_id: str, created: int, *, chat: bool) -> None:
        self._chat = chat
        self._kind = "chat.completion" if chat else "text_completion"
        prefix = "chatcmpl" if chat else "cmpl"
        self._head = {"id": f"{prefix}-{secrets.token_hex(12)}", "created": created, "model": model_id}

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        """Return a complete answer."""
        content = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": _finish(reason)}
        return {**self._head, "object": self._kind, "choices": [choice], "usage": usage.body()}

    def first(self) -> dict[str, Any] | None:
        """Return the piece that opens a chat answer; a completion has none."""
        return self._piece({"delta": {"role": "assistant", "content": ""}}, None) if self._chat else None

    def piece(self, text: str) -> dict[str, Any]:
        """Return a piece of text."""
        return self._piece({"delta": {"content": text}} if self._chat else {"text": text}, None)

    def last(self, reason: FinishReason) -> dict[str, Any]:
        """Return the piece with the reason why the answer ended."""
        return self._piece({"delta": {}} if self._chat else {"text": ""}, _finish(reason))

    def usage(self, usage: Usage) -> dict[str, Any]:
        """Return the piece with only the usage, for ``stream_options.include_usage``."""
        return {**self._head, "object": self._stream_kind, "choices": [], "usage": usage.body()}

    @property
    def _stream_kind(self) -> str:
        return "chat.completion.chunk" if self._chat else self._kind

    def _piece(self, content: Mapping[str, Any], finish: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish}
        return {**self._head, "object": self._stream_kind, "choices": [choice]}


def models_body(model_id: str, created: int, max_tokens: int) -> dict[str, Any]:
    """Return the answer of ``GET /v1/models``."""
    model = {"id": model_id, "object": "model", "created": created, "owned_by": "warden", "max_model_len": max_tokens}
    return {"object": "list", "data": [model]}


def event(value: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode(errors="replace") + b"\n\n"


def new_tokens(request: Request, prompt_tokens: int, context: int) -> int:
    """Return how many tokens the answer may have.

    Raises:
        ApiError: the prompt leaves no room in the context of ``context`` tokens.
    """
    room = context - prompt_tokens
    if room < 1:
        raise ApiError(
            400,
            "context_length_exceeded",
            f"the prompt has {prompt_tokens} tokens and the context is {context} tokens, prompt and answer together",
            "messages" if request.is_chat else "prompt",
        )
    return room if request.max_tokens is None else min(request.max_tokens, room)


def _finish(reason: FinishReason) -> str:
    """Return OpenAI's reason, ``stop`` or ``length``; a cancelled answer counts as cut short."""
    return "stop" if reason is FinishReason.STOP else "length"


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, "invalid_json", "the body is not JSON") from exc
    if not isinstance(raw, dict):
        raise ApiError(400, "invalid_json", "the body is not a JSON object")
    return raw


def _messages(raw: Mapping[str, Any]) -> tuple[Message, ...]:
    messages = raw.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "invalid", "messages has to be a list with at least one message", "messages")
    return tuple(_message(message) for message in messages)


def _message(raw: Any) -> Message:
    if not isinstance(raw, dict) or not isinstance(raw.get("role"), str):
        raise ApiError(400, "invalid", "each message has to have a role", "messages")
    return {"role": raw["role"], "content": _content(raw.get("content"))}


def _content(raw: Any) -> str:
    if isinstance(raw, str):
        return _whole(raw, "messages")
    if isinstance(raw, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in raw):
        return _whole("".join(part["text"] for part in raw), "messages")
    raise ApiError(400, "invalid", "a message's content has to be text", "messages")


def _prompt(raw: Mapping[str, Any]) -> str:
    prompt = raw.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str) or not prompt:
        raise ApiError(400, "invalid", "prompt has to be one text that is not empty", "prompt")
    return _whole(prompt, "prompt")


def _whole(text: str, field: str) -> str:
    """Return ``text``. Raises ApiError if it has half a character (a lone surrogate), which tokenizers reject."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ApiError(400, "invalid", f"{field} has half a character in it", field) from exc
    return text


def _stops(raw: Mapping[str, Any]) -> tuple[str, ...]:
    stops = raw.get("stop")
    listed: Sequence[Any] = [] if stops is None else stops if isinstance(stops, list) else [stops]
    if len(listed) > MAX_STOPS or not all(isinstance(stop, str) and stop for stop in listed):
        raise ApiError(400, "invalid", f"stop has to be up to {MAX_STOPS} texts that are not empty", "stop")
    return tuple(listed)


def _text(raw: Mapping[str, Any], field: str) -> str | None:
    value = raw.get(field)
    if value is not None and not isinstance(value, str):
        raise ApiError(400, "invalid", f"{field} has to be text", field)
    return value


def _flag(raw: Mapping[str, Any], field: str) -> bool:
    value = raw.get(field)
    if value is not None and not isinstance(value, bool):
        raise ApiError(400, "invalid", f"{field} has to be true or false", field)
    return bool(value)


def _integer(raw: Mapping[str, Any], field: str, low: int, high: int) -> int | None:
    value = raw.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < high:
        raise ApiError(400, "invalid", f"{field} has to be a whole number from {low}", field)
    return value


def _number(raw: Mapping[str, Any], field: str, low: float, high: float) -> float | None:
    value = raw.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ApiError(400, "invalid", f"{field} has to be a number from {low} to {high}", field)
    return float(value)
