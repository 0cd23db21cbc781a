"""The current content of the dashboard, computed once for all requests of the same second and language."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from flask import request

from webapp.control.contract import Snapshot
from webapp.domain.people import Permission
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.state import Headroom
from webapp.web.actor import audience, current_actor
from webapp.web.dashboard.presenters.live import RECENT_SHOWN, LiveView, live_view
from webapp.web.launch.facts import launch_facts
from webapp.web.launch.form import LaunchForm, sent
from webapp.web.launch.presenters.form import FormView, form_view
from webapp.web.leases.presenter import RowContext, Viewer
from webapp.web.models.presenter import (
    ModelList,
    ModelNeeds,
    ModelSearch,
    ModelText,
    asked_for,
    model_list,
    model_needs,
    model_texts,
)
from webapp.web.operations.presenters.operations import operation_view
from webapp.web.ports import controller, services
from webapp.web.rights import has
from webapp.web.translate import language
from webapp.web.view_cache import RenderedFragment, Same, draw, view_cache


@dataclass(frozen=True)
class Moment:
    """The language, the state, the second and the person's own models; with equal values, people see the same."""

    language: str
    state: str
    second: int
    viewer: Viewer


@dataclass(frozen=True)
class Shown:
    """A view of the polled region with its inputs."""

    snapshot: Snapshot
    view: LiveView
    moment: Moment


def live() -> Shown:
    """Return the current polled region for the sender of the request."""
    snapshot, cache = controller().snapshot(), view_cache()
    now = cache.now()
    moment = Moment(language(), snapshot.version, int(now), Viewer.of(current_actor(), snapshot))
    return cache.of(moment, lambda: Shown(snapshot, _live_view(snapshot, moment, now), moment))


def _live_view(snapshot: Snapshot, moment: Moment, now: float) -> LiveView:
    cache, settings = view_cache(), services().settings
    readings = () if snapshot.sample is None else snapshot.sample.readings
    return live_view(
        snapshot,
        histories={r.device_id: controller().history(r.device_id) for r in readings},
        recent=tuple(
            cache.of(("operation", moment.language, Same(operation)), partial(operation_view, operation))
            for operation in snapshot.recent[:RECENT_SHOWN]
        ),
        window_s=settings.monitor.history_minutes * 60,
        looked=RowContext(moment.viewer, now, settings.sharing.idle_unload_minutes, snapshot.idle_unload_at),
    )


def live_body(shown: Shown) -> RenderedFragment:
    """Return the rendered polled region; its ages ("5 s ago") are those of its second."""
    return view_cache().of(
        ("live body", shown.moment, audience()), lambda: draw("fragments/live.html", live=shown.view)
    )


def form(values: LaunchForm, shown: Shown) -> FormView:
    """Return the form with these values; the reason for an override counts only from an administrator."""
    actor, may_override = current_actor(), has(Permission.UNLOAD_ANY)
    values = values if may_override else replace(values, override_reason="")
    moment = shown.moment
    key = ("form", moment.language, moment.state, moment.second, actor, may_override, values)
    return view_cache().of(key, lambda: _form_view(values, shown.snapshot, actor, may_override=may_override))


def _form_view(values: LaunchForm, snapshot: Snapshot, actor: str, *, may_override: bool) -> FormView:
    settings = services().settings
    return form_view(
        values,
        snapshot,
        launch_facts(values, snapshot, actor, view_cache().now()),
        _texts(snapshot),
        actor,
        idle_minutes=settings.sharing.idle_unload_minutes,
        may_override=may_override,
        undo_s=settings.sharing.undo_s,
    )


def form_body(view: FormView) -> RenderedFragment:
    """Return the rendered update of a form: its plan, and the parts that depend on the server's state."""
    return view_cache().of(
        ("form body", view.version, audience()), lambda: draw("fragments/plan_answer.html", form=view)
    )


def models(values: LaunchForm, search: ModelSearch, shown: Shown) -> ModelList:
    """Return the cached models for a page with this form and this search.

    It depends on the person if one of their models is in use or cannot be ended: that one stays and keeps its memory.
    """
    moment, problems = shown.moment, shown.snapshot.mode_problems
    stays = frozenset(
        i.id
        for i in shown.snapshot.instances
        if i.id in moment.viewer.own and (i.in_flight or problems.get(i.mode) is not None)
    )
    key = ("models", moment.language, moment.state, moment.second, values, search, stays)
    return view_cache().of(key, lambda: _model_list(values, search, shown.snapshot))


def _model_list(values: LaunchForm, search: ModelSearch, snapshot: Snapshot) -> ModelList:
    asked = asked_for(values)
    headrooms = controller().headrooms(asked, current_actor())
    needs = None if snapshot.mode_problems.get(asked.mode) is not None else _needs(snapshot, asked, headrooms)
    return model_list(snapshot, values.model, search, _texts(snapshot), needs, headrooms)


def _texts(snapshot: Snapshot) -> tuple[ModelText, ...]:
    """Return the texts of the models, which change only with the cache."""
    return view_cache().of(("texts", language(), Same(snapshot.models)), lambda: model_texts(snapshot.models))


def _needs(snapshot: Snapshot, asked: SwitchRequest, headrooms: tuple[Headroom, ...]) -> ModelNeeds:
    """Return the needs of the models, which change with the cache, options and devices, not with the free memory."""
    places = tuple((h.device_id, h.kind, h.usable_bytes, h.device_name, h.calibration.version) for h in headrooms)
    key = ("needs", Same(snapshot.models), asked.mode, asked.options, asked.devices, places)
    return view_cache().of(key, lambda: model_needs(asked, snapshot.models, headrooms))


def models_body(found: ModelList) -> RenderedFragment:
    """Return the rendered list, which changes rarely and can be long."""
    return view_cache().of(
        ("models body", found.version, audience()), lambda: draw("fragments/model_list.html", models=found)
    )


def asked_form(shown: Shown) -> FormView:
    """Return the form with the values of the request."""
    return form(LaunchForm.read(_sent(), shown.snapshot), shown)


def asked_models(values: LaunchForm, shown: Shown) -> ModelList:
    """Return the cached models that the request searches for, for a form with these values."""
    return models(values, ModelSearch.read(_sent()), shown)


def _sent() -> dict[str, str]:
    return sent(request.form if request.method == "POST" else request.args)
