"""The commands of people and programs: the permission, audit entry and refusals of each, declared once.

A form of the page and a call of the JSON interface that carry out the same command have the same ``@does(UNLOAD)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from webapp import errors
from webapp.domain.audit import Action, Detail
from webapp.domain.people import Permission
from webapp.errors import WardenError
from webapp.web.audit import recording, targets
from webapp.web.audit.recording import Act
from webapp.web.rights import needs

V = TypeVar("V", bound=Callable[..., Any])
Errors = tuple[type[WardenError], ...]


@dataclass(frozen=True)
class Command:
    """A command or a query: its permission, its audit entry, and the errors that can refuse it.

    ``act`` is ``None`` if it changes nothing. An error stands for all its subclasses.
    """

    right: Permission
    act: Act | None = None
    refusals: Errors = ()


def does(command: Command) -> Callable[[V], V]:
    """Declare the command that a view carries out."""

    def declare(view: V) -> V:
        needs(command.right)(view)
        return recording.changes_nothing(view) if command.act is None else recording.records_act(command.act)(view)

    return declare


_SWITCH_FIELDS: Final = {
    "mode": Detail.MODE,
    "load_anyway": Detail.LOAD_ANYWAY,
    "override_reason": Detail.OVERRIDE_REASON,
}
_OVERRIDE_FIELDS: Final = {"override_reason": Detail.OVERRIDE_REASON}
_CANCEL_FIELDS: Final = {"rollback": Detail.ROLLBACK}
_LEASE_FIELDS: Final = {
    "extend": Detail.EXTENDED,
    "extend_s": Detail.EXTENDED,
    "reason": Detail.REASON,
    "idle": Detail.IDLE,
    "idle_unload_minutes": Detail.IDLE,
}
_ASK_FIELDS: Final = {"why": Detail.WHY}
_ANSWER_FIELDS: Final = {"answer": Detail.ANSWER, "word": Detail.WORD}
_QUEUE_FIELDS: Final = {"mode": Detail.MODE}
_NO_RECORD: Final[Errors] = (errors.NotStored, errors.Stopping)
_NO_ROOM: Final[Errors] = (
    errors.UnknownModel,
    errors.UnknownDevice,
    errors.UnknownInstance,
    errors.Busy,
    errors.NotEnoughMemory,
    errors.AlreadyLoaded,
    errors.InstanceInUse,
    errors.InstanceLeased,
    errors.ConfirmationNeeded,
    errors.InstanceStopping,
    errors.CannotEnd,
    errors.LeasePending,
    errors.CoolingDown,
    errors.ModeUnavailable,
    errors.ModelUnsuitable,
    errors.DeviceUnreadable,
)
_LEASE: Final[Errors] = (errors.UnknownInstance, errors.InstanceStopping, errors.LeasePending, errors.NotStored)
_QUEUED: Final[Errors] = (errors.UnknownQueuedLaunch, errors.QueuedLaunchEnded, errors.ForeignQueuedLaunch)

SEE: Final = Command(Permission.SEE)
READ_AUDIT: Final = Command(Permission.AUDIT)
PLAN: Final = Command(Permission.PLAN, refusals=(errors.UnknownModel, errors.UnknownDevice, errors.UnknownInstance))
ASK: Final = Command(
    Permission.ASK,
    refusals=(
        errors.UnknownInstance,
        errors.NotReady,
        errors.TooManyQuestions,
        errors.GenerationFailed,
        errors.OutOfMemory,
        errors.WorkerSilent,
    ),
)
SWITCH: Final = Command(
    Permission.SWITCH,
    Act(Action.SWITCH, targets.model_asked_for, _SWITCH_FIELDS),
    (*_NO_ROOM, errors.RequestIdReused, *_NO_RECORD),
)
RESTORE: Final = Command(
    Permission.SWITCH,
    Act(Action.SWITCH, targets.operation),
    (errors.UnknownOperation, errors.NothingToRestore, errors.Busy, errors.Stopping),
)
UNLOAD: Final = Command(
    Permission.UNLOAD,
    Act(Action.UNLOAD, targets.running_model, _OVERRIDE_FIELDS, targets.owner_of_model),
    (
        errors.UnknownInstance,
        errors.InstanceLeased,
        errors.InstanceInUse,
        errors.InstanceStopping,
        errors.LeasePending,
        errors.CannotEnd,
        errors.Busy,
        errors.Stopping,
    ),
)
SET_LEASE: Final = Command(
    Permission.LEASE,
    Act(Action.LEASE, targets.running_model, _LEASE_FIELDS, after=targets.lease_now),
    (*_LEASE, errors.NotOwner),
)
ASK_RELEASE: Final = Command(
    Permission.LEASE,
    Act(Action.RELEASE_ASKED, targets.running_model, _ASK_FIELDS, targets.owner_of_model),
    (*_LEASE, errors.ReleasePending),
)
ANSWER_RELEASE: Final = Command(
    Permission.LEASE,
    Act(Action.RELEASE_ANSWERED, targets.running_model, _ANSWER_FIELDS),
    (*_LEASE, errors.NotOwner, errors.NothingAsked),
)
KEEP: Final = Command(Permission.LEASE, Act(Action.KEEP, targets.running_model, before=targets.owner_of_model), _LEASE)
STOP_CONTAINER: Final = Command(
    Permission.CONTAINERS,
    Act(Action.CONTAINER_STOPPED, targets.container),
    (errors.UnknownContainer, errors.NotConfirmed, errors.Busy, errors.EngineUnavailable, errors.Stopping),
)
CLEAN: Final = Command(Permission.CLEAN, Act(Action.CLEAN), (errors.Busy, errors.Stopping))
EMERGENCY: Final = Command(Permission.EMERGENCY, Act(Action.EMERGENCY), (errors.Busy, errors.Stopping))
MAKE_DEMO: Final = Command(Permission.SWITCH, Act(Action.DEMO), (errors.Busy, errors.Stopping))
END_PAUSE: Final = Command(Permission.SWITCH, Act(Action.PAUSE_ENDED, targets.model_asked_for), (errors.UnknownModel,))
SELFTEST: Final = Command(Permission.SELFTEST, Act(Action.SELFTEST), (errors.Busy, errors.Stopping))
CANCEL: Final = Command(
    Permission.CANCEL,
    Act(Action.CANCEL, targets.operation, _CANCEL_FIELDS, targets.owner_of_operation),
    (errors.UnknownOperation, errors.NotCancellable, errors.NotYours),
)
ENQUEUE: Final = Command(
    Permission.SWITCH,
    Act(Action.QUEUE_JOINED, targets.new_queued_launch, _QUEUE_FIELDS),
    (*_NO_ROOM, errors.QueueFull, errors.AlreadyWaiting, errors.CannotWait, errors.RequestIdReused, *_NO_RECORD),
)
LEAVE_QUEUE: Final = Command(
    Permission.CANCEL,
    Act(Action.QUEUE_LEFT, targets.queued_launch, before=targets.owner_of_queued_launch),
    (*_QUEUED, errors.NotCancellable),
)
RESUME_QUEUED: Final = Command(
    Permission.SWITCH, Act(Action.QUEUE_RESUMED, targets.queued_launch, before=targets.owner_of_queued_launch), _QUEUED
)
START_QUEUED: Final = Command(
    Permission.SWITCH,
    Act(Action.QUEUE_STARTED, targets.queued_launch, before=targets.owner_of_queued_launch),
    (*_QUEUED, *_NO_ROOM, *_NO_RECORD),
)
