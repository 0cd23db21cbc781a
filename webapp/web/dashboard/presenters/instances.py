"""Loaded models: the rows of the two lists, and the texts of a model's dialog."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from webapp.domain.instance import Instance, InstanceState
from webapp.domain.modes import Mode
from webapp.message import Message
from webapp.web import formats, words
from webapp.web.leases.presenter import LeaseView, RowContext, lease_view
from webapp.web.phrases import options_line, requests_now, where
from webapp.web.translate import gettext as _
from webapp.web.words import names

TONES = {
    InstanceState.STARTING: "wait",
    InstanceState.LOADING: "wait",
    InstanceState.READY: "good",
    InstanceState.SILENT: "warn",
    InstanceState.STOPPING: "wait",
    InstanceState.STUCK: "bad",
    InstanceState.DEAD: "bad",
}


NOBODY = RowContext()
"""The context of a row whose terms do not matter."""


@dataclass(frozen=True)
class InstanceRow:
    """A loaded model. ``tone`` is the colour of its dot, ``state_word`` the same as text."""

    id: str
    mode: str
    model: str
    options: str
    where: str
    held: str
    expected: str
    owner: str
    started_at: float
    last_used_at: float | None
    state: str
    state_word: str
    tone: str
    in_flight: int | None
    in_flight_words: str
    percent: int | None
    problem: str | None
    explained_by: str | None
    """The operation whose page explains how it ran out of memory."""
    adopted: bool
    can_ask: bool
    can_unload: bool
    unload_text: str
    """The label of the button."""
    unload_word: str
    """The label with the model's name."""
    max_tokens: int
    has_chat: bool
    lease: LeaseView


def instance_row(instance: Instance, view: RowContext = NOBODY) -> InstanceRow:
    """Return the row of an instance in the context ``view``."""
    busy = instance.state is InstanceState.READY and bool(instance.in_flight)
    vllm = instance.mode is Mode.VLLM
    return InstanceRow(
        id=instance.id,
        mode=instance.mode.value,
        model=instance.model_id,
        options=options_line(instance.options),
        where=where(instance.devices),
        held="" if instance.state is InstanceState.DEAD else formats.size(_total(instance.measured_bytes.values())),
        expected=_expected(instance),
        owner=instance.owner,
        started_at=instance.started_at,
        last_used_at=instance.last_used_at,
        state=instance.state.value,
        state_word=words.word(names.INSTANCE_STATES, instance.state),
        tone="busy" if busy else TONES[instance.state],
        in_flight=instance.in_flight,
        in_flight_words=requests_now(instance.in_flight),
        percent=None if instance.progress is None else round(100 * instance.progress),
        problem=_problem(instance),
        explained_by=instance.explained_by,
        adopted=instance.adopted,
        can_ask=instance.state is InstanceState.READY,
        can_unload=instance.state is not InstanceState.STOPPING,
        unload_text=_("Stop") if vllm else _("Unload"),
        unload_word=_("Stop %(model)s", model=instance.model_id)
        if vllm
        else _("Unload %(model)s", model=instance.model_id),
        max_tokens=instance.options.max_tokens,
        has_chat=instance.has_chat_template,
        lease=lease_view(instance, view),
    )


def _total(sizes: Iterable[int]) -> int | None:
    values = list(sizes)
    return sum(values) if values else None


def _expected(instance: Instance) -> str:
    """Return the expected memory, shown next to the held memory: at rest, and the peak during answers.

    Of a dead model, only what it once held is known.
    """
    if instance.state is InstanceState.DEAD:
        held = _total(instance.measured_bytes.values())
        return "" if held is None else _("held %(size)s", size=formats.size(held))
    resting, peak = _total(instance.resting_bytes.values()), _total(instance.predicted_bytes.values())
    expected = peak if resting is None else resting  # an instance of an older Warden has only the peak
    if expected is None or peak is None:
        return ""
    if expected == peak:
        return _("%(size)s expected", size=formats.size(peak))
    return _("expected %(size)s, peak %(peak)s", size=formats.size(expected), peak=formats.size(peak))


def _problem(instance: Instance) -> str | None:
    """Return why an instance is not ready, with the model's name, since people do not know the instance's id."""
    if instance.problem is None:
        return None
    params = dict(instance.problem.params)
    if params.get("instance") == instance.id:
        params["instance"] = instance.model_id
    return words.say(Message(instance.problem.code, params))
