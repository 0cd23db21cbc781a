"""Talks to workers over their sockets: asks for their state, cleans them, tells them what to load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from webapp.domain.instance import MemoryReport
from webapp.domain.units import MIB
from webapp.errors import WorkerSilent
from webapp.runtimes import processes, sockets
from webapp.runtimes.base import CleanResult, Probe, ProbeState
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.protocol import (
    PROTOCOL,
    CleanReport,
    LoadSpec,
    ProtocolError,
    StateReport,
    WorkerSpec,
    WorkerState,
    decode,
    encode,
)
from webapp.runtimes.transformers.failures import end_of, garbled, load_failed
from webapp.runtimes.transformers.workers import DEATH_S, Workers
from webapp.runtimes.worker_folder import WorkerFolder

PROBE_S = 2.0
CLEAN_S = 15.0
LOAD_S = 2.0
_STATES = {
    WorkerState.IMPORTING: ProbeState.STARTING,
    WorkerState.IDLE: ProbeState.STARTING,
    WorkerState.LOADING: ProbeState.LOADING,
    WorkerState.READY: ProbeState.READY,
    WorkerState.STOPPING: ProbeState.STARTING,  # whatever it was before, it is not ready
}


class WorkerProber:
    """Talks to workers; see ``Runtime.probe`` and ``Runtime.clean``."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def probe(self, instance_id: str) -> Probe:
        """Ask an instance for its state, and tell it what to load if it does not know yet."""
        folder, process = self._alive(instance_id)
        folder.trim_log()
        if not Path(folder.socket).exists():  # started a moment ago
            return Probe(
                ProbeState.STARTING,
                activity=(folder.log_size(), 0, None),
                pid=None if process is None else process.pid,
            )
        started = self._workers.started(instance_id)
        if started is not None and started.untold is not None:
            self.tell(folder, started.untold)
        report = self._report(folder, process)
        if report.state == WorkerState.FAILED.value:
            raise load_failed(folder, report.failure_code, report.failure_detail)
        return _probe(report, folder.log_size())

    def tell(self, folder: WorkerFolder, load: LoadSpec) -> None:
        """Tell a worker what to load; idempotent. Raises as ``probe`` does."""
        body = encode(WorkerSpec(folder.id, "", load))
        self._ask(folder, self._workers.process(folder), "POST", "/load", LOAD_S, body)
        self._workers.change(folder.id, lambda started: replace(started, untold=None))

    def clean(self, instance_id: str) -> CleanResult:
        """Make an instance release the memory that it does not need."""
        folder, process = self._alive(instance_id)
        data = self._ask(folder, process, "POST", "/clean", CLEAN_S, body=b"{}")
        try:
            report = decode(CleanReport, data)
        except ProtocolError as exc:
            raise garbled(folder, str(exc)) from exc
        return CleanResult(
            freed_bytes=_difference(report.process_before_bytes, report.process_after_bytes),
            device_freed_bytes=_difference(report.device_before_bytes, report.device_after_bytes),
        )

    def _alive(self, instance_id: str) -> tuple[WorkerFolder, ProcessId | None]:
        """Return the folder and the process of an instance.

        Raises UnknownInstance, WorkerCutOff, or the error that ended it.
        """
        folder = self._workers.existing_folder(instance_id)
        process = self._workers.process(folder)
        if process is not None and not process.is_alive:
            raise end_of(folder, self._workers)
        return folder, process

    def _report(self, folder: WorkerFolder, process: ProcessId | None) -> StateReport:
        data = self._ask(folder, process, "GET", "/state", PROBE_S)
        try:
            report = decode(StateReport, data)
            WorkerState(report.state)
        except (ProtocolError, ValueError) as exc:
            raise garbled(folder, str(exc)) from exc
        if report.protocol != PROTOCOL:
            raise garbled(folder, f"speaks protocol {report.protocol}, not {PROTOCOL}")
        if report.id != folder.id or (process is not None and report.pid != process.pid):
            raise garbled(folder, f"says that it is {report.id}, pid {report.pid}")
        return report

    def _ask(
        self,
        folder: WorkerFolder,
        process: ProcessId | None,
        method: str,
        route: str,
        timeout_s: float,
        body: bytes | None = None,
    ) -> bytes:
        """Send a request; every failure becomes one of the errors of ``Runtime.probe``."""
        spec = folder.spec()
        if spec is None:
            raise garbled(folder, "its spec.json is missing or broken")
        try:
            return sockets.ask(folder.socket, spec.token, method, route, body=body, timeout_s=timeout_s)
        except sockets.Silent as exc:
            raise WorkerSilent(instance=folder.id, seconds=timeout_s) from exc
        except (sockets.Unreachable, sockets.Garbled) as exc:
            if process is not None and processes.wait_gone((process,), DEATH_S):
                raise end_of(folder, self._workers) from exc
            if isinstance(exc, sockets.Garbled):
                raise garbled(folder, str(exc)) from exc
            raise WorkerSilent(instance=folder.id, seconds=0.0) from exc


def _probe(report: StateReport, log_size: int) -> Probe:
    loading = report.state == WorkerState.LOADING.value
    memory_mib = None if report.process_bytes is None else report.process_bytes // MIB
    return Probe(
        state=_STATES[WorkerState(report.state)],
        activity=(log_size, report.tensors_done, memory_mib),
        progress=report.tensors_done / report.tensors_total if loading and report.tensors_total else None,
        in_flight=report.in_flight,
        last_used_at=report.last_used_at,
        memory=MemoryReport(
            base_bytes=report.base_bytes,
            allocated_bytes=report.allocated_bytes,
            reserved_bytes=report.reserved_bytes,
            process_bytes=report.process_bytes,
        ),
        has_chat_template=report.has_chat_template,
        pid=report.pid,
    )


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else before - after
