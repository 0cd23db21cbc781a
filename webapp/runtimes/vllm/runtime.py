"""The runtime of vLLM mode, composed of the parts that start, ask, end and find containers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from webapp.domain.modes import Mode
from webapp.errors import UnknownContainer, UnknownInstance
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
    StageCallback,
    StopResult,
)
from webapp.runtimes.stop_sequence import ignore_stages
from webapp.runtimes.vllm.adoption import Adopter
from webapp.runtimes.vllm.container_watch import ContainerWatch
from webapp.runtimes.vllm.containers import OwnContainers
from webapp.runtimes.vllm.discovery import ContainerDiscovery
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.launch import ContainerLauncher
from webapp.runtimes.vllm.pending_removals import PendingRemovals
from webapp.runtimes.vllm.probe import ContainerProber
from webapp.runtimes.vllm.stop import ContainerStopper
from webapp.settings import Settings

SHORT_ID = 12
"""How many digits of an image's id Docker shows."""
PENDING_FILE = "kept_containers.json"
"""The file of pending removals in the state folder."""


class VllmRuntime:
    """A ``Runtime`` and ``ContainerHost`` whose state is Docker's; what is kept here is only a cache."""

    mode = Mode.VLLM

    def __init__(self, settings: Settings, engine: DockerEngine | None = None) -> None:
        """``engine`` is by default the one in the settings."""
        self._settings = settings
        self._engine = engine or DockerEngine(
            settings.docker.socket, settings.docker.timeout_s, settings.docker.start_timeout_s
        )
        self._containers = OwnContainers()
        self._pending = PendingRemovals(settings.storage.state_dir / PENDING_FILE, self._remove_pending)
        self._watch = ContainerWatch(self._engine, settings, self._pending.look)
        self._launcher = ContainerLauncher(self._engine, settings, self._containers, self._pending)
        shared = (self._containers, self._watch, self._pending)
        adopter = Adopter(self._engine, settings.launch, *shared)
        self._prober = ContainerProber(settings, self._containers, adopter)
        self._stopper = ContainerStopper(self._engine, settings.vllm, *shared)
        self._discovery = ContainerDiscovery(self._engine, settings, *shared, adopter, self._prober, self._stopper)

    def engine_version(self, instance_id: str | None = None) -> str:
        """Return the image and its content id: vLLM's version in an image is known only once the image runs."""
        image_id = self._watch.view.image_id
        name = self._settings.vllm.image
        return name if image_id is None else f"{name} ({image_id.partition(':')[2][:SHORT_ID]})"

    def shares_libraries(self) -> bool:
        return False

    def unavailable(self) -> Message | None:
        return self._watch.view.problem

    def start(self) -> None:
        self._pending.start()
        self._watch.start()

    def stop(self) -> None:
        self._watch.stop()
        self._pending.stop()
        self._containers.forget_all()

    def _remove_pending(self, container: str) -> bool:
        return self._stopper.remove_pending(container)

    def reach(self) -> None:
        self._discovery.summaries()

    def prepare(self, spec: LaunchSpec) -> bool:
        self._launcher.prepare(spec)
        return False

    def launch(self, spec: LaunchSpec) -> None:
        self._launcher.launch(spec)

    def probe(self, instance_id: str) -> Probe:
        return self._prober.probe(instance_id)

    def clean(self, instance_id: str) -> CleanResult:
        """Release nothing: vLLM holds its memory for as long as it runs."""
        self._prober.find_alive(instance_id)
        return CleanResult(freed_bytes=0)

    def endpoint(self, instance_id: str) -> Endpoint:
        own = self._containers.get(instance_id)
        if own is None:
            raise UnknownInstance(instance=instance_id)
        return Endpoint(base_url=own.server.base_url, headers=own.server.headers, model=own.record.model_id)

    def log_tail(self, instance_id: str, lines: int) -> tuple[str, ...]:
        own = self._containers.get(instance_id)
        return () if own is None else own.log.lines[-lines:]

    def terminate(self, instance_id: str, *, on_stage: StageCallback | None = None, ask: bool = True) -> StopResult:
        return self._stopper.terminate(instance_id, on_stage=on_stage or ignore_stages, ask=ask)

    def discover(self) -> tuple[Discovered, ...]:
        return self._discovery.discover()

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        return self._discovery.reap(known)

    def processes(self) -> Mapping[int, str]:
        """Return the pid of each container's first process, with its instance. Never waits."""
        own = self._containers.by_instance.items()
        alive = {o.process.pid: name for name, o in own if o.process is not None and o.process.is_alive}
        listed = set(alive.values())
        for container, name in self._watch.view.own.items():
            if name not in listed and (inside := processes.in_container(container)):
                alive[min(process.pid for process in inside)] = name
        return alive

    def containers(self) -> Mapping[str, str]:
        """Return the ids (64 hex digits) of this Warden's containers, each with its instance. Never waits."""
        return {**self._watch.view.own, **{own.id: name for name, own in self._containers.by_instance.items()}}

    def foreign(self) -> tuple[ForeignContainer, ...]:
        return self._watch.view.foreign

    def terminate_foreign(self, container_id: str, *, on_stage: StageCallback | None = None) -> StopResult:
        if container_id not in {f.id for f in self.foreign()}:
            raise UnknownContainer(container=container_id)
        result = self._stopper.end(container_id, ask=True, keep=True, on_stage=on_stage or ignore_stages)
        self._watch.nudge()
        return result
