"""The interface between the controller and the runtimes: what a runtime can do, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from webapp.domain.calibration import resting_bytes
from webapp.domain.footprint import Footprint
from webapp.domain.instance import Instance, MemoryReport
from webapp.domain.memory import DeviceKind, Sample
from webapp.domain.modes import LaunchOptions, Mode
from webapp.message import Message


@dataclass(frozen=True)
class LaunchDevice:
    """A device that a launch may use. ``uuid`` names a GPU to its driver."""

    id: str
    kind: DeviceKind
    index: int | None
    uuid: str | None
    total_bytes: int | None = None
    reserved_bytes: int | None = None
    """Memory reserved by the driver, which CUDA excludes from the total."""
    free_bytes: int | None = None
    """Free memory in the reading that the launch was decided on."""


@dataclass(frozen=True)
class LaunchSpec:
    """Everything a runtime needs to start one instance."""

    instance_id: str
    operation_id: str
    model_id: str
    revision: str
    snapshot: Path
    options: LaunchOptions
    devices: tuple[LaunchDevice, ...]
    owner: str
    footprints: tuple[Footprint, ...] = ()
    """The plan's footprints, one per device."""
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch; an instance that is adopted later keeps it."""
    decided_on: Sample | None = field(default=None, repr=False)
    """The reading on which the launch was admitted; later changes are measured against it."""

    @property
    def batched_tokens(self) -> int | None:
        """vLLM's tokens per batch in the plan; ``None`` if vLLM chooses them."""
        return next((footprint.batched_tokens for footprint in self.footprints), None)

    @property
    def predicted_bytes(self) -> Mapping[str, int]:
        """Total of the footprint, by device."""
        return {footprint.device_id: footprint.total_bytes for footprint in self.footprints}

    def resting_bytes(self, mode: Mode) -> Mapping[str, int]:
        """The part of it that is held as soon as the model is ready, by device."""
        return {footprint.device_id: resting_bytes(footprint, mode) for footprint in self.footprints}


class ProbeState(StrEnum):
    """The state that an instance reports."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True)
class Probe:
    """What one probe found out about an instance.

    ``activity`` changes with every sign of progress: log output, loaded tensors, memory. The controller compares it
    with the previous one to tell a slow instance from a stalled one.
    """

    state: ProbeState
    activity: tuple[object, ...] = ()
    progress: float | None = None
    message: Message | None = None
    in_flight: int | None = 0
    """Requests that are being answered or queued; ``None`` if the instance does not report them."""
    last_used_at: float | None = None
    memory: MemoryReport | None = None
    has_chat_template: bool = False
    pid: int | None = None


class StopStage(StrEnum):
    """How far a stop has escalated."""

    ASK = "ask"
    TERMINATE = "terminate"
    KILL = "kill"
    VERIFY = "verify"


@dataclass(frozen=True)
class Survivor:
    """A process that outlived every signal."""

    pid: int
    user: str | None
    command: str | None
    state: str | None
    """One letter as in ps; D means that the kernel holds it."""


@dataclass(frozen=True)
class StopResult:
    """How a stop ended: the last stage that was needed and what survived it."""

    stage: StopStage
    seconds: float
    survivors: tuple[Survivor, ...] = ()
    not_removed: bool = False
    """The processes and their memory are gone, but Docker still lists the container; the runtime removes it later."""


@dataclass(frozen=True)
class CleanResult:
    """The memory that an instance released on request, in bytes."""

    freed_bytes: int | None
    device_freed_bytes: int | None = None


@dataclass(frozen=True)
class Discovered:
    """What a runtime found at the start: an instance to list (ready, silent, or dead with a reason), or a leftover."""

    instance: Instance
    adoptable: bool
    reason: Message | None = None
    """Why it cannot be adopted."""


@dataclass(frozen=True)
class Leftover:
    """Something that a runtime removed: a folder without a process, a process without an instance, a dead container."""

    message: Message
    ok: bool = True


@dataclass(frozen=True)
class Endpoint:
    """Where an instance answers the OpenAI protocol. ``uds`` is the path of a unix socket."""

    base_url: str
    uds: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


@dataclass(frozen=True)
class ForeignContainer:
    """A container of vLLM's image that this Warden did not start. ``None`` is unknown."""

    id: str
    """64 hex digits."""
    name: str
    image: str
    state: str
    """As Docker calls it: created, running, paused, restarting, exited, dead."""
    created_at: float
    """Seconds since the epoch."""
    owner: str | None = None
    """The user in its labels, or else the host user that runs its first process, unless that is root."""
    model: str | None = None
    """The model in its command line."""
    ports: tuple[str, ...] = ()
    """``127.0.0.1:8000``…, as published on the host."""
    pids: tuple[int, ...] = ()
    """Pids of its processes on the host."""
    of_warden: str | None = None
    """The state folder of the other Warden that started it."""


StageCallback = Callable[[StopStage], None]


class Runtime(Protocol):
    """A way to run models. Every call has its own deadline and may come from any thread, but never from a web request.

    An instance is identified by its id alone. The runtime derives everything else (socket, process, container) from it,
    even for instances that an earlier Warden started.
    """

    mode: Mode

    def engine_version(self, instance_id: str | None = None) -> str:
        """Name and version of the engine of the instance, or of the next launch. Measurements are kept per engine
        version.

        Never waits.
        """

    def shares_libraries(self) -> bool:
        """Whether an instance started now would share its imported libraries with the others. Never waits."""

    def unavailable(self) -> Message | None:
        """Why the mode cannot be chosen now, or ``None``. Never waits."""

    def start(self) -> None:
        """Start the background work (the launcher, watchers)."""

    def stop(self) -> None:
        """Stop the background work; instances keep running."""

    def discover(self) -> tuple[Discovered, ...]:
        """List the instances, live and broken, that an earlier Warden left."""

    def prepare(self, spec: LaunchSpec) -> bool:
        """Obtain what a launch needs besides memory (folder, files, descriptors, process) before anything is unloaded.

        ``launch`` of the same id uses the result, ``terminate`` removes it. Preparing is optional.
        Returns whether this took memory that no plan has counted: libraries that all instances share and this one is
        the first to need, or libraries of its own that it was expected to share.

        Raises:
            LaunchBlocked: something is unavailable; nothing is left behind.
            EngineUnavailable: the engine does not answer, so it is unknown whether the launch could start.
        """

    def reach(self) -> None:
        """Check that instances of this mode can be ended and started now; waits at most for one answer of the engine.

        Raises:
            EngineUnavailable: the engine does not answer.
        """

    def launch(self, spec: LaunchSpec) -> None:
        """Start an instance and return at once; ``probe`` reports its progress.

        Raises:
            LaunchFailed: the process or container could not be started; nothing is left behind.
        """

    def probe(self, instance_id: str) -> Probe:
        """Ask an instance for its state; waits at most about 4 s.

        Raises:
            WorkerSilent: it is alive but does not answer in time.
            WorkerGarbled: its answer does not follow the protocol.
            OutOfMemory, LaunchFailed: its load failed.
            WorkerDied: its process or container has ended.
            UnknownInstance: nothing of it exists.
        """

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        """End an instance with escalating force and remove its remains; idempotent. ``ask=False`` starts with
        SIGKILL."""

    def clean(self, instance_id: str) -> CleanResult:
        """Make an instance release the memory that it does not need.

        Raises:
            WorkerSilent, WorkerDied, WorkerGarbled, UnknownInstance
        """

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        """Remove folders, sockets, processes and containers that belong to no instance in ``known()``.

        ``known`` is called after the candidates were listed and again just before each removal. An instance is listed
        before it is launched, so one that starts in the meantime is never taken for a leftover.
        """

    def endpoint(self, instance_id: str) -> Endpoint:
        """Return where the instance answers. Raises UnknownInstance."""

    def log_tail(self, instance_id: str, lines: int) -> tuple[str, ...]:
        """Return the last lines of the instance's log, oldest first; empty if there is no log."""

    def processes(self) -> Mapping[int, str]:
        """Return the pids of all live processes of this runtime, each with the id of its instance. Never waits."""


class ContainerHost(Protocol):
    """Containers that Warden did not start: what is known of them, and how to end one on explicit request."""

    def foreign(self) -> tuple[ForeignContainer, ...]:
        """Return the containers as last seen, sorted by name. Never waits."""

    def terminate_foreign(self, container_id: str, *, on_stage: StageCallback | None = None) -> StopResult:
        """End a container by the same stop sequence. It is not removed: its log and files belong to its owner.

        Raises:
            UnknownContainer: it does not exist, or this Warden started it.
            EngineUnavailable: or one of its subclasses, see ``errors``.
        """
