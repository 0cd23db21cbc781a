"""A running model: its states, the table of their transitions, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from webapp.domain.lease import NO_LEASE, Lease
from webapp.domain.modes import LaunchOptions, Mode
from webapp.message import Message


class InstanceState(StrEnum):
    """Where a running model stands."""

    STARTING = "starting"
    """Its process or container is being started; nothing is loaded yet."""
    LOADING = "loading"
    """The weights are on their way."""
    READY = "ready"
    """It answers requests."""
    SILENT = "silent"
    """It was ready and does not answer now; its process lives."""
    STOPPING = "stopping"
    """It is being ended."""
    STUCK = "stuck"
    """It could not be proved that it ended: a process outlived every signal, or its runtime could not be asked."""
    DEAD = "dead"
    """It ended by itself; only its log is left."""


TRANSITIONS: Mapping[InstanceState, frozenset[InstanceState]] = {
    InstanceState.STARTING: frozenset(
        {InstanceState.LOADING, InstanceState.READY, InstanceState.STOPPING, InstanceState.DEAD}
    ),
    InstanceState.LOADING: frozenset({InstanceState.READY, InstanceState.STOPPING, InstanceState.DEAD}),
    InstanceState.READY: frozenset({InstanceState.SILENT, InstanceState.STOPPING, InstanceState.DEAD}),
    InstanceState.SILENT: frozenset({InstanceState.READY, InstanceState.STOPPING, InstanceState.DEAD}),
    InstanceState.STOPPING: frozenset({InstanceState.STUCK, InstanceState.DEAD}),
    InstanceState.STUCK: frozenset({InstanceState.STOPPING, InstanceState.READY, InstanceState.DEAD}),
    InstanceState.DEAD: frozenset({InstanceState.STOPPING}),
}
"""From each state, the states that may follow; a stopped instance leaves the list instead of having a state."""

ANSWERING = (InstanceState.READY, InstanceState.SILENT)
"""The states of a model that somebody may want to keep, or to have back."""


@dataclass(frozen=True)
class MemoryReport:
    """An instance's memory in its runtime's own words; bytes, ``None`` is unknown."""

    base_bytes: int | None = None
    """What the process held before the load (interpreter and libraries)."""
    allocated_bytes: int | None = None
    """Tensors (torch ``memory_allocated``, or the process's own anonymous memory less ``base_bytes``)."""
    reserved_bytes: int | None = None
    """What the allocator took from the device (torch ``memory_reserved``)."""
    process_bytes: int | None = None
    """The process's own anonymous memory in the host's RAM."""
    weights_bytes: int | None = None
    """The loaded weights on one device, as vLLM's log says."""
    consumed_bytes: int | None = None
    """Weights, and what libraries took past torch, on one device, as vLLM's log says."""
    activation_bytes: int | None = None
    """The peak of vLLM's warm-up on one device, with what it set aside for CUDA graphs, as its log says."""
    graphs_reserved_bytes: int | None = None
    """What vLLM set aside for CUDA graphs on one device before it captured them (since 0.21), as its log says."""
    graphs_bytes: int | None = None
    """CUDA graphs on one device, as vLLM's log says."""


@dataclass(frozen=True)
class Instance:
    """A running model. Times are seconds since the epoch."""

    id: str
    mode: Mode
    model_id: str
    revision: str
    options: LaunchOptions
    devices: tuple[str, ...]
    owner: str
    state: InstanceState
    started_at: float
    predicted_bytes: Mapping[str, int] = field(default_factory=dict)
    """Footprint by device, as planned."""
    resting_bytes: Mapping[str, int] = field(default_factory=dict)
    """What of that it was expected to hold as soon as it was ready, before it had answered anybody."""
    measured_bytes: Mapping[str, int] = field(default_factory=dict)
    """Footprint by device, as the device reported after the start."""
    last_used_at: float | None = None
    in_flight: int | None = 0
    """Requests that it answers or that wait; ``None`` is unknown."""
    memory: MemoryReport | None = None
    progress: float | None = None
    """Share loaded, 0 to 1, while loading."""
    problem: Message | None = None
    """Why it is silent, stuck or dead."""
    adopted: bool = False
    """Found running when Warden started."""
    has_chat_template: bool = False
    pid: int | None = None
    explained_by: str | None = None
    """The operation that keeps how it ran out of memory."""
    lease: Lease = NO_LEASE
    """Until when, and on what terms, its owner holds it."""
    pending: Lease | None = None
    """New terms that are being written down: they protect it from others already, and are shown to nobody before they hold."""
    adopted_at: float | None = None
    """When Warden found it running."""
    ready_at: float | None = None
    """When its load ended; a load may take longer than a model may be idle."""

    def to(self, state: InstanceState, **changes: object) -> Instance:
        """Return the instance in ``state``.

        Raises:
            ValueError: the table does not allow the transition.
        """
        if state is not self.state and state not in TRANSITIONS[self.state]:
            raise ValueError(f"an instance cannot go from {self.state} to {state}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]

    @property
    def used_at(self) -> float:
        """When the model was last used, as far as is known: by a request, a click to keep it, or the end of its load.

        Where its engine knows of no use, it may have been used until Warden found it running.
        """
        known = self.adopted_at if self.last_used_at is None else self.last_used_at
        return max(self.started_at, self.ready_at or 0.0, known or 0.0, self.lease.kept_at or 0.0)

    def is_foreign_to(self, actor: str | None) -> bool:
        """Whether it is somebody else's, who has not given it up for ``actor``; nobody in particular (``None``) is no stranger."""
        return actor is not None and self.owner != actor and not self.lease.is_given_to(actor)

    @property
    def may_be_busy(self) -> bool:
        """Whether it answers somebody, as far as is known: where that is unknown, it may."""
        return self.in_flight != 0

    @property
    def is_live(self) -> bool:
        """Whether a process of it may hold memory."""
        return self.state is not InstanceState.DEAD

    def held_bytes(self, device_id: str) -> int:
        """Bytes on ``device_id``: measured where known, else predicted, else 0."""
        return self.measured_bytes.get(device_id, self.predicted_bytes.get(device_id, 0)) if self.is_live else 0
