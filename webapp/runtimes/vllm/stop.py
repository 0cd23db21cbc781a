"""Ends containers through Docker, or by their processes if Docker does not answer, and removes them."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Sequence

from webapp.errors import EngineUnavailable, EngineUnreachable
from webapp.runtimes import processes
from webapp.runtimes.base import StageCallback, StopResult, StopStage
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.stop_sequence import StopStep, escalate, ignore_stages
from webapp.runtimes.vllm.command import LABEL
from webapp.runtimes.vllm.container_watch import ContainerWatch
from webapp.runtimes.vllm.containers import OwnContainer, OwnContainers
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone
from webapp.runtimes.vllm.pending_removals import PendingRemovals
from webapp.settings import VllmSettings

log = logging.getLogger(__name__)

GONE_POLL_S = 0.05
REMOVE_AGAIN_S = 0.5
"""Pause before the engine is asked again to remove a container."""
SHARED_S = 2.0
"""How long to wait for the removal of files in /dev/shm."""


class ContainerStopper:
    """Ends containers; see ``Runtime.terminate``."""

    def __init__(
        self,
        engine: DockerEngine,
        settings: VllmSettings,
        containers: OwnContainers,
        watch: ContainerWatch,
        pending: PendingRemovals,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._containers = containers
        self._watch = watch
        self._pending = pending

    def terminate(self, instance_id: str, *, on_stage: StageCallback, ask: bool) -> StopResult:
        """End all containers of an instance. ``ask`` sends SIGTERM to vLLM, which then finishes the requests in
        progress."""
        own, began = self._containers.get(instance_id), time.monotonic()
        try:
            found = [s.id for s in self._engine.containers(f"{LABEL}instance={instance_id}") if self._watch.is_own(s)]
            ids = [*found, *([own.id] if own is not None and own.id not in found else [])]
            results = [self.end(one, ask=ask, keep=False, on_stage=on_stage) for one in ids]
            result = _hardest(results, time.monotonic() - began)
        except EngineUnavailable:
            if own is not None:
                result = self._end_without_engine(own, began, on_stage)
            elif self._containers.is_unborn(instance_id):
                result = StopResult(StopStage.ASK, time.monotonic() - began, not_removed=True)
            else:
                raise
        if not result.survivors:
            self._containers.forget(instance_id)
            self._watch.nudge()
        log.info("containers of %s ended by %s in %.2f s", instance_id, result.stage, result.seconds)
        return result

    def end(self, container: str, *, ask: bool, keep: bool, on_stage: StageCallback = ignore_stages) -> StopResult:
        """End one container and report surviving processes; ``keep`` leaves its log and files."""
        began, settings = time.monotonic(), self._settings
        inside = processes.in_container(container)
        kill = StopStep(StopStage.KILL, lambda: self._signal(container, signal.SIGKILL, settings.kill_s))
        term = StopStep(StopStage.TERMINATE, lambda: self._signal(container, signal.SIGTERM, settings.term_s))
        stage = escalate([term, kill] if ask else [kill], lambda: not self._runs(container), on_stage)
        deadline = time.monotonic() + settings.kill_s
        left = frozenset(p for p in inside | processes.in_container(container) if p.is_alive)
        processes.wait_gone(left, settings.kill_s)
        survivors = processes.survivors_of(p for p in left if p.is_alive)
        if not survivors:
            self._give_back_shared(container)
        not_removed = not keep and not survivors and not self._remove(container, deadline)
        return StopResult(stage, time.monotonic() - began, survivors, not_removed)

    def remove_pending(self, container: str) -> bool:
        """End and remove a container that should be gone; return whether it is."""
        try:
            result = self.end(container, ask=False, keep=False)
        except EngineUnavailable:
            return False
        if result.survivors or result.not_removed:
            return False
        self._watch.nudge()
        return True

    def _signal(self, container: str, number: signal.Signals, timeout_s: float) -> None:
        """Send a signal and wait until the container has ended, at most ``timeout_s``."""
        leader = self._leader(container)
        self._engine.signal(container, number.name)
        if number is signal.SIGKILL:
            # Docker kills the first process; the others outlive it if they share the host's PID namespace.
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
        """Return whether a process of the container is alive; the engine is asked only if the kernel shows none."""
        if processes.in_container(container):
            return True
        try:
            return self._engine.inspect(container).running
        except ContainerGone:
            return False

    def _remove(self, container: str, deadline: float) -> bool:
        """Remove a container and wait until its name is free; return False if it still exists at the deadline."""
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
                self._pending.add(container)
                return False
            time.sleep(pause)

    def _give_back_shared(self, container: str) -> None:
        """Unlink the files that killed processes left in the host's /dev/shm, as they occupy memory.

        A process that the kernel holds can block the reading of its maps, so this is waited for only briefly.
        """
        own = self._containers.by_instance.values()
        files = frozenset(file for one in own if one.id == container for file in one.shared)
        if files:
            thread = threading.Thread(target=processes.unlink_unused, args=(files,), name="warden-shm", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the system has no thread left
                processes.unlink_unused(files)
            else:
                thread.join(SHARED_S)

    def _end_without_engine(self, own: OwnContainer, began: float, on_stage: StageCallback) -> StopResult:
        """End the container's processes directly, as far as this user may, because Docker does not answer.

        The remains of the container hold no memory; they are removed once Docker is back.

        Raises EngineUnreachable if the container's processes cannot be identified.
        """
        inside = processes.in_container(own.id)
        if not inside and own.process is not None and own.process.is_alive:
            raise EngineUnreachable(socket=self._engine.socket, detail="its processes cannot be told from here")
        stage, survivors = processes.end_processes(
            lambda: processes.in_container(own.id),
            processes.StopTimes(0, 0, self._settings.kill_s),
            ask=None,
            leader=own.process,
            on_stage=on_stage,
        )
        if not survivors:
            self._give_back_shared(own.id)
            self._pending.add(own.id)
        return StopResult(stage, time.monotonic() - began, survivors, not_removed=not survivors)


def _hardest(results: Sequence[StopResult], seconds: float) -> StopResult:
    order = list(StopStage)
    stage = max((r.stage for r in results), key=order.index, default=StopStage.ASK)
    survivors = tuple(s for r in results for s in r.survivors)
    return StopResult(stage, seconds, survivors, any(r.not_removed for r in results))
