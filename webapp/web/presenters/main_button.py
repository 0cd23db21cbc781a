"""The form's main button: what it will do, or why it cannot be pressed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from webapp.control.contract import Snapshot
from webapp.domain.plan import Plan
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
    QueueFull,
    WardenError,
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


def obstacle(plan: Plan, snapshot: Snapshot) -> str | None:
    """Return the code of what keeps ``plan`` from being carried out now: its refusal, or an operation that runs there."""
    if plan.refusal is not None:
        return plan.refusal.code
    return Busy.code if plan.touched & snapshot.claims.keys() else None


def main_button(plan: Plan, snapshot: Snapshot, no_place: WardenError | None) -> MainButton:
    """Return the button for ``plan``; ``no_place`` is why it may not wait in the queue."""
    code = obstacle(plan, snapshot)
    if isinstance(no_place, AlreadyWaiting) and code != CONFIRM:
        return _in_queue(no_place, snapshot)
    why_not = _why_not(code, no_place, snapshot)
    if why_not:
        return MainButton(_("Загрузить"), why_not, can_press=False)
    if code is None:
        return MainButton(_loading(plan))
    return MainButton(_("Встать в очередь"), _of(QUEUED, code), queues=True)


def _why_not(code: str | None, no_place: WardenError | None, snapshot: Snapshot) -> str:
    if code == CONFIRM:
        return _of(REFUSED, code)
    if isinstance(no_place, QueueFull):
        return words.say(no_place.message)
    if code is not None and no_place is not None:
        return _of(REFUSED, code)
    if snapshot.store_problem is not None:
        return _("Сейчас ничего не сохраняется: причина указана вверху страницы.")
    return ""


def _loading(plan: Plan) -> str:
    """A model that has ended by itself holds nothing: clearing it away is not worth a word."""
    going = [eviction for eviction in plan.unload if sum(eviction.freed_bytes.values())]
    if not going:
        return _("Загрузить")
    if len(going) == 1:
        return _("Заменить %(model)s и загрузить", model=short_name(going[0].model_id))
    return ngettext("Выгрузить %(num)s модель и загрузить", "Выгрузить %(num)s моделей и загрузить", len(going))


def _in_queue(waiting: AlreadyWaiting, snapshot: Snapshot) -> MainButton:
    """Say where the same waits, and what will come of it."""
    ticket = next((one.ticket for one in snapshot.waiting if one.ticket.id == waiting.params["ticket"]), None)
    place = formats.number(int(str(waiting.params["place"])))
    hint = _("Место в очереди: %(place)s. Модель загрузится автоматически.", place=place)
    if ticket is not None and not ticket.starts_by_itself:
        hint = _("Место в очереди: %(place)s. Страница сообщит, когда модель поместится.", place=place)
    elif ticket is not None and ticket.paused_by is not None:
        hint = _("Место в очереди: %(place)s. Заявка приостановлена и сама не запустится.", place=place)
    return MainButton(_("Уже в очереди"), hint, can_press=False)


def _of(table: Mapping[str, str], code: str) -> str:
    return words.word(table, code if code in table else OTHER)
