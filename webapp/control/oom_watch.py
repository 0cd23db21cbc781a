"""Watch the memory during a launch: stop it if another process takes memory that it still needs. The rule is
``domain/oom_guard.py``.
"""

from __future__ import annotations

import logging

from webapp.control.context import Context
from webapp.domain.memory import Holder
from webapp.domain.oom_guard import MemoryShortage, OomGuard
from webapp.errors import LoadFenced
from webapp.message import Param
from webapp.runtimes.base import LaunchSpec

log = logging.getLogger(__name__)


class LoadWatch:
    """The guard of one launch; does nothing if the launch was not decided on a reading."""

    def __init__(self, context: Context, spec: LaunchSpec) -> None:
        self._context = context
        self._spec = spec
        self._fence: OomGuard | None = None
        if spec.decided_on is not None:
            gates = {footprint.device_id: footprint.required_bytes for footprint in spec.footprints}
            self._fence = OomGuard(spec.instance_id, gates, spec.decided_on)

    def look(self) -> None:
        """Judge the latest reading, if it is a new one; never waits. Raises LoadFenced."""
        sample = self._context.monitor.latest()
        if self._fence is None or sample is None:
            return
        self._fence, breach = self._fence.after(sample)
        if breach is not None:
            raise self._fenced(breach)

    def _fenced(self, breach: MemoryShortage) -> LoadFenced:
        holder = breach.grown.holder
        return LoadFenced(
            model=self._spec.model_id,
            device=breach.device_id,
            needed_bytes=breach.needed_bytes,
            free_bytes=breach.free_bytes,
            missing_bytes=breach.missing_bytes,
            grown_bytes=breach.grown.grown_bytes,
            grown_to_bytes=breach.grown.after_bytes,
            **self._who(holder),
        )

    def _who(self, holder: Holder) -> dict[str, Param]:
        """Return the process that grew: a model of Warden's by its name, a container by its own, any other process by
        its command.
        """
        instance = self._context.state.instances.get(holder.instance_id or "")
        known = {container.id: container for container in self._context.foreign_containers()}
        container = known.get(holder.container_id or "")
        name, user = holder.command, holder.user
        if instance is not None:
            name, user = instance.model_id, instance.owner
        elif container is not None:
            name, user = container.name, container.owner or holder.user
        words = [user, name, f"pid {holder.pid}"]
        return {
            "who": " · ".join(word for word in words if word),
            "pid": holder.pid,
            "user": user,
            "command": holder.command,
            "instance": holder.instance_id,
            "container": holder.container_id,
        }
