"""The launch form: its choices, and the advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from webapp.control.contract import Snapshot
from webapp.domain.modes import BATCH_SIZE_LIMIT, MAX_TOKENS_LIMIT, Mode, Precision, Quantization
from webapp.domain.recommend import Advice, Mark
from webapp.web import formats, words
from webapp.web.launch.form import AUTO, JOINT, LaunchForm
from webapp.web.launch.presenters.main_button import MainButton, nothing_chosen
from webapp.web.launch.presenters.plan import LaunchFacts, PlanView, plan_view
from webapp.web.leases.presenter import idle_choices, lease_choices
from webapp.web.models.presenter import ModelText
from webapp.web.phrases import Choice, Reason, quantizing_note, reason_of, tokens
from webapp.web.translate import gettext as _
from webapp.web.versions import Versioned
from webapp.web.words import names

REASONS_SHOWN = 2
"""How many reasons are shown under the modes."""
TONES = {Mark.OK: "✅", Mark.LIMITED: "⚠️", Mark.NONE: "⛔"}


@dataclass(frozen=True)
class AdviceView:
    """The recommended settings; ``query`` fills the form with them."""

    text: str
    sign: str
    reasons: str
    query: str
    is_applied: bool
    fits: bool = True
    """False for the smallest possible configuration if even that does not fit."""


@dataclass(frozen=True)
class FormView(Versioned):
    """The form with its values, its plan and its advice."""

    values: LaunchForm
    modes: tuple[Choice, ...]
    mode_problems: tuple[Reason, ...]
    models: tuple[Choice, ...]
    precisions: tuple[Choice, ...]
    precision_note: str | None
    """Why some precisions cannot be chosen."""
    devices: tuple[Choice, ...]
    tokens_limit: int
    batch_limit: int
    plan: PlanView | None
    advice: AdviceView | None
    button: MainButton
    own_unload: str
    """Named models that need no confirmation, own or released ones; each other one is a checkbox in the plan."""
    leases: tuple[Choice, ...]
    idles: tuple[Choice, ...]


def _model_choices(texts: Sequence[ModelText], chosen: str) -> Iterator[Choice]:
    """Yield loadable models first, then the others with their reason; a chosen model that is gone stays chosen."""
    if chosen and not any(text.model.id == chosen for text in texts):
        yield Choice(chosen, chosen, chosen=True, problem=_("not in the cache"))
    for text in sorted(texts, key=lambda t: (t.model.problem is not None, t.model.id.lower())):
        model_id = text.model.id
        yield Choice(model_id, f"{model_id} · {text.size}", model_id == chosen, text.problem)


def form_view(
    form: LaunchForm,
    snapshot: Snapshot,
    facts: LaunchFacts,
    texts: Sequence[ModelText],
    actor: str,
    *,
    idle_minutes: float,
    may_override: bool,
    undo_s: float,
) -> FormView:
    """Return the whole form with its current values for ``actor``."""
    in_container = form.mode == Mode.VLLM
    plan = plan_view(form, snapshot, facts, may_override=may_override, undo_s=undo_s)
    return FormView(
        values=form,
        modes=_modes(form, snapshot),
        mode_problems=_mode_problems(snapshot),
        models=tuple(_model_choices(texts, form.model)),
        precisions=tuple(_precision(p, form, in_container=in_container) for p in Precision),
        precision_note=quantizing_note() if in_container else None,
        devices=_devices(form, snapshot, plan),
        tokens_limit=MAX_TOKENS_LIMIT,
        batch_limit=BATCH_SIZE_LIMIT,
        plan=plan,
        advice=None if facts.advice is None else _advice(facts.advice, form),
        button=nothing_chosen(snapshot) if plan is None else plan.button,
        own_unload=JOINT.join(i.id for i in snapshot.instances if i.id in form.named and not i.is_foreign_to(actor)),
        leases=lease_choices(form.lease, facts.now),
        idles=idle_choices(form.idle, idle_minutes),
    )


def _modes(form: LaunchForm, snapshot: Snapshot) -> tuple[Choice, ...]:
    choices = []
    for mode in Mode:
        problem = snapshot.mode_problems.get(mode)
        said = None if problem is None else words.clause(problem)
        choices.append(Choice(mode.value, words.word(names.MODES, mode), mode.value == form.mode, said))
    return tuple(choices)


def _mode_problems(snapshot: Snapshot) -> tuple[Reason, ...]:
    problems = ((mode, snapshot.mode_problems.get(mode)) for mode in Mode)
    return tuple(reason_of(problem, words.word(names.MODES, mode)) for mode, problem in problems if problem)


def _precision(precision: Precision, form: LaunchForm, *, in_container: bool) -> Choice:
    """Return the choice of a precision; bitsandbytes quantizes while loading, only in Transformers mode."""
    impossible = in_container and precision.quantization is not Quantization.NONE
    return Choice(
        value=precision.value,
        label=words.word(names.PRECISIONS, precision),
        chosen=precision.value == form.precision,
        problem=_("Transformers only") if impossible else None,
    )


def _devices(form: LaunchForm, snapshot: Snapshot, plan: PlanView | None) -> tuple[Choice, ...]:
    """Return each device, and several together if that is chosen or would help."""
    readings = () if snapshot.sample is None else snapshot.sample.readings
    choices = [Choice(AUTO, _("Automatic"), form.device == AUTO)]
    for reading in readings:
        label = words.capital(words.device_label(reading.device_id))
        free = _("%(size)s available", size=formats.size(reading.free_bytes))
        choices.append(Choice(reading.device_id, f"{label} · {free}", reading.device_id == form.device))
    known = {reading.device_id for reading in readings}
    offered = (form.device, *(() if plan is None else (way.device for way in plan.ways_out)))
    for device in dict.fromkeys(offered):
        parts = device.split(JOINT)
        if len(parts) > 1 and known.issuperset(parts):
            choices.append(Choice(device, " + ".join(map(words.device_label, parts)), device == form.device))
    if not any(choice.chosen for choice in choices):
        choices.append(Choice(form.device, form.device, chosen=True, problem=_("no such device")))
    return tuple(choices)


def _advice(advice: Advice, form: LaunchForm) -> AdviceView:
    filled = replace(
        form,
        mode=advice.usable_mode.value,
        precision=advice.precision.value,
        max_tokens=str(advice.max_tokens),
        batch_size=str(advice.batch_size),
    )
    parts = (
        words.word(names.MODES, advice.usable_mode),
        words.word(names.PRECISIONS, advice.precision),
        tokens(advice.max_tokens),
        _("batch %(size)s", size=formats.number(advice.batch_size)),
    )
    return AdviceView(
        text=" · ".join(parts),
        sign=TONES[advice.mark],
        reasons=words.capital("; ".join(words.clause(reason) for reason in advice.reasons[:REASONS_SHOWN])),
        query=filled.query,
        is_applied=filled == form,
        fits=advice.mark is not Mark.NONE,
    )
