"""What presenters of several subjects share: choices, reasons, signs, and short texts."""

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
    """One option of a field. ``problem`` says why it cannot be chosen."""

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
    """Return ``message`` as a whole sentence, ``begin`` before it."""
    said = f"{begin}: {words.clause(message)}" if begin else words.say(message)
    command = message.params.get("command")
    return Reason(ended(said), command if isinstance(command, str) and command else None)


def misread(model_id: str, exc: Exception) -> Message:
    """Record that a model could not be judged, and return what its own row says of it."""
    log.error("The model %s cannot be judged", model_id, exc_info=exc)
    detail = type(exc).__name__  # the text of a defect's exception goes to the log only
    return Message(ModelProblem.MISREAD.value, {"model": model_id, "detail": detail})


def ended(text: str) -> str:
    """Return ``text`` with one full stop at its end, unless it ends otherwise."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def quantizing_note() -> str:
    """Return why vLLM mode has no INT8 and no 4 bits."""
    return _("bitsandbytes quantizes to INT8 and 4-bit while loading, so these exist in Transformers mode only.")


def short_name(model_id: str) -> str:
    """Return a repository's name without its owner."""
    return model_id.rpartition("/")[2] or model_id


def tokens(count: int) -> str:
    """Return a number of tokens in words."""
    return ngettext("%(shown)s token", "%(shown)s tokens", count, shown=formats.number(count))


def options_line(options: LaunchOptions) -> str:
    """Return launch options in one line: ``FP16 · 2048 токенов · батч 4``."""
    precision = words.word(names.PRECISIONS, options.precision)
    return " · ".join(
        (precision, tokens(options.max_tokens), _("batch %(size)s", size=formats.number(options.batch_size)))
    )


def where(device_ids: Iterable[str]) -> str:
    """Return devices' names in one text."""
    return " + ".join(words.device_label(device_id) for device_id in device_ids)
