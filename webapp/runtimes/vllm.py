"""vLLM mode: one container a model. Starts it, watches it, asks it, ends it, finds it again, and lists what others have started."""

from __future__ import annotations

import json
import logging
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from webapp.domain.instance import Instance, InstanceState
from webapp.domain.modes import LaunchOptions, Mode
from webapp.domain.units import MIB
from webapp.errors import (
    ContainerExited,
    ContainerRemoved,
    EngineFailed,
    EngineMissing,
    EngineUnavailable,
    EngineUnreachable,
    LaunchBlocked,
    LaunchFailed,
    PortLost,
    PortTaken,
    ServerGarbled,
    UnknownContainer,
    UnknownInstance,
    WardenError,
    WorkerSilent,
)
from webapp.message import Message
from webapp.runtimes import processes
from webapp.runtimes.base import (
    CleanResult,
    Discovered,
    Endpoint,
    ForeignContainer,
    LaunchSpec,
    Leftover,
    Probe,
    ProbeState,
    StageCallback,
    StopResult,
    StopStage,
)
from webapp.runtimes.container_watch import ALIVE, ContainerWatch
from webapp.runtimes.engine import ContainerGone, ContainerSummary, DockerEngine, Inspected, PortInUse
from webapp.runtimes.followed_log import FollowedLog
from webapp.runtimes.pending_removals import PendingRemovals
from webapp.runtimes.processes import ProcessId, SharedFile
from webapp.runtimes.shortage import launch_error
from webapp.runtimes.stop_sequence import StopStep, escalate, ignore_stages
from webapp.runtimes.vllm_command import HOST_NETWORK, LABEL, ContainerPlan, container_plan, port_range, record_of
from webapp.runtimes.vllm_log import Stage, cause_of, stage_of
from webapp.runtimes.vllm_server import LOOPBACK, Load, NotServing, Rubbish, VllmServer
from webapp.runtimes.worker_folder import InstanceRecord
from webapp.settings import Settings

log = logging.getLogger(__name__)

HTTP_S = 2.0
LOADING_HTTP_S = 0.5
ADOPT_HTTP_S = 5.0
"""How long a model that an earlier Warden started may take to say that it is there: a busy one is slow, and must not be ended for it."""
READY_POLL_S = 0.1
"""How often a container is asked whether it answers once its log says that its server is up…"""
EARLY_POLL_S = 1.0
"""…and before, in case another version says it in other words: the start needs the processor more than we do."""
EXIT_SEEN_S = 1.0
"""How long an answer that failed waits for the news that the container has ended, which explains it."""
GONE_POLL_S = 0.05
REMOVE_AGAIN_S = 0.5
"""Pause before an engine that failed to remove a container is asked again."""
SHORT_ID = 12
"""Digits of an image's id that name it, as Docker shows it."""
SHARED_S = 2.0
ERROR_LINES = 20
LOOK_THREADS = 8
PORT_LABEL = LABEL + "port"
_OTHERS_PORTS = 20
"""How many ports are tried when somebody else is quicker each time."""


@dataclass(frozen=True)
class _Own:
    """A container of this Warden's, with all that is needed to talk to it. Lost without harm: the labels tell it again."""

    id: str
    record: InstanceRecord
    server: VllmServer
    log: FollowedLog
    process: ProcessId | None = None
    is_ready: bool = False
    asked_at: float = 0.0
    """When it was last asked whether it answers, by the monotonic clock."""
    is_garbled: bool = False
    """Whether its last answer while it started was no vLLM's, or another model's."""
    in_flight: int | None = 0
    served: float | None = None
    last_used_at: float | None = None
    shared: frozenset[SharedFile] = frozenset()
    """Its files in the host's /dev/shm."""
    resident_mib: int = 0
    """What its processes held when it was last asked: a start that writes nothing but takes memory is alive."""


class VllmRuntime:
    """See ``Runtime`` and ``ContainerHost``. What the engine knows counts; what is kept here only saves asking."""

    mode = Mode.VLLM

    def __init__(self, settings: Settings, engine: DockerEngine | None = None) -> None:
        """``engine`` is the one that the settings name where it is not given."""
        self._settings = settings
        self._home = str(settings.state_dir)
        self._engine = engine or DockerEngine(
            settings.docker_socket, settings.docker_timeout_s, settings.docker_start_timeout_s
        )
        self._lock = threading.Lock()
        self._own: Mapping[str, _Own] = {}
        """By instance."""
        self._launching: frozenset[str] = frozenset()
        self._ports: frozenset[int] = frozenset()
        """Chosen for containers that are being created."""
        self._unborn: frozenset[str] = frozenset()
        """Instances whose container Docker has not confirmed to have created: none of it was ever started."""
        self._kept = PendingRemovals(settings.state_dir / "kept_containers.json", self._remove_kept)
        self._watch = ContainerWatch(self._engine, settings, self._kept.look)
        self._has_looked = False
        """Whether ``discover`` has told once what an earlier Warden left: until then a container that runs is nobody's leftover."""

    def engine_version(self, instance_id: str | None = None) -> str:
        """See ``Runtime``. Which version is in the image is known only once it runs, so its content's id stands for that."""
        image_id = self._watch.view.image_id
        name = self._settings.vllm_image
        return name if image_id is None else f"{name} ({image_id.partition(':')[2][:SHORT_ID]})"

    def shares_libraries(self) -> bool:
        """See ``Runtime``."""
        return False

    def unavailable(self) -> Message | None:
        """See ``Runtime``."""
        return self._watch.view.problem

    def start(self) -> None:
        """See ``Runtime``."""
        self._kept.start()
        self._watch.start()

    def stop(self) -> None:
        """See ``Runtime``."""
        self._watch.stop()
        self._kept.stop()
        with self._lock:
            ended, self._own = self._own, {}
        for own in ended.values():
            own.log.stop()

    # Launch

    def prepare(self, spec: LaunchSpec) -> bool:
        """See ``Runtime``. A container is created and removed again: what vLLM is told depends on the memory that will be free, so the
        one that runs is made at the launch. The image, the mounts, the name and Docker's disk have proved good by then.
        """
        with self._starting(spec.instance_id):
            try:
                port = self._any_port(spec.model_id)
                plan = container_plan(_on_empty_devices(spec), self._settings, port=port, api_key="")
                trial = self._engine.create(plan)
            except OSError as exc:
                raise launch_error(exc, self._settings.state_dir, spec.model_id) from exc
            except EngineUnavailable:
                self._kept.add(spec.instance_id)  # it may come into being all the same
                raise
            self._remove_or_refuse(trial, plan, spec.model_id)
        return False

    def _any_port(self, model: str) -> int:
        """Return a port that nobody but containers of our own has, which may go. Raises PortTaken."""
        with self._lock:
            own = {own.server.port for own in self._own.values()}
        port = next((p for p in port_range(self._settings) if p in own or _is_free(p)), None)
        if port is None:
            raise PortTaken(model=model, ports=self._settings.vllm_ports, log="")
        return port

    def reach(self) -> None:
        """See ``Runtime``."""
        self._engine.containers(f"{LABEL}home={self._home}")

    @contextmanager
    def _starting(self, instance_id: str) -> Iterator[None]:
        """Have no container of ``instance_id`` taken for a leftover in the block."""
        with self._lock:
            self._launching |= {instance_id}
        try:
            yield
        finally:
            with self._lock:
                self._launching -= {instance_id}

    def launch(self, spec: LaunchSpec) -> None:
        """See ``Runtime``."""
        with self._starting(spec.instance_id):
            own = self._create_and_start(spec)
        log.info("started container %s for %s on port %s", own.id[:12], spec.model_id, own.server.port)

    def _create_and_start(self, spec: LaunchSpec) -> _Own:
        tried: set[int] = set()
        while True:
            with self._free_port(spec.model_id, tried) as port:
                try:
                    own = self._on_port(spec, port)
                except PortInUse:
                    tried.add(port)
                    if len(tried) < _OTHERS_PORTS:
                        continue
                    raise PortTaken(model=spec.model_id, ports=self._settings.vllm_ports, log="") from None
                own.log.start()  # first: an emergency may end it, and its log, as soon as it is kept
                self._keep(own)  # before the port is given back: it is this container's from now on
                return own

    def _on_port(self, spec: LaunchSpec, port: int) -> _Own:
        """Create and start the container; where that fails nothing of it is left. Raises PortInUse."""
        key = secrets.token_urlsafe(32)
        plan = container_plan(spec, self._settings, port=port, api_key=key)
        try:
            container = self._engine.create(plan)
        except EngineUnavailable:
            self._kept.add(spec.instance_id)  # it may come into being all the same
            with self._lock:
                self._unborn |= {spec.instance_id}
            raise
        try:
            pid = self._start(container, spec.model_id)
        except ContainerGone as exc:
            raise ContainerRemoved(model=spec.model_id, log="") from exc
        except PortInUse:
            self._remove_or_refuse(container, plan, spec.model_id)
            raise
        except WardenError:
            self._remove_quietly(container)
            raise
        return _Own(
            id=container,
            record=InstanceRecord.of(spec, Mode.VLLM),
            server=VllmServer(port, key),
            log=FollowedLog(self._engine, container, spec.instance_id, self._settings.log_lines),
            process=None if pid is None else processes.identify(pid),
        )

    def _start(self, container: str, model: str) -> int | None:
        """Start it and return its first process. One whose start Docker has not confirmed in time may run all the same."""
        try:
            self._engine.start(container, model)
        except EngineUnreachable:
            seen = self._engine.inspect(container)
            if not seen.running:
                raise
            return seen.pid
        return self._engine.inspect(container).pid

    @contextmanager
    def _free_port(self, model: str, tried: set[int]) -> Iterator[int]:
        """Hold a port that nobody has for the block: two starts at once never choose the same. Raises PortTaken."""
        with self._lock:
            taken = {own.server.port for own in self._own.values()} | self._ports | tried
            port = next((p for p in port_range(self._settings) if p not in taken and _is_free(p)), None)
            if port is None:
                raise PortTaken(model=model, ports=self._settings.vllm_ports, log="")
            self._ports |= {port}
        try:
            yield port
        finally:
            with self._lock:
                self._ports -= {port}

    def _remove_or_refuse(self, container: str, plan: ContainerPlan, model: str) -> None:
        """Take away what another of the same name is to follow. Raises LaunchBlocked: Docker keeps it, and with it the name."""
        if not self._remove_quietly(container):
            raise LaunchBlocked(model=model, detail=f"Docker keeps {plan.name}", log="") from None

    def _remove_quietly(self, container: str) -> bool:
        """Take away what could not be started; where the engine does not let it go, it is removed later. Return whether it is gone."""
        try:
            self._engine.remove(container)
        except EngineUnavailable as exc:
            log.warning("container %s could not be removed: %s", container[:12], exc)
            self._kept.add(container)
            return False
        return True

    # Questions

    def probe(self, instance_id: str) -> Probe:
        """See ``Runtime``."""
        own = self._find(instance_id)
        if own.log.has_ended:
            raise self._ended(own)
        return self._ask_ready(own) if own.is_ready else self._ask_starting(own)

    def _ask_starting(self, own: _Own) -> Probe:
        now = time.monotonic()
        pause = READY_POLL_S if own.log.stage is Stage.SERVING else EARLY_POLL_S
        if own.is_garbled or now - own.asked_at >= pause:
            inside = processes.in_container(own.id)
            resident, shared = processes.resident_bytes(inside) // MIB, own.shared | processes.shared_memory(inside)
            own = (
                self._change(
                    own.record.id,
                    lambda o: replace(o, asked_at=now, is_garbled=False, resident_mib=resident, shared=shared),
                )
                or own
            )
            if self._answers(own, LOADING_HTTP_S):
                self._mark_ready(own)
                return self._ready_probe(own)
        stage = own.log.stage
        return Probe(
            state=ProbeState.STARTING if stage is Stage.STARTING else ProbeState.LOADING,
            activity=(own.log.count, own.resident_mib),
            progress=own.log.progress,
            message=own.log.message,
            pid=None if own.process is None else own.process.pid,
        )

    def _mark_ready(self, own: _Own) -> None:
        """Note that it answers, and what it shares between its processes, all of which exists by now."""
        shared = processes.shared_memory(processes.in_container(own.id))
        self._change(own.record.id, lambda o: replace(o, is_ready=True, shared=shared))

    def _answers(self, own: _Own, timeout_s: float) -> bool:
        """Whether the model is served. Raises ServerGarbled when something else is."""
        try:
            names = own.server.models(timeout_s)
        except NotServing:
            return False
        except Rubbish as exc:
            raise self._garbled(own, str(exc)) from exc
        if own.record.model_id not in names:
            raise self._garbled(own, f"serves {', '.join(names) or 'nothing'}")
        return True

    def _ask_ready(self, own: _Own) -> Probe:
        try:
            load = own.server.load(HTTP_S)
        except (NotServing, Rubbish) as exc:
            if self._has_ended_soon(own):
                raise self._ended(own) from exc
            if not self._answers(own, HTTP_S):
                raise WorkerSilent(instance=own.record.id, seconds=HTTP_S) from exc
            log.debug("%s answers and does not say how busy it is: %s", own.record.id, exc)
            load = Load()
        served = own.served if load.served is None else load.served
        used = bool(load.in_flight) or (own.served is not None and served != own.served)
        last = time.time() if used else own.last_used_at
        changed = self._change(
            own.record.id, lambda o: replace(o, in_flight=load.in_flight, served=served, last_used_at=last)
        )
        return self._ready_probe(changed or own)

    def _ready_probe(self, own: _Own) -> Probe:
        return Probe(
            state=ProbeState.READY,
            activity=(own.log.count,),
            in_flight=own.in_flight,
            last_used_at=own.last_used_at,
            memory=own.log.memory,
            has_chat_template=_has_chat_template(self._settings.hf_cache, own.record),
            pid=None if own.process is None else own.process.pid,
        )

    def _has_ended_soon(self, own: _Own) -> bool:
        """Whether the container has ended: its first process tells at once, the log a moment later."""
        if own.process is not None and own.process.is_alive:
            return False
        deadline = time.monotonic() + EXIT_SEEN_S
        while not own.log.has_ended and time.monotonic() < deadline:
            time.sleep(GONE_POLL_S)
        return own.log.has_ended

    def clean(self, instance_id: str) -> CleanResult:
        """See ``Runtime``. vLLM holds what it was given for as long as it runs: there is nothing to give back."""
        own = self._find(instance_id)
        if own.log.has_ended:
            raise self._ended(own)
        return CleanResult(freed_bytes=0)

    def endpoint(self, instance_id: str) -> Endpoint:
        """See ``Runtime``."""
        own = self._own.get(instance_id)
        if own is None:
            raise UnknownInstance(instance=instance_id)
        return Endpoint(base_url=own.server.base_url, headers=own.server.headers, model=own.record.model_id)

    def log_tail(self, instance_id: str, lines: int) -> tuple[str, ...]:
        """See ``Runtime``."""
        own = self._own.get(instance_id)
        return () if own is None else own.log.lines[-lines:]

    # The end

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        """See ``Runtime``. ``ask`` is SIGTERM to vLLM, which then answers what it has begun."""
        own = self._own.get(instance_id)
        tell, began = on_stage or ignore_stages, time.monotonic()
        try:
            found = [s.id for s in self._engine.containers(f"{LABEL}instance={instance_id}") if self._watch.is_own(s)]
            ids = [*found, *([own.id] if own is not None and own.id not in found else [])]
            results = [self._end(one, ask=ask, keep=False, on_stage=tell) for one in ids]
            result = _hardest(results, time.monotonic() - began)
        except EngineUnavailable:
            if own is not None:
                result = self._end_without_engine(own, began, tell)
            elif instance_id in self._unborn:
                result = StopResult(StopStage.ASK, time.monotonic() - began, not_removed=True)
            else:
                raise
        if not result.survivors:
            self._forget(instance_id)
        log.info("containers of %s ended by %s in %.2f s", instance_id, result.stage, result.seconds)
        return result

    def _end(self, container: str, *, ask: bool, keep: bool, on_stage: StageCallback) -> StopResult:
        """End one container and look for what was in it; ``keep`` leaves its log and files."""
        began, settings = time.monotonic(), self._settings
        inside = processes.in_container(container)
        steps = [StopStep(StopStage.KILL, lambda: self._signal(container, signal.SIGKILL, settings.vllm_kill_s))]
        if ask:
            steps.insert(
                0, StopStep(StopStage.TERMINATE, lambda: self._signal(container, signal.SIGTERM, settings.vllm_term_s))
            )
        stage = escalate(steps, lambda: not self._runs(container), on_stage)
        deadline = time.monotonic() + settings.vllm_kill_s
        left = frozenset(p for p in inside | processes.in_container(container) if p.is_alive)
        processes.wait_gone(left, settings.vllm_kill_s)
        survivors = processes.survivors_of(p for p in left if p.is_alive)
        if not survivors:
            self._give_back_shared(container)
        not_removed = not keep and not survivors and not self._remove(container, deadline)
        return StopResult(stage, time.monotonic() - began, survivors, not_removed)

    def _signal(self, container: str, number: signal.Signals, timeout_s: float) -> None:
        """Send a signal and wait until the container runs no longer, or the time is over."""
        leader = self._leader(container)
        self._engine.signal(container, number.name)
        if (
            number is signal.SIGKILL
        ):  # Docker kills the first process; others outlive it where they share the host's list of processes
            for process in processes.in_container(container):
                processes.send(process, number)
        deadline = time.monotonic() + timeout_s
        if leader is not None:
            processes.wait_gone((leader,), timeout_s)
        while self._runs(container) and time.monotonic() < deadline:
            time.sleep(GONE_POLL_S)

    def _leader(self, container: str) -> ProcessId | None:
        try:
            pid = self._engine.inspect(container).pid
        except ContainerGone:
            return None
        return None if pid is None else processes.identify(pid)

    def _runs(self, container: str) -> bool:
        """Whether a process of it lives. The engine is not asked while the kernel says that one does."""
        if processes.in_container(container):
            return True
        try:
            return self._engine.inspect(container).running
        except ContainerGone:
            return False

    def _remove(self, container: str, deadline: float) -> bool:
        """Remove it and wait until its name is free again; False when it is still there at the deadline."""
        while True:
            pause, problem = GONE_POLL_S, ""
            try:
                self._engine.remove(container)
                if not self._engine.exists(container):
                    return True
            except EngineUnavailable as exc:
                pause, problem = REMOVE_AGAIN_S, str(exc)
            if time.monotonic() > deadline:
                log.warning("container %s is not removed: %s", container[:12], problem or "Docker still has it")
                self._kept.add(container)
                return False
            time.sleep(pause)

    def _remove_kept(self, container: str) -> bool:
        """End and remove a container that should be gone; return whether it is."""
        try:
            result = self._end(container, ask=False, keep=False, on_stage=ignore_stages)
        except EngineUnavailable:
            return False
        if result.survivors or result.not_removed:
            return False
        self._watch.nudge()
        return True

    def _give_back_shared(self, container: str) -> None:
        """Unlink what the killed have left in the host's /dev/shm, and with it memory. A process that the kernel holds can keep its maps
        from being read, so this is waited for a moment only.
        """
        files = frozenset(file for own in self._own.values() if own.id == container for file in own.shared)
        if files:
            thread = threading.Thread(target=processes.unlink_unused, args=(files,), name="warden-shm", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the machine gives no thread
                processes.unlink_unused(files)
            else:
                thread.join(SHARED_S)

    def _end_without_engine(self, own: _Own, began: float, on_stage: StageCallback) -> StopResult:
        """Docker does not answer: end the container's processes themselves, as far as this user may.

        What is left of the container holds no memory; it is removed once Docker is back. Raises EngineUnreachable when the processes
        cannot be told from others'.
        """
        inside = processes.in_container(own.id)
        if not inside and own.process is not None and own.process.is_alive:
            raise EngineUnreachable(socket=self._engine.socket, detail="its processes cannot be told from here")
        stage, survivors = processes.end_processes(
            lambda: processes.in_container(own.id),
            processes.StopTimes(0, 0, self._settings.vllm_kill_s),
            ask=None,
            leader=own.process,
            on_stage=on_stage,
        )
        if not survivors:
            self._give_back_shared(own.id)
            self._kept.add(own.id)
        return StopResult(stage, time.monotonic() - began, survivors, not_removed=not survivors)

    # What is there

    def discover(self) -> tuple[Discovered, ...]:
        """See ``Runtime``."""
        own = [s for s in self._engine.containers(f"{LABEL}home={self._home}") if self._watch.is_own(s)]
        seen = [s for s in own if not self._is_kept(s)]
        with ThreadPoolExecutor(LOOK_THREADS, "warden-discover") as pool:
            found = tuple(one for one in pool.map(self._look_at, seen) if one is not None)
        self._has_looked = True
        return found

    def _look_at(self, seen: ContainerSummary) -> Discovered | None:
        name = seen.labels[LABEL + "instance"]
        record = record_of(seen.labels)
        if record is None or record.id != name:
            return Discovered(_unreadable(name, seen), adoptable=False, reason=Message("folder_broken"))
        instance = record.instance(InstanceState.STARTING)
        try:
            inspected = self._engine.inspect(seen.id)
            own = self._adopt(inspected, record)
            if own is None:
                return Discovered(instance, adoptable=False, reason=Message("half_started"))
            return self._found(own, instance, runs=inspected.running)
        except ContainerGone:
            return None
        except EngineFailed as exc:
            log.warning("nothing can be told of container %s: %s", seen.name, exc)
            return None  # one that Docker cannot tell of hides no other
        except EngineUnavailable:
            raise  # nothing is known against the container: it is looked at again when Docker is back
        except WardenError as exc:
            return Discovered(instance, adoptable=False, reason=exc.message)

    def _found(self, own: _Own, instance: Instance, *, runs: bool) -> Discovered:
        """What has become of a container meanwhile. One that has served is kept: as silent while it is too busy, or paused, to answer,
        as dead when it has ended. Raises WardenError for one that cannot be kept.
        """
        answers = runs and self._answers(own, ADOPT_HTTP_S)
        stage = Stage.SERVING if answers else stage_of(self._engine.tail(own.id, self._settings.log_lines))
        has_ended = not answers and own.log.wait_ended(0 if runs else ADOPT_HTTP_S)
        if stage is not Stage.SERVING:
            reason = self._ended(own).message if has_ended else Message("half_started")
            return Discovered(instance, adoptable=False, reason=reason)
        if has_ended or not runs:
            return Discovered(instance.to(InstanceState.DEAD, problem=self._ended(own).message), adoptable=True)
        self._mark_ready(own)
        probe = self._ready_probe(own)
        ready = instance.to(InstanceState.READY, has_chat_template=probe.has_chat_template, pid=probe.pid)
        if answers:
            return Discovered(ready, adoptable=True)
        silent = WorkerSilent(instance=instance.id, seconds=ADOPT_HTTP_S).message
        return Discovered(ready.to(InstanceState.SILENT, problem=silent), adoptable=True)

    def _adopt(self, inspected: Inspected, record: InstanceRecord) -> _Own | None:
        """Take a container that an earlier Warden started; ``None`` when it has never run, or cannot be talked to."""
        known = self._own.get(record.id)
        if known is not None and known.id == inspected.id:
            return known
        key, port = inspected.environment.get("VLLM_API_KEY"), inspected.labels.get(PORT_LABEL, "")
        if inspected.status == "created" or not key or not port.isdigit():
            return None
        follower = FollowedLog(self._engine, inspected.id, record.id, self._settings.log_lines)
        own = _Own(
            id=inspected.id,
            record=record,
            server=VllmServer(int(port), key),
            log=follower,
            process=None if inspected.pid is None else processes.identify(inspected.pid),
        )
        with self._lock:
            if (first := self._own.get(record.id)) is not None and first.id == inspected.id:
                return first  # another thread was quicker
            self._own = {**self._own, record.id: own}
            follower.start()
        return own

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        """See ``Runtime``. A server without Docker has no containers, so nothing is left over there."""
        try:
            seen = [s for s in self._engine.containers(f"{LABEL}home={self._home}") if self._is_leftover(s, known)]
        except EngineMissing:
            if self.containers():
                raise  # they may live on without the socket
            return ()
        return tuple(self._reap(s) for s in seen if self._is_leftover(s, known))

    def _is_leftover(self, seen: ContainerSummary, known: Callable[[], frozenset[str]]) -> bool:
        name = seen.labels.get(LABEL + "instance", "")
        is_new = not self._has_looked and seen.state in ALIVE
        return name not in known() and name not in self._launching and not is_new and not self._is_kept(seen)

    def _is_kept(self, seen: ContainerSummary) -> bool:
        """Whether it should be gone already; it is removed as soon as Docker lets it go."""
        return seen.id in self._kept or seen.labels.get(LABEL + "instance") in self._kept

    def _reap(self, seen: ContainerSummary) -> Leftover:
        message = Message("leftover_container", {"name": seen.name})
        try:
            result = self._end(seen.id, ask=False, keep=False, on_stage=ignore_stages)
        except EngineUnavailable:
            return Leftover(message, ok=False)
        self._forget(seen.labels.get(LABEL + "instance", ""))
        return Leftover(message, ok=not result.survivors and not result.not_removed)

    def processes(self) -> Mapping[int, str]:
        """See ``Runtime``. A container's first process stands for it."""
        alive = {o.process.pid: name for name, o in self._own.items() if o.process is not None and o.process.is_alive}
        listed = set(alive.values())
        for container, name in self._watch.view.own.items():
            if name not in listed and (inside := processes.in_container(container)):
                alive[min(process.pid for process in inside)] = name
        return alive

    def containers(self) -> Mapping[str, str]:
        """Ids (64 hex digits) of this Warden's containers, with the instance that each runs. Never waits."""
        return {**self._watch.view.own, **{own.id: name for name, own in self._own.items()}}

    # Other people's

    def foreign(self) -> tuple[ForeignContainer, ...]:
        """See ``ContainerHost``."""
        return self._watch.view.foreign

    def terminate_foreign(self, container_id: str, *, on_stage: StageCallback | None = None) -> StopResult:
        """See ``ContainerHost``."""
        if container_id not in {f.id for f in self.foreign()}:
            raise UnknownContainer(container=container_id)
        result = self._end(container_id, ask=True, keep=True, on_stage=on_stage or ignore_stages)
        self._watch.nudge()
        return result

    # Inside

    def _find(self, instance_id: str) -> _Own:
        """Return what is known of an instance. Raises UnknownInstance, EngineUnavailable."""
        own = self._own.get(instance_id)
        if own is not None:
            return own
        if instance_id:
            for seen in self._engine.containers(f"{LABEL}instance={instance_id}"):
                record = record_of(seen.labels) if self._watch.is_own(seen) and not self._is_kept(seen) else None
                try:
                    adopted = None if record is None else self._adopt(self._engine.inspect(seen.id), record)
                except ContainerGone:
                    adopted = None
                if adopted is not None:
                    return adopted
        raise UnknownInstance(instance=instance_id)

    def _ended(self, own: _Own) -> LaunchFailed:
        """Why a container is gone, by what it wrote before."""
        how, lines = own.log.exit, own.log.lines
        if how is None:
            return ContainerRemoved(model=own.record.model_id, log="\n".join(lines[-ERROR_LINES:]))
        code = how.exit_code
        cause = cause_of(
            lines,
            model=own.record.model_id,
            max_tokens=own.record.options.max_tokens,
            exit_code=code,
            exit_signal=_signal_of(code),
            oom_killed=how.oom_killed,
        )
        if not isinstance(cause, PortLost):
            return cause
        if self._settings.vllm_network != HOST_NETWORK:  # a port of the container's own, which nobody else can take
            exit_code = _signal_of(code) or code
            return ContainerExited(model=own.record.model_id, exit=exit_code, log=cause.params["log"])
        return PortLost(**{**cause.params, "port": cause.params["port"] or own.server.port})

    def _garbled(self, own: _Own, detail: str) -> ServerGarbled:
        self._change(own.record.id, lambda o: replace(o, is_garbled=True))  # the next probe asks at once, to confirm it
        return ServerGarbled(model=own.record.model_id, detail=detail, log="\n".join(own.log.lines[-ERROR_LINES:]))

    def _keep(self, own: _Own) -> None:
        with self._lock:
            self._own = {**self._own, own.record.id: own}

    def _change(self, instance_id: str, change: Callable[[_Own], _Own]) -> _Own | None:
        with self._lock:
            own = self._own.get(instance_id)
            if own is not None:
                own = change(own)
                self._own = {**self._own, instance_id: own}
            return own

    def _forget(self, instance_id: str) -> None:
        with self._lock:
            own = self._own.get(instance_id)
            self._own = {name: other for name, other in self._own.items() if name != instance_id}
            self._unborn -= {instance_id}
        if own is not None:
            own.log.stop()
        self._watch.nudge()


def _on_empty_devices(spec: LaunchSpec) -> LaunchSpec:
    """The launch as it will find its devices at the best: how much is free in the end is decided at the gate, by the plan."""
    emptied = (
        device
        if device.total_bytes is None
        else replace(device, free_bytes=device.total_bytes - (device.reserved_bytes or 0))
        for device in spec.devices
    )
    return replace(spec, devices=tuple(emptied))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ended connections keep it for a minute otherwise
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _has_chat_template(cache: Path, record: InstanceRecord) -> bool:
    snapshot = cache / f"models--{record.model_id.replace('/', '--')}" / "snapshots" / record.revision
    if any((snapshot / name).exists() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return bool(json.loads((snapshot / "tokenizer_config.json").read_bytes()).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def _signal_of(code: int | None) -> str | None:
    """The signal that an exit code over 128 stands for, as shells and Docker count."""
    if code is None or code <= 128:
        return None
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return None


def _hardest(results: Sequence[StopResult], seconds: float) -> StopResult:
    order = list(StopStage)
    stage = max((r.stage for r in results), key=order.index, default=StopStage.ASK)
    survivors = tuple(s for r in results for s in r.survivors)
    return StopResult(stage, seconds, survivors, any(r.not_removed for r in results))


def _unreadable(name: str, seen: ContainerSummary) -> Instance:
    """A container of ours whose labels cannot be read, as something that can be removed."""
    return Instance(
        id=name,
        mode=Mode.VLLM,
        model_id=seen.labels.get(LABEL + "model", name),
        revision="",
        options=LaunchOptions(),
        devices=(),
        owner=seen.labels.get(LABEL + "owner", ""),
        state=InstanceState.STARTING,
        started_at=seen.created_at,
    )
