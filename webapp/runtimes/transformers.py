"""Transformers mode, Warden's side: starts one worker a model, asks it, ends it, and finds it again after a restart."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path

from webapp.domain.instance import InstanceState, MemoryReport
from webapp.domain.memory import DeviceKind
from webapp.domain.modes import NOT_INSTALLED, Mode
from webapp.domain.units import MIB
from webapp.errors import (
    LaunchFailed,
    OutOfMemory,
    UnknownInstance,
    WardenError,
    WorkerCutOff,
    WorkerDied,
    WorkerGarbled,
    WorkerSilent,
)
from webapp.folders import make_private
from webapp.message import Message
from webapp.runtimes import extras, processes, sockets
from webapp.runtimes.base import (
    CleanResult,
    Discovered,
    Endpoint,
    LaunchSpec,
    Leftover,
    Probe,
    ProbeState,
    StageCallback,
    StopResult,
)
from webapp.runtimes.launcher import Launcher, LauncherUnavailable
from webapp.runtimes.processes import ProcessId, StopTimes
from webapp.runtimes.protocol import (
    INSTANCE_VARIABLE,
    PROTOCOL,
    ROOT_VARIABLE,
    CleanReport,
    FailureCode,
    LoadSpec,
    ProtocolError,
    StateReport,
    StopRequest,
    WorkerSpec,
    WorkerState,
    decode,
    encode,
)
from webapp.runtimes.shortage import launch_error
from webapp.runtimes.stop_sequence import ignore_stages
from webapp.runtimes.worker_folder import InstanceRecord, WorkerFolder
from webapp.settings import WORKER_COMMAND, Settings

log = logging.getLogger(__name__)

FOLDER = "workers"
PROBE_S = 2.0
CLEAN_S = 15.0
LOAD_S = 2.0
ASK_S = 2.0
"""How long a worker may take to say that it was told to stop; one that does not answer is not waited for any longer."""
DEATH_S = 0.3
"""A worker that hung up gets this long to be seen dead before its answer is called garbled."""
KEEPER_POLL_S = 0.01
COMMAND_LOOK_S = 2.0
"""How often the program is looked for: every request asks whether the mode can be chosen."""
ERROR_LINES = 20
DISCOVER_THREADS = 8
_KEPT_FROM_WORKERS = frozenset({"WARDEN_DATABASE_URL", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"})
"""Secrets that a worker, which may run a model's own code, has no use for."""
_STATES = {
    WorkerState.IMPORTING: ProbeState.STARTING,
    WorkerState.IDLE: ProbeState.STARTING,
    WorkerState.LOADING: ProbeState.LOADING,
    WorkerState.READY: ProbeState.READY,
    WorkerState.STOPPING: ProbeState.STARTING,  # whatever it was, it is not ready
}
_LIBRARIES = ("transformers", "torch", "bitsandbytes")
_OUT_OF_MEMORY_TEXTS = ("memory allocation of", "out of memory", "memoryerror", "can't allocate memory")


@dataclass(frozen=True)
class _Started:
    """A worker that this runtime started."""

    process: ProcessId | None
    untold: LoadSpec | None = None
    """What it is to load and does not know yet."""
    exit: str | None = None
    """How it ended, once that is known."""


class TransformersRuntime:
    """See ``Runtime``. All that matters stands in the workers' folders; what is kept here is lost without harm."""

    mode = Mode.TRANSFORMERS

    def __init__(self, settings: Settings, launcher: Launcher | None = None) -> None:
        """``launcher`` forks the workers; without one, and while it cannot be had, each is started by the command."""
        self._settings = settings
        self._launcher = launcher
        self._root = settings.state_dir / FOLDER
        self._lock = threading.Lock()
        self._started: Mapping[str, _Started] = {}
        """By id, what this runtime has launched and not yet ended."""
        self._command_looked_at = float("-inf")
        self._command_problem: Message | None = None

    def engine_version(self, instance_id: str | None = None) -> str:
        """See ``Runtime``. The worker has the libraries that are installed here, of its own or with others."""
        shares = self.shares_libraries() if instance_id is None else WorkerFolder(self._root / instance_id).is_forked()
        return f"{_engine()} shared" if shares else _engine()

    def shares_libraries(self) -> bool:
        """See ``Runtime``."""
        return self._launcher is not None and self._launcher.is_to_be_had

    def unavailable(self) -> Message | None:
        """See ``Runtime``."""
        now = time.monotonic()
        if now - self._command_looked_at >= COMMAND_LOOK_S:
            self._command_looked_at, self._command_problem = now, self._look_for_command()
        return self._command_problem

    def _look_for_command(self) -> Message | None:
        if self._settings.worker_command == WORKER_COMMAND and not extras.are_installed(self.mode):
            return NOT_INSTALLED[self.mode]
        command = self._command()
        if not command or shutil.which(command[0]) is None:
            return Message("worker_command_missing", {"command": self._settings.worker_command})
        return None

    def start(self) -> None:
        """See ``Runtime``."""

    def stop(self) -> None:
        """See ``Runtime``."""

    # Launch

    def prepare(self, spec: LaunchSpec) -> bool:
        """See ``Runtime``. The worker runs, holds no model and has imported nothing that it does not share."""
        was_ready = self._launcher is not None and self._launcher.is_ready
        self._spawn(InstanceRecord.of(spec), self._load_spec(spec))
        return self._launcher is not None and not (
            was_ready and WorkerFolder(self._root / spec.instance_id).is_forked()
        )

    def reach(self) -> None:
        """See ``Runtime``. The system itself ends and starts a worker."""

    def launch(self, spec: LaunchSpec) -> None:
        """See ``Runtime``. A prepared worker is told its model, which takes a socket and nothing else."""
        record, load = InstanceRecord.of(spec), self._load_spec(spec)
        folder = WorkerFolder(self._root / record.id)
        if record.id not in self._started:
            self._spawn(record, load)
        else:
            self._rewrite(folder, record)
        self._note(record.id, replace(self._started[record.id], untold=load))
        if Path(folder.socket).exists():
            with suppress(WardenError):  # ``probe`` tries again, and says what is wrong
                self._tell(folder, load)

    def _rewrite(self, folder: WorkerFolder, record: InstanceRecord) -> None:
        """Write down what a prepared worker becomes: the plan was made anew at the gate. Raises LaunchBlocked; nothing is left then."""
        prepared = folder.record()
        try:
            folder.write_record(record)
        except OSError as exc:
            if prepared is not None and _places(prepared) == _places(record):
                log.warning("the record of %s is kept as it was prepared: %s", record.id, exc)
                return
            self._end(record.id, ask=False)
            raise launch_error(exc, folder.path, record.model_id) from exc

    def _tell(self, folder: WorkerFolder, load: LoadSpec) -> None:
        """Tell a worker what to load; to hear it twice does no harm. Raises what ``_ask`` raises."""
        body = encode(WorkerSpec(folder.id, "", load))
        self._ask(folder, self._process(folder), "POST", "/load", LOAD_S, body)
        self._note(folder.id, replace(self._started[folder.id], untold=None))

    def _load_spec(self, spec: LaunchSpec) -> LoadSpec:
        on_gpu = any(device.kind is DeviceKind.GPU for device in spec.devices)
        names = [device.uuid or str(device.index) for device in spec.devices]
        return LoadSpec(
            model_id=spec.model_id,
            revision=spec.revision,
            snapshot=str(spec.snapshot),
            device="cuda" if on_gpu else "cpu",
            visible_devices=",".join(names) if on_gpu else None,
            dtype=spec.options.dtype.value,
            quantization=spec.options.quantization.value,
            max_tokens=spec.options.max_tokens,
            batch_size=spec.options.batch_size,
            allow_pickle=self._settings.allow_pickle,
            allow_remote_code=self._settings.allow_remote_code,
        )

    def _spawn(self, record: InstanceRecord, load: LoadSpec) -> None:
        """Start a worker that waits to be told; every file that tells of it is there before its process is. Raises LaunchBlocked."""
        folder = WorkerFolder(self._root / record.id)
        self._note(record.id, _Started(None))
        try:
            process = self._start_in(folder, lambda: self._fill(folder, record, load))
        except (OSError, ValueError) as exc:
            folder.remove()
            self._forget(record.id)
            raise launch_error(exc, folder.path, record.model_id) from exc
        self._note(record.id, _Started(process))
        log.info("started worker %s, pid %s", record.id, None if process is None else process.pid)

    def _start_in(self, folder: WorkerFolder, fill: Callable[[], None]) -> ProcessId | None:
        """Fork a worker, or start it by the command where there is no launcher that does it. Raises OSError."""
        fill()
        if self._launcher is not None:
            try:
                return self._launcher.fork(folder.path)
            except LauncherUnavailable as exc:
                log.warning("worker %s is started by itself, the launcher does not fork it: %s", folder.id, exc)
            self._clear(folder)
            fill()
        return processes.identify(self._start_process(folder))

    def _fill(self, folder: WorkerFolder, record: InstanceRecord, load: LoadSpec) -> None:
        """Make a worker's folder. Raises OSError."""
        make_private(folder.path.parent)
        folder.path.mkdir(mode=0o700)
        folder.write_record(record)
        folder.write_spec(WorkerSpec(record.id, secrets.token_urlsafe(32), load, waits=True))

    def _clear(self, folder: WorkerFolder) -> None:
        """End a worker that was forked and whose answer was lost, and take its folder from it: of two in one, each passes for the other."""
        processes.end_processes(
            lambda: self._processes_of(folder, None),
            StopTimes(0, 0, self._settings.worker_kill_s),
            ask=None,
            leader=None,
            on_stage=ignore_stages,
        )
        folder.remove()

    def _start_process(self, folder: WorkerFolder) -> int:
        descriptor = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = _Detached(
                [*self._command(), "--dir", str(folder.path)],
                stdin=subprocess.DEVNULL,
                stdout=descriptor,
                stderr=descriptor,
                cwd=folder.path,
                env=self._environment(folder.id),
                close_fds=True,  # the listening socket among them: a worker would keep the port after Warden's end
                start_new_session=True,
            )
        finally:
            os.close(descriptor)
        return process.pid

    def _environment(self, name: str) -> dict[str, str]:
        return {**worker_environment(), INSTANCE_VARIABLE: name, ROOT_VARIABLE: str(self._root)}

    def _command(self) -> list[str]:
        try:
            return shlex.split(self._settings.worker_command)
        except ValueError:
            return []

    # Questions

    def probe(self, instance_id: str) -> Probe:
        """See ``Runtime``."""
        folder = self._folder(instance_id)
        process = self._process(folder)
        if process is not None and not process.is_alive:
            raise self._ended(folder)
        folder.trim_log()
        if not Path(folder.socket).exists():
            return self._starting(folder, process)
        started = self._started.get(instance_id)
        if started is not None and started.untold is not None:
            self._tell(folder, started.untold)
        report = self._report(folder, process)
        if report.state == WorkerState.FAILED.value:
            raise self._load_failed(folder, report.failure_code, report.failure_detail)
        return _probe(report, folder.log_size())

    def _starting(self, folder: WorkerFolder, process: ProcessId | None) -> Probe:
        """A worker that was started a moment ago and has no socket yet."""
        return Probe(
            ProbeState.STARTING,
            activity=(folder.log_size(), 0, None),
            pid=None if process is None else process.pid,
        )

    def _report(self, folder: WorkerFolder, process: ProcessId | None) -> StateReport:
        data = self._ask(folder, process, "GET", "/state", PROBE_S)
        try:
            report = decode(StateReport, data)
            WorkerState(report.state)
        except (ProtocolError, ValueError) as exc:
            raise self._garbled(folder, str(exc)) from exc
        if report.protocol != PROTOCOL:
            raise self._garbled(folder, f"speaks protocol {report.protocol}, not {PROTOCOL}")
        if report.id != folder.id or (process is not None and report.pid != process.pid):
            raise self._garbled(folder, f"says that it is {report.id}, pid {report.pid}")
        return report

    def _ask(
        self,
        folder: WorkerFolder,
        process: ProcessId | None,
        method: str,
        route: str,
        timeout_s: float,
        body: bytes | None = None,
    ) -> bytes:
        """Make a request; what goes wrong becomes one of the errors of ``probe``."""
        spec = folder.spec()
        if spec is None:
            raise self._garbled(folder, "its spec.json is missing or broken")
        try:
            return sockets.ask(folder.socket, spec.token, method, route, body=body, timeout_s=timeout_s)
        except sockets.Silent as exc:
            raise WorkerSilent(instance=folder.id, seconds=timeout_s) from exc
        except (sockets.Unreachable, sockets.Garbled) as exc:
            if process is not None and processes.wait_gone((process,), DEATH_S):
                raise self._ended(folder) from exc
            if isinstance(exc, sockets.Garbled):
                raise self._garbled(folder, str(exc)) from exc
            raise WorkerSilent(instance=folder.id, seconds=0.0) from exc

    def clean(self, instance_id: str) -> CleanResult:
        """See ``Runtime``."""
        folder = self._folder(instance_id)
        process = self._process(folder)
        if process is not None and not process.is_alive:
            raise self._ended(folder)
        data = self._ask(folder, process, "POST", "/clean", CLEAN_S, body=b"{}")
        try:
            report = decode(CleanReport, data)
        except ProtocolError as exc:
            raise self._garbled(folder, str(exc)) from exc
        return CleanResult(
            freed_bytes=_difference(report.process_before_bytes, report.process_after_bytes),
            device_freed_bytes=_difference(report.device_before_bytes, report.device_after_bytes),
        )

    def endpoint(self, instance_id: str) -> Endpoint:
        """See ``Runtime``."""
        folder = self._folder(instance_id)
        spec, record = folder.spec(), folder.record()
        if spec is None or record is None:
            raise UnknownInstance(instance=instance_id)
        return Endpoint(
            base_url="http://worker",
            uds=folder.socket,
            headers={"Authorization": f"Bearer {spec.token}"},
            model=record.model_id,
        )

    def log_tail(self, instance_id: str, lines: int) -> tuple[str, ...]:
        """See ``Runtime``."""
        return WorkerFolder(self._root / instance_id).log_tail(lines)

    # The end

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        """See ``Runtime``."""
        return self._end(instance_id, ask=ask, on_stage=on_stage)

    def _end(self, name: str, *, ask: bool, on_stage: StageCallback | None = None) -> StopResult:
        began = time.monotonic()
        folder = WorkerFolder(self._root / name)
        leader = self._process(folder)
        settings = self._settings
        stage, survivors = processes.end_processes(
            lambda: self._processes_of(folder, leader),
            StopTimes(settings.worker_ask_s, settings.worker_term_s, settings.worker_kill_s),
            ask=(lambda: self._ask_to_stop(folder)) if ask else None,
            leader=leader,
            on_stage=on_stage or ignore_stages,
        )
        if leader is not None:
            processes.reap_child(leader.pid)
        if not survivors:
            folder.remove()
            self._forget(name)
        seconds = time.monotonic() - began
        log.info("worker %s ended by %s in %.2f s, %s survived", name, stage, seconds, len(survivors))
        return StopResult(stage, seconds, survivors)

    def _ask_to_stop(self, folder: WorkerFolder) -> bool:
        spec = folder.spec()
        if spec is None:
            return False
        # Half of the time for the requests under way; the rest is for ending.
        body = encode(StopRequest(self._settings.worker_ask_s / 2))
        timeout_s = min(ASK_S, self._settings.worker_ask_s)
        try:
            sockets.ask(folder.socket, spec.token, "POST", "/stop", body=body, timeout_s=timeout_s)
        except (sockets.Unreachable, sockets.Silent, sockets.Garbled) as exc:
            log.info("worker %s cannot be asked to stop: %s", folder.id, exc)
            return False
        return True

    def _processes_of(self, folder: WorkerFolder, leader: ProcessId | None) -> frozenset[ProcessId]:
        """The worker, its process group, and whatever else carries its mark."""
        found = {process for process, name in self._marked().items() if name == folder.id}
        if leader is not None and (leader.is_alive or any(_session_of(process) == leader.pid for process in found)):
            found |= processes.group_members(leader.pid)  # the group's number is not reused while one of it lives
        if leader is not None and leader.is_alive:
            found.add(leader)
        return frozenset(found)

    def _marked(self) -> Mapping[ProcessId, str]:
        """Every marked process with the folder that it belongs to: the mark may be another's, the session is not."""
        owners = {process.pid: folder.id for folder in self._folders() if (process := folder.process()) is not None}
        marked = processes.find_marked(str(self._root))
        return {process: owners.get(_session_of(process) or 0, name) for process, name in marked.items()}

    # What is there

    def discover(self) -> tuple[Discovered, ...]:
        """See ``Runtime``."""
        folders = [folder for folder in self._folders() if folder.record() is not None]
        if not folders:
            return ()
        with ThreadPoolExecutor(min(DISCOVER_THREADS, len(folders)), "warden-discover") as pool:
            found = pool.map(self._look_at, folders)
        return tuple(one for one in found if one is not None)

    def _look_at(self, folder: WorkerFolder) -> Discovered | None:
        record = folder.record()
        if record is None:
            return None
        instance = record.instance(InstanceState.STARTING)
        if record.id != folder.id or folder.spec() is None:
            return Discovered(replace(instance, id=folder.id), adoptable=False, reason=Message("folder_broken"))
        try:
            probe = self.probe(folder.id)
        except WardenError as exc:
            return Discovered(instance, adoptable=False, reason=exc.message)
        if probe.state is not ProbeState.READY or probe.pid is None or folder.process() is None:
            return Discovered(instance, adoptable=False, reason=Message("half_started"))
        self._note(
            folder.id, _Started(folder.process())
        )  # as long as it lives it is known, whatever becomes of its folder
        ready = replace(
            instance,
            state=InstanceState.READY,
            in_flight=probe.in_flight,
            last_used_at=probe.last_used_at,
            memory=probe.memory,
            has_chat_template=probe.has_chat_template,
            pid=probe.pid,
        )
        return Discovered(ready, adoptable=True)

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        """See ``Runtime``.

        What this very runtime has launched and not ended is left alone, listed or not: ``terminate`` ends it.
        """
        names = [folder.id for folder in self._folders() if self._is_leftover(folder.id, known)]
        left = [self._reap_folder(name) for name in names if self._is_leftover(name, known)]
        return (*left, *self._reap_marked(known))

    def _is_leftover(self, name: str, known: Callable[[], frozenset[str]]) -> bool:
        return name not in known() and name not in self._started

    def _reap_folder(self, name: str) -> Leftover:
        folder = WorkerFolder(self._root / name)
        process = self._process(folder)
        alive = process is not None and process.is_alive
        result = self._end(name, ask=False)
        ok = not result.survivors and not folder.exists()
        if alive and process is not None:
            return Leftover(Message("leftover_process", {"pid": process.pid, "instance": name}), ok)
        return Leftover(Message("leftover_folder", {"instance": name}), ok)

    def _reap_marked(self, known: Callable[[], frozenset[str]]) -> Iterator[Leftover]:
        """End marked processes that no folder tells of."""
        for process, name in self._marked().items():
            if not self._is_leftover(name, known):
                continue
            _, survivors = processes.end_processes(
                lambda process=process: frozenset({process}) if process.is_alive else frozenset(),  # type: ignore[misc]
                StopTimes(0, 0, self._settings.worker_kill_s),
                ask=None,
                leader=process,
                on_stage=ignore_stages,
            )
            yield Leftover(Message("leftover_process", {"pid": process.pid, "instance": name}), not survivors)

    def processes(self) -> Mapping[int, str]:
        """See ``Runtime``."""
        found = {p.pid: name for name, s in self._started.items() if (p := s.process) is not None and p.is_alive}
        for folder in self._folders():
            process = folder.process()
            if process is not None and process.is_alive:
                found[process.pid] = folder.id
                if (keeper := folder.keeper()) is not None and keeper.is_alive:
                    found[keeper.pid] = folder.id
        return found

    def heirs(self) -> frozenset[int]:
        """Return a keeper for each launcher that has ended before its workers: they go on sharing its libraries. Never waits."""
        found: dict[ProcessId, int] = {}
        for folder in self._folders():
            launcher, keeper = folder.launcher(), folder.keeper()
            if launcher is not None and not launcher.is_alive and keeper is not None and keeper.is_alive:
                found.setdefault(launcher, keeper.pid)
        return frozenset(found.values())

    # Inside

    def _folders(self) -> list[WorkerFolder]:
        try:
            return [WorkerFolder(path) for path in sorted(self._root.iterdir()) if path.is_dir()]
        except OSError:
            return []

    def _folder(self, instance_id: str) -> WorkerFolder:
        """Return an instance's folder. Raises UnknownInstance, and WorkerCutOff if only its process is left."""
        folder = WorkerFolder(self._root / instance_id)
        if instance_id and folder.exists():
            return folder
        process = self._process(folder)
        if process is not None and process.is_alive:
            raise WorkerCutOff(instance=instance_id, pid=process.pid, path=str(folder.path), seconds=0.0)
        raise UnknownInstance(instance=instance_id)

    def _process(self, folder: WorkerFolder) -> ProcessId | None:
        """The worker's process by its own record, or as it was started; a child that has ended is taken off the kernel's list."""
        started = self._started.get(folder.id)
        process = folder.process() or (None if started is None else started.process)
        if process is not None and started is not None and started.exit is None and not process.is_alive:
            self._note(folder.id, replace(started, exit=processes.reap_child(process.pid) or _exit_of(folder)))
        return process

    def _ended(self, folder: WorkerFolder) -> WardenError:
        """Say why a worker is gone, by what it wrote before."""
        self._process(folder)
        failure = folder.failure()
        if failure is not None:
            return self._load_failed(folder, failure.code, failure.detail)
        lines = folder.log_tail(ERROR_LINES)
        model, text = self._model(folder), "\n".join(lines)
        started = self._started.get(folder.id)
        how = _exit_of(folder) if started is None else started.exit
        if how == "SIGABRT" and any(words in text.lower() for words in _OUT_OF_MEMORY_TEXTS):
            # Native code has no exceptions to raise: it prints a line and aborts.
            return OutOfMemory(model=model, detail=lines[-1], log=text)
        return WorkerDied(model=model, exit=int(how) if how is not None and how.isdecimal() else how, log=text)

    def _load_failed(self, folder: WorkerFolder, code: str | None, detail: str | None) -> LaunchFailed:
        error = OutOfMemory if code == FailureCode.OUT_OF_MEMORY.value else LaunchFailed
        return error(model=self._model(folder), detail=detail, log="\n".join(folder.log_tail(ERROR_LINES)))

    def _garbled(self, folder: WorkerFolder, detail: str) -> WorkerGarbled:
        lines = folder.log_tail(ERROR_LINES)
        return WorkerGarbled(model=self._model(folder), detail=detail, log="\n".join(lines))

    def _model(self, folder: WorkerFolder) -> str | None:
        record = folder.record()
        return None if record is None else record.model_id

    def _note(self, name: str, started: _Started) -> None:
        with self._lock:
            self._started = {**self._started, name: started}

    def _forget(self, name: str) -> None:
        with self._lock:
            self._started = {other: started for other, started in self._started.items() if other != name}


def worker_environment() -> dict[str, str]:
    """Return what every worker and the launcher begin with: Warden's own without its secrets, and where this package is."""
    kept = {key: value for key, value in os.environ.items() if key not in _KEPT_FROM_WORKERS}
    package = str(Path(__file__).parents[2])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}


@cache
def _engine() -> str:
    """The libraries that the memory depends on, with their versions, without importing them."""
    return " ".join(f"{name} {version}" for name in _LIBRARIES if (version := _version(name)) is not None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


class _Detached(subprocess.Popen[bytes]):
    """A child that outlives this program on purpose: forgetting it is no mistake to warn of. It is waited for by its pid."""

    def __del__(self) -> None:
        return


def _places(record: InstanceRecord) -> tuple[object, ...]:
    """What a later Warden must not read wrong."""
    return record.model_id, record.revision, record.options, record.devices


def _probe(report: StateReport, log_size: int) -> Probe:
    loading = report.state == WorkerState.LOADING.value
    memory_mib = None if report.process_bytes is None else report.process_bytes // MIB
    return Probe(
        state=_STATES[WorkerState(report.state)],
        activity=(log_size, report.tensors_done, memory_mib),
        progress=report.tensors_done / report.tensors_total if loading and report.tensors_total else None,
        in_flight=report.in_flight,
        last_used_at=report.last_used_at,
        memory=MemoryReport(
            base_bytes=report.base_bytes,
            allocated_bytes=report.allocated_bytes,
            reserved_bytes=report.reserved_bytes,
            process_bytes=report.process_bytes,
        ),
        has_chat_template=report.has_chat_template,
        pid=report.pid,
    )


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else before - after


def _exit_of(folder: WorkerFolder) -> str | None:
    """How a forked worker ended; its keeper writes that a moment after the end, and not at all where it was killed itself."""
    deadline, keeper = time.monotonic() + DEATH_S, folder.keeper()
    while keeper is not None and keeper.is_alive and folder.exit() is None and time.monotonic() < deadline:
        time.sleep(KEEPER_POLL_S)
    return folder.exit()


def _session_of(process: ProcessId) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
