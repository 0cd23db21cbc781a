"""The worker's life: report its process, respond at once, import, load, serve, end.

The main thread only waits: SIGTERM keeps its default action, so that it ends the process at once, even during an import
or a load, in which a handler written in Python would have to wait for its turn. Warden does all cleaning up.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from webapp.runtimes.protocol import (
    EXIT_LOAD_FAILED,
    FAILURE_FILE,
    PROCESS_FILE,
    PROTOCOL,
    SOCKET_FILE,
    SPEC_FILE,
    Failure,
    FailureCode,
    LoadSpec,
    ProcessRecord,
    StateReport,
    WorkerSpec,
    WorkerState,
    decode_spec,
    encode,
    process_start_time,
    write_file,
)
from webapp.worker import memory
from webapp.worker.engine import InferenceEngine
from webapp.worker.libraries import TorchEngine
from webapp.worker.server import WorkerServer
from webapp.worker.service import Service

log = logging.getLogger(__name__)

CUT_S = 1.0
"""How long a request that is cut off at the end may take to react."""
DETAIL_LENGTH = 600
GARBAGE = gc.get_threshold()
GARBAGE_WHILE_IMPORTING = (50_000, 5, 1000)
"""Collections during the imports: Python's own thresholds make them 15 % longer (3.9 s instead of 3.4 s); without any
collection, 8 MiB of garbage stay in every worker.
"""


@dataclass(frozen=True)
class _Status:
    id: str
    state: WorkerState
    load: LoadSpec | None = None
    tensors_done: int = 0
    tensors_total: int = 0
    base_bytes: int | None = None
    has_chat_template: bool = False
    failure: Failure | None = None


class Program:
    """One worker in the current folder. ``engine`` does the importing and loading."""

    def __init__(self, spec: WorkerSpec, engine: InferenceEngine) -> None:
        self._engine = engine
        self._token = spec.token
        self._lock = threading.Lock()
        told = spec.load is not None and not spec.waits
        self._status = _Status(
            spec.id, WorkerState.IMPORTING if told else WorkerState.IDLE, spec.load if told else None
        )
        self._told = threading.Event()
        """Set once there is a model to load."""
        self._exit_code = 0
        self._ended = threading.Event()
        self.service = Service(self, engine)
        if told:
            self._told.set()

    def run(self) -> int:
        """Serve until the end; return the exit code."""
        server = WorkerServer(SOCKET_FILE, self._token, self.service.routes())
        threading.Thread(target=server.serve_forever, name="server", daemon=True).start()
        threading.Thread(target=self._bring_up, name="load", daemon=True).start()
        self._ended.wait()
        return self._exit_code

    # Control

    def report(self) -> StateReport:
        """Return the worker's state, as ``Control.report``."""
        status = self._status
        anonymous, device = memory.own_bytes(anew=status.state is WorkerState.READY), self._engine.memory()
        base = status.base_bytes
        on_host = None if anonymous is None or base is None else max(0, anonymous - base)
        return StateReport(
            protocol=PROTOCOL,
            id=status.id,
            pid=os.getpid(),
            state=status.state.value,
            model_id=None if status.load is None else status.load.model_id,
            tensors_done=status.tensors_done,
            tensors_total=status.tensors_total,
            in_flight=self.service.in_flight,
            last_used_at=self.service.last_used_at,
            base_bytes=base,
            allocated_bytes=on_host if device is None else device.allocated_bytes,
            reserved_bytes=None if device is None else device.reserved_bytes,
            process_bytes=anonymous,
            has_chat_template=status.has_chat_template,
            failure_code=None if status.failure is None else status.failure.code,
            failure_detail=None if status.failure is None else status.failure.detail,
        )

    def take(self, spec: WorkerSpec) -> bool:
        """Accept a model to load, as ``Control.take``."""
        with self._lock:
            if self._status.state is not WorkerState.IDLE:
                return self._status.load == spec.load  # the answer was lost, and the request is repeated
            self._status = replace(self._status, state=WorkerState.IMPORTING, load=spec.load)
        self._told.set()
        return True

    def stop(self, wait_s: float) -> None:
        """Begin to shut down, as ``Control.stop``."""
        with self._lock:
            if self._status.state is WorkerState.STOPPING:
                return
            self._status = replace(self._status, state=WorkerState.STOPPING)
        log.info("asked to stop, %s requests under way", self.service.in_flight)
        threading.Thread(target=self._wind_down, args=(wait_s,), name="stop", daemon=True).start()

    def _wind_down(self, wait_s: float) -> None:
        self.service.drain(wait_s, CUT_S)
        self._end(0)

    # Life

    def _bring_up(self) -> None:
        failure: Failure | None = None
        try:
            self._told.wait()
            self._import()
            self._load()
        except Exception as exc:
            log.exception("the load failed")
            failure = describe(exc)
        if failure is not None:
            # Here and not above: the traceback holds tensors for as long as its exception is handled.
            gc.collect()
            write_file(Path(FAILURE_FILE), encode(failure))
            self._set(state=WorkerState.FAILED, failure=failure)
            self._end(EXIT_LOAD_FAILED)

    def _import(self) -> None:
        began = time.monotonic()
        gc.set_threshold(*GARBAGE_WHILE_IMPORTING)
        self._engine.import_libraries()
        gc.collect()
        gc.freeze()  # every later collection would scan the libraries' 300 000 objects, which takes 0.2 s
        log.info("imported the libraries in %.2f s", time.monotonic() - began)

    def _load(self) -> None:
        spec = self._status.load
        if spec is None:
            raise ValueError("nothing to load")
        log.info("loading %s (%s, %s, %s)", spec.model_id, spec.device, spec.dtype, spec.quantization)
        began = time.monotonic()
        self._engine.prepare(spec)
        gc.collect()
        gc.set_threshold(*GARBAGE)
        self._set(state=WorkerState.LOADING, base_bytes=memory.own_bytes(anew=True))
        memory.give_back_large_blocks()
        model = self._engine.load(spec, self._progress)
        self._engine.clean()
        self.service.serve(spec, model)
        self._set(state=WorkerState.READY, has_chat_template=model.has_chat_template)
        log.info("ready after %.2f s", time.monotonic() - began)

    def _progress(self, done: int, total: int) -> None:
        before = self._status.tensors_done
        self._set(tensors_done=done, tensors_total=total)
        if total and done * 10 // total != before * 10 // total:
            log.info("loaded %s of %s tensors", done, total)

    def _set(self, **changes: object) -> None:
        """Change the status; a worker that was told to stop keeps that state."""
        with self._lock:
            if self._status.state is WorkerState.STOPPING:
                changes.pop("state", None)
            self._status = replace(self._status, **changes)  # type: ignore[arg-type]

    def _end(self, code: int) -> None:
        self._exit_code = code
        self._ended.set()


def describe(error: BaseException) -> Failure:
    """Return why a load failed, in the exception's own short text."""
    text = " ".join(str(error).split())[:DETAIL_LENGTH]
    code = FailureCode.OUT_OF_MEMORY if memory.is_out_of_memory(error) else FailureCode.LOAD_FAILED
    return Failure(code.value, f"{type(error).__name__}: {text}" if text else type(error).__name__)


def enter(folder: Path, keeper: int | None = None, launcher: int | None = None) -> WorkerSpec:
    """Change to ``folder``, record this process, and read the specification of its work.

    ``keeper`` is the process that waits for this one's end, and ``launcher`` its parent, if this one was forked. A
    relative name binds the socket, so the limit of 107 bytes for its path does not matter. Raises OSError,
    ProtocolError.
    """
    os.umask(0o077)
    os.chdir(folder)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    pid = os.getpid()
    record = ProcessRecord(
        pid,
        os.getpgid(0),
        process_start_time(pid) or 0,
        keeper=keeper,
        keeper_start_time=None if keeper is None else process_start_time(keeper),
        launcher=launcher,
        launcher_start_time=None if launcher is None else process_start_time(launcher),
    )
    write_file(Path(PROCESS_FILE), encode(record))
    return decode_spec(Path(SPEC_FILE).read_bytes())


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m webapp.worker", description="Runs one model for Warden.")
    parser.add_argument("--dir", type=Path, required=True, help="the worker's folder")
    parser.add_argument("--torch-device", choices=("cpu", "cuda"), help="use this device, whatever the launch asks for")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, engine: InferenceEngine | None = None) -> NoReturn:
    """Run a worker and end the process. ``engine`` replaces the libraries."""
    options = arguments(argv)
    spec = enter(options.dir)
    code = work(spec, engine or TorchEngine(options.torch_device))
    # Not sys.exit: tearing torch down takes long and can hang, and the kernel frees everything anyway.
    os._exit(code)


def work(spec: WorkerSpec, engine: InferenceEngine) -> int:
    """Run the worker that ``enter`` has prepared; return its exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    log.info("worker %s, pid %s", spec.id, os.getpid())
    code = Program(spec, engine).run()
    log.info("ended with code %s", code)
    sys.stdout.flush()
    sys.stderr.flush()
    return code
