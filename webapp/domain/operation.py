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
    """What an operation does."""

    SWITCH = "switch"
    UNLOAD = "unload"
    CLEAN = "clean"
    EMERGENCY = "emergency"
    DEMO = "demo"
    """Makes the demo model in the cache."""
    STOP_CONTAINER = "stop_container"
    """Ends a container that Warden did not start."""
    RESTORE = "restore"
    """Loads again what another operation had unloaded and did not bring back."""
    SELFTEST = "selftest"
    """Checks on a tiny model of its own that everything works."""


class OperationState(StrEnum):
    """Where an operation stands; all but ``running`` are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    WARNING = "warning"
    """Done, and something is not as promised (memory still held, say)."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"
    """Warden ended in the middle of it."""


class StepName(StrEnum):
    """The steps of every kind of operation, in the order in which a switch takes them."""

    PLAN = "plan"
    GRACE = "grace"
    """Nothing is touched yet: whoever asked, and the owners of what goes, can stop it."""
    UNLOAD = "unload"
    SETTLE = "settle"
    CLEAN = "clean"
    CHECK = "check"
    LAUNCH = "launch"
    """The process or container is started and the model loaded."""
    READY = "ready"
    """The model answered its first question about itself."""
    MEASURE = "measure"
    CREATE = "create"
    """The demo model's files are written."""
    END = "end"
    """Everything of Warden's is ended (emergency), or a container that is not Warden's."""
    CHECKS = "checks"
    """The checks of a self-test, one after the other."""
    ROLLBACK = "rollback"
    """What the operation did is undone and what it evicted is launched again."""


class StepState(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Step:
    """One step. Times are seconds since the epoch; ``progress`` is 0 to 1 where it is known."""

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
    """What an unload really gave back, on one device.

    ``freed_bytes`` is how much the device's free memory rose, plus what everybody else took meanwhile (``others_bytes``, negative
    when they gave back; ``None`` where the device cannot tell); never below 0, since an end takes no memory: what fell counts as taken by
    others whom the device does not name. ``model_freed_bytes`` is that less what the process held before it loaded anything
    (interpreter and libraries), so it compares with the weights; ``None`` where the process could not say.
    """

    device_id: str
    expected_bytes: int | None
    freed_bytes: int | None
    model_freed_bytes: int | None
    seconds: float
    settled: bool
    """Whether the device came to rest within the deadline with the expected memory back."""
    still_held_by: tuple[HeldBy, ...] = ()
    instance_id: str | None = None
    model_id: str | None = None
    others_bytes: int | None = None


@dataclass(frozen=True)
class Finding:
    """One line of a clean's or an emergency's result: what it was, what became of it, how many bytes came back."""

    message: Message
    ok: bool = True


@dataclass(frozen=True)
class Evicted:
    """A model that was unloaded to make room, with all that loads it again as it was."""

    instance_id: str
    """Its id until then; what comes back has another."""
    model_id: str
    mode: Mode
    revision: str
    options: LaunchOptions
    devices: tuple[str, ...]
    owner: str
    lease: Lease = NO_LEASE
    held_bytes: Mapping[str, int] = field(default_factory=dict)
    """By device."""

    @classmethod
    def of(cls, instance: Instance) -> Evicted:
        """Return what ``instance`` becomes when it is unloaded now."""
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
    """The seconds before an operation ends other people's models."""

    until: float
    """When it acts; seconds since the epoch."""
    instances: tuple[str, ...]
    """Other people's models that go."""
    owners: tuple[str, ...]
    """Who may stop it until then, beside those who may cancel it anyway."""


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
    """Models that were unloaded to make room."""
    to_restore: tuple[Evicted, ...] = ()
    """What is to be loaded again unless this succeeds; once it has ended, what could not be and is one click away."""
    receipts: tuple[Receipt, ...] = ()
    findings: tuple[Finding, ...] = ()
    error: Message | None = None
    outcome: Message | None = None
    """One sentence on how it ended."""
    cancel_requested_by: str | None = None
    checks: tuple[Check, ...] = ()
    """What a self-test has checked so far."""
    request: SwitchRequest | None = None
    """What a switch was asked for, so that it can be asked for again; of an unload what loads the model again."""
    post_mortem: PostMortem | None = None
    """How its model ran out of memory: while it loaded, or at any time later."""
    grace: Grace | None = None
    """Set where other people's models go."""

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.state is OperationState.RUNNING

    @property
    def current_step(self) -> Step | None:
        """The step that runs now."""
        return next((s for s in self.steps if s.state is StepState.RUNNING), None)

    @property
    def is_in_grace(self) -> bool:
        """Whether it waits before it touches other people's models."""
        before = (StepState.WAITING, StepState.RUNNING)
        return self.is_running and any(s.name is StepName.GRACE and s.state in before for s in self.steps)

    def check_stop(self, name: str) -> None:
        """Let ``name`` stop it as the owner of a model that goes, before that is touched. Raises TooLate, NotYours."""
        if self.grace is None or name not in self.grace.owners:
            raise NotYours(owner=self.actor)
        if not self.is_in_grace:
            was_over = any(s.name is StepName.GRACE and s.state is StepState.DONE for s in self.steps)
            raise (TooLate if was_over else NotYours)(owner=self.actor)

    @property
    def is_committed(self) -> bool:
        """Whether what was asked for is there already, so that nothing can be cancelled any more."""
        return any(s.name is StepName.READY and s.state is not StepState.WAITING for s in self.steps)

    @property
    def is_undoing(self) -> bool:
        """Whether it puts back what it had unloaded."""
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
        """Return the operation as ended: a step that still ran becomes ``running``, one that waited is skipped."""

        def end(step: Step) -> Step:
            if step.state is StepState.WAITING:
                return replace(step, state=StepState.SKIPPED)
            return replace(step, state=running, ended_at=ended_at) if step.state is StepState.RUNNING else step

        steps = tuple(end(step) for step in self.steps)
        return replace(self, state=state, ended_at=ended_at, outcome=outcome, error=error or self.error, steps=steps)

    def with_step(self, name: StepName, **changes: object) -> Operation:
        """Return the operation with the last step called ``name`` changed, or added at the end when there is none."""
        index = next((i for i in range(len(self.steps) - 1, -1, -1) if self.steps[i].name is name), None)
        if index is None:
            return replace(self, steps=(*self.steps, replace(Step(name), **changes)))  # type: ignore[arg-type]
        changed = replace(self.steps[index], **changes)  # type: ignore[arg-type]
        return replace(self, steps=(*self.steps[:index], changed, *self.steps[index + 1 :]))


@dataclass(frozen=True)
class OperationFilter:
    """Which operations are looked for; ``None`` is any."""

    kind: OperationKind | None = None
    actor: str | None = None
    model_id: str | None = None
    state: OperationState | None = None

    def matches(self, operation: Operation) -> bool:
        """Whether ``operation`` is one of them."""
        return (
            self.kind in (None, operation.kind)
            and self.actor in (None, operation.actor)
            and self.model_id in (None, operation.model_id)
            and self.state in (None, operation.state)
        )


ANY_OPERATION: Final = OperationFilter()


@dataclass(frozen=True)
class OperationValues:
    """What the kept operations can be filtered by, each value once and in order."""

    kinds: tuple[OperationKind, ...] = ()
    actors: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    states: tuple[OperationState, ...] = ()
