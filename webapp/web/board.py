"""What the page shows now, made once for everybody who asks in the same moment and language."""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, cast

from flask import Flask, Response, current_app, render_template, request
from markupsafe import Markup

from webapp.control.contract import Snapshot
from webapp.web.forms import LaunchForm
from webapp.web.ports import services
from webapp.web.presenters.form import FormView, form_view
from webapp.web.presenters.live import LiveView, live_view
from webapp.web.presenters.models import ModelList, ModelLists
from webapp.web.presenters.operations import EndedViews
from webapp.web.translate import language

EXTENSION: Final = "warden_board"


@dataclass(frozen=True)
class Shown:
    """A view of the polled region, what it was made of, and its token."""

    snapshot: Snapshot
    view: LiveView
    token: str


class Board:
    """Keeps the last view a language. Two threads may make the same one; both are right, so no lock is needed."""

    def __init__(self) -> None:
        self._lists = ModelLists()
        self._ended = EndedViews()
        self._rows: dict[str, tuple[str, Markup]] = {}
        self._kept: dict[str, tuple[tuple[str, int], Shown]] = {}

    def live(self) -> Shown:
        """Return what the polled region shows now."""
        warden, spoken, now = services(), language(), time.time()
        snapshot = warden.controller.snapshot()
        key = (snapshot.version, int(now))
        kept = self._kept.get(spoken)
        if kept is not None and kept[0] == key:
            return kept[1]
        window_s = warden.settings.history_minutes * 60
        view = live_view(snapshot, warden.controller, self._lists, self._ended, spoken, window_s, now)
        shown = Shown(snapshot, view, view.token(spoken))
        self._kept[spoken] = (key, shown)
        return shown

    def model_rows(self, models: ModelList) -> Markup:
        """Return the drawn rows of the cached models: they change rarely and can be hundreds."""
        spoken = language()
        kept = self._rows.get(spoken)
        if kept is not None and kept[0] == models.digest:
            return kept[1]
        drawn = Markup(render_template("fragments/model_rows.html", models=models))
        self._rows[spoken] = (models.digest, drawn)
        return drawn


def init_board(app: Flask) -> None:
    """Give ``app`` its board."""
    app.extensions[EXTENSION] = Board()
    app.jinja_env.globals.update(host_name=platform.node(), model_rows=lambda models: board().model_rows(models))


def board() -> Board:
    """Return the board of the current application."""
    return cast(Board, current_app.extensions[EXTENSION])


def asked_form(snapshot: Snapshot) -> FormView:
    """Return the form with the values that the request carries."""
    values = request.form if request.method == "POST" else request.args
    form = LaunchForm.read(values.to_dict(), snapshot)
    return form_view(form, snapshot, services().controller)


def form_token(view: FormView) -> str:
    """Return a short name for a form's content: equal names mean nothing to draw."""
    return blake2b(f"{language()}{view!r}".encode(), digest_size=12).hexdigest()


def reading_age_s() -> float | None:
    """Return how old the latest reading is at this moment; a kept view may be a second older than it says."""
    return services().controller.snapshot().sample_age_s


def with_clock(response: Response) -> Response:
    """Tell the page what time it is here and how old the reading is, so that it can count on by itself."""
    response.headers["Warden-Clock"] = f"{time.time():.3f}"
    if (age_s := reading_age_s()) is not None:
        response.headers["Warden-Reading-Age"] = f"{age_s:.3f}"
    return response
