"""Collects what the controller says about the form, as a value for the presenters."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from webapp.control.contract import Snapshot
from webapp.control.terms import check_terms
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.operation import Operation, OperationKind
from webapp.domain.plan import Plan, SwitchRequest
from webapp.domain.planning.fit import Fit, Needs, fit_of
from webapp.domain.recommend import Advice
from webapp.errors import InvalidRequest, NotEnoughMemory, NotFound, WardenError
from webapp.web.launch.form import LaunchForm
from webapp.web.launch.presenters.main_button import obstacle
from webapp.web.launch.presenters.plan import LaunchFacts
from webapp.web.models.presenter import needs_or_why
from webapp.web.phrases import misread
from webapp.web.ports import controller

LIGHTER_TRIED: Final = 5


def launch_facts(form: LaunchForm, snapshot: Snapshot, actor: str, now: float) -> LaunchFacts:
    """Return the controller's plan and advice for ``form`` as sent by ``actor`` at ``now`` (seconds since the
    epoch)."""
    facts = LaunchFacts(now, advice=_advice(form, actor))
    if not form.model:
        return facts
    try:
        return _planned(facts, form, snapshot, actor)
    except WardenError as exc:
        return replace(facts, problem=exc.message)
    except Exception as exc:  # noqa: BLE001  a defect of this model must not hide the others
        return replace(facts, problem=misread(form.model, exc))


def _planned(facts: LaunchFacts, form: LaunchForm, snapshot: Snapshot, actor: str) -> LaunchFacts:
    request = form.to_request(facts.now)
    check_terms(request.lease_until, request.reason, request.idle_minutes, facts.now)
    own = next((one for one in snapshot.running if _loads(one, request, snapshot, actor)), None)
    if own is not None:
        return replace(facts, under_way=own)
    plan = controller().plan(request, actor)
    is_short = plan.refusal is not None and plan.refusal.code == NotEnoughMemory.code
    return replace(
        facts,
        plan=plan,
        no_place=None if obstacle(plan, snapshot) is None else _no_place(form, actor),
        has_lighter=is_short and _has_lighter(plan, snapshot, actor),
    )


def _loads(operation: Operation, request: SwitchRequest, snapshot: Snapshot, actor: str) -> bool:
    """Whether ``operation`` belongs to ``actor`` and loads the model of ``request`` with its options and devices."""
    if operation.kind is not OperationKind.SWITCH or operation.actor != actor or operation.request is None:
        return False
    if operation.cancel_requested_by is not None or operation.is_undoing:
        return False
    here = request.devices is None or set(request.devices) == set(operation.devices)
    return here and _launch(operation.request, snapshot) == _launch(request, snapshot)


def _launch(request: SwitchRequest, snapshot: Snapshot) -> tuple[Mode, str, LaunchOptions]:
    """Return mode, model and options of the load, with the context capped to the model's."""
    model = snapshot.model(request.model_id)
    limit = None if model is None else model.context_length
    asked = request.options.max_tokens
    options = replace(request.options, max_tokens=asked if limit is None else min(asked, limit))
    return request.mode, request.model_id, options


def _no_place(form: LaunchForm, actor: str) -> WardenError | None:
    """Return why the launch may not be queued, if so; an override of another person's hold is never queued."""
    try:
        controller().queue.check(replace(form, override_reason="").to_request(), actor)
    except WardenError as exc:
        return exc
    return None


def _has_lighter(plan: Plan, snapshot: Snapshot, actor: str) -> bool:
    """Whether a smaller model would fit with the same options; only the smallest ones are tried."""
    asked = snapshot.model(plan.request.model_id)
    most = 0 if asked is None else asked.size_bytes
    smaller = sorted(
        (m for m in snapshot.models if m.problem is None and m.size_bytes < most), key=lambda m: m.size_bytes
    )
    request = replace(plan.request, devices=None) if plan.anywhere else plan.request
    headrooms = controller().headrooms(request, actor)
    needs = (needs_or_why(request, model, headrooms) for model in smaller[:LIGHTER_TRIED])
    return any(isinstance(need, Needs) and fit_of(need, headrooms) is Fit.NOW for need in needs)


def _advice(form: LaunchForm, actor: str) -> Advice | None:
    """Return the advice for the chosen model and devices; ``None`` if their free memory is unknown."""
    try:
        return controller().advise(form.placed(), actor) if form.model else controller().recommend(form.first_device)
    except (InvalidRequest, NotFound):
        return None
    except Exception as exc:  # noqa: BLE001  a defect of this model must not hide the others
        misread(form.model, exc)
        return None
