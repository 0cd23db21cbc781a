"""The plan box: whether it fits, what would be unloaded, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from webapp.control.contract import Snapshot
from webapp.domain.footprint import Footprint, PartName, Source
from webapp.domain.modes import Mode, Quantization
from webapp.domain.operation import Operation, StepName
from webapp.domain.plan import DevicePlan, Eviction, Plan, Verdict
from webapp.domain.planning.relief import relief_of
from webapp.domain.recommend import Advice
from webapp.errors import (
    AlreadyLoaded,
    ConfirmationNeeded,
    CoolingDown,
    InvalidRequest,
    ModelUnsuitable,
    ModeUnavailable,
    NotEnoughMemory,
    WardenError,
)
from webapp.message import Message
from webapp.web import charts, formats, words
from webapp.web.launch.form import LaunchForm
from webapp.web.launch.presenters.main_button import MainButton, main_button, not_possible, obstacle, under_way
from webapp.web.operations.presenters.troubles import TroubleView, plan_trouble
from webapp.web.phrases import ended, misread, quantizing_note, requests_now, short_name, where
from webapp.web.translate import gettext as _
from webapp.web.words import names

TONES = {Verdict.FITS: "good", Verdict.TIGHT: "warn", Verdict.REFUSED: "bad"}
SIGNS = {Verdict.FITS: "✓", Verdict.TIGHT: "▲", Verdict.REFUSED: "✕"}
VISIBLE_PARTS = (PartName.WEIGHTS, PartName.KV_CACHE)
CONFIRM = "confirm"
"""The verdict that needs a confirmation: it fits after other people's models are unloaded."""
WITHOUT_FIGURES = frozenset({AlreadyLoaded.code, InvalidRequest.code, ModeUnavailable.code, ModelUnsuitable.code})
"""Refusals independent of the memory: figures and evictions would only mislead."""
LOADED, LOADING = "loaded", "loading"
"""Verdicts for a model that is loaded already, and for one that the person's own operation is loading."""
SAID_BY_THE_FIGURES = frozenset({"plan_fits", "plan_tight"})
SAID_BY_THE_BUTTON = frozenset({"plan_device_claimed"})
SAID_OF_THE_FIGURES = frozenset(
    {"plan_measured", "plan_measured_once", "plan_measured_otherwise", "plan_measured_otherwise_once"}
)
"""Notes on figures, which are left out if no figures are shown."""


@dataclass(frozen=True)
class PartRow:
    """One component of the need: its size, the source of the figure, and its confidence."""

    name: str
    size: str
    source: str
    confidence: str


@dataclass(frozen=True)
class Breakdown:
    """The components of the need on one device."""

    parts: tuple[PartRow, ...]
    total: str
    confidence: str
    """The confidence of the whole."""
    notes: tuple[str, ...]


@dataclass(frozen=True)
class DeviceArithmetic:
    """The figures of one device of the plan."""

    id: str
    label: str
    needed: str
    parts_words: str
    parts: str
    before_after: str
    slices: tuple[charts.Slice, ...]
    bar_text: str
    breakdown: Breakdown
    load_peak: str | None
    """Set if loading needs more than running, in which case it decides."""


@dataclass(frozen=True)
class EvictionRow:
    """A model that would be unloaded."""

    model: str
    owner: str
    gives: str
    busy: str
    held: str
    """The end of another person's lease."""


@dataclass(frozen=True)
class ConfirmRow:
    """Another person's model that would be unloaded, confirmed or not."""

    instance_id: str
    text: str
    confirmed: bool


@dataclass(frozen=True)
class WayOutLink:
    """An alternative that would fit; ``query`` fills the form with it."""

    text: str
    query: str
    device: str
    """Its value of the device field."""


@dataclass(frozen=True)
class AskLink:
    """Another person's model that blocks the launch."""

    instance_id: str
    text: str


@dataclass(frozen=True)
class UnderWay:
    """The person's own operation that is loading the model of the form."""

    operation_id: str
    step: str
    percent: int | None
    since: float | None
    """When its current step began."""


@dataclass(frozen=True)
class LaunchFacts:
    """What the controller says about the values of the form at one moment."""

    now: float
    """Seconds since the epoch."""
    plan: Plan | None = None
    """``None`` if no model is chosen, if there is a ``problem``, or if the launch is under way."""
    problem: Message | None = None
    """The reason if there is no plan."""
    under_way: Operation | None = None
    """The person's own operation that is already loading the model of the form."""
    no_place: WardenError | None = None
    """The reason if the launch can neither start now nor be queued."""
    has_lighter: bool = False
    """Whether a smaller model would fit if this one does not."""
    advice: Advice | None = None
    """``None`` if the free memory is unknown."""


@dataclass(frozen=True)
class PlanView:
    """The plan of the main button's action."""

    verdict: str
    button: MainButton
    verdict_word: str
    sign: str
    tone: str
    where: str
    devices: tuple[DeviceArithmetic, ...] = ()
    unload: tuple[EvictionRow, ...] = ()
    refusal: str | None = None
    notes: tuple[str, ...] = ()
    ways_out: tuple[WayOutLink, ...] = ()
    trouble: TroubleView | None = None
    """What helps in addition to the ways out."""
    offers_interrupt: bool = False
    interrupt: bool = False
    keep_all: str | None = None
    """The query that keeps all models, if some would be unloaded in spite of ``keep_others``."""
    load_anyway: str | None = None
    """The query of the question whether to load against the estimate, if only the memory is the obstacle."""
    can_wait: bool = False
    """Whether it may be queued."""
    asks: tuple[AskLink, ...] = ()
    """Other people's models for which a release can be requested."""
    override: str = ""
    """An administrator's reason for overriding these people, as typed."""
    offers_override: bool = False
    confirms: tuple[ConfirmRow, ...] = ()
    """Other people's models that would be unloaded."""
    is_paused: bool = False
    """Whether the pause after a failed load is the obstacle."""
    confirm_note: str = ""
    """The consequences for their owners."""
    under_way: UnderWay | None = None
    """Shown instead of a plan: a plan for the same model would unload the one that is being loaded."""


def plan_view(
    form: LaunchForm, snapshot: Snapshot, facts: LaunchFacts, *, may_override: bool, undo_s: float
) -> PlanView | None:
    """Return the plan of the form, or ``None`` if no model is chosen."""
    if facts.under_way is not None:
        return _of_operation(facts.under_way)
    if facts.problem is not None:
        return _impossible(words.say(facts.problem))
    if facts.plan is None:
        return None
    try:
        return _of_plan(facts.plan, form, snapshot, facts, may_override=may_override, undo_s=undo_s)
    except Exception as exc:  # noqa: BLE001  a defect of this model must not hide the others
        return _impossible(words.say(misread(form.model, exc)))


def _of_operation(operation: Operation) -> PlanView:
    step = operation.current_step
    known = step is not None and step.progress is not None
    return PlanView(
        verdict=LOADING,
        button=under_way(),
        verdict_word=_("Loading"),
        sign="⏳",
        tone="accent",
        where=where(operation.devices),
        under_way=UnderWay(
            operation_id=operation.id,
            step=words.word(names.STEP_NAMES, StepName.PLAN if step is None else step.name),
            percent=round(100 * (step.progress or 0)) if step is not None and known else None,
            since=None if step is None else step.started_at,
        ),
    )


def _impossible(refusal: str) -> PlanView:
    return PlanView(
        verdict=Verdict.REFUSED.value,
        button=not_possible(),
        verdict_word=words.word(names.VERDICTS, Verdict.REFUSED),
        sign=SIGNS[Verdict.REFUSED],
        tone=TONES[Verdict.REFUSED],
        where="",
        refusal=refusal,
    )


def _of_plan(
    plan: Plan, form: LaunchForm, snapshot: Snapshot, facts: LaunchFacts, *, may_override: bool, undo_s: float
) -> PlanView:
    code = None if plan.refusal is None else plan.refusal.code
    pointless = code in WITHOUT_FIGURES
    loaded, unconfirmed = code == AlreadyLoaded.code, code == ConfirmationNeeded.code
    stopped = obstacle(plan, snapshot) is not None
    confirms = () if pointless else tuple(_confirms(plan))
    return PlanView(
        verdict=LOADED if loaded else CONFIRM if unconfirmed else plan.verdict.value,
        button=main_button(plan, snapshot, facts.no_place),
        verdict_word=_verdict_word(plan, code),
        sign=SIGNS[Verdict.FITS] if loaded else SIGNS[Verdict.TIGHT if unconfirmed else plan.verdict],
        tone="plain" if loaded else TONES[Verdict.TIGHT if unconfirmed else plan.verdict],
        where=where(device.device_id for device in plan.devices),
        devices=() if pointless else tuple(_arithmetic(device) for device in plan.devices),
        unload=() if pointless else tuple(_eviction(eviction, facts.now) for eviction in plan.unload),
        refusal=None if loaded else _refusal(plan, snapshot),
        notes=(*_notes(plan), *_who_waits(plan, snapshot)),
        ways_out=tuple(_ways_out(plan, form)),
        trouble=_trouble(plan, code, snapshot, has_lighter=facts.has_lighter),
        offers_interrupt=not pointless and any(e.in_flight and not _is_held(e, plan) for e in plan.unload),
        interrupt=form.interrupt_busy,
        keep_all=replace(form, unload="").query if plan.request.unload and plan.request.keep_others else None,
        load_anyway=form.query if code == NotEnoughMemory.code and not _is_hopeless(plan) else None,
        can_wait=stopped and facts.no_place is None and snapshot.store_problem is None,
        asks=() if pointless else tuple(_ask(e) for e in plan.unload if _is_held(e, plan)),
        override=form.override_reason,
        offers_override=not pointless and may_override and any(e.is_taken for e in plan.unload),
        confirms=confirms,
        is_paused=code == CoolingDown.code,
        confirm_note=_confirm_note(undo_s) if confirms else "",
    )


def _confirms(plan: Plan) -> Iterator[ConfirmRow]:
    """Yield the models to confirm; a confirmed one stays listed while in use, but one in use is not offered."""
    for eviction in plan.unload:
        confirmed = eviction.is_confirmed_by(plan.request)
        if eviction.is_foreign and (confirmed or not _is_held(eviction, plan)):
            model, owner = short_name(eviction.model_id), eviction.owner
            text = _("Unload %(model)s, owned by %(owner)s", model=model, owner=owner)
            yield ConfirmRow(eviction.instance_id, text, confirmed)


def _confirm_note(undo_s: float) -> str:
    if not undo_s:
        return _("The owner will be notified.")
    time_ = formats.whole_duration(undo_s)
    return _(
        "Unloading starts in %(time)s and can be stopped until then. The owner is notified at once.",
        time=time_,
    )


def _verdict_word(plan: Plan, code: str | None) -> str:
    """Return the verdict as a word, which distinguishes too little memory from a model in use."""
    if code in names.REFUSALS:
        return words.word(names.REFUSALS, code)
    return words.word(names.VERDICTS, plan.verdict)


def _trouble(plan: Plan, code: str | None, snapshot: Snapshot, *, has_lighter: bool) -> TroubleView | None:
    """Return what else would make it fit, as far as that is certain."""
    if code != NotEnoughMemory.code:
        return None
    relief = relief_of(plan, snapshot.instances, snapshot.sample)
    if plan.ways_out or relief.by_clean:  # an emergency stop is the last resort
        relief = replace(relief, by_emergency=False)
    return plan_trouble(relief, lighter=has_lighter)


def _is_hopeless(plan: Plan) -> bool:
    """Whether the weights alone, whose size is known from the files, exceed a device's memory."""
    return any(
        device.total_bytes is not None and device.footprint.part(PartName.WEIGHTS) > device.total_bytes
        for device in plan.devices
    )


def _is_held(eviction: Eviction, plan: Plan) -> bool:
    return eviction.is_taken and plan.request.override_reason is None


def _ask(eviction: Eviction) -> AskLink:
    model, owner = short_name(eviction.model_id), eviction.owner
    return AskLink(eviction.instance_id, _("Ask %(owner)s to release %(model)s…", owner=owner, model=model))


def _notes(plan: Plan) -> list[str]:
    """Return the reasons that the figures do not show."""
    hidden = SAID_BY_THE_FIGURES | SAID_BY_THE_BUTTON
    if plan.refusal is not None:
        hidden |= {plan.refusal.code} | (SAID_OF_THE_FIGURES if plan.refusal.code in WITHOUT_FIGURES else set())
    return [words.say(reason) for reason in plan.reasons if reason.code not in hidden]


def _who_waits(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    """Yield who is queued for the devices: the queue does not bind people who act, but they should know of it."""
    devices = {device.device_id for device in plan.devices}
    first = next((one.launch for one in snapshot.waiting if one.devices & devices), None)
    if plan.refusal is None and first is not None:
        name = short_name(first.request.model_id)
        yield _("%(actor)s is already queued for this device (%(model)s).", actor=first.actor, model=name)


def _refusal(plan: Plan, snapshot: Snapshot) -> str | None:
    """Return the refusal as a sentence; if it only refers to another reason, that reason in full."""
    if plan.refusal is None:
        return None
    model = snapshot.model(plan.request.model_id)
    if plan.refusal.code == ModelUnsuitable.code and model is not None and model.problem is not None:
        return ended(words.capital(words.clause(model.problem)))
    if plan.refusal.code == InvalidRequest.code and _quantizes_in_container(plan):
        return " ".join((quantizing_note(), _("Choose another precision.")))
    problem = snapshot.mode_problems.get(plan.request.mode)
    if plan.refusal.code == ModeUnavailable.code and problem is not None:
        return ended(words.say(problem))
    return words.say(plan.refusal)


def _quantizes_in_container(plan: Plan) -> bool:
    return plan.request.mode is Mode.VLLM and plan.request.options.quantization is not Quantization.NONE


def _ways_out(plan: Plan, asked: LaunchForm) -> Iterator[WayOutLink]:
    for way in plan.ways_out:
        form = LaunchForm.of(way.request).on_terms_of(asked)
        yield WayOutLink(words.say(way.message), form.query, form.device)


def _arithmetic(device: DevicePlan) -> DeviceArithmetic:
    footprint = device.footprint
    rest = sum(part.bytes for part in footprint.parts if part.name not in VISIBLE_PARTS)
    shown = [footprint.part(name) for name in VISIBLE_PARTS]
    needed = formats.size(footprint.total_bytes)
    return DeviceArithmetic(
        id=device.device_id,
        label=words.capital(words.device_label(device.device_id)),
        needed=needed if footprint.exact else _("about %(size)s", size=needed),
        parts_words=" · ".join((*(words.word(names.PARTS, name) for name in VISIBLE_PARTS), _("other"))),
        parts=formats.together((*shown, rest), " · "),
        before_after=_before_after(device),
        slices=_slices(device),
        bar_text=_("%(needed)s needed, %(free)s available", needed=needed, free=formats.size(device.available_bytes)),
        breakdown=_breakdown(footprint),
        load_peak=_load_peak(footprint),
    )


def _breakdown(footprint: Footprint) -> Breakdown:
    """Return the components; those that do not apply to this launch are left out, but a component of 0 bytes stays."""
    parts = (part for part in footprint.parts if part.bytes or part.source is not Source.NOTHING)
    return Breakdown(
        parts=tuple(
            PartRow(
                name=words.word(names.PARTS, part.name),
                size=formats.size(part.bytes),
                source=words.word(names.SOURCES, part.source),
                confidence=words.word(names.CONFIDENCES, part.confidence),
            )
            for part in parts
        ),
        total=formats.size(footprint.total_bytes),
        confidence=words.word(names.CONFIDENCES, footprint.confidence),
        notes=tuple(words.word(names.NOTES, note) for note in footprint.notes),
    )


def _load_peak(footprint: Footprint) -> str | None:
    if footprint.required_bytes <= footprint.total_bytes:
        return None
    return _(
        "Loading needs %(peak)s for a moment, more than running does: this peak decides.",
        peak=formats.size(footprint.load_peak_bytes),
    )


def _before_after(device: DevicePlan) -> str:
    if device.free_before_bytes is None:
        return formats.unknown()
    return formats.together((device.free_before_bytes, device.free_after_bytes), " → ")


def _slices(device: DevicePlan) -> tuple[charts.Slice, ...]:
    """Return what stays and what is new; the background of the bar is what would be free."""
    if device.total_bytes is None or device.available_bytes is None:
        return ()
    stays = max(0, device.total_bytes - device.available_bytes)
    fits = device.footprint.total_bytes <= device.available_bytes
    new = min(device.footprint.total_bytes, device.available_bytes)
    return charts.bar((("stays", stays), ("new" if fits else "excess", new)), device.total_bytes)


def _eviction(eviction: Eviction, now: float) -> EvictionRow:
    until = eviction.lease_until if eviction.is_foreign else None
    return EvictionRow(
        model=short_name(eviction.model_id),
        owner=eviction.owner,
        gives=formats.size(sum(eviction.freed_bytes.values())),
        busy=requests_now(eviction.in_flight),
        held="" if until is None else _("leased until %(until)s", until=formats.moment(until, now)),
    )
