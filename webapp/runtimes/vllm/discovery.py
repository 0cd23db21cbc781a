"""Finds the containers that an earlier Warden left: live ones are adopted, leftovers are removed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from webapp.domain.instance import Instance, InstanceState
from webapp.domain.modes import LaunchOptions, Mode
from webapp.errors import EngineFailed, EngineMissing, EngineUnavailable, WardenError, WorkerSilent
from webapp.message import Message
from webapp.runtimes.base import Discovered, Leftover
from webapp.runtimes.vllm.adoption import Adopter
from webapp.runtimes.vllm.command import LABEL, record_of
from webapp.runtimes.vllm.container_watch import ALIVE, ContainerWatch
from webapp.runtimes.vllm.containers import OwnContainer, OwnContainers
from webapp.runtimes.vllm.docker.containers import ContainerSummary
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone
from webapp.runtimes.vllm.failures import end_of
from webapp.runtimes.vllm.log import Stage, stage_of
from webapp.runtimes.vllm.pending_removals import PendingRemovals
from webapp.runtimes.vllm.probe import ContainerProber
from webapp.runtimes.vllm.stop import ContainerStopper
from webapp.settings import Settings

log = logging.getLogger(__name__)

ADOPT_HTTP_S = 5.0
"""How long the model of an earlier Warden may take to answer: a busy one is slow and must not be ended for that."""
LOOK_THREADS = 8


class ContainerDiscovery:
    """Inspects the containers with this Warden's labels; see ``Runtime.discover`` and ``Runtime.reap``."""

    def __init__(
        self,
        engine: DockerEngine,
        settings: Settings,
        containers: OwnContainers,
        watch: ContainerWatch,
        pending: PendingRemovals,
        adopter: Adopter,
        prober: ContainerProber,
        stopper: ContainerStopper,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._containers = containers
        self._watch = watch
        self._pending = pending
        self._adopter = adopter
        self._prober = prober
        self._stopper = stopper
        self._has_looked = False
        """Whether ``discover`` has succeeded once; before that, no running container counts as a leftover."""

    def summaries(self) -> tuple[ContainerSummary, ...]:
        """Return the containers with this Warden's label. Raises EngineUnavailable."""
        return self._engine.containers(f"{LABEL}home={self._settings.storage.state_dir}")

    def discover(self) -> tuple[Discovered, ...]:
        """List the containers, live and broken, that an earlier Warden left."""
        own = [s for s in self.summaries() if self._watch.is_own(s) and not self._pending.includes(s)]
        with ThreadPoolExecutor(LOOK_THREADS, "warden-discover") as pool:
            found = tuple(one for one in pool.map(self._look_at, own) if one is not None)
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
            own = self._adopter.adopt(inspected, record)
            if own is None:
                return Discovered(instance, adoptable=False, reason=Message("half_started"))
            return self._discovered(own, instance, runs=inspected.running)
        except ContainerGone:
            return None
        except EngineFailed as exc:
            log.warning("nothing can be told of container %s: %s", seen.name, exc)
            return None  # a container that Docker cannot describe must not hide the others
        except EngineUnavailable:
            raise  # this says nothing about the container: it is inspected again when Docker is back
        except WardenError as exc:
            return Discovered(instance, adoptable=False, reason=exc.message)

    def _discovered(self, own: OwnContainer, instance: Instance, *, runs: bool) -> Discovered:
        """Return a container's present state. Raises WardenError if it cannot be kept.

        One that has served is kept: as silent if it is paused or too busy to answer, and as dead if it has ended.
        """
        answers = runs and self._prober.answers(own, ADOPT_HTTP_S)
        stage = Stage.SERVING if answers else stage_of(self._engine.tail(own.id, self._settings.launch.log_lines))
        has_ended = not answers and own.log.wait_ended(0 if runs else ADOPT_HTTP_S)
        if stage is not Stage.SERVING:
            reason = end_of(own, self._settings.vllm).message if has_ended else Message("half_started")
            return Discovered(instance, adoptable=False, reason=reason)
        if has_ended or not runs:
            problem = end_of(own, self._settings.vllm).message
            return Discovered(instance.to(InstanceState.DEAD, problem=problem), adoptable=True)
        probe = self._prober.ready(own)
        ready = instance.to(InstanceState.READY, has_chat_template=probe.has_chat_template, pid=probe.pid)
        if answers:
            return Discovered(ready, adoptable=True)
        silent = WorkerSilent(instance=instance.id, seconds=ADOPT_HTTP_S).message
        return Discovered(ready.to(InstanceState.SILENT, problem=silent), adoptable=True)

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        """Remove containers that belong to no instance in ``known()``.

        A server without Docker has no leftovers.
        """
        try:
            seen = [s for s in self.summaries() if self._is_leftover(s, known)]
        except EngineMissing:
            if self._watch.view.own or self._containers.by_instance:
                raise  # containers may live on without the socket
            return ()
        return tuple(self._reap(s) for s in seen if self._is_leftover(s, known))

    def _is_leftover(self, seen: ContainerSummary, known: Callable[[], frozenset[str]]) -> bool:
        name = seen.labels.get(LABEL + "instance", "")
        is_new = not self._has_looked and seen.state in ALIVE
        is_expected = name in known() or self._containers.is_starting(name) or self._pending.includes(seen)
        return not is_expected and not is_new

    def _reap(self, seen: ContainerSummary) -> Leftover:
        message = Message("leftover_container", {"name": seen.name})
        try:
            result = self._stopper.end(seen.id, ask=False, keep=False)
        except EngineUnavailable:
            return Leftover(message, ok=False)
        self._containers.forget(seen.labels.get(LABEL + "instance", ""))
        self._watch.nudge()
        return Leftover(message, ok=not result.survivors and not result.not_removed)


def _unreadable(name: str, seen: ContainerSummary) -> Instance:
    """Return an instance for a container whose labels cannot be read, so that it can be removed."""
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
