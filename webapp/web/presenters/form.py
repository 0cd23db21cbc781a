"""The form beside the cards: its choices, and the advice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from webapp.control.contract import ControllerApi, Snapshot
from webapp.domain.modes import BATCH_SIZE_LIMIT, MAX_TOKENS_LIMIT, Mode, Precision, Quantization
from webapp.domain.recommend import Advice, Mark
from webapp.errors import NotFound
from webapp.web import formats, words
from webapp.web.forms import AUTO, LaunchForm
from webapp.web.presenters.common import Reason, quantizing_note, reason_of, tokens
from webapp.web.presenters.plan import PlanView, plan_view
from webapp.web.translate import gettext as _

REASONS_SHOWN = 2
"""Why a mode cannot be chosen stands under the modes already."""
TONES = {Mark.OK: "✅", Mark.LIMITED: "⚠️"}


@dataclass(frozen=True)
class Choice:
    """One option of a field. ``problem`` says why it cannot be chosen."""

    value: str
    label: str
    chosen: bool
    problem: str | None = None


@dataclass(frozen=True)
class AdviceView:
    """What the system would choose; ``query`` fills the form with it."""

    text: str
    sign: str
    reasons: str
    query: str
    is_applied: bool


@dataclass(frozen=True)
class FormView:
    """The form with its values, its plan and its advice."""

    values: LaunchForm
    modes: tuple[Choice, ...]
    mode_problems: tuple[Reason, ...]
    models: tuple[Choice, ...]
    precisions: tuple[Choice, ...]
    precision_note: str | None
    """Why some of them cannot be chosen."""
    devices: tuple[Choice, ...]
    tokens_limit: int
    batch_limit: int
    plan: PlanView | None
    advice: AdviceView | None
    can_apply: bool


def form_view(form: LaunchForm, snapshot: Snapshot, controller: ControllerApi) -> FormView:
    """Return the whole form for its present values."""
    in_container = form.mode == Mode.VLLM
    return FormView(
        values=form,
        modes=_modes(form, snapshot),
        mode_problems=_mode_problems(snapshot),
        models=_models(form, snapshot),
        precisions=tuple(_precision(p, form, in_container=in_container) for p in Precision),
        precision_note=quantizing_note() if in_container else None,
        devices=_devices(form, snapshot),
        tokens_limit=MAX_TOKENS_LIMIT,
        batch_limit=BATCH_SIZE_LIMIT,
        plan=plan_view(form, snapshot, controller),
        advice=advice_view(form, controller),
        can_apply=any(model.problem is None for model in snapshot.models),
    )


def _modes(form: LaunchForm, snapshot: Snapshot) -> tuple[Choice, ...]:
    choices = []
    for mode in Mode:
        problem = snapshot.mode_problems.get(mode)
        said = None if problem is None else words.clause(problem)
        choices.append(Choice(mode.value, words.word(words.MODES, mode), mode.value == form.mode, said))
    return tuple(choices)


def _mode_problems(snapshot: Snapshot) -> tuple[Reason, ...]:
    problems = ((mode, snapshot.mode_problems.get(mode)) for mode in Mode)
    return tuple(reason_of(problem, words.word(words.MODES, mode)) for mode, problem in problems if problem)


def _precision(precision: Precision, form: LaunchForm, *, in_container: bool) -> Choice:
    """bitsandbytes quantizes while loading, which is done in Transformers mode alone."""
    impossible = in_container and precision.quantization is not Quantization.NONE
    return Choice(
        value=precision.value,
        label=words.word(words.PRECISIONS, precision),
        chosen=precision.value == form.precision,
        problem=_("только Transformers") if impossible else None,
    )


def _models(form: LaunchForm, snapshot: Snapshot) -> tuple[Choice, ...]:
    """Models that can be loaded first; the others stand below with their reason."""
    ordered = sorted(snapshot.models, key=lambda m: (m.problem is not None, m.id.lower()))
    choices = tuple(
        Choice(
            value=model.id,
            label=f"{model.id} · {formats.size(model.size_bytes)}",
            chosen=model.id == form.model,
            problem=None if model.problem is None else words.clause(model.problem),
        )
        for model in ordered
    )
    if form.model and not any(choice.chosen for choice in choices):
        gone = Choice(form.model, form.model, chosen=True, problem=_("нет в кеше"))
        return (gone, *choices)
    return choices


def _devices(form: LaunchForm, snapshot: Snapshot) -> tuple[Choice, ...]:
    readings = () if snapshot.sample is None else snapshot.sample.readings
    choices = [Choice(AUTO, _("Автоматически"), form.device == AUTO)]
    for reading in readings:
        label = words.capital(words.device_label(reading.device_id))
        free = _("доступно %(size)s", size=formats.size(reading.free_bytes))
        choices.append(Choice(reading.device_id, f"{label} · {free}", reading.device_id == form.device))
    if not any(choice.chosen for choice in choices):
        choices.append(Choice(form.device, form.device, chosen=True, problem=_("такого устройства нет")))
    return tuple(choices)


def advice_view(form: LaunchForm, controller: ControllerApi) -> AdviceView | None:
    """Return the advice for the chosen device, or ``None`` when its free memory is unknown."""
    device = None if form.device == AUTO else form.device
    try:
        advice = controller.recommend(device, form.model or None)
    except NotFound:
        return None
    return None if advice is None else _advice(advice, form)


def _advice(advice: Advice, form: LaunchForm) -> AdviceView:
    filled = replace(
        form,
        mode=advice.usable_mode.value,
        precision=advice.precision.value,
        max_tokens=str(advice.max_tokens),
        batch_size=str(advice.batch_size),
    )
    parts = (
        words.word(words.MODES, advice.usable_mode),
        words.word(words.PRECISIONS, advice.precision),
        tokens(advice.max_tokens),
        _("батч %(size)s", size=formats.number(advice.batch_size)),
    )
    return AdviceView(
        text=" · ".join(parts),
        sign=TONES[advice.mark],
        reasons=words.capital("; ".join(words.clause(reason) for reason in advice.reasons[:REASONS_SHOWN])),
        query=filled.query,
        is_applied=filled == form,
    )
