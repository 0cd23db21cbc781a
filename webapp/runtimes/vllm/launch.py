"""Starts containers: a trial one before anything is unloaded, then the one that runs."""

from __future__ import annotations

import logging
import secrets
from dataclasses import replace

from webapp.domain.modes import Mode
from webapp.errors import (
    ContainerRemoved,
    EngineUnavailable,
    EngineUnreachable,
    LaunchBlocked,
    PortTaken,
    WardenError,
)
from webapp.runtimes import processes
from webapp.runtimes.base import LaunchSpec
from webapp.runtimes.shortage import launch_error
from webapp.runtimes.vllm.command import ContainerPlan, container_plan
from webapp.runtimes.vllm.containers import OwnContainer, OwnContainers
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone, PortInUse
from webapp.runtimes.vllm.followed_log import FollowedLog
from webapp.runtimes.vllm.pending_removals import PendingRemovals
from webapp.runtimes.vllm.ports import Ports
from webapp.runtimes.vllm.server import VllmServer
from webapp.runtimes.worker_folder import InstanceRecord
from webapp.settings import Settings

log = logging.getLogger(__name__)

_PORTS_TRIED = 20
"""How many ports are tried if other programs keep taking them first."""


class ContainerLauncher:
    """Creates and starts containers; see ``Runtime.prepare`` and ``Runtime.launch``."""

    def __init__(
        self, engine: DockerEngine, settings: Settings, containers: OwnContainers, pending: PendingRemovals
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._containers = containers
        self._pending = pending
        self._ports = Ports(settings.vllm, containers)

    def prepare(self, spec: LaunchSpec) -> None:
        """Create a container and remove it again, which checks the image, the mounts, the name and Docker's disk.

        vLLM's arguments depend on the memory that will be free, so the real container is created at the launch.
        """
        with self._containers.starting(spec.instance_id):
            try:
                port = self._ports.any(spec.model_id)
                plan = container_plan(_on_empty_devices(spec), self._settings, port=port, api_key="")
                trial = self._engine.create(plan)
            except OSError as exc:
                raise launch_error(exc, self._settings.storage.state_dir, spec.model_id) from exc
            except EngineUnavailable:
                self._pending.add(spec.instance_id)  # it may be created all the same
                raise
            self._remove_or_refuse(trial, plan, spec.model_id)

    def launch(self, spec: LaunchSpec) -> None:
        """Create and start the container of an instance."""
        with self._containers.starting(spec.instance_id):
            own = self._create_and_start(spec)
        log.info("started container %s for %s on port %s", own.id[:12], spec.model_id, own.server.port)

    def _create_and_start(self, spec: LaunchSpec) -> OwnContainer:
        tried: set[int] = set()
        while True:
            with self._ports.hold(spec.model_id, tried) as port:
                try:
                    own = self._on_port(spec, port)
                except PortInUse:
                    tried.add(port)
                    if len(tried) < _PORTS_TRIED:
                        continue
                    raise PortTaken(model=spec.model_id, ports=self._settings.vllm.ports, log="") from None
                own.log.start()  # first: once the container is listed, an emergency stop may end it and its log
                self._containers.put(own)  # before the port is released: from now on the container owns it
                return own

    def _on_port(self, spec: LaunchSpec, port: int) -> OwnContainer:
        """Create and start the container; if that fails, nothing is left behind. Raises PortInUse."""
        key = secrets.token_urlsafe(32)
        plan = container_plan(spec, self._settings, port=port, api_key=key)
        try:
            container = self._engine.create(plan)
        except EngineUnavailable:
            self._pending.add(spec.instance_id)  # it may be created all the same
            self._containers.add_unborn(spec.instance_id)
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
        return OwnContainer(
            id=container,
            record=InstanceRecord.of(spec, Mode.VLLM),
            server=VllmServer(port, key),
            log=FollowedLog(self._engine, container, spec.instance_id, self._settings.launch.log_lines),
            process=None if pid is None else processes.identify(pid),
        )

    def _start(self, container: str, model: str) -> int | None:
        """Start a container and return its first process; ``None`` if Docker does not confirm the start in time.

        The container may be running all the same.
        """
        try:
            self._engine.start(container, model)
        except EngineUnreachable:
            seen = self._engine.inspect(container)
            if not seen.running:
                raise
            return seen.pid
        return self._engine.inspect(container).pid

    def _remove_or_refuse(self, container: str, plan: ContainerPlan, model: str) -> None:
        """Remove a container whose name is needed again.

        Raises LaunchBlocked: Docker does not remove it, so the name stays taken.
        """
        if not self._remove_quietly(container):
            raise LaunchBlocked(model=model, detail=f"Docker keeps {plan.name}", log="") from None

    def _remove_quietly(self, container: str) -> bool:
        """Remove a container that did not start, or have it removed later; return whether it is gone."""
        try:
            self._engine.remove(container)
        except EngineUnavailable as exc:
            log.warning("container %s could not be removed: %s", container[:12], exc)
            self._pending.add(container)
            return False
        return True


def _on_empty_devices(spec: LaunchSpec) -> LaunchSpec:
    """Return the launch with empty devices: how much will be free is decided later, at the gate."""
    emptied = (
        device
        if device.total_bytes is None
        else replace(device, free_bytes=device.total_bytes - (device.reserved_bytes or 0))
        for device in spec.devices
    )
    return replace(spec, devices=tuple(emptied))
