"""Ends workers with all their processes."""

from __future__ import annotations

import logging
import time

from webapp.runtimes import processes, sockets
from webapp.runtimes.base import StageCallback, StopResult
from webapp.runtimes.processes import ProcessId, StopTimes
from webapp.runtimes.protocol import StopRequest, encode
from webapp.runtimes.stop_sequence import ignore_stages
from webapp.runtimes.transformers.workers import Workers
from webapp.runtimes.worker_folder import WorkerFolder
from webapp.settings import WorkerSettings

log = logging.getLogger(__name__)

ASK_S = 2.0
"""How long a worker may take to acknowledge a stop request."""


class WorkerStopper:
    """Ends workers; see ``Runtime.terminate``."""

    def __init__(self, settings: WorkerSettings, workers: Workers) -> None:
        self._settings = settings
        self._workers = workers

    def end(self, name: str, *, ask: bool, on_stage: StageCallback = ignore_stages) -> StopResult:
        """End a worker and remove its folder; ``ask=False`` starts with SIGKILL."""
        began = time.monotonic()
        folder = self._workers.folder(name)
        leader = self._workers.process(folder)
        settings = self._settings
        stage, survivors = processes.end_processes(
            lambda: self._workers.processes_of(folder, leader),
            StopTimes(settings.ask_s, settings.term_s, settings.kill_s),
            ask=(lambda: self._ask_to_stop(folder)) if ask else None,
            leader=leader,
            on_stage=on_stage,
        )
        if leader is not None:
            processes.reap_child(leader.pid)
        if not survivors:
            folder.remove()
            self._workers.forget(name)
        seconds = time.monotonic() - began
        log.info("worker %s ended by %s in %.2f s, %s survived", name, stage, seconds, len(survivors))
        return StopResult(stage, seconds, survivors)

    def clear(self, folder: WorkerFolder) -> None:
        """End a worker whose fork was not confirmed and remove its folder: two workers in one folder would be
        confused."""
        processes.end_processes(
            lambda: self._workers.processes_of(folder, None),
            StopTimes(0, 0, self._settings.kill_s),
            ask=None,
            leader=None,
            on_stage=ignore_stages,
        )
        folder.remove()

    def kill(self, process: ProcessId) -> bool:
        """End one process without a folder; return whether it is gone."""
        _, survivors = processes.end_processes(
            lambda: frozenset({process}) if process.is_alive else frozenset(),
            StopTimes(0, 0, self._settings.kill_s),
            ask=None,
            leader=process,
            on_stage=ignore_stages,
        )
        return not survivors

    def _ask_to_stop(self, folder: WorkerFolder) -> bool:
        spec = folder.spec()
        if spec is None:
            return False
        # Half of the time is for the requests in progress, the rest for ending.
        body = encode(StopRequest(self._settings.ask_s / 2))
        timeout_s = min(ASK_S, self._settings.ask_s)
        try:
            sockets.ask(folder.socket, spec.token, "POST", "/stop", body=body, timeout_s=timeout_s)
        except (sockets.Unreachable, sockets.Silent, sockets.Garbled) as exc:
            log.info("worker %s cannot be asked to stop: %s", folder.id, exc)
            return False
        return True
