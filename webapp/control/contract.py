"""The interface of the controller for the web layer and the command line; all values are frozen and all calls return at
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from webapp.control.leases import Notice, Terms
from webapp.domain.instance import Instance
from webapp.domain.lease import ReleaseAnswer
from webapp.domain.memory import HistoryPoint, Holder, Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import Mode
from webapp.domain.operation import ANY_OPERATION, Operation, OperationFilter, OperationValues
from webapp.domain.plan import Plan, SwitchRequest
from webapp.domain.planning.state import Headroom
from webapp.domain.queue import QueuedLaunch, QueueEntry
from webapp.domain.recommend import Advice
from webapp.message import Message
from webapp.runtimes.base import ForeignContainer

__all__ = [
    "ControllerApi",
    "EmergencyPreview",
    "ForeignContainer",
    "Health",
    "Notice",
    "Question",
    "Snapshot",
    "Terms",
]


@dataclass(frozen=True)
class Snapshot:
    """The whole state at one moment, for one page or one answer.

    ``version`` changes whenever anything else in it changes, but for the age of the reading.
    """

    version: str
    sample: Sample | None
    """The latest reading of the devices; ``None`` before the first."""
    sample_age_s: float | None
    sample_is_stale: bool
    instances: tuple[Instance, ...]
    running: tuple[Operation, ...]
    """Operations that run now, oldest first."""
    recent: tuple[Operation, ...]
    """Operations that ended recently, newest first."""
    models: tuple[CachedModel, ...]
    models_problem: Message | None
    """Why the cache cannot be read."""
    models_scanned_at: float | None
    mode_problems: Mapping[Mode, Message | None]
    """Why a mode cannot be chosen; ``None`` if it can."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Claimed devices and the id of the operation that claimed each."""
    containers: tuple[ForeignContainer, ...] = ()
    """Containers of vLLM's image that this Warden did not start."""
    waiting: tuple[QueueEntry, ...] = ()
    """Queued launches, in their positions."""
    waited: tuple[QueuedLaunch, ...] = ()
    """Launches that have left the queue, newest first."""
    present: frozenset[str] = frozenset()
    """The people who have a page open."""
    notices: tuple[Notice, ...] = ()
    """Notices to one person each, oldest first."""
    store_problem: Message | None = None
    """Why changes cannot be stored now; ``None`` if they can."""
    idle_unload_at: Mapping[str, float] = field(default_factory=dict)
    """The moment at which each idle instance is unloaded, if it is, by its id; shifts with the time of day, since the
    remaining time does not.
    """

    @property
    def mode(self) -> str | None:
        """``vllm``, ``transformers``, ``mixed``, or ``None`` while nothing is loaded."""
        modes = {instance.mode.value for instance in self.instances if instance.is_live}
        return None if not modes else modes.pop() if len(modes) == 1 else "mixed"

    def instance(self, instance_id: str) -> Instance | None:
        """Return the instance ``instance_id`` or ``None``."""
        return next((i for i in self.instances if i.id == instance_id), None)

    def model(self, model_id: str) -> CachedModel | None:
        """Return the cached model ``model_id`` or ``None``."""
        return next((m for m in self.models if m.id == model_id), None)


@dataclass(frozen=True)
class EmergencyPreview:
    """What an emergency stop would end, and what it would not touch."""

    instances: tuple[Instance, ...]
    unlisted_workers: int
    """Workers that belong to no listed instance: a self-test's."""
    operations: tuple[Operation, ...]
    foreign: tuple[Holder, ...]
    """Other people's processes that hold memory, which are kept."""
    containers: tuple[ForeignContainer, ...] = ()
    """Containers that Warden did not start, which are kept."""
    launches: int = 0
    """Queued launches that would start automatically, which are paused."""


@dataclass(frozen=True)
class Health:
    """Whether Warden is alive: ages in seconds of the last reading and of the controller's last round, ``None`` before
    the first.
    """

    ok: bool
    monitor_age_s: float | None
    controller_age_s: float | None
    store_problem: Message | None = None
    """Why nothing can be stored."""


@dataclass(frozen=True)
class Question:
    """A person's question to a model. ``max_tokens`` is the limit of the answer; ``None`` is the instance's own."""

    prompt: str
    max_tokens: int | None = None
    temperature: float = 0.7


class ControllerApi(Protocol):
    """The controller's public calls. Those that act return the accepted operation; its progress is read from
    ``snapshot``.
    """

    def snapshot(self) -> Snapshot:
        """Return the present state; takes references only."""

    def history(self, device_id: str) -> tuple[HistoryPoint, ...]:
        """Return the short history of a device, oldest first; empty if the device is unknown."""

    def plan(self, request: SwitchRequest, actor: str | None = None) -> Plan:
        """Return what ``request`` of ``actor`` would do now; refusals are in the plan. Raises NotFound, InvalidRequest."""

    def headrooms(self, request: SwitchRequest | None = None, actor: str | None = None) -> tuple[Headroom, ...]:
        """Return how much a launch may take on each device, or on those that ``request`` of ``actor`` names.

        Empty if one of them does not exist.
        """

    def recommend(
        self, device_id: str | None = None, model_id: str | None = None, actor: str | None = None
    ) -> Advice | None:
        """Return the advice for a device's free memory, for a model what fits there; ``None`` if the memory is unknown.

        Raises:
            UnknownDevice, UnknownModel
        """

    def advise(self, request: SwitchRequest, actor: str | None = None) -> Advice | None:
        """Return the largest configuration of the requested model that fits on the devices chosen for ``actor``;
        ``None`` if the memory is unknown.

        Raises:
            UnknownDevice, UnknownInstance, UnknownModel, InvalidRequest
        """

    def switch(self, request: SwitchRequest, actor: str, request_id: str | None = None) -> Operation:
        """Start to load a model, unloading what the plan names; the operation is in the store when this returns.

        A request that ``actor`` has sent under ``request_id`` before is not started again: its operation is returned,
        running or ended. Raises NotFound, Refused (RequestIdReused: for another request), InvalidRequest, Unavailable
        (NotStored: nothing was started).
        """

    def is_stored(self, operation_id: str) -> bool:
        """Return whether the store has an operation that was accepted: all but a switch act first."""

    def check_queueing(self, request: SwitchRequest, actor: str) -> None:
        """Refuse what ``enqueue`` would refuse, without queuing anything.

        Raises NotFound, InvalidRequest, Refused (what waiting cannot change; QueueFull, AlreadyWaiting, CannotWait).
        """

    def enqueue(
        self, request: SwitchRequest, actor: str, *, starts_by_itself: bool, request_id: str | None = None
    ) -> QueueEntry:
        """Queue ``request`` until there is enough memory; it then starts in ``actor``'s name, or ``actor`` is only
        notified.

        A request that ``actor`` has sent under ``request_id`` before is not queued again: it is returned, open or ended.
        Raises NotFound, InvalidRequest, Refused (what waiting cannot change; QueueFull, AlreadyWaiting, CannotWait,
        RequestIdReused), StoreUnavailable.
        """

    def leave_queue(self, ticket_id: str, actor: str, *, is_administrator: bool = False) -> QueuedLaunch:
        """Remove a launch from the queue, another person's only as an administrator; a start in progress is cancelled
        with it.

        Raises UnknownTicket, TicketEnded, ForeignTicket, NotCancellable.
        """

    def resume_queued(self, ticket_id: str, actor: str, *, is_administrator: bool = False) -> QueueEntry:
        """Resume a launch that an emergency stop has paused. Raises UnknownTicket, TicketEnded, ForeignTicket."""

    def is_queued_stored(self, ticket_id: str) -> bool:
        """Return whether the store has the present state of a queued launch: cancelling and resuming act first."""

    def start_queued(self, ticket_id: str, actor: str, *, is_administrator: bool = False) -> Operation:
        """Start a queued launch now. Raises UnknownTicket, TicketEnded, ForeignTicket, and what ``switch`` raises: it
        then stays queued.
        """

    def unload(self, instance_id: str, actor: str, override_reason: str | None = None) -> Operation:
        """Start to unload an instance; another person's leased or busy one only with an administrator's
        ``override_reason``.

        Raises UnknownInstance, InstanceLeased, InstanceInUse, Busy.
        """

    def set_lease(self, instance_id: str, terms: Terms, actor: str) -> Instance:
        """Set new terms of an instance that ``actor`` owns; they are in the store when this returns.

        Raises UnknownInstance, NotOwner, InstanceStopping, InvalidRequest, LeasePending, NotStored.
        """

    def ask_release(self, instance_id: str, why: str, actor: str) -> Instance:
        """Ask the owner of an instance to release it.

        Raises UnknownInstance, InstanceStopping, InvalidRequest, ReleasePending, LeasePending, NotStored.
        """

    def answer_release(self, instance_id: str, answer: ReleaseAnswer, word: str, actor: str) -> Instance:
        """Answer a pending release request for an instance that ``actor`` owns.

        Raises UnknownInstance, NotOwner, InstanceStopping, NothingAsked, InvalidRequest, LeasePending, NotStored.
        """

    def keep(self, instance_id: str, actor: str) -> Instance:
        """Count a click as use of an instance, so that it is not unloaded as idle.

        Raises UnknownInstance, InstanceStopping, LeasePending, NotStored.
        """

    def see(self, actor: str) -> None:
        """Note that ``actor`` has a page open; never waits."""

    def dismiss(self, notice: int, actor: str) -> None:
        """Dismiss a notice to ``actor``; idempotent."""

    def stop_container(self, container_id: str, name: str, actor: str) -> Operation:
        """Start to end a container that Warden did not start. ``container_id`` is all 64 digits; ``name`` must be its
        exact name: the explicit confirmation.

        Raises UnknownContainer, NotConfirmed, Busy.
        """

    def clean(self, actor: str) -> Operation:
        """Start to free memory that nobody needs. Raises Busy."""

    def emergency_preview(self) -> EmergencyPreview:
        """Return what ``emergency`` would end."""

    def emergency(self, actor: str) -> Operation:
        """Start to end everything that Warden started, whatever else runs. Raises Busy only while another emergency
        stop runs.
        """

    def make_demo(self, actor: str) -> Operation:
        """Start to create the demo model in the cache. Raises Busy."""

    def selftest(self, actor: str) -> Operation:
        """Start to check that everything works, next to the loaded models. Raises Busy while another self-test runs."""

    def cancel(self, operation_id: str, actor: str, *, rollback: bool = False, as_owner: bool = False) -> Operation:
        """Request that an operation stops; it then restores what it unloaded. A second cancel changes nothing.

        ``rollback`` is requested separately: abandon the rollback in progress. ``as_owner`` of a model that is to be
        unloaded, ``actor`` may cancel only before anything is touched. Raises UnknownOperation, NotCancellable,
        NotYours, TooLate.
        """

    def restore(self, operation_id: str, actor: str) -> Operation:
        """Start to load again what an ended operation had unloaded and did not restore, in the names of its owners.

        Raises UnknownOperation, NothingToRestore, Busy.
        """

    def operation(self, operation_id: str) -> Operation:
        """Return an operation, running or from the store. Raises UnknownOperation, StoreUnavailable."""

    def operations(
        self, limit: int, where: OperationFilter = ANY_OPERATION, before: str | None = None
    ) -> tuple[Operation, ...]:
        """Return running and ended operations that match ``where``, newest first.

        ``before`` is the id of the last operation already seen: those after it follow. Raises UnknownOperation for it,
        StoreUnavailable.
        """

    def operation_values(self) -> OperationValues:
        """Return the values by which the stored operations can be filtered. Raises StoreUnavailable."""

    def ask(self, instance_id: str, question: Question) -> Iterator[str]:
        """Yield pieces of the model's answer; this returns once the first piece has arrived.

        Raises (also while iterating): UnknownInstance, NotReady, GenerationFailed, OutOfMemory.
        """

    def log_tail(self, instance_id: str) -> tuple[str, ...]:
        """Return the last lines of an instance's log, oldest first. Raises UnknownInstance."""

    def health(self) -> Health:
        """Return whether the monitor is running and the controller responds."""
