"""Ports for containers, from the range in the settings."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from webapp.errors import PortTaken
from webapp.runtimes.vllm.command import port_range
from webapp.runtimes.vllm.containers import OwnContainers
from webapp.runtimes.vllm.server import LOOPBACK
from webapp.settings import VllmSettings


class Ports:
    """Chooses ports so that two concurrent starts never get the same one."""

    def __init__(self, settings: VllmSettings, containers: OwnContainers) -> None:
        self._settings = settings
        self._containers = containers
        self._lock = threading.Lock()
        self._held: frozenset[int] = frozenset()
        """Ports chosen for containers that are being created."""

    def any(self, model: str) -> int:
        """Return a port that is free or belongs to one of this Warden's containers, which may be unloaded.

        Raises PortTaken.
        """
        own = self._used()
        return self._first(model, (p for p in port_range(self._settings) if p in own or _is_free(p)))

    @contextmanager
    def hold(self, model: str, tried: set[int]) -> Iterator[int]:
        """Hold a free port that is not in ``tried`` for the block. Raises PortTaken."""
        with self._lock:
            taken = self._used() | self._held | tried
            port = self._first(model, (p for p in port_range(self._settings) if p not in taken and _is_free(p)))
            self._held |= {port}
        try:
            yield port
        finally:
            with self._lock:
                self._held -= {port}

    def _used(self) -> set[int]:
        return {own.server.port for own in self._containers.by_instance.values()}

    def _first(self, model: str, ports: Iterator[int]) -> int:
        port = next(ports, None)
        if port is None:
            raise PortTaken(model=model, ports=self._settings.ports, log="")
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else ended connections keep it for a minute
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
