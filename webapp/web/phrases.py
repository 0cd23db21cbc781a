"""Choices, reasons, signs and short texts that presenters of several subjects share."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from webapp.domain.model import ModelProblem
from webapp.domain.modes import LaunchOptions
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import names

log = logging.getLogger(__name__)

SUCCESS, WARNING, FAILURE = "✅", "⚠️", "❌"


@dataclass(frozen=True)
class Choice:
    """One option of a field; ``problem`` is the reason if it cannot be chosen."""

    value: str
    label: str
    chosen: bool
    problem: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why something cannot be done. ``command`` is what a person can run against it, ready to copy."""

    text: str
    command: str | None = None


def reason_of(message: Message, begin: str = "") -> Reason:
    """Return ``message`` as a whole sentence, preceded by ``begin``."""
    said = f"{begin}: {words.clause(message)}" if begin else words.say(message)
    command = message.params.get("command")
    return Reason(ended(said), command if isinstance(command, str) and command else None)


def misread(model_id: str, exc: Exception) -> Message:
    """Log that a model could not be evaluated, and return the message for its row."""
    log.error("The model %s cannot be judged", model_id, exc_info=exc)
    detail = type(exc).__name__  # internals of a defect appear only in the log
    return Message(ModelProblem.MISREAD.value, {"model": model_id, "detail": detail})


def ended(text: str) -> str:
    """Return ``text`` with one full stop at its end, unless it ends with another mark."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def quantizing_note() -> str:
    """Return why vLLM mode has neither INT8 nor 4 bits."""
    return _("bitsandbytes quantizes to INT8 and 4-bit while loading, so these exist in Transformers mode only.")


def short_name(model_id: str) -> str:
    """Return a repository's name without its owner."""
    return model_id.rpartition("/")[2] or model_id


def tokens(count: int) -> str:
    """Return a number of tokens as text."""
    return ngettext("%(shown)s token", "%(shown)s tokens", count, shown=formats.number(count))


def options_line(options: LaunchOptions) -> str:
    """Return launch options in one line: ``FP16 · 2048 токенов · батч 4``."""
    precision = words.word(names.PRECISIONS, options.precision)
    return " · ".join(
        (precision, tokens(options.max_tokens), _("batch %(size)s", size=formats.number(options.batch_size)))
    )


def where(device_ids: Iterable[str]) -> str:
    """Return the names of devices as one text."""
    return " + ".join(words.device_label(device_id) for device_id in device_ids)


def requests_now(count: int | None) -> str:
    """Return in words how many requests a model is answering; empty if none."""
    if count is None:
        return _("requests: %(count)s", count=formats.unknown())
    return ngettext("%(num)s request now", "%(num)s requests now", count) if count else ""
