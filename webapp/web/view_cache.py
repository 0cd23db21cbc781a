"""What the page shows now, made once for everybody who asks in the same moment and language."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, cast

from flask import Flask, Response, current_app, request

from webapp.control.contract import Snapshot
from webapp.domain.people import Permission
from webapp.web.actor import audience, current_actor
from webapp.web.forms import LaunchForm, sent
from webapp.web.launch_facts import launch_facts
from webapp.web.ports import services
from webapp.web.presenters.form import FormView, ModelChoices, form_view
from webapp.web.presenters.leases import RowContext, Viewer
from webapp.web.presenters.live import TOKEN_BYTES, LiveView, live_view
from webapp.web.presenters.models import ModelList, ModelLists, ModelSearch, asked_for
from webapp.web.presenters.operations import EndedViews
from webapp.web.rendered import RenderedFragment, SingleFlightCache, draw
from webapp.web.rights import has
from webapp.web.translate import language

EXTENSION: Final = "warden_board"
LIVE_KEPT: Final = 16
"""Two languages, those who own models and those who own none, and the one before: a request that began earlier may still ask for it."""
BODIES_KEPT: Final = 24
"""The same for viewers, for administrators and for each operator: who may act on what stands in it."""
FORMS_KEPT: Final = 16
"""Most pages show the form as it first stands; with hundreds of models one takes some 100 KB."""


Moment = tuple[str, str, int, Viewer]
"""Language, version, second, and whose models the onlooker's are."""


@dataclass(frozen=True)
class CachedView:
    """A view of the polled region, what it was made of, and its token."""

    snapshot: Snapshot
    view: LiveView
    token: str
    moment: Moment
    """Within one, everybody sees the same."""


@dataclass(frozen=True)
class CachedForm:
    """The form with its plan and advice, and a short name for that content: equal names mean nothing to draw."""

    view: FormView
    token: str


class ViewCache:
    """Keeps what was made last, so that a hundred open pages cost no more than one for each language."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lists = ModelLists()
        self._choices = ModelChoices()
        self._ended = EndedViews()
        self._models: SingleFlightCache[tuple[object, ...], ModelList] = SingleFlightCache(FORMS_KEPT)
        self._model_bodies: SingleFlightCache[tuple[str, str], RenderedFragment] = SingleFlightCache(FORMS_KEPT)
        self._live: SingleFlightCache[Moment, CachedView] = SingleFlightCache(LIVE_KEPT)
        self._live_bodies: SingleFlightCache[tuple[Moment, str], RenderedFragment] = SingleFlightCache(BODIES_KEPT)
        self._forms: SingleFlightCache[tuple[str, str, int, str, bool, LaunchForm], CachedForm] = SingleFlightCache(
            FORMS_KEPT
        )
        self._form_bodies: SingleFlightCache[tuple[str, str], RenderedFragment] = SingleFlightCache(FORMS_KEPT)

    def live(self) -> CachedView:
        """Return what the polled region shows now to who asks."""
        snapshot, now = services().controller.snapshot(), self._clock()
        moment = (language(), snapshot.version, int(now), Viewer.of(current_actor(), snapshot))
        return self._live.of(moment, lambda: self._show(snapshot, moment, now))

    def _show(self, snapshot: Snapshot, moment: Moment, now: float) -> CachedView:
        warden, spoken = services(), moment[0]
        window_s = warden.settings.history_minutes * 60
        looked = RowContext(moment[-1], now, warden.settings.idle_unload_minutes, snapshot.idle_unload_at)
        readings = () if snapshot.sample is None else snapshot.sample.readings
        histories = {r.device_id: warden.controller.history(r.device_id) for r in readings}
        view = live_view(snapshot, histories, self._ended, spoken, window_s, looked)
        return CachedView(snapshot, view, view.token(spoken), moment)

    def live_body(self, shown: CachedView) -> RenderedFragment:
        """Return the polled region as drawn; the times in it ("5 s ago") are those of its second."""
        return self._live_bodies.of(
            (shown.moment, audience()), lambda: draw("fragments/live.html", live=shown.view, version=shown.token)
        )

    def form(self, form: LaunchForm, shown: CachedView) -> CachedForm:
        """Return what the form with these values shows now; the reason of an override counts from those alone whose it is to give."""
        actor, may_override = current_actor(), has(Permission.UNLOAD_ANY)
        form = form if may_override else replace(form, override_reason="")
        key = (*shown.moment[:3], actor, may_override, form)
        return self._forms.of(key, lambda: self._show_form(form, shown.snapshot, actor, may_override))

    def _show_form(self, form: LaunchForm, snapshot: Snapshot, actor: str, may_override: bool) -> CachedForm:
        warden = services()
        view = form_view(
            form,
            snapshot,
            launch_facts(form, snapshot, actor, self._clock()),
            self._choices,
            actor,
            idle_minutes=warden.settings.idle_unload_minutes,
            may_override=may_override,
            undo_s=warden.settings.undo_s,
        )
        return CachedForm(view, blake2b(f"{language()}{view!r}".encode(), digest_size=TOKEN_BYTES).hexdigest())

    def form_body(self, form: CachedForm) -> RenderedFragment:
        """Return the answer to a form that shows something else: its plan, and the parts that follow from the server's state."""
        return self._form_bodies.of(
            (form.token, audience()),
            lambda: draw("fragments/plan_answer.html", form=form.view, form_version=form.token),
        )

    def models(self, form: LaunchForm, search: ModelSearch, shown: CachedView) -> ModelList:
        """Return the cached models for a page with this form and this search.

        Whose page it is matters while an own model answers, or cannot be ended: what fits does so beside it.
        """
        own, problems = shown.moment[-1].own, shown.snapshot.mode_problems
        stays = frozenset(
            i.id for i in shown.snapshot.instances if i.id in own and (i.in_flight or problems.get(i.mode) is not None)
        )
        return self._models.of((*shown.moment[:3], form, search, stays), lambda: self._list(form, search, shown))

    def _list(self, form: LaunchForm, search: ModelSearch, shown: CachedView) -> ModelList:
        headrooms = services().controller.headrooms(asked_for(form), current_actor())
        return self._lists.of(shown.snapshot, form, search, headrooms, shown.moment[0])

    def models_body(self, models: ModelList) -> RenderedFragment:
        """Return the list as drawn: it changes rarely and can be long."""
        return self._model_bodies.of(
            (models.digest, audience()), lambda: draw("fragments/model_list.html", models=models)
        )


def init_board(app: Flask) -> None:
    """Give ``app`` its board."""
    app.extensions[EXTENSION] = ViewCache()
    app.jinja_env.globals.update(host_name=platform.node())


def board() -> ViewCache:
    """Return the board of the current application."""
    return cast(ViewCache, current_app.extensions[EXTENSION])


def asked_form(shown: CachedView) -> CachedForm:
    """Return the form with the values that the request carries."""
    return board().form(LaunchForm.read(_sent(), shown.snapshot), shown)


def asked_models(form: LaunchForm, shown: CachedView) -> ModelList:
    """Return the cached models that the request looks for, beside a form with these values."""
    return board().models(form, ModelSearch.read(_sent()), shown)


def _sent() -> dict[str, str]:
    return sent(request.form if request.method == "POST" else request.args)


def reading_age_s() -> float | None:
    """Return how old the latest reading is at this moment; a kept view may be a second older than it says."""
    return services().controller.snapshot().sample_age_s


def with_clock(response: Response) -> Response:
    """Tell the page what time it is here and how old the reading is, so that it can count on by itself."""
    response.headers["Warden-Clock"] = f"{time.time():.3f}"
    if (age_s := reading_age_s()) is not None:
        response.headers["Warden-Reading-Age"] = f"{age_s:.3f}"
    return response
