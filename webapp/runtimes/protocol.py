"""The protocol between Warden and a worker: files in the worker's folder and JSON over its unix socket.

A worker's folder is ``STATE_DIR/workers/ID`` (mode 0700). It holds

``spec.json``      written by Warden before the start (mode 0600): ``id``, ``token``, ``load`` (the launch), ``waits``
``instance.json``  written by Warden for itself before the launch, so that a later Warden can list the instance
``process.json``   written by the worker first: ``pid``, ``pgid``, ``start_time`` (clock ticks after boot), ``protocol``
``failure.json``   written by the worker before it ends after a failed load: ``code``, ``detail``
``exit.json``      written by a forked worker's keeper after the worker's end: ``exit``, exit code or signal name
``s``              the socket
``log``            standard output and error

A worker that ``waits`` holds no model and imports nothing until ``POST /load`` tells it what to load: it is started
before memory is freed for it, and the plan may change until then.

The environment of a worker, and so of every process that it starts, contains ``WARDEN_INSTANCE`` (the first name of its
folder) and ``WARDEN_WORKER_ROOT`` (``STATE_DIR/workers``), so that they are found even if the folder is gone.

A worker is forked from the launcher (``webapp.worker.launcher``), a process that has imported the libraries and touched
no device, or it is started by its own command. The launcher receives one ``ForkRequest`` and sends one ``ForkReply`` at
a time over an unnamed socket pair, so only the Warden that started it can send requests, and it ends when that Warden
does. The parent of a forked worker is a keeper, a process that waits for the worker's end and records it. A worker
therefore survives the end of Warden and of the launcher.

Every request carries ``Authorization: Bearer TOKEN``. The routes are ``GET /state``, ``POST /load``, ``POST /clean``,
``POST /stop`` and OpenAI's ``GET /v1/models``, ``POST /v1/chat/completions`` and ``POST /v1/completions``.

Both sides share this module. It imports only the standard library.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")

PROTOCOL = 1
SPEC_FILE = "spec.json"
INSTANCE_FILE = "instance.json"
PROCESS_FILE = "process.json"
FAILURE_FILE = "failure.json"
EXIT_FILE = "exit.json"
SOCKET_FILE = "s"
LOG_FILE = "log"
INSTANCE_VARIABLE = "WARDEN_INSTANCE"
ROOT_VARIABLE = "WARDEN_WORKER_ROOT"
ROOM_VARIABLE = "WARDEN_ROOM"
ROOM_LENGTH = 5120
"""Bytes reserved in the launcher's environment for a worker's marks; the longest path has 4096."""
EXIT_LOAD_FAILED = 3
"""Exit code of a worker whose load failed."""


class WorkerState(StrEnum):
    """The state that a worker reports."""

    IMPORTING = "importing"
    """The libraries are being imported."""
    IDLE = "idle"
    """It waits for a load request."""
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    """The load failed; the process is about to end."""
    STOPPING = "stopping"


class FailureCode(StrEnum):
    """Why a load failed, as far as the worker can tell."""

    OUT_OF_MEMORY = "out_of_memory"
    LOAD_FAILED = "launch_failed"


@dataclass(frozen=True)
class LoadSpec:
    """What a worker should load.

    ``device`` is ``cuda`` or ``cpu``; ``visible_devices`` is the value for CUDA_VISIBLE_DEVICES. ``dtype`` and
    ``quantization`` are values of ``Dtype`` and ``Quantization``.
    """

    model_id: str
    revision: str
    snapshot: str
    device: str
    visible_devices: str | None
    dtype: str
    quantization: str
    max_tokens: int
    batch_size: int
    allow_pickle: bool = False
    allow_remote_code: bool = False


@dataclass(frozen=True)
class WorkerSpec:
    """``spec.json``, and the body of ``POST /load``, in which ``token`` is empty and ``load`` is given."""

    id: str
    token: str
    load: LoadSpec | None
    waits: bool = False


@dataclass(frozen=True)
class ProcessRecord:
    """``process.json``: the worker's process and, if it was forked, those of its keeper and of their launcher."""

    pid: int
    pgid: int
    start_time: int
    protocol: int = PROTOCOL
    keeper: int | None = None
    keeper_start_time: int | None = None
    launcher: int | None = None
    launcher_start_time: int | None = None


@dataclass(frozen=True)
class ExitRecord:
    """``exit.json``: how a worker ended, as text: its code, or the name of its signal."""

    exit: str


@dataclass(frozen=True)
class LauncherReady:
    """The launcher's first message: everything is imported, and it can fork."""

    pid: int
    start_time: int
    seconds: float


@dataclass(frozen=True)
class LauncherRecord:
    """``process.json`` in the launcher's folder: its process, and that of its Warden."""

    pid: int
    start_time: int
    warden_pid: int
    warden_start_time: int


@dataclass(frozen=True)
class ForkRequest:
    """A worker to fork, by its folder, which contains ``spec.json`` and ``instance.json``."""

    folder: str


@dataclass(frozen=True)
class ForkReply:
    """The worker's process, or the error: the system's error number, if any, and a text."""

    pid: int | None = None
    start_time: int | None = None
    errno: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class StopRequest:
    """The body of ``POST /stop``: how long requests in progress may continue, in seconds."""

    wait_s: float = 0.0


@dataclass(frozen=True)
class Failure:
    """Why a load failed; ``detail`` is the exception's short text."""

    code: str
    detail: str


@dataclass(frozen=True)
class StateReport:
    """A worker's answer to ``GET /state``. Bytes and seconds since the epoch; ``None`` is unknown."""

    protocol: int
    id: str
    pid: int
    state: str
    model_id: str | None = None
    tensors_done: int = 0
    tensors_total: int = 0
    in_flight: int = 0
    last_used_at: float | None = None
    base_bytes: int | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    has_chat_template: bool = False
    failure_code: str | None = None
    failure_detail: str | None = None


@dataclass(frozen=True)
class CleanReport:
    """A worker's answer to ``POST /clean``: bytes of the process and of the device before and after."""

    process_before_bytes: int | None
    process_after_bytes: int | None
    device_before_bytes: int | None
    device_after_bytes: int | None


class ProtocolError(ValueError):
    """A file or an answer that does not follow this protocol."""


def encode(value: Any) -> bytes:
    """Return a dataclass of this module, or a mapping, as JSON."""
    return json.dumps(value if isinstance(value, Mapping) else asdict(value)).encode()


def decode(cls: type[T], data: bytes | str) -> T:
    """Return ``data`` as a ``cls``; unknown keys are ignored.

    Raises:
        ProtocolError: not JSON, not an object, a field missing or of the wrong type.
    """
    return _build(cls, _object(data))


def decode_spec(data: bytes | str) -> WorkerSpec:
    """Return ``data`` as a ``WorkerSpec`` with its ``LoadSpec``. Raises ProtocolError."""
    raw = _object(data)
    load = raw.get("load")
    if load is not None and not isinstance(load, dict):
        raise ProtocolError("load is not an object")
    return _build(WorkerSpec, {**raw, "load": None if load is None else _build(LoadSpec, load)})


def _object(data: bytes | str) -> dict[str, Any]:
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"not JSON: {data[:80]!r}") from exc
    if not isinstance(raw, dict):
        raise ProtocolError(f"not an object: {data[:80]!r}")
    return raw


def _build(cls: type[T], raw: Mapping[str, Any]) -> T:
    hints = _hints(cls)  # type: ignore[arg-type]
    known = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}  # type: ignore[arg-type]
    for name, value in known.items():
        allowed = hints[name]
        fits = isinstance(value, allowed) or (allowed in (float, float | None) and isinstance(value, int))
        if not fits or (isinstance(value, bool) and allowed is not bool):
            raise ProtocolError(f"{name} is a {type(value).__name__}")
    try:
        return cls(**known)
    except TypeError as exc:
        raise ProtocolError(str(exc)) from exc


@cache
def _hints(cls: Any) -> Mapping[str, Any]:
    """Return the types of a class's fields; cached, since a launch reads twenty answers a second."""
    return get_type_hints(cls)


def write_file(path: Path, data: bytes) -> None:
    """Write a file with mode 0600 atomically. Raises OSError; the old file, if any, is unchanged then."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def exit_text(code: int) -> str:
    """Return how a process ended, from its exit code as ``os.waitstatus_to_exitcode`` gives it."""
    if code >= 0:
        return str(code)
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def process_start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks after boot (field 22 of ``/proc/PID/stat``), or ``None`` if it is
    gone.

    Pid and start time together identify a process for as long as the machine runs. A zombie counts as gone only once
    all its threads have ended: until then it holds its memory, forever if the kernel never releases a thread.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    state, threads = after_name[0], int(after_name[17])
    return None if state == "X" or (state == "Z" and threads <= 1) else int(after_name[19])
