"""The seam between the controller and a way to run models: what a runtime can do, and what it answers."""

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
    """What the driver keeps for itself; CUDA counts it to the total no more."""
    free_bytes: int | None = None
    """As the reading that the launch was decided on says."""


@dataclass(frozen=True)
class LaunchSpec:
    """All that a runtime needs to start one instance."""

    instance_id: str
    operation_id: str
    model_id: str
    revision: str
    snapshot: Path
    options: LaunchOptions
    devices: tuple[LaunchDevice, ...]
    owner: str
    footprints: tuple[Footprint, ...] = ()
    """What the plan counts with, a device each."""
    started_at: float = field(default_factory=time.time)
    """Seconds since the epoch; an instance that is adopted later keeps it."""
    decided_on: Sample | None = field(default=None, repr=False)
    """The reading that let it through: what moves afterwards is held against it."""

    @property
    def batched_tokens(self) -> int | None:
        """Tokens at once that the plan counts vLLM with, where it is to be told."""
        return next((footprint.batched_tokens for footprint in self.footprints), None)

    @property
    def predicted_bytes(self) -> Mapping[str, int]:
        """The footprint's sum by device."""
        return {footprint.device_id: footprint.total_bytes for footprint in self.footprints}

    def resting_bytes(self, mode: Mode) -> Mapping[str, int]:
        """What of that is held as soon as the model is ready, by device."""
        return {footprint.device_id: resting_bytes(footprint, mode) for footprint in self.footprints}


class ProbeState(StrEnum):
    """What an instance says of itself."""

    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"


@dataclass(frozen=True)
class Probe:
    """One look at an instance.

    ``activity`` changes whenever something moved: log output, tensors loaded, memory. The controller compares it with the last
    one to tell slow from stalled.
    """

    state: ProbeState
    activity: tuple[object, ...] = ()
    progress: float | None = None
    message: Message | None = None
    in_flight: int | None = 0
    """Requests that it answers or that wait; ``None`` where it answers and does not say."""
    last_used_at: float | None = None
    memory: MemoryReport | None = None
    has_chat_template: bool = False
    pid: int | None = None


class StopStage(StrEnum):
    """How far the escalation of a stop has come."""

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
    """One letter as in ps; D is held by the kernel."""


@dataclass(frozen=True)
class StopResult:
    """How a stop ended: the last stage that was needed and what survived it."""

    stage: StopStage
    seconds: float
    survivors: tuple[Survivor, ...] = ()
    not_removed: bool = False
    """Its processes are gone, and with them their memory; the container is still on Docker's list, and the runtime removes it later."""


@dataclass(frozen=True)
class CleanResult:
    """What an instance gave back on demand, in bytes."""

    freed_bytes: int | None
    device_freed_bytes: int | None = None


@dataclass(frozen=True)
class Discovered:
    """What a runtime found at the start: an instance to list (ready, silent, or dead with its reason), or remains to be removed."""

    instance: Instance
    adoptable: bool
    reason: Message | None = None
    """Why it is not adoptable."""


@dataclass(frozen=True)
class Leftover:
    """Something that a runtime reaped: a folder without a process, a process without an instance, a dead container."""

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
    """Docker's word: created, running, paused, restarting, exited, dead."""
    created_at: float
    """Seconds since the epoch."""
    owner: str | None = None
    """The user that its labels name, else the one its first process runs as on the host, where that is not root."""
    model: str | None = None
    """As its command line names it."""
    ports: tuple[str, ...] = ()
    """``127.0.0.1:8000``…, as published on the host."""
    pids: tuple[int, ...] = ()
    """Its processes on the host."""
    of_warden: str | None = None
    """The state folder of the other Warden that started it."""


StageCallback = Callable[[StopStage], None]


class Runtime(Protocol):
    """One way to run models. Every call has a deadline of its own and may be made from any thread; none is made in a request.

    Instances are named by their id alone: a runtime finds what it needs (socket, process, container) from it, also for instances
    that an earlier Warden started.
    """

    mode: Mode

    def engine_version(self, instance_id: str | None = None) -> str:
        """Name and version of what would run a model now, or of what runs the instance; measurements are kept by it. Never waits."""

    def shares_libraries(self) -> bool:
        """Whether an instance that is started now shares what it imports with others, so that only the rest is its own. Never waits."""

    def unavailable(self) -> Message | None:
        """Why the mode cannot be chosen now, or ``None``. Never waits."""

    def start(self) -> None:
        """Begin background work (the launcher, watchers)."""

    def stop(self) -> None:
        """End the background work; instances stay."""

    def discover(self) -> tuple[Discovered, ...]:
        """List what an earlier Warden left, live and broken."""

    def prepare(self, spec: LaunchSpec) -> bool:
        """Make what a launch of ``spec`` needs besides memory: folder, files, descriptors, process; before anything is unloaded for it.

        What was prepared is used by ``launch`` of the same id and removed by ``terminate``. A launch without it works as well.
        Returns whether it took memory that no plan has counted: what all instances share and somebody had to be the first to need, or
        what this one has of its own although it was to share it.

        Raises:
            LaunchBlocked: something of it cannot be had; nothing is left behind.
            EngineUnavailable: nobody can be asked whether it can be had.
        """

    def reach(self) -> None:
        """Make sure that what runs in this mode can be ended, and started again, now; waits as long as one answer may take.

        Raises:
            EngineUnavailable: nobody answers who could do that.
        """

    def launch(self, spec: LaunchSpec) -> None:
        """Start an instance and return at once; ``probe`` tells how it gets on.

        Raises:
            LaunchFailed: the process or container could not be started; nothing is left behind.
        """

    def probe(self, instance_id: str) -> Probe:
        """Ask an instance how it is; waits at most about 4 s.

        Raises:
            WorkerSilent: it lives and does not answer in time.
            WorkerGarbled: it answers what is not its protocol.
            OutOfMemory, LaunchFailed: its load failed.
            WorkerDied: its process or container has ended.
            UnknownInstance: nothing of it exists.
        """

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        """End an instance by escalation and remove what it leaves; idempotent. ``ask=False`` begins with SIGKILL."""

    def clean(self, instance_id: str) -> CleanResult:
        """Let an instance give back what it does not need.

        Raises:
            WorkerSilent, WorkerDied, WorkerGarbled, UnknownInstance
        """

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        """Remove what belongs to no instance in ``known()``: folders, sockets, processes, containers.

        ``known`` is asked after the candidates were listed and just before each is removed: an instance is listed before it is
        launched, so one that starts meanwhile on another device is never taken for a leftover.
        """

    def endpoint(self, instance_id: str) -> Endpoint:
        """Where the instance answers. Raises UnknownInstance."""

    def log_tail(self, instance_id: str, lines: int) -> tuple[str, ...]:
        """The last lines of the instance's log, oldest first; empty when there is none."""

    def processes(self) -> Mapping[int, str]:
        """Pids of all live processes of this runtime, with the id of the instance each belongs to. Never waits."""


class ContainerHost(Protocol):
    """What is known of containers that Warden did not start, and how one is ended on somebody's explicit word."""

    def foreign(self) -> tuple[ForeignContainer, ...]:
        """As last seen, sorted by name. Never waits."""

    def terminate_foreign(self, container_id: str, *, on_stage: StageCallback | None = None) -> StopResult:
        """End it by the same stop sequence. It is stopped and not removed: its log and files are its owner's.

        Raises:
            UnknownContainer: it is not there, or it is Warden's own.
            EngineUnavailable: with its kinds, see ``errors``.
        """
