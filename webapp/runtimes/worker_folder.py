"""A worker's folder: its files, and the process that it belongs to."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from webapp.domain.instance import Instance, InstanceState
from webapp.domain.modes import LaunchOptions, Mode
from webapp.runtimes.base import LaunchSpec
from webapp.runtimes.processes import ProcessId
from webapp.runtimes.protocol import (
    EXIT_FILE,
    FAILURE_FILE,
    INSTANCE_FILE,
    LOG_FILE,
    PROCESS_FILE,
    SOCKET_FILE,
    SPEC_FILE,
    ExitRecord,
    Failure,
    ProcessRecord,
    ProtocolError,
    WorkerSpec,
    decode,
    decode_spec,
    encode,
    write_file,
)

T = TypeVar("T")

LOG_LIMIT_BYTES = 8 * 2**20
"""A longer log is cut to its end; see ``WorkerFolder.trim_log``."""
LOG_KEPT_BYTES = 2**20
LOG_READ_BYTES = 2**20
"""How much of a log's end is read at most."""
LINE_LENGTH = 2000
REMOVE_S = 0.3
"""For how long the removal of a folder is retried."""
REMOVE_POLL_S = 0.01


@dataclass(frozen=True)
class InstanceRecord:
    """What a later Warden needs to list the instance: a worker's ``instance.json``, a container's label."""

    id: str
    operation_id: str
    model_id: str
    revision: str
    options: LaunchOptions
    devices: tuple[str, ...]
    owner: str
    started_at: float
    predicted_bytes: Mapping[str, int] = field(default_factory=dict)
    mode: Mode = Mode.TRANSFORMERS
    resting_bytes: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: LaunchSpec, mode: Mode = Mode.TRANSFORMERS) -> InstanceRecord:
        """Return the record of a launch."""
        return cls(
            id=spec.instance_id,
            operation_id=spec.operation_id,
            model_id=spec.model_id,
            revision=spec.revision,
            options=spec.options,
            devices=tuple(device.id for device in spec.devices),
            owner=spec.owner,
            started_at=spec.started_at,
            predicted_bytes=dict(spec.predicted_bytes),
            mode=mode,
            resting_bytes=dict(spec.resting_bytes(mode)),
        )

    def instance(self, state: InstanceState) -> Instance:
        """Return the instance that was recorded."""
        return Instance(
            id=self.id,
            mode=self.mode,
            model_id=self.model_id,
            revision=self.revision,
            options=self.options,
            devices=self.devices,
            owner=self.owner,
            state=state,
            started_at=self.started_at,
            predicted_bytes=self.predicted_bytes,
            resting_bytes=self.resting_bytes,
        )


_RECORD = TypeAdapter(InstanceRecord)


@dataclass(frozen=True)
class WorkerFolder:
    """One worker's folder. Reading a missing or broken file returns ``None``."""

    path: Path

    @property
    def id(self) -> str:
        """The instance's id."""
        return self.path.name

    @property
    def socket(self) -> str:
        """Path of the socket."""
        return str(self.path / SOCKET_FILE)

    @property
    def log(self) -> Path:
        """Path of the log."""
        return self.path / LOG_FILE

    def exists(self) -> bool:
        """Whether the folder exists."""
        return self.path.is_dir()

    def spec(self) -> WorkerSpec | None:
        """Return the worker's ``spec.json``."""
        data = self._read(SPEC_FILE)
        try:
            return None if data is None else decode_spec(data)
        except ProtocolError:
            return None

    def write_spec(self, spec: WorkerSpec) -> None:
        """Write the worker's ``spec.json``."""
        write_file(self.path / SPEC_FILE, encode(spec))

    def record(self) -> InstanceRecord | None:
        """Return the instance's record."""
        data = self._read(INSTANCE_FILE)
        try:
            return None if data is None else _RECORD.validate_json(data)
        except ValidationError:
            return None

    def write_record(self, record: InstanceRecord) -> None:
        """Write the instance's record."""
        write_file(self.path / INSTANCE_FILE, _RECORD.dump_json(record))

    def process_record(self) -> ProcessRecord | None:
        """Return the worker's record of its process."""
        return self._decoded(ProcessRecord, PROCESS_FILE)

    def process(self) -> ProcessId | None:
        """Return the worker's process, alive or not; ``None`` until the worker has recorded it."""
        record = self.process_record()
        return None if record is None else ProcessId(record.pid, record.start_time)

    def is_forked(self) -> bool:
        """Whether the worker was forked, and so shares its libraries."""
        record = self.process_record()
        return record is not None and record.keeper is not None

    def keeper(self) -> ProcessId | None:
        """Return the process that waits for a forked worker's end and lives as long as the worker."""
        record = self.process_record()
        return None if record is None else _identity(record.keeper, record.keeper_start_time)

    def launcher(self) -> ProcessId | None:
        """Return the launcher that a worker was forked from, alive or not."""
        record = self.process_record()
        return None if record is None else _identity(record.launcher, record.launcher_start_time)

    def failure(self) -> Failure | None:
        """Return why the load failed."""
        return self._decoded(Failure, FAILURE_FILE)

    def exit(self) -> str | None:
        """Return how a forked worker ended: its exit code or the name of its signal."""
        record = self._decoded(ExitRecord, EXIT_FILE)
        return None if record is None else record.exit

    def log_size(self) -> int:
        """Return the log's size in bytes."""
        try:
            return self.log.stat().st_size
        except OSError:
            return 0

    def log_tail(self, lines: int) -> tuple[str, ...]:
        """Return the last lines of the log, oldest first."""
        text = self._log_end(LOG_READ_BYTES).decode(errors="replace")
        return tuple(line[:LINE_LENGTH] for line in text.splitlines()[-lines:]) if lines > 0 else ()

    def trim_log(self) -> None:
        """Cut a log that has become too long to its end.

        The worker appends through its own descriptor (O_APPEND), so the file is shortened in place; output written at
        that moment may be lost. Only a running Warden does this: without one, the log grows until the disk is full.
        """
        if self.log_size() <= LOG_LIMIT_BYTES:
            return
        end = self._log_end(LOG_KEPT_BYTES)
        try:
            with self.log.open("r+b") as file:
                file.truncate(0)
            with self.log.open("ab") as file:
                file.write(end)
        except OSError:
            return

    def remove(self) -> bool:
        """Remove the folder; return False if some of it remains.

        A file written during the removal makes it fail: a keeper writes just after its worker's end.
        """
        deadline = time.monotonic() + REMOVE_S
        while True:
            shutil.rmtree(self.path, ignore_errors=True)
            if not self.path.exists():
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(REMOVE_POLL_S)

    def _log_end(self, size: int) -> bytes:
        """Return at most the last ``size`` bytes, from the beginning of a line if it contains one."""
        start = max(0, self.log_size() - size)
        try:
            with self.log.open("rb") as file:
                file.seek(start)
                data = file.read(size)
        except OSError:
            return b""
        return data[data.find(b"\n") + 1 :] if start else data

    def _decoded(self, cls: type[T], name: str) -> T | None:
        data = self._read(name)
        try:
            return None if data is None else decode(cls, data)
        except ProtocolError:
            return None

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except OSError:
            return None


def _identity(pid: int | None, start_time: int | None) -> ProcessId | None:
    return None if pid is None or start_time is None else ProcessId(pid, start_time)
