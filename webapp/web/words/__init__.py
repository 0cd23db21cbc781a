"""The texts of all messages: what happened, to what, and what to do next. Their English is the source of the catalogue.

The values of a message are formatted according to their names (``*_bytes``, ``seconds``, ``device``, ``mode``…). A code
without a text is shown unchanged, with its values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from webapp.error_texts import ERROR_TEXTS
from webapp.message import Message, Param
from webapp.web import formats
from webapp.web.translate import gettext, plural
from webapp.web.words import names
from webapp.web.words.errors import ERRORS, WEB
from webapp.web.words.keeping import KEEPING
from webapp.web.words.leases import LEASES
from webapp.web.words.models import MODELS, REASONS
from webapp.web.words.operations import OUTCOMES, STEPS, WHY
from webapp.web.words.plan import PLANS
from webapp.web.words.queue import WAITING
from webapp.web.words.selftest import SELFTEST
from webapp.web.words.sentence import Sentence


class _ShownValues(dict[str, str]):
    """Formatted values; a missing one is shown as unknown."""

    def __missing__(self, name: str) -> str:
        return formats.unknown()


FULLER: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "busy": ("busy_model", ("model", "step")),
    "instance_leased": ("instance_leased_for", ("reason",)),
    "instance_in_use": ("instance_in_use_counted", ("in_flight",)),
    "release_kept": ("release_kept_word", ("word",)),
    "release_given": ("release_given_word", ("word",)),
    "unexpected": ("unexpected_named", ("detail",)),
    "unknown_model": ("unknown_model_named", ("model",)),
    "device_unreadable": ("device_unreadable_named", ("device",)),
    "kv_cache_too_small": ("kv_cache_too_small_fits", ("fits_tokens",)),
    "context_too_long": ("context_too_long_limit", ("limit_tokens",)),
    "why_estimate_low": ("why_estimate_exceeded", ("excess_bytes",)),
    "launch_failed": ("launch_failed_logged", ("log",)),
    "measured": ("measured_as_expected", ("measured_bytes", "expected_bytes")),
    "waits_in_use": ("waits_in_use_counted", ("in_flight",)),
    "waits_operation": ("waits_operation_model", ("model",)),
    "way_out_unload_busy": ("way_out_unload_busy_counted", ("in_flight",)),
    "vllm_weights": ("vllm_weights_percent", ("percent",)),
    "vllm_kv_cache": ("vllm_kv_cache_sized", ("tokens", "kv_cache_bytes")),
    "vllm_graphs": ("vllm_graphs_percent", ("percent",)),
}
"""A more detailed sentence for a code, with the values that it needs."""
SENTENCES: Final[Mapping[str, Sentence]] = {
    **REASONS,
    **STEPS,
    **OUTCOMES,
    **PLANS,
    **MODELS,
    **WEB,
    **LEASES,
    **KEEPING,
    **SELFTEST,
    **WHY,
    **WAITING,
    **ERRORS,
}


def word(table: Mapping[str, str], key: str | None) -> str:
    """Return the word for a member of an enum; one that is not in ``table`` is returned unchanged."""
    if key is None:
        return formats.unknown()
    text = table.get(key)
    return key if text is None else gettext(text)


def error_title(code: str) -> str:
    """Return the short title of an error; the code of another version is returned unchanged."""
    text = ERROR_TEXTS.get(code)
    return code if text is None else gettext(text.title)


def say(message: Message) -> str:
    """Return ``message`` as a sentence in the current language."""
    return capital(clause(message))


def clause(message: Message) -> str:
    """Return ``message`` for use inside a sentence or under a step's name, without capitalizing its first letter."""
    code, needed = FULLER.get(message.code, (message.code, ()))
    if not all(message.params.get(name) for name in needed):
        code = message.code
    sentence = SENTENCES.get(code)
    return _unknown(message) if sentence is None else _said(sentence, message.params)


def _said(sentence: Sentence, params: Mapping[str, Param]) -> str:
    """Return ``sentence`` in the current language, with ``params`` filled in."""
    shown = _ShownValues({name: shown_param(name, value) for name, value in params.items()})
    if sentence.many is None:
        return gettext(sentence.one) % shown
    counted = params.get(sentence.count)
    return plural(sentence.one, sentence.many, counted if isinstance(counted, int) else 0) % shown


def _unknown(message: Message) -> str:
    values = ", ".join(f"{name}={value}" for name, value in message.params.items() if value is not None)
    return f"{message.code} ({values})" if values else message.code


def capital(text: str) -> str:
    """Return ``text`` with a capital first letter, unless it begins with a name (``Qwen/…``, ``vLLM``)."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first.islower() and not set("/._") & set(first) else text


def device_label(device_id: str | None) -> str:
    """Return a device's name for people: ``GPU 0``, or the host's RAM."""
    if device_id is None:
        return gettext("the device")
    if device_id == "host":
        return gettext("main memory")
    kind, _, index = device_id.partition("-")
    return f"GPU {index}" if kind == "gpu" and index.isdigit() else device_id


def _devices(value: str) -> str:
    return ", ".join(device_label(part.strip()) for part in value.split(","))


def _reason(value: str) -> str:
    known = {**REASONS, **KEEPING}
    return gettext(known[value].one) if value in known else value


def _state(value: str) -> str:
    return word({**names.OPERATION_STATES, **names.INSTANCE_STATES}, value)


_BY_NAME: Final[Mapping[str, Callable[[str], str]]] = {
    "device": device_label,
    "devices": _devices,
    "known": _devices,
    "mode": lambda value: word(names.MODES, value),
    "kind": lambda value: word(names.KINDS, value),
    "step": lambda value: word(names.STEP_NAMES, value),
    "stage": lambda value: word(names.STAGES, value),
    "precision": lambda value: word(names.PRECISIONS, value),
    "field": lambda value: word(names.FIELDS, value),
    "reason": _reason,
    "code": _reason,
    "state": _state,
    "container": lambda value: value[:SHORT_ID],
    "needed": lambda value: word(names.ROLES, value),
    "role": lambda value: word(names.ROLES, value),
    "check": lambda value: word(names.CHECKS, value),
}
_LONGEST: Final = 300
SHORT_ID: Final = 12
"""How many digits of a container's id are shown, as in Docker."""


def shown_param(name: str, value: Param) -> str:
    """Return one value of a message, formatted in the reader's language."""
    if value is None:
        return formats.unknown()
    if isinstance(value, bool):
        return gettext("yes") if value else gettext("no")
    if isinstance(value, int | float):
        return _shown_number(name, value)
    text = value if len(value) <= _LONGEST else value[: _LONGEST - 1] + "…"
    shown = _BY_NAME.get(name)
    return text if shown is None else shown(text)


def _shown_number(name: str, value: float) -> str:
    if name.endswith("_bytes"):
        return formats.size(value)
    if name.endswith("idle_s"):
        return formats.rough_duration(value)
    if name == "seconds" or name.endswith("_s"):
        return formats.duration(value)
    if name in ("since", "until"):
        return formats.moment(value, value if name == "since" else time.time())
    if name == "pid":
        return str(int(value))
    return formats.number(value) if isinstance(value, int) else formats.number(value, 1)
