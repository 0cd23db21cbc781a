"""Finds the workers that an earlier Warden left: live ones are adopted, leftovers are removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from webapp.domain.instance import InstanceState
from webapp.errors import WardenError
from webapp.message import Message
from webapp.runtimes.base import Discovered, Leftover, ProbeState
from webapp.runtimes.transformers.probe import WorkerProber
from webapp.runtimes.transformers.stop import WorkerStopper
from webapp.runtimes.transformers.workers import StartedWorker, Workers
from webapp.runtimes.worker_folder import WorkerFolder

DISCOVER_THREADS = 8


class WorkerDiscovery:
    """Inspects the workers' folders and processes; see ``Runtime.discover`` and ``Runtime.reap``."""

    def __init__(self, workers: Workers, prober: WorkerProber, stopper: WorkerStopper) -> None:
        self._workers = workers
        self._prober = prober
        self._stopper = stopper

    def discover(self) -> tuple[Discovered, ...]:
        """List the workers, live and broken, that an earlier Warden left."""
        folders = [folder for folder in self._workers.folders() if folder.record() is not None]
        if not folders:
            return ()
        with ThreadPoolExecutor(min(DISCOVER_THREADS, len(folders)), "warden-discover") as pool:
            found = pool.map(self._look_at, folders)
        return tuple(one for one in found if one is not None)

    def _look_at(self, folder: WorkerFolder) -> Discovered | None:
        record = folder.record()
        if record is None:
            return None
        instance = record.instance(InstanceState.STARTING)
        if record.id != folder.id or folder.spec() is None:
            return Discovered(replace(instance, id=folder.id), adoptable=False, reason=Message("folder_broken"))
        try:
            probe = self._prober.probe(folder.id)
        except WardenError as exc:
            return Discovered(instance, adoptable=False, reason=exc.message)
        if probe.state is not ProbeState.READY or probe.pid is None or folder.process() is None:
            return Discovered(instance, adoptable=False, reason=Message("half_started"))
        # Remembered from now on for as long as it lives, whatever happens to its folder.
        self._workers.note(folder.id, StartedWorker(folder.process()))
        ready = replace(
            instance,
            state=InstanceState.READY,
            in_flight=probe.in_flight,
            last_used_at=probe.last_used_at,
            memory=probe.memory,
            has_chat_template=probe.has_chat_template,
            pid=probe.pid,
        )
        return Discovered(ready, adoptable=True)

    def reap(self, known: Callable[[], frozenset[str]]) -> tuple[Leftover, ...]:
        """Remove folders and processes that belong to no instance in ``known()``.

        A worker that this runtime launched and has not ended is left alone, listed or not: ``terminate`` ends it.
        """
        names = [folder.id for folder in self._workers.folders() if self._is_leftover(folder.id, known)]
        left = [self._reap_folder(name) for name in names if self._is_leftover(name, known)]
        return (*left, *self._reap_marked(known))

    def _is_leftover(self, name: str, known: Callable[[], frozenset[str]]) -> bool:
        return name not in known() and self._workers.started(name) is None

    def _reap_folder(self, name: str) -> Leftover:
        folder = self._workers.folder(name)
        process = self._workers.process(folder)
        alive = process is not None and process.is_alive
        result = self._stopper.end(name, ask=False)
        ok = not result.survivors and not folder.exists()
        if alive and process is not None:
            return Leftover(Message("leftover_process", {"pid": process.pid, "instance": name}), ok)
        return Leftover(Message("leftover_folder", {"instance": name}), ok)

    def _reap_marked(self, known: Callable[[], frozenset[str]]) -> Iterator[Leftover]:
        """End marked processes without a folder."""
        for process, name in self._workers.marked().items():
            if self._is_leftover(name, known):
                is_gone = self._stopper.kill(process)
                yield Leftover(Message("leftover_process", {"pid": process.pid, "instance": name}), is_gone)
