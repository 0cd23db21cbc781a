"""Reads request bodies strictly, so that a mistyped field is refused, and converts them to domain values."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypeVar

from flask import request
from pydantic import ValidationError
from werkzeug.exceptions import UnsupportedMediaType

from webapp import schema
from webapp.control.contract import Question
from webapp.domain.lease import ReleaseAnswer, Terms
from webapp.domain.modes import Dtype, LaunchOptions, Mode, Quantization
from webapp.domain.plan import SwitchRequest
from webapp.errors import InvalidRequest

SHOWN_LIMIT: Final = 100

B = TypeVar("B", bound=schema.Body)


def switch_request(sent: schema.LaunchDocument) -> SwitchRequest:
    """Return the request in a body of ``plan``, ``switch`` or ``queue``."""
    options = sent.options
    return SwitchRequest(
        mode=Mode(sent.mode),
        model_id=sent.model,
        options=LaunchOptions(
            Dtype(options.dtype), Quantization(options.quantization), options.max_tokens, options.batch_size
        ),
        devices=sent.devices,
        keep_others=sent.keep_others,
        restore_on_failure=sent.restore_on_failure,
        interrupt_busy=sent.interrupt_busy,
        unload=sent.unload,
        load_anyway=sent.load_anyway,
        lease_until=_seconds(sent.lease_until),
        reason=sent.reason,
        idle_minutes=sent.idle_unload_minutes,
        override_reason=sent.override_reason,
    )


def question(sent: schema.QuestionDocument) -> Question:
    """Return the question to a model."""
    return Question(sent.prompt, sent.max_tokens)


def lease_terms(sent: schema.LeaseTermsDocument) -> Terms:
    """Return the new terms. Raises InvalidRequest."""
    named = sent.model_fields_set
    if {"until", "extend_s"} <= named:
        raise InvalidRequest(field="extend_s", value=str(sent.extend_s), allowed="until | extend_s")
    return Terms(
        until=_seconds(sent.until),
        sets_until="until" in named,
        extend_s=sent.extend_s,
        reason=sent.reason,
        idle_minutes=sent.idle_unload_minutes,
        sets_idle="idle_unload_minutes" in named,
    )


def release_answer(sent: schema.ReleaseDecisionDocument) -> ReleaseAnswer:
    """Return the owner's answer."""
    return ReleaseAnswer(sent.answer)


def override_reason(sent: schema.OverrideDocument) -> str | None:
    """Return an administrator's reason, ``None`` if there is none."""
    return (sent.override_reason or "").strip() or None


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def read(body: type[B]) -> B:
    """Return the request's body.

    Raises InvalidRequest, which names a field that is missing, unknown or invalid, or ``body`` if it is not JSON, and
    UnsupportedMediaType if the content type is not JSON.
    """
    if not request.is_json:
        raise UnsupportedMediaType
    try:
        return body.model_validate_json(request.get_data())
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequest(field=field, value=_shown(first.get("input")), allowed=first["msg"]) from exc


def read_if_sent(body: type[B]) -> B:
    """Return the request's body, which may be missing; see ``read``."""
    return read(body) if request.get_data() else body()


def limit_argument(default: int, most: int) -> int:
    """Read ``?limit=``. Raises InvalidRequest."""
    text = request.args.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise InvalidRequest(field="limit", value=text[:SHOWN_LIMIT], allowed=f"1–{most}")
    return int(text)


def _shown(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= SHOWN_LIMIT else text[: SHOWN_LIMIT - 1] + "…"
