"""What may be sent: bodies read strictly, so that a mistyped field is refused instead of ignored."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

from flask import request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from werkzeug.exceptions import UnsupportedMediaType

from webapp.control.contract import Question, Terms
from webapp.domain.lease import LONGEST_S, TEXT_LIMIT, ReleaseAnswer
from webapp.domain.modes import BATCH_SIZE_LIMIT, MAX_TOKENS_LIMIT, Dtype, LaunchOptions, Mode, Quantization
from webapp.domain.plan import SwitchRequest
from webapp.errors import InvalidRequest
from webapp.web.asking import LONGEST_PROMPT

DEFAULTS = LaunchOptions()
NAME_LIMIT = 200
UNLOAD_LIMIT = 100
SHOWN_LIMIT = 100

Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS_LIMIT)]
BatchSize = Annotated[int, Field(ge=1, le=BATCH_SIZE_LIMIT)]


Text = Annotated[str, Field(max_length=TEXT_LIMIT)]
Minutes = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def seconds_of(moment: datetime | None) -> float | None:
    """Return a moment as seconds since the epoch."""
    return None if moment is None else moment.timestamp()


class _Body(BaseModel):
    """Strict: no unknown fields, no ``"5"`` for 5, no ``true`` for 1."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


B = TypeVar("B", bound=_Body)


class OptionsBody(_Body):
    """Launch options; an omitted one has its default."""

    dtype: Dtype = DEFAULTS.dtype
    quantization: Quantization = DEFAULTS.quantization
    max_tokens: Tokens = DEFAULTS.max_tokens
    batch_size: BatchSize = DEFAULTS.batch_size


class SwitchBody(_Body):
    """A launch. ``devices`` omitted or ``null`` lets Warden choose; ``unload`` names instances by id.

    ``load_anyway`` overrides a memory shortage, ``override_reason`` (administrators) a lease or a busy model of another
    person, and ``interrupt_busy`` cuts off answers under way. ``lease_until``, ``reason`` and ``idle_unload_minutes``
    are the terms of the new instance. ``restore_on_failure`` loads the unloaded models again if the launch fails.
    """

    mode: Mode
    model: Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]
    options: OptionsBody = OptionsBody()
    devices: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    keep_others: bool = False
    restore_on_failure: bool = True
    interrupt_busy: bool = False
    unload: Annotated[tuple[Annotated[str, Field(max_length=NAME_LIMIT)], ...], Field(max_length=UNLOAD_LIMIT)] = ()
    load_anyway: bool = False
    lease_until: AwareDatetime | None = None
    reason: Text = ""
    idle_unload_minutes: Minutes | None = None
    override_reason: Text | None = None

    def to_request(self) -> SwitchRequest:
        """Return what the body asks for."""
        options = self.options
        return SwitchRequest(
            mode=self.mode,
            model_id=self.model,
            options=LaunchOptions(options.dtype, options.quantization, options.max_tokens, options.batch_size),
            devices=self.devices,
            keep_others=self.keep_others,
            restore_on_failure=self.restore_on_failure,
            interrupt_busy=self.interrupt_busy,
            unload=self.unload,
            load_anyway=self.load_anyway,
            lease_until=seconds_of(self.lease_until),
            reason=self.reason,
            idle_minutes=self.idle_unload_minutes,
            override_reason=self.override_reason,
        )


class TicketBody(SwitchBody):
    """A launch to queue: the fields of a switch, and ``starts_by_itself``: start when there is room, or only notify its
    person.
    """

    starts_by_itself: bool = True


class AskBody(_Body):
    """A question to a model."""

    prompt: Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
    max_tokens: Tokens | None = None


class StopContainerBody(_Body):
    """The exact name of the container, as confirmation."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_LIMIT)]


class LeaseBody(_Body):
    """New terms of an instance: an omitted field stays as it is, ``until: null`` ends the lease.

    ``until`` and ``extend_s`` exclude each other.
    """

    until: AwareDatetime | None = None
    extend_s: Annotated[float, Field(gt=0, le=LONGEST_S, allow_inf_nan=False)] | None = None
    reason: Text | None = None
    idle_unload_minutes: Minutes | None = None

    def to_terms(self) -> Terms:
        """Return what the body asks for."""
        sent = self.model_fields_set
        if {"until", "extend_s"} <= sent:
            raise InvalidRequest(field="extend_s", value=str(self.extend_s), allowed="until | extend_s")
        return Terms(
            until=seconds_of(self.until),
            sets_until="until" in sent,
            extend_s=self.extend_s,
            reason=self.reason,
            idle_minutes=self.idle_unload_minutes,
            sets_idle="idle_unload_minutes" in sent,
        )


class ReleaseBody(_Body):
    """Why an instance is needed; the body can be omitted."""

    why: Text = ""


class AnswerBody(_Body):
    """The owner's answer to a release request, with an optional message."""

    answer: ReleaseAnswer
    word: Text = ""


class UnloadBody(_Body):
    """An administrator's reason to unload a leased or busy model; the body can be omitted."""

    override_reason: Text | None = None


class CancelBody(_Body):
    """What to cancel: the operation, or its rollback; the body can be omitted."""

    rollback: bool = False


def switch_request() -> SwitchRequest:
    """Read the body of ``plan`` and ``switch``; see ``_read``."""
    return _read(SwitchBody).to_request()


def ticket_request() -> tuple[SwitchRequest, bool]:
    """Read the body of ``tickets``: what is asked for, and whether it starts by itself; see ``_read``."""
    body = _read(TicketBody)
    return body.to_request(), body.starts_by_itself


def ask_question() -> Question:
    """Read the body of ``ask``; see ``_read``."""
    body = _read(AskBody)
    return Question(body.prompt, body.max_tokens)


def confirmed_name() -> str:
    """Read the body of ``containers/ID/stop``; see ``_read``."""
    return _read(StopContainerBody).name


def cancel_rollback() -> bool:
    """Read the body of ``cancel``, which may be missing; see ``_read``."""
    return bool(request.get_data()) and _read(CancelBody).rollback


def lease_terms() -> Terms:
    """Read the body of ``instances/ID/lease``; see ``_read``."""
    return _read(LeaseBody).to_terms()


def release_why() -> str:
    """Read the body of ``instances/ID/release-request``, which may be missing; see ``_read``."""
    return _read(ReleaseBody).why if request.get_data() else ""


def release_answer() -> AnswerBody:
    """Read the body of ``instances/ID/release-request/answer``; see ``_read``."""
    return _read(AnswerBody)


def override_reason() -> str | None:
    """Read the body of ``instances/ID/unload``, which may be missing; see ``_read``."""
    reason = _read(UnloadBody).override_reason if request.get_data() else None
    return (reason or "").strip() or None


def _read(body: type[B]) -> B:
    """Read the request's body.

    Raises: InvalidRequest: a field is missing, unknown or has a value that cannot be meant; names it. Not JSON names
    ``body``. UnsupportedMediaType: the content type is not JSON.
    """
    if not request.is_json:
        raise UnsupportedMediaType
    try:
        return body.model_validate_json(request.get_data())
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "body"
        raise InvalidRequest(field=field, value=_shown(first.get("input")), allowed=first["msg"]) from exc


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
