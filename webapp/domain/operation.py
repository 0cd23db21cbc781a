"""One run of a plan: its kind, its steps with their times, its outcome and its receipts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from webapp.domain.instance import Instance
from webapp.domain.lease import NO_LEASE, Lease
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.plan import SwitchRequest
from webapp.domain.postmortem import PostMortem
from webapp.domain.selftest import Check
from webapp.errors import NotYours, TooLate
from webapp.message import Message


class OperationKind(StrEnum):
    """The kind of an operation."""

    SWITCH = "switch"
    UNLOAD = "unload"
    CLEAN = "clean"
    EMERGENCY = "emergency"
    DEMO = "demo"
    """Creates the demo model in the cache."""
    STOP_CONTAINER = "stop_container"
    """Ends a container that Warden did not start."""
    RESTORE = "restore"
    """Loads models again that another operation unloaded and did not restore."""
    SELFTEST = "selftest"
    """Checks on a tiny model of its own that everything works."""


class OperationState(StrEnum):
    """The state of an operation; all but ``running`` are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    WARNING = "warning"
    """Done, but with a result that differs from the plan (such as memory that is still held)."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    """Warden ended while the operation was running."""


class StepName(StrEnum):
    """The steps of every kind of operation, in the order in which a switch takes them."""

    PLAN = "plan"
    GRACE = "grace"
    """Nothing has been changed yet: the requester, and the owners of the models to be unloaded, can stop it."""
    UNLOAD = "unload"
    SETTLE = "settle"
    CLEAN = "clean"
    CHECK = "check"
    LAUNCH = "launch"
    """The process or container is started and the model loaded."""
    READY = "ready"
    """The model answered the first request about its state."""
    MEASURE = "measure"
    CREATE = "create"
    """The demo model's files are written."""
    END = "end"
    """Every process and container that Warden started is ended (emergency stop), or one container that it did not
    start.
    """
    CHECKS = "checks"
    """The checks of a self-test, one after the other."""
    ROLLBACK = "rollback"
    """The changes of the operation are undone, and the evicted models are launched again."""


class StepState(StrEnum):
    """The state of a step."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Step:
    """One step. Times are seconds since the epoch; ``progress`` is 0 to 1 if it is known."""

    name: StepName
    state: StepState = StepState.WAITING
    started_at: float | None = None
    ended_at: float | None = None
    message: Message | None = None
    progress: float | None = None


@dataclass(frozen=True)
class HeldBy:
    """A process that still holds memory after an unload."""

    pid: int
    user: str | None
    command: str | None
    used_bytes: int | None
    state: str | None = None


@dataclass(frozen=True)
class Receipt:
    """The memory that an unload freed on one device.

    ``freed_bytes`` is the rise of the device's free memory plus the memory that all others took in the meantime
    (``others_bytes``, negative if they released memory; ``None`` if the device cannot tell). It is never below 0, since
    ending a process takes no memory: a fall counts as taken by holders that the device does not list.
    ``model_freed_bytes`` is that less what the process held before it loaded anything (interpreter and libraries), so
    it is comparable to the weights; ``None`` if the process did not report it.
    """

    device_id: str
    expected_bytes: int | None
    freed_bytes: int | None
    model_freed_bytes: int | None
    seconds: float
    settled: bool
    """Whether the device settled within the deadline with the expected memory free."""
    still_held_by: tuple[HeldBy, ...] = ()
    instance_id: str | None = None
    model_id: str | None = None
    others_bytes: int | None = None


@dataclass(frozen=True)
class Finding:
    """One line in the result of a clean or an emergency stop: what was found, what was done with it, and how many bytes
    were freed.
    """

    message: Message
    ok: bool = True


@dataclass(frozen=True)
class Evicted:
    """A model that was unloaded to free memory, with all that is needed to load it again unchanged."""

    instance_id: str
    """Its id until then; the restored instance has another."""
    model_id: str
    mode: Mode
    revision: str
    options: LaunchOptions
    devices: tuple[str, ...]
    owner: str
    lease: Lease = NO_LEASE
    held_bytes: Mapping[str, int] = field(default_factory=dict)
    """Held bytes by device."""

    @classmethod
    def of(cls, instance: Instance) -> Evicted:
        """Return the record of ``instance`` for an unload at this moment."""
        return cls(
            instance_id=instance.id,
            model_id=instance.model_id,
            mode=instance.mode,
            revision=instance.revision,
            options=instance.options,
            devices=instance.devices,
            owner=instance.owner,
            lease=instance.lease,
            held_bytes={device_id: instance.held_bytes(device_id) for device_id in instance.devices},
        )


@dataclass(frozen=True)
class Grace:
    """The grace period before an operation ends other people's models."""

    until: float
    """When the period ends; seconds since the epoch."""
    instances: tuple[str, ...]
    """Other people's models that are to be unloaded."""
    owners: tuple[str, ...]
    """The people who may stop it until then, in addition to those who may cancel it anyway."""


@dataclass(frozen=True)
class Operation:
    """One operation, running or ended. Times are seconds since the epoch."""

    id: str
    kind: OperationKind
    actor: str
    state: OperationState
    started_at: float
    steps: tuple[Step, ...] = ()
    ended_at: float | None = None
    mode: str | None = None
    model_id: str | None = None
    instance_id: str | None = None
    devices: tuple[str, ...] = ()
    evicted: tuple[str, ...] = ()
    """Models that were unloaded to free memory."""
    to_restore: tuple[Evicted, ...] = ()
    """Models to load again unless this operation succeeds; once it has ended, those that could not be restored and are
    offered for restoring.
    """
    receipts: tuple[Receipt, ...] = ()
    findings: tuple[Finding, ...] = ()
    error: Message | None = None
    outcome: Message | None = None
    """The outcome in one sentence."""
    cancel_requested_by: str | None = None
    checks: tuple[Check, ...] = ()
    """The checks that a self-test has completed so far."""
    request: SwitchRequest | None = None
    """The request of a switch, so that it can be repeated; for an unload, the request that loads the model again."""
    post_mortem: PostMortem | None = None
    """How its model ran out of memory: while it loaded, or at any later time."""
    grace: Grace | None = None
    """Set if other people's models are to be unloaded."""
    request_id: str | None = None
    """The id under which the actor's client sent the request, so that it can be sent again."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.state is OperationState.RUNNING

    @property
    def current_step(self) -> Step | None:
        """The step that is running."""
        return next((s for s in self.steps if s.state is StepState.RUNNING), None)

    @property
    def is_in_grace(self) -> bool:
        """Whether it is waiting before it touches other people's models."""
        before = (StepState.WAITING, StepState.RUNNING)
        return self.is_running and any(s.name is StepName.GRACE and s.state in before for s in self.steps)

    def check_stop(self, name: str) -> None:
        """Check that ``name`` may stop it as the owner of a model that is to be unloaded. Raises TooLate, NotYours."""
        if self.grace is None or name not in self.grace.owners:
            raise NotYours(owner=self.actor)
        if not self.is_in_grace:
            was_over = any(s.name is StepName.GRACE and s.state is StepState.DONE for s in self.steps)
            raise (TooLate if was_over else NotYours)(owner=self.actor)

    @property
    def is_committed(self) -> bool:
        """Whether the requested result exists already, so that cancelling is no longer possible."""
        return any(s.name is StepName.READY and s.state is not StepState.WAITING for s in self.steps)

    @property
    def is_undoing(self) -> bool:
        """Whether it is restoring the models that it unloaded."""
        return any(s.name is StepName.ROLLBACK and s.state is StepState.RUNNING for s in self.steps)

    def closed(
        self,
        state: OperationState,
        ended_at: float,
        outcome: Message,
        *,
        error: Message | None = None,
        running: StepState = StepState.FAILED,
    ) -> Operation:
        """Return the operation as ended: a step in progress gets the state ``running``, and a pending one is skipped."""

        def end(step: Step) -> Step:
            if step.state is StepState.WAITING:
                return replace(step, state=StepState.SKIPPED)
            return replace(step, state=running, ended_at=ended_at) if step.state is StepState.RUNNING else step

        steps = tuple(end(step) for step in self.steps)
        return replace(self, state=state, ended_at=ended_at, outcome=outcome, error=error or self.error, steps=steps)

    def with_step(self, name: StepName, **changes: object) -> Operation:
        """Return the operation with the last step called ``name`` changed, or added at the end if there is none."""
        index = next((i for i in range(len(self.steps) - 1, -1, -1) if self.steps[i].name is name), None)
        if index is None:
            return replace(self, steps=(*self.steps, replace(Step(name), **changes)))  # type: ignore[arg-type]
        changed = replace(self.steps[index], **changes)  # type: ignore[arg-type]
        return replace(self, steps=(*self.steps[:index], changed, *self.steps[index + 1 :]))


@dataclass(frozen=True)
class OperationFilter:
    """The filter of a search for operations; ``None`` matches anything."""

    kind: OperationKind | None = None
    actor: str | None = None
    model_id: str | None = None
    state: OperationState | None = None

    def matches(self, operation: Operation) -> bool:
        """Whether ``operation`` matches the filter."""
        return (
            self.kind in (None, operation.kind)
            and self.actor in (None, operation.actor)
            and self.model_id in (None, operation.model_id)
            and self.state in (None, operation.state)
        )


ANY_OPERATION: Final = OperationFilter()


@dataclass(frozen=True)
class OperationValues:
    """The values by which the stored operations can be filtered, each once and sorted."""

    kinds: tuple[OperationKind, ...] = ()
    actors: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    states: tuple[OperationState, ...] = ()
