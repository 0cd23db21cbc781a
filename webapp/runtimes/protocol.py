"""What Warden and a worker say to each other: files in the worker's folder and JSON over its unix socket.

A worker's folder is ``STATE_DIR/workers/ID`` (mode 0700). It holds

``spec.json``      written by Warden before the start (mode 0600): ``id``, ``token``, the launch under ``load``, and ``waits``
``instance.json``  written by Warden for itself, before the launch: what the instance is, so that a later Warden can list it
``process.json``   written by the worker first of all: ``pid``, ``pgid``, ``start_time`` (clock ticks after boot), ``protocol``
``failure.json``   written by the worker before it ends after a failed load: ``code``, ``detail``
``exit.json``      written by the keeper of a forked worker once that has ended: ``exit``, its code or the name of its signal
``s``              the socket
``log``            standard output and error

A worker that ``waits`` holds no model and has imported nothing until ``POST /load`` tells it to go on, and with what: it is started
before memory is made for it, and the plan may change until then.
The environment of a worker, and so of all that it starts, carries ``WARDEN_INSTANCE`` (the name that its folder began with) and
``WARDEN_WORKER_ROOT`` (``STATE_DIR/workers``): what is left of it is found even when its folder is gone.

A worker is forked from the launcher (``webapp.worker.launcher``), a process that has imported the libraries and touched no device, or
started by a command of its own. The launcher takes ``ForkRequest`` and answers ``ForkReply``, a message each, over a pair of sockets that
has no name: nobody but the Warden that started it can ask, and it ends when that Warden does. Between the two stands a keeper, a process
that waits for the worker's end and writes it down; so a worker depends neither on Warden's life nor on the launcher's.

Every request carries ``Authorization: Bearer TOKEN``. The routes are ``GET /state``, ``POST /load``, ``POST /clean``, ``POST /stop``
and OpenAI's ``GET /v1/models``, ``POST /v1/chat/completions`` and ``POST /v1/completions``.

This module is shared by both sides and imports nothing but the standard library.
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
"""Room that is kept in the environment which a launcher begins with; a worker writes its marks over it. The longest path has 4096 bytes."""
EXIT_LOAD_FAILED = 3
"""Exit code of a worker whose load failed."""


class WorkerState(StrEnum):
    """What a worker says of itself."""

    IMPORTING = "importing"
    """The libraries are being imported."""
    IDLE = "idle"
    """It waits to be told what to load."""
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
    """What a worker is to load.

    ``device`` is ``cuda`` or ``cpu``; ``visible_devices`` the value for CUDA_VISIBLE_DEVICES. ``dtype`` and ``quantization`` are values
    of ``Dtype`` and ``Quantization``.
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
    """``spec.json``, and the body of ``POST /load``, where ``token`` is empty and ``load`` is not."""

    id: str
    token: str
    load: LoadSpec | None
    waits: bool = False


@dataclass(frozen=True)
class ProcessRecord:
    """``process.json``: which process a worker is, and where it was forked which waits for its end, and which launcher both come from."""

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
    """The launcher's first message: everything is imported, and from now on it forks."""

    pid: int
    start_time: int
    seconds: float


@dataclass(frozen=True)
class LauncherRecord:
    """``process.json`` in the launcher's folder: which process it is, and which Warden's."""

    pid: int
    start_time: int
    warden_pid: int
    warden_start_time: int


@dataclass(frozen=True)
class ForkRequest:
    """A worker to be forked: its folder, in which ``spec.json`` and ``instance.json`` stand."""

    folder: str


@dataclass(frozen=True)
class ForkReply:
    """The worker's process, or why there is none: the system's error number where it has one, and a text."""

    pid: int | None = None
    start_time: int | None = None
    errno: int | None = None
    detail: str = ""


@dataclass(frozen=True)
class StopRequest:
    """The body of ``POST /stop``: for how long requests under way may go on, in seconds."""

    wait_s: float = 0.0


@dataclass(frozen=True)
class Failure:
    """Why a load failed; ``detail`` is the exception's own short text."""

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
    """A worker's answer to ``POST /clean``: the process's and the device's bytes before and after."""

    process_before_bytes: int | None
    process_after_bytes: int | None
    device_before_bytes: int | None
    device_after_bytes: int | None


class ProtocolError(ValueError):
    """A file or an answer that is not of this protocol."""


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
    """The types of a class's fields, worked out once: a launch asks twenty times a second."""
    return get_type_hints(cls)


def write_file(path: Path, data: bytes) -> None:
    """Write a file of mode 0600 so that a reader sees all of it or nothing. Raises OSError; nothing new is there then."""
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
    """Return when a process started, in clock ticks after boot (field 22 of ``/proc/PID/stat``), or ``None`` when it is gone.

    Pid and start time together name a process for as long as the machine runs. A zombie counts as gone, but not while one of its
    threads still ends: until then it holds its memory, and a thread that the kernel does not let go holds it for ever.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    after_name = stat.rpartition(")")[2].split()
    state, threads = after_name[0], int(after_name[17])
    return None if state == "X" or (state == "Z" and threads <= 1) else int(after_name[19])
