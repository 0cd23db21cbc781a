"""The form's main button: what it will do, or why it cannot be pressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from webapp.control.contract import Snapshot
from webapp.domain.plan import Plan, SwitchRequest
from webapp.domain.waiting import check_place
from webapp.errors import (
    AlreadyLoaded,
    AlreadyWaiting,
    Busy,
    CoolingDown,
    InstanceInUse,
    InstanceLeased,
    ModelUnsuitable,
    ModeUnavailable,
    NotEnoughMemory,
)
from webapp.web import formats, words
from webapp.web.presenters.common import short_name
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext
from webapp.web.words import N_

OTHER: Final = "other"
CONFIRM: Final = "confirmation_needed"
"""The one refusal that a tick in the plan lifts."""
REFUSED: Final[Mapping[str, str]] = {
    NotEnoughMemory.code: N_("Не хватает памяти."),
    AlreadyLoaded.code: N_("Модель уже загружена. Измените настройки или пользуйтесь загруженной."),
    ModeUnavailable.code: N_("Этот режим здесь недоступен."),
    ModelUnsuitable.code: N_("Эту модель загрузить нельзя."),
    CONFIRM: N_("Сначала подтвердите выгрузку чужих моделей."),
    Busy.code: N_("Устройство занято операцией. Дождитесь её конца."),
    OTHER: N_("Причина указана выше."),
}
"""Why the button cannot be pressed, by the code of the refusal; the plan above it says more."""
QUEUED: Final[Mapping[str, str]] = {
    NotEnoughMemory.code: N_("Сейчас не хватает памяти. Модель загрузится, когда память освободится."),
    InstanceInUse.code: N_("Место занято. Модель загрузится, когда оно освободится."),
    InstanceLeased.code: N_("Место занято. Модель загрузится, когда оно освободится."),
    CoolingDown.code: N_("Модель загрузится после паузы."),
    Busy.code: N_("Устройство занято операцией. Модель загрузится после неё."),
    OTHER: N_("Модель загрузится, когда это станет возможно."),
}
"""What it waits for in the queue."""


@dataclass(frozen=True)
class MainButton:
    """What the button says; ``hint`` stands below it."""

    text: str
    hint: str = ""
    can_press: bool = True
    queues: bool = False
    """It joins the queue instead of loading now."""


def nothing_chosen(snapshot: Snapshot) -> MainButton:
    """Return the button of a form in which no model is chosen yet."""
    has_models = any(model.problem is None for model in snapshot.models)
    hint = _("Сначала выберите модель.") if has_models else _("В кеше нет модели, которую можно загрузить.")
    return MainButton(_("Загрузить"), hint, can_press=False)


def not_possible() -> MainButton:
    """Return the button of a form that cannot be meant; the plan says why."""
    return MainButton(_("Загрузить"), _of(REFUSED, OTHER), can_press=False)


def under_way() -> MainButton:
    """Return the button while the person's own load of this model runs."""
    return MainButton(_("Загружается…"), _("Ваша операция уже идёт."), can_press=False)


def main_button(plan: Plan, asked: SwitchRequest, snapshot: Snapshot, actor: str, *, can_wait: bool) -> MainButton:
    """Return the button for ``plan``, which ``actor`` asked for by ``asked``."""
    code = None if plan.refusal is None else plan.refusal.code
    if code is None and plan.touched & snapshot.claims.keys():
        code = Busy.code
    if code is None:
        return MainButton(_loading(plan))
    if not can_wait or code == CONFIRM:
        return MainButton(_("Загрузить"), _of(REFUSED, code), can_press=False)
    place = _place(asked, snapshot, actor)
    if place is not None:
        hint = _("Место в очереди: %(place)s. Модель загрузится автоматически.", place=formats.number(place))
        return MainButton(_("Уже в очереди"), hint, can_press=False)
    return MainButton(_("Встать в очередь"), _of(QUEUED, code), queues=True)


def _loading(plan: Plan) -> str:
    """A model that has ended by itself holds nothing: clearing it away is not worth a word."""
    going = [eviction for eviction in plan.unload if sum(eviction.freed_bytes.values())]
    if not going:
        return _("Загрузить")
    if len(going) == 1:
        return _("Заменить %(model)s и загрузить", model=short_name(going[0].model_id))
    return ngettext("Выгрузить %(num)s модель и загрузить", "Выгрузить %(num)s моделей и загрузить", len(going))


def _place(asked: SwitchRequest, snapshot: Snapshot, actor: str) -> int | None:
    """Return the place in the queue where ``actor`` waits for the same."""
    tickets = [queued.ticket for queued in snapshot.waiting]
    try:
        check_place(tickets, replace(asked, override_reason=None), actor, limit=len(tickets) + 1)
    except AlreadyWaiting as exc:
        return int(str(exc.params["place"]))
    return None


def _of(table: Mapping[str, str], code: str) -> str:
    return words.word(table, code if code in table else OTHER)
