"""A running model: its states, the table of their transitions, and its known properties."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from webapp.domain.lease import NO_LEASE, Lease
from webapp.domain.modes import LaunchOptions, Mode
from webapp.message import Message


class InstanceState(StrEnum):
    """The state of a running model."""

    STARTING = "starting"
    """Its process or container is being started; nothing is loaded yet."""
    LOADING = "loading"
    """The weights are being loaded."""
    READY = "ready"
    """It answers requests."""
    SILENT = "silent"
    """It was ready and does not answer now; its process is alive."""
    STOPPING = "stopping"
    """It is being stopped."""
    STUCK = "stuck"
    """Its end could not be confirmed: a process survived every signal, or its runtime did not respond."""
    DEAD = "dead"
    """It ended on its own; only its log is left."""


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
"""For each state, the states that may follow; a stopped instance leaves the list and has no state."""

ANSWERING = (InstanceState.READY, InstanceState.SILENT)
"""The states of a model that its users may want to keep or restore."""


@dataclass(frozen=True)
class MemoryReport:
    """An instance's memory as its runtime reports it; bytes, ``None`` is unknown."""

    base_bytes: int | None = None
    """Memory of the process before the load (interpreter and libraries)."""
    allocated_bytes: int | None = None
    """Tensors (torch ``memory_allocated``, or the process's own anonymous memory less ``base_bytes``)."""
    reserved_bytes: int | None = None
    """Memory that the allocator took from the device (torch ``memory_reserved``)."""
    process_bytes: int | None = None
    """The process's own anonymous memory in the host's RAM."""
    weights_bytes: int | None = None
    """The loaded weights on one device, from vLLM's log."""
    consumed_bytes: int | None = None
    """Weights and memory that libraries took outside torch, on one device, from vLLM's log."""
    activation_bytes: int | None = None
    """The peak of vLLM's warm-up on one device, including the memory reserved for CUDA graphs, from its log."""
    graphs_reserved_bytes: int | None = None
    """Memory that vLLM reserved for CUDA graphs on one device before it captured them (since 0.21), from its log."""
    graphs_bytes: int | None = None
    """CUDA graphs on one device, from vLLM's log."""


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
    """The part of it that was expected as soon as the instance was ready, before its first answer."""
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
    """The operation that records how it ran out of memory."""
    lease: Lease = NO_LEASE
    """The lease of its owner and its terms."""
    pending: Lease | None = None
    """New terms that are being stored: they already protect it from others, and are shown only once they are stored."""
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

        If its engine does not report use, it may have been used until Warden found it running.
        """
        known = self.adopted_at if self.last_used_at is None else self.last_used_at
        return max(self.started_at, self.ready_at or 0.0, known or 0.0, self.lease.kept_at or 0.0)

    def is_foreign_to(self, actor: str | None) -> bool:
        """Whether it belongs to another person who has not released it for ``actor``; without an actor (``None``)
        nothing is foreign.
        """
        return actor is not None and self.owner != actor and not self.lease.is_given_to(actor)

    @property
    def may_be_busy(self) -> bool:
        """Whether it may be answering a request; true if that is unknown."""
        return self.in_flight != 0

    @property
    def is_live(self) -> bool:
        """Whether one of its processes may hold memory."""
        return self.state is not InstanceState.DEAD

    def held_bytes(self, device_id: str) -> int:
        """Bytes on ``device_id``: measured if known, else predicted, else 0."""
        return self.measured_bytes.get(device_id, self.predicted_bytes.get(device_id, 0)) if self.is_live else 0
