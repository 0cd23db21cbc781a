"""Starts workers by the launcher or by the command: first prepared, then told what to load."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from webapp.domain.memory import DeviceKind
from webapp.errors import WardenError
from webapp.folders import make_private
from webapp.runtimes import processes
from webapp.runtimes.base import LaunchSpec
from webapp.runtimes.launcher import Launcher, LauncherUnavailable
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.protocol import LoadSpec, WorkerSpec
from webapp.runtimes.shortage import launch_error
from webapp.runtimes.transformers.command import WorkerCommand
from webapp.runtimes.transformers.probe import WorkerProber
from webapp.runtimes.transformers.stop import WorkerStopper
from webapp.runtimes.transformers.workers import StartedWorker, Workers
from webapp.runtimes.worker_folder import InstanceRecord, WorkerFolder
from webapp.settings import ModelSettings

log = logging.getLogger(__name__)


class WorkerLauncher:
    """Starts workers; see ``Runtime.prepare`` and ``Runtime.launch``."""

    def __init__(
        self,
        models: ModelSettings,
        launcher: Launcher | None,
        command: WorkerCommand,
        workers: Workers,
        prober: WorkerProber,
        stopper: WorkerStopper,
    ) -> None:
        self._models = models
        self._launcher = launcher
        self._command = command
        self._workers = workers
        self._prober = prober
        self._stopper = stopper

    def prepare(self, spec: LaunchSpec) -> bool:
        """Start a worker that holds no model and has imported only what it shares; see ``Runtime.prepare``."""
        was_ready = self._launcher is not None and self._launcher.is_ready
        self._spawn(InstanceRecord.of(spec), self._load_spec(spec))
        return self._launcher is not None and not (was_ready and self._workers.folder(spec.instance_id).is_forked())

    def launch(self, spec: LaunchSpec) -> None:
        """Start a worker, unless one is prepared, and tell it what to load, which needs nothing but a socket."""
        record, load = InstanceRecord.of(spec), self._load_spec(spec)
        folder = self._workers.folder(record.id)
        if self._workers.started(record.id) is None:
            self._spawn(record, load)
        else:
            self._rewrite(folder, record)
        self._workers.change(record.id, lambda started: replace(started, untold=load))
        if Path(folder.socket).exists():
            with suppress(WardenError):  # ``probe`` tries again and reports the error
                self._prober.tell(folder, load)

    def _rewrite(self, folder: WorkerFolder, record: InstanceRecord) -> None:
        """Update the record of a prepared worker: the plan was recalculated at the gate.

        Raises LaunchBlocked; nothing is left behind then.
        """
        prepared = folder.record()
        try:
            folder.write_record(record)
        except OSError as exc:
            if prepared is not None and _essentials(prepared) == _essentials(record):
                log.warning("the record of %s is kept as it was prepared: %s", record.id, exc)
                return
            self._stopper.end(record.id, ask=False)
            raise launch_error(exc, folder.path, record.model_id) from exc

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
            allow_pickle=self._models.allow_pickle,
            allow_remote_code=self._models.allow_remote_code,
        )

    def _spawn(self, record: InstanceRecord, load: LoadSpec) -> None:
        """Start a worker that waits for its model; all its files exist before its process does. Raises
        LaunchBlocked."""
        folder = self._workers.folder(record.id)
        self._workers.note(record.id, StartedWorker(None))
        try:
            process = self._start_in(folder, lambda: _fill(folder, record, load))
        except (OSError, ValueError) as exc:
            folder.remove()
            self._workers.forget(record.id)
            raise launch_error(exc, folder.path, record.model_id) from exc
        self._workers.note(record.id, StartedWorker(process))
        log.info("started worker %s, pid %s", record.id, None if process is None else process.pid)

    def _start_in(self, folder: WorkerFolder, fill: Callable[[], None]) -> ProcessId | None:
        """Fork a worker, or start it by the command if no launcher forks it. Raises OSError."""
        fill()
        if self._launcher is not None:
            try:
                return self._launcher.fork(folder.path)
            except LauncherUnavailable as exc:
                log.warning("worker %s is started by the command, the launcher does not fork it: %s", folder.id, exc)
            self._stopper.clear(folder)
            fill()
        return processes.identify(self._command.start(folder))


def _fill(folder: WorkerFolder, record: InstanceRecord, load: LoadSpec) -> None:
    """Create a worker's folder. Raises OSError."""
    make_private(folder.path.parent)
    folder.path.mkdir(mode=0o700)
    folder.write_record(record)
    folder.write_spec(WorkerSpec(record.id, secrets.token_urlsafe(32), load, waits=True))


def _essentials(record: InstanceRecord) -> tuple[object, ...]:
    """Return the fields that a later Warden must not read from an outdated record."""
    return record.model_id, record.revision, record.options, record.devices
