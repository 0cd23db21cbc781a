"""Adopts containers that an earlier Warden started."""

from __future__ import annotations

from webapp.errors import UnknownInstance
from webapp.runtimes import processes
from webapp.runtimes.vllm.command import LABEL, record_of
from webapp.runtimes.vllm.container_watch import ContainerWatch
from webapp.runtimes.vllm.containers import OwnContainer, OwnContainers
from webapp.runtimes.vllm.docker.containers import Inspected
from webapp.runtimes.vllm.docker.engine import DockerEngine
from webapp.runtimes.vllm.docker.failures import ContainerGone
from webapp.runtimes.vllm.followed_log import FollowedLog
from webapp.runtimes.vllm.pending_removals import PendingRemovals
from webapp.runtimes.vllm.server import VllmServer
from webapp.runtimes.worker_folder import InstanceRecord
from webapp.settings import LaunchSettings

PORT_LABEL = LABEL + "port"


class Adopter:
    """Finds the container of an instance, in Docker's list if it is not known yet."""

    def __init__(
        self,
        engine: DockerEngine,
        launch: LaunchSettings,
        containers: OwnContainers,
        watch: ContainerWatch,
        pending: PendingRemovals,
    ) -> None:
        self._engine = engine
        self._launch = launch
        self._containers = containers
        self._watch = watch
        self._pending = pending

    def find(self, instance_id: str) -> OwnContainer:
        """Return the container of an instance. Raises UnknownInstance, EngineUnavailable."""
        own = self._containers.get(instance_id)
        if own is not None:
            return own
        if instance_id:
            for seen in self._engine.containers(f"{LABEL}instance={instance_id}"):
                is_live = self._watch.is_own(seen) and not self._pending.includes(seen)
                record = record_of(seen.labels) if is_live else None
                try:
                    adopted = None if record is None else self.adopt(self._engine.inspect(seen.id), record)
                except ContainerGone:
                    adopted = None
                if adopted is not None:
                    return adopted
        raise UnknownInstance(instance=instance_id)

    def adopt(self, inspected: Inspected, record: InstanceRecord) -> OwnContainer | None:
        """Adopt a container that an earlier Warden started; ``None`` if it has never run or cannot be reached."""
        known = self._containers.get(record.id)
        if known is not None and known.id == inspected.id:
            return known
        key, port = inspected.environment.get("VLLM_API_KEY"), inspected.labels.get(PORT_LABEL, "")
        if inspected.status == "created" or not key or not port.isdigit():
            return None
        own = OwnContainer(
            id=inspected.id,
            record=record,
            server=VllmServer(int(port), key),
            log=FollowedLog(self._engine, inspected.id, record.id, self._launch.log_lines),
            process=None if inspected.pid is None else processes.identify(inspected.pid),
        )
        return self._containers.put_first(own)
