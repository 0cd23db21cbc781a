"""The dependencies of every operation, and the small actions that several of them share."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from webapp.catalog.scan import CatalogView
from webapp.control.calibration import Calibrator
from webapp.control.contract import Question, Snapshot
from webapp.control.idleness import Idleness
from webapp.control.journal import Journal
from webapp.control.keeping import Keeper
from webapp.control.pausing import PauseMark
from webapp.control.presence import Presence
from webapp.control.settle import DeviceMonitor, SettlePolicy
from webapp.control.state import ControllerState, StateStore
from webapp.control.terms import Leases
from webapp.domain.audit import AuditEntry
from webapp.domain.calibration import UNCALIBRATED, Calibration
from webapp.domain.instance import Instance
from webapp.domain.memory import DeviceKind, Sample
from webapp.domain.model import CachedModel
from webapp.domain.modes import NOT_INSTALLED, Mode
from webapp.domain.operation import Evicted, Operation
from webapp.domain.plan import SwitchRequest
from webapp.domain.planning.admission import AdmissionPolicy
from webapp.domain.planning.requirement import footprints_on
from webapp.domain.planning.state import PlanningState
from webapp.domain.queue import QueuedLaunch
from webapp.domain.selftest import Witness
from webapp.message import Message
from webapp.runtimes.base import ContainerHost, ForeignContainer, LaunchDevice, LaunchSpec, Runtime
from webapp.settings import Settings

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class ModelCatalog(Protocol):
    """The catalogue's methods that the controller uses."""

    def latest(self) -> CatalogView:
        """Return the models as last read; never waits."""

    def rescan(self, timeout_s: float) -> bool:
        """Scan now, and wait until that is done; False if it took too long."""


class DemoMaker(Protocol):
    """Creates the demo model in the cache."""

    def make(self, wait: Callable[[float], None]) -> str:
        """Return the model's id. ``wait(seconds)`` may raise to end it. Raises DemoFailed, ModeUnavailable."""


class TestedController(Protocol):
    """The calls of a sandbox's controller that a self-test makes; see ``Controller``."""

    def snapshot(self) -> Snapshot: ...
    def operation(self, operation_id: str) -> Operation: ...
    def make_demo(self, actor: str) -> Operation: ...
    def switch(self, request: SwitchRequest, actor: str) -> Operation: ...
    def clean(self, actor: str) -> Operation: ...
    def unload(self, instance_id: str, actor: str) -> Operation: ...
    def ask(self, instance_id: str, question: Question) -> Iterator[str]: ...


class Sandbox(Protocol):
    """A separate Warden in a separate folder, running next to the real one: the same code, on the same devices."""

    @property
    def controller(self) -> TestedController:
        """Return its controller."""

    def processes(self) -> Mapping[int, str]:
        """Return the pids of its live models, with the instance of each. Never waits."""


class QueueStore(Protocol):
    """The store's methods that the launch queue uses."""

    def save(self, launch: QueuedLaunch, keep: int) -> None:
        """Insert or replace a queued launch, and keep only the newest ``keep`` of the ended ones. Raises
        StoreUnavailable.
        """

    def drop(self, launch_id: str) -> None:
        """Delete a launch that was not accepted after all; idempotent. Raises StoreUnavailable."""

    def launches(self) -> tuple[QueuedLaunch, ...]:
        """Return all stored launches in the order of arrival. Raises StoreUnavailable."""


class SandboxMaker(Protocol):
    """Creates sandboxes, and provides a second source for the figures."""

    def open(self, limit_bytes: int) -> AbstractContextManager[Sandbox]:
        """Yield a sandbox whose models may take ``limit_bytes`` of a device; everything that it created is removed at
        the end of the block.

        Raises:
            AlreadyRunning: another self-test runs from the same state folder.
            SandboxFailed: it cannot be created, or what it created cannot be removed.
        """

    def witnesses(self) -> Mapping[str, Witness]:
        """Return the memory of the devices that another source reports as well, by device."""


@dataclass(frozen=True)
class Context:
    """The concrete dependencies, as ``services`` built them. ``clock`` is seconds since the epoch, ``monotonic`` is for
    durations.
    """

    settings: Settings
    state_store: StateStore
    keeper: Keeper
    journal: Journal
    monitor: DeviceMonitor
    catalog: ModelCatalog
    runtimes: Mapping[Mode, Runtime]
    demo: DemoMaker
    clock: Callable[[], float]
    monotonic: Callable[[], float]
    containers: ContainerHost | None = None
    sandboxes: SandboxMaker | None = None
    """``None`` in a sandbox: a self-test does not test itself."""
    calibrator: Calibrator | None = None
    """``None`` in a sandbox: models of a test must not change the calibration."""
    queue_store: QueueStore | None = None
    """``None`` in a sandbox, which has no queue."""
    pause_mark: PauseMark | None = None
    """``None`` in a sandbox."""
    leases: Leases = field(default_factory=Leases)
    presence: Presence = field(default_factory=Presence)
    idleness: Idleness = field(default_factory=Idleness)
    may_switch: Callable[[str], bool] = lambda name: True
    """Whether a person may still load models, since a queued launch starts in that person's name. Raises
    StoreUnavailable.
    """
    record: Callable[[AuditEntry], None] = lambda entry: None
    """Records automatic actions on a person's model; never waits. People's own actions are recorded where their
    requests arrive.
    """

    @property
    def policy(self) -> AdmissionPolicy:
        """The admission figures of the settings."""
        s = self.settings.admission
        return AdmissionPolicy(s.fits_percent, s.reserve_mib * 2**20, s.reserve_percent, s.memory_limit_bytes)

    @property
    def settle_policy(self) -> SettlePolicy:
        """The settle figures of the settings."""
        s = self.settings.settle
        return SettlePolicy(s.poll_s, s.percent / 100, s.warn_s, s.deadline_s)

    @property
    def state(self) -> ControllerState:
        """The present state of the controller; a reference, so reading it never waits."""
        return self.state_store.state

    def runtime(self, instance: Instance) -> Runtime:
        """The runtime of an instance."""
        return self.runtimes[instance.mode]

    def mode_problems(self) -> Mapping[Mode, Message | None]:
        """Return why each mode cannot be chosen; ``None`` if it can."""
        return {mode: self._mode_problem(mode) for mode in Mode}

    def _mode_problem(self, mode: Mode) -> Message | None:
        runtime = self.runtimes.get(mode)
        return NOT_INSTALLED[mode] if runtime is None else runtime.unavailable()

    def foreign_containers(self) -> tuple[ForeignContainer, ...]:
        """Containers that Warden did not start, as last seen; never waits."""
        return () if self.containers is None else self.containers.foreign()

    def planning_state(self, sample: Sample | None = None, actor: str | None = None) -> PlanningState:
        """Return the state on which a plan of ``actor`` depends, now; with ``sample`` instead of the latest reading."""
        state = self.state
        return PlanningState(
            now=self.clock(),
            monotonic=self.monotonic(),
            sample=sample or self.monitor.latest(),
            sample_is_stale=sample is None and self.monitor.is_stale(),
            instances=tuple(state.instances.values()),
            models={model.id: model for model in self.catalog.latest().models},
            policy=self.policy,
            mode_problems=self.mode_problems(),
            cooldowns=state.cooldowns,
            claims=state.claims,
            calibration=self.calibration,
            actor=actor,
        )

    @property
    def calibration(self) -> Calibration:
        """Return the calibration for the engines that would run a model now: an image may have been replaced."""
        runtime = self.runtimes.get(Mode.TRANSFORMERS)
        shares = runtime is not None and runtime.shares_libraries()
        if self.calibrator is None:
            return replace(UNCALIBRATED, shares_libraries=shares)
        return self.calibrator.with_engines(self.engines(), shares_libraries=shares)

    def engines(self) -> Mapping[Mode, str]:
        """Return the engine of each mode."""
        return {mode: runtime.engine_version() for mode, runtime in self.runtimes.items()}


def new_id() -> str:
    """Return an id for an instance or an operation: 12 hex digits."""
    return secrets.token_hex(6)


def launch_devices(sample: Sample | None, device_ids: Iterable[str]) -> tuple[LaunchDevice, ...]:
    """Return the properties of the devices that a runtime needs; a device that is not in the sample has only its id."""
    return tuple(_launch_device(sample, device_id) for device_id in device_ids)


def _launch_device(sample: Sample | None, device_id: str) -> LaunchDevice:
    kind_name, _, index = device_id.partition("-")
    reading = None if sample is None else sample.reading(device_id)
    kind = reading.kind if reading is not None else DeviceKind(kind_name)
    number = int(index) if index.isdigit() else None
    if reading is None:
        return LaunchDevice(device_id, kind, number, None)
    return LaunchDevice(
        device_id,
        kind,
        number,
        reading.uuid,
        total_bytes=reading.total_bytes,
        reserved_bytes=reading.reserved_bytes,
        free_bytes=reading.free_bytes,
    )


def spec_again(
    evicted: Evicted,
    model: CachedModel,
    sample: Sample | None,
    calibration: Calibration,
    *,
    new_id: str,
    operation_id: str,
) -> LaunchSpec:
    """Return the specification that launches an evicted model again; ``model`` is at the revision that ran.

    ``sample`` is a fresh reading: values that the runtime computes from the free memory depend on it. ``calibration``
    corrects it. The launch has no ``decided_on``: a model that ran a moment ago gets its chance, although nobody has
    checked whether its context would fit to the last token.
    """
    request = SwitchRequest(evicted.mode, model.id, evicted.options)
    return LaunchSpec(
        instance_id=new_id,
        operation_id=operation_id,
        model_id=model.id,
        revision=model.revision,
        snapshot=model.snapshot,
        options=evicted.options,
        devices=launch_devices(sample, evicted.devices),
        owner=evicted.owner,
        footprints=footprints_on(evicted.devices, request, model, sample, calibration),
    )


def known_instances(context: Context) -> frozenset[str]:
    """Return the ids of all listed instances, now."""
    return frozenset(context.state.instances)


def held_by(sample: Sample | None, instance: Instance) -> Mapping[str, int]:
    """Return the bytes that an instance's processes hold on each of its devices, as far as the device reports them."""
    held: dict[str, int] = {}
    for device_id in instance.devices:
        reading = None if sample is None else sample.reading(device_id)
        own = [h.used_bytes for h in reading.holders if h.instance_id == instance.id] if reading else []
        known = [used for used in own if used is not None]
        if known and len(known) == len(own):
            held[device_id] = sum(known)
    return held


def total_or_none(figures: Iterable[int | None]) -> int | None:
    """Return the sum, or ``None`` if a summand is unknown or there is none."""
    known = list(figures)
    return None if not known or None in known else sum(figure for figure in known if figure is not None)


class Expired(threading.Event):
    """Set when the caller no longer waits: the call must not change anything from then on."""


def in_thread(work: Callable[[], None], what: str) -> threading.Thread | None:
    """Run ``work`` in a thread and return the thread; if the machine provides none, run it here and return ``None``."""
    thread = threading.Thread(target=work, name=f"warden-{what}", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        work()
        return None
    return thread


def within(seconds: float, call: Callable[[Expired], T], what: str) -> T | None:
    """Return the result of ``call``, or ``None`` if it takes longer or fails; it then continues alone, with its
    argument set.

    For calls into a component that may hang for ever while other work still has to be done. If the machine provides no
    thread, the call runs here to its end: better late than not at all.
    """
    result: list[T] = []
    expired = Expired()

    def work() -> None:
        try:
            result.append(call(expired))
        except Exception:
            log.exception("%s failed", what)

    if (thread := in_thread(work, what)) is not None:
        thread.join(seconds)
    if not result:
        expired.set()
        log.warning("%s gave no answer within %s s", what, seconds)
        return None
    return result[0]


def side_by_side(call: Callable[[T], R], items: Sequence[T], what: str) -> list[R | Exception]:
    """Return the results of ``call`` for each item, computed concurrently; an error takes the place of its result.

    If the machine provides no more threads, the calls run one after the other.
    """
    results: dict[int, R | Exception] = {}

    def work(index: int, item: T) -> None:
        try:
            results[index] = call(item)
        except Exception as exc:  # noqa: BLE001 - the top of a thread; the caller gets it
            results[index] = exc

    threads = [in_thread(partial(work, i, item), f"{what}-{i}") for i, item in enumerate(items)]
    for thread in filter(None, threads):
        thread.join()
    return [results[i] for i in range(len(items))]
