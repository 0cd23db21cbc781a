"""This Warden's containers by instance, with what is needed to talk to them; shared by all parts of the runtime."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from webapp.runtimes.processes import ProcessId, SharedFile
from webapp.runtimes.vllm.followed_log import FollowedLog
from webapp.runtimes.vllm.server import VllmServer
from webapp.runtimes.worker_folder import InstanceRecord


@dataclass(frozen=True)
class OwnContainer:
    """A container that this Warden started.

    This object can be lost without harm: the labels contain everything needed to adopt the container.
    """

    id: str
    record: InstanceRecord
    server: VllmServer
    log: FollowedLog
    process: ProcessId | None = None
    is_ready: bool = False
    asked_at: float = 0.0
    """When it was last asked whether it answers, by the monotonic clock."""
    is_garbled: bool = False
    """Whether its last answer during the start came from something else than vLLM, or from another model."""
    in_flight: int | None = 0
    served: float | None = None
    last_used_at: float | None = None
    shared: frozenset[SharedFile] = frozenset()
    """Its files in the host's /dev/shm."""
    resident_mib: int = 0
    """Memory of its processes at the last probe: a start that logs nothing but takes memory is alive."""

    @property
    def pid(self) -> int | None:
        """Its first process on the host."""
        return None if self.process is None else self.process.pid


class OwnContainers:
    """The containers by instance. Readers take a reference and never wait; the lock guards assignments."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_instance: Mapping[str, OwnContainer] = {}
        self._starting: frozenset[str] = frozenset()
        self._unborn: frozenset[str] = frozenset()

    @property
    def by_instance(self) -> Mapping[str, OwnContainer]:
        """All containers that are known now."""
        return self._by_instance

    def get(self, instance_id: str) -> OwnContainer | None:
        """Return what is known of an instance, or ``None``."""
        return self._by_instance.get(instance_id)

    def put(self, own: OwnContainer) -> None:
        """Add a container, or replace the one of its instance."""
        with self._lock:
            self._put(own)

    def put_first(self, own: OwnContainer) -> OwnContainer:
        """Add a container unless another thread has added one; return the one that is kept.

        Its log is followed from then on.
        """
        with self._lock:
            first = self.get(own.record.id)
            if first is not None and first.id == own.id:
                return first
            self._put(own)
            own.log.start()
            return own

    def change(self, instance_id: str, change: Callable[[OwnContainer], OwnContainer]) -> OwnContainer | None:
        """Replace a container by ``change`` of it and return it; ``None`` if there is none."""
        with self._lock:
            own = self.get(instance_id)
            if own is not None:
                own = change(own)
                self._put(own)
            return own

    def forget(self, instance_id: str) -> None:
        """Remove a container and stop following its log; idempotent."""
        with self._lock:
            own = self.get(instance_id)
            self._by_instance = {name: other for name, other in self._by_instance.items() if name != instance_id}
            self._unborn -= {instance_id}
        if own is not None:
            own.log.stop()

    def forget_all(self) -> None:
        """Forget all containers and stop following their logs; the containers keep running."""
        with self._lock:
            ended, self._by_instance = self._by_instance, {}
        for own in ended.values():
            own.log.stop()

    def _put(self, own: OwnContainer) -> None:
        self._by_instance = {**self._by_instance, own.record.id: own}

    @contextmanager
    def starting(self, instance_id: str) -> Iterator[None]:
        """Keep the containers of ``instance_id`` from being taken for leftovers during the block."""
        with self._lock:
            self._starting |= {instance_id}
        try:
            yield
        finally:
            with self._lock:
                self._starting -= {instance_id}

    def is_starting(self, instance_id: str) -> bool:
        """Return whether a ``starting`` block of the instance is active."""
        return instance_id in self._starting

    def add_unborn(self, instance_id: str) -> None:
        """Remember an instance whose container's creation Docker has not confirmed: none was ever started."""
        with self._lock:
            self._unborn |= {instance_id}

    def is_unborn(self, instance_id: str) -> bool:
        """Return whether Docker has never confirmed the creation of the instance's container."""
        return instance_id in self._unborn
