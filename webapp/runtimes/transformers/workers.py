"""The existing workers: their folders, their processes, and those that this runtime has started."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from webapp.errors import UnknownInstance, WorkerCutOff
from webapp.runtimes import processes
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.protocol import LoadSpec
from webapp.runtimes.worker_folder import WorkerFolder

FOLDER = "workers"
DEATH_S = 0.3
"""How long to wait for the end of a worker that closed the connection before its answer is called garbled."""
KEEPER_POLL_S = 0.01


@dataclass(frozen=True)
class StartedWorker:
    """A worker that this runtime started."""

    process: ProcessId | None
    untold: LoadSpec | None = None
    """The model that it has not been told to load yet."""
    exit: str | None = None
    """Its exit code or signal name, once that is known."""


class Workers:
    """The workers of a state folder.

    The folders hold everything that matters; the state of this object can be lost without harm.
    """

    def __init__(self, state_dir: Path) -> None:
        self.root = state_dir / FOLDER
        self._lock = threading.Lock()
        self._started: Mapping[str, StartedWorker] = {}
        """Workers that this runtime launched and has not ended, by id."""

    # What this runtime has started

    def started(self, name: str) -> StartedWorker | None:
        """Return a worker that was launched and has not been ended, or ``None``."""
        return self._started.get(name)

    def note(self, name: str, started: StartedWorker) -> None:
        """Add or replace a worker."""
        with self._lock:
            self._started = {**self._started, name: started}

    def change(self, name: str, change: Callable[[StartedWorker], StartedWorker]) -> None:
        """Replace a worker by ``change`` of it, unless it has been ended in the meantime."""
        with self._lock:
            if (started := self._started.get(name)) is not None:
                self._started = {**self._started, name: change(started)}

    def forget(self, name: str) -> None:
        """Remove a worker that has ended; idempotent."""
        with self._lock:
            self._started = {other: started for other, started in self._started.items() if other != name}

    # Folders

    def folders(self) -> list[WorkerFolder]:
        """Return all folders, by id."""
        try:
            return [WorkerFolder(path) for path in sorted(self.root.iterdir()) if path.is_dir()]
        except OSError:
            return []

    def folder(self, name: str) -> WorkerFolder:
        """Return the folder of a worker, whether it exists or not."""
        return WorkerFolder(self.root / name)

    def existing_folder(self, instance_id: str) -> WorkerFolder:
        """Return the folder of an instance. Raises UnknownInstance, and WorkerCutOff if only its process is left."""
        folder = self.folder(instance_id)
        if instance_id and folder.exists():
            return folder
        process = self.process(folder)
        if process is not None and process.is_alive:
            raise WorkerCutOff(instance=instance_id, pid=process.pid, path=str(folder.path), seconds=0.0)
        raise UnknownInstance(instance=instance_id)

    # Processes

    def process(self, folder: WorkerFolder) -> ProcessId | None:
        """Return a worker's process from its record, or else as it was started; a child that has ended is reaped."""
        started = self.started(folder.id)
        process = folder.process() or (None if started is None else started.process)
        if process is not None and started is not None and started.exit is None and not process.is_alive:
            how = processes.reap_child(process.pid) or _exit_of(folder)
            self.change(folder.id, lambda s: replace(s, exit=how))
        return process

    def exit_of(self, folder: WorkerFolder) -> str | None:
        """Return how a worker ended, if ``process`` has noticed that."""
        started = self.started(folder.id)
        return _exit_of(folder) if started is None else started.exit

    def processes_of(self, folder: WorkerFolder, leader: ProcessId | None) -> frozenset[ProcessId]:
        """Return the worker, its process group, and every other process with its mark."""
        found = {process for process, name in self.marked().items() if name == folder.id}
        if leader is not None and (leader.is_alive or any(_session_of(process) == leader.pid for process in found)):
            found |= processes.group_members(leader.pid)  # the group's number is not reused while a member lives
        if leader is not None and leader.is_alive:
            found.add(leader)
        return frozenset(found)

    def marked(self) -> Mapping[ProcessId, str]:
        """Return every marked process with its folder: the mark may be inherited from another worker, the session is
        not."""
        owners = {process.pid: folder.id for folder in self.folders() if (process := folder.process()) is not None}
        marked = processes.find_marked(str(self.root))
        return {process: owners.get(_session_of(process) or 0, name) for process, name in marked.items()}

    def living(self) -> Mapping[int, str]:
        """Return the pids of all live workers and keepers, each with its instance. Never waits."""
        found = {p.pid: name for name, s in self._started.items() if (p := s.process) is not None and p.is_alive}
        for folder in self.folders():
            process = folder.process()
            if process is not None and process.is_alive:
                found[process.pid] = folder.id
                if (keeper := folder.keeper()) is not None and keeper.is_alive:
                    found[keeper.pid] = folder.id
        return found

    def heirs(self) -> frozenset[int]:
        """Return one keeper for each launcher that ended before its workers, which still share its libraries.

        Never waits.
        """
        found: dict[ProcessId, int] = {}
        for folder in self.folders():
            launcher, keeper = folder.launcher(), folder.keeper()
            if launcher is not None and not launcher.is_alive and keeper is not None and keeper.is_alive:
                found.setdefault(launcher, keeper.pid)
        return frozenset(found.values())


def _exit_of(folder: WorkerFolder) -> str | None:
    """Return how a forked worker ended; its keeper, unless it was killed too, writes that just after the end."""
    deadline, keeper = time.monotonic() + DEATH_S, folder.keeper()
    while keeper is not None and keeper.is_alive and folder.exit() is None and time.monotonic() < deadline:
        time.sleep(KEEPER_POLL_S)
    return folder.exit()


def _session_of(process: ProcessId) -> int | None:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return None
