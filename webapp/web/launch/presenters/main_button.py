"""The form's main button: its action, or why it is disabled."""

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
from webapp.texts import N_
from webapp.web import formats, words
from webapp.web.phrases import short_name
from webapp.web.translate import gettext as _
from webapp.web.translate import ngettext

OTHER: Final = "other"
CONFIRM: Final = "confirmation_needed"
"""The only refusal that a checkbox in the plan lifts."""
REFUSED: Final[Mapping[str, str]] = {
    NotEnoughMemory.code: N_("Not enough memory."),
    AlreadyLoaded.code: N_("The model is already loaded. Change the settings or use the loaded one."),
    ModeUnavailable.code: N_("This mode is not available here."),
    ModelUnsuitable.code: N_("This model cannot be loaded."),
    CONFIRM: N_("First confirm unloading other people’s models."),
    Busy.code: N_("An operation is running on the device. Wait for it to end."),
    OTHER: N_("The reason is given above."),
}
"""Why the button is disabled, by the code of the refusal; the plan above it gives the details."""
QUEUED: Final[Mapping[str, str]] = {
    NotEnoughMemory.code: N_("Not enough memory right now. The model will load when there is enough."),
    InstanceInUse.code: N_("The memory is in use. The model will load when it is free."),
    InstanceLeased.code: N_("The memory is in use. The model will load when it is free."),
    CoolingDown.code: N_("The model will load after the pause."),
    Busy.code: N_("An operation is running on the device. The model will load when it ends."),
    OTHER: N_("The model will load when that becomes possible."),
}
"""What a queued launch would wait for."""


@dataclass(frozen=True)
class MainButton:
    """The label of the button; ``hint`` is shown below it."""

    text: str
    hint: str = ""
    can_press: bool = True
    queues: bool = False
    """Whether it joins the queue instead of loading now."""


def nothing_chosen(snapshot: Snapshot) -> MainButton:
    """Return the button of a form without a chosen model."""
    has_models = any(model.problem is None for model in snapshot.models)
    hint = _("Choose a model first.") if has_models else _("The cache has no model that can be loaded.")
    return MainButton(_("Load"), hint, can_press=False)


def not_possible() -> MainButton:
    """Return the button of an invalid form; the plan says why."""
    return MainButton(_("Load"), _of(REFUSED, OTHER), can_press=False)


def under_way() -> MainButton:
    """Return the button while the person's own load of this model is running."""
    return MainButton(_("Loading…"), _("Your operation is in progress."), can_press=False)


def obstacle(plan: Plan, snapshot: Snapshot) -> str | None:
    """Return the code of what prevents ``plan`` now: its refusal, or an operation running on its devices."""
    if plan.refusal is not None:
        return plan.refusal.code
    return Busy.code if plan.touched & snapshot.claims.keys() else None


def main_button(plan: Plan, snapshot: Snapshot, no_place: WardenError | None) -> MainButton:
    """Return the button for ``plan``; ``no_place`` is the reason if it may not be queued."""
    code = obstacle(plan, snapshot)
    if isinstance(no_place, AlreadyWaiting) and code != CONFIRM:
        return _in_queue(no_place, snapshot)
    why_not = _why_not(code, no_place, snapshot)
    if why_not:
        return MainButton(_("Load"), why_not, can_press=False)
    if code is None:
        return MainButton(_loading(plan))
    return MainButton(_("Join the queue"), _of(QUEUED, code), queues=True)


def _why_not(code: str | None, no_place: WardenError | None, snapshot: Snapshot) -> str:
    if code == CONFIRM:
        return _of(REFUSED, code)
    if isinstance(no_place, QueueFull):
        return words.say(no_place.message)
    if code is not None and no_place is not None:
        return _of(REFUSED, code)
    if snapshot.store_problem is not None:
        return _("Nothing can be saved right now. The reason is at the top of the page.")
    return ""


def _loading(plan: Plan) -> str:
    """Return the label for loading; dead models hold nothing, so their removal is not mentioned."""
    going = [eviction for eviction in plan.unload if sum(eviction.freed_bytes.values())]
    if not going:
        return _("Load")
    if len(going) == 1:
        return _("Replace %(model)s and load", model=short_name(going[0].model_id))
    return ngettext("Unload %(num)s model and load", "Unload %(num)s models and load", len(going))


def _in_queue(waiting: AlreadyWaiting, snapshot: Snapshot) -> MainButton:
    """Return the button for a launch that is queued already, with its place and what will happen."""
    launch = next((one.launch for one in snapshot.waiting if one.launch.id == waiting.params["ticket"]), None)
    place = formats.number(int(str(waiting.params["place"])))
    hint = _("Position in the queue: %(place)s. The model will load automatically.", place=place)
    if launch is not None and not launch.starts_by_itself:
        hint = _("Position in the queue: %(place)s. You will be notified when the model fits.", place=place)
    elif launch is not None and launch.paused_by is not None:
        hint = _(
            "Position in the queue: %(place)s. It is paused and will not start until somebody resumes it.", place=place
        )
    return MainButton(_("Already queued"), hint, can_press=False)


def _of(table: Mapping[str, str], code: str) -> str:
    return words.word(table, code if code in table else OTHER)
