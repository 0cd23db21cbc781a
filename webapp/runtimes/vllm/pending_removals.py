"""Ended containers that Docker still keeps: remembered across restarts and removed as soon as Docker allows it."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from webapp.runtimes.protocol import write_file
from webapp.runtimes.vllm.command import LABEL
from webapp.runtimes.vllm.docker.containers import ContainerSummary

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""The pause between attempts to remove a container doubles up to this."""
STOP_S = 2.0


class PendingRemovals:
    """The containers to remove. A name is a container's id, or its instance's if Docker did not confirm the
    creation."""

    def __init__(self, file: Path, remove: Callable[[str], bool]) -> None:
        """``remove`` ends and removes a container by its id and returns whether it is gone; it may take a long time."""
        self._file = file
        self._remove = remove
        self._lock = threading.Lock()
        self._names: frozenset[str] = frozenset()
        self._pause_s = FIRST_PAUSE_S
        self._not_before = 0.0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def includes(self, container: ContainerSummary) -> bool:
        """Return whether a container is waiting to be removed."""
        return container.id in self or container.labels.get(LABEL + "instance") in self

    def start(self) -> None:
        """Read the names that an earlier Warden left."""
        self._stopped.clear()
        try:
            kept = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return
        with self._lock:
            self._names |= {name for name in kept if isinstance(name, str)} if isinstance(kept, list) else set()

    def stop(self) -> None:
        """Start no further removals and wait briefly for one in progress."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join(STOP_S)

    def add(self, name: str) -> None:
        """Remember a container, or an instance whose container may yet be created."""
        self._change(self._names | {name})

    def look(self, own: Mapping[str, str]) -> None:
        """Start removing the containers that still exist, in a separate thread. Never waits.

        ``own`` are the containers that Docker listed just now, each with its instance.
        """
        waiting = {container: name for container, name in own.items() if container in self or name in self}
        is_busy = self._thread is not None and self._thread.is_alive()
        if not waiting or is_busy or self._stopped.is_set() or time.monotonic() < self._not_before:
            return
        self._thread = threading.Thread(
            target=self._remove_all, args=(waiting,), name="warden-docker-kept", daemon=True
        )
        self._thread.start()

    def _remove_all(self, waiting: Mapping[str, str]) -> None:
        gone = {container for container in waiting if not self._stopped.is_set() and self._remove(container)}
        if gone:
            self._change(self._names - gone - {waiting[container] for container in gone})
            log.info("removed %s container(s) that Docker had kept", len(gone))
        if len(gone) == len(waiting):
            self._pause_s = FIRST_PAUSE_S
            return
        if self._pause_s == FIRST_PAUSE_S:
            log.warning("Docker still keeps %s container(s) that have ended", len(waiting) - len(gone))
        self._not_before = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _change(self, names: frozenset[str]) -> None:
        with self._lock:
            self._names = names
        try:
            write_file(self._file, json.dumps(sorted(names)).encode())
        except OSError as exc:
            log.warning("%s cannot be written: %s", self._file, exc)
