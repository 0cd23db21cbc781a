"""The runtime of Transformers mode, composed of the parts that start, ask, end and find workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata

from webapp.domain.modes import Mode
from webapp.errors import UnknownInstance
from webapp.message import Message
from webapp.runtimes.base import (
    CleanResult,
    Discovered,
    Endpoint,
    LaunchSpec,
    Leftover,
    Probe,
    StageCallback,
    StopResult,
)
from webapp.runtimes.launcher import Launcher
from webapp.runtimes.stop_sequence import ignore_stages
from webapp.runtimes.transformers.command import WorkerCommand
from webapp.runtimes.transformers.discovery import WorkerDiscovery
from webapp.runtimes.transformers.launch import WorkerLauncher
from webapp.runtimes.transformers.probe import WorkerProber
from webapp.runtimes.transformers.stop import WorkerStopper
from webapp.runtimes.transformers.workers import Workers
from webapp.settings import Settings

_LIBRARIES = ("transformers", "torch", "bitsandbytes")


class TransformersRuntime:
    """A ``Runtime`` that runs each model in a worker process."""

    mode = Mode.TRANSFORMERS

    def __init__(self, settings: Settings, launcher: Launcher | None = None) -> None:
        """``launcher`` forks the workers; without one, and while it is unavailable, each is started by the command."""
        self._launcher = launcher
        self._command = WorkerCommand(settings.launch.worker_command)
        self._workers = Workers(settings.storage.state_dir)
        self._prober = WorkerProber(self._workers)
        self._stopper = WorkerStopper(settings.worker, self._workers)
        self._starter = WorkerLauncher(
            settings.models, launcher, self._command, self._workers, self._prober, self._stopper
        )
        self._discovery = WorkerDiscovery(self._workers, self._prober, self._stopper)

    def engine_version(self, instance_id: str | None = None) -> str:
        """Return the versions of the installed libraries, and whether the worker shares them."""
        shares = self.shares_libraries() if instance_id is None else self._workers.folder(instance_id).is_forked()
        return f"{_libraries()} shared" if shares else _libraries()

    def shares_libraries(self) -> bool:
        return self._launcher is not None and self._launcher.is_to_be_had

    def unavailable(self) -> Message | None:
        return self._command.problem()

    def start(self) -> None:
        """Do nothing: the owner of the launcher starts it."""

    def stop(self) -> None:
        """Do nothing: the owner of the launcher stops it."""

    def reach(self) -> None:
        """Do nothing: the system itself ends and starts workers."""

    def prepare(self, spec: LaunchSpec) -> bool:
        return self._starter.prepare(spec)

    def launch(self, spec: LaunchSpec) -> None:
        self._starter.launch(spec)

    def probe(self, instance_id: str) -> Probe:
        return self._prober.probe(instance_id)

    def clean(self, instance_id: str) -> CleanResult:
        return self._prober.clean(instance_id)

    def endpoint(self, instance_id: str) -> Endpoint:
        folder = self._workers.existing_folder(instance_id)
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
        return self._workers.folder(instance_id).log_tail(lines)

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        return self._stopper.end(instance_id, ask=ask, on_stage=on_stage or ignore_stages)

    def discover(self) -> tuple[Discovered, ...]:
        return self._discovery.discover()

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        return self._discovery.reap(known)

    def processes(self) -> Mapping[int, str]:
        return self._workers.living()

    def heirs(self) -> frozenset[int]:
        """Return one keeper for each launcher that ended before its workers, which still share its libraries.

        Never waits.
        """
        return self._workers.heirs()


@cache
def _libraries() -> str:
    """Return the libraries that memory use depends on, with their versions, without importing them."""
    return " ".join(f"{name} {version}" for name in _LIBRARIES if (version := _version(name)) is not None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
