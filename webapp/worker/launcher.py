"""The launcher: imports torch and all other common libraries once, touches no device, and forks workers on request.

``python -m webapp.worker.launcher --control FD``. A separate worker takes 4 to 9 s to import the libraries and holds
250 MiB of them; a forked one has them at once and shares them. Three rules make that safe:

- **One thread.** A lock that another thread holds at the moment of a fork is held for ever in the child. The launcher
  counts its threads before every fork, and refuses to fork if there is more than one.
- **No device.** A CUDA context does not survive a fork, so no code here may create one: torch looks for GPUs through
  NVML only (``libraries.ENVIRONMENT``), and bitsandbytes, whose import initialises CUDA, is imported by the workers
  that quantize.
- **Nothing shared that should differ.** A worker gets its own session, log, marks, seeds and descriptors before it does
  anything else.

``Warden ── fork request ──► launcher ── fork ──► keeper ── fork ──► worker``. The keeper waits for the worker's end,
records it, and exits; it has no parent of its own once the launcher has ended.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import time
from contextlib import chdir, suppress
from io import FileIO
from pathlib import Path
from typing import NoReturn

from webapp.runtimes.protocol import (
    EXIT_FILE,
    INSTANCE_VARIABLE,
    LOG_FILE,
    ROOT_VARIABLE,
    ExitRecord,
    ForkReply,
    ForkRequest,
    LauncherReady,
    ProtocolError,
    WorkerSpec,
    decode,
    encode,
    exit_text,
    process_start_time,
    write_file,
)
from webapp.worker import memory, process
from webapp.worker.libraries import TorchEngine
from webapp.worker.program import GARBAGE_WHILE_IMPORTING, enter, work

log = logging.getLogger(__name__)

MESSAGE_BYTES = 1 << 16
REPLY_S = 10.0
"""How long a fork may take until the worker has recorded its process."""
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
FAMILIES = ("gemma2", "gemma3", "llama", "mistral", "phi3", "qwen2", "qwen3")
"""The most common architectures; the code of any other one is imported by its worker."""


def prepare() -> None:
    """Import the shared libraries, and exempt them from garbage collection, which would copy their pages."""
    gc.set_threshold(*GARBAGE_WHILE_IMPORTING)
    chosen = os.environ.get(BLAS_THREADS)
    os.environ[BLAS_THREADS] = (
        "1"  # numpy's library starts its threads when it is imported; no computation of a model uses them
    )
    TorchEngine().import_libraries()
    for family in FAMILIES:
        importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    del os.environ[BLAS_THREADS]
    if chosen is not None:
        os.environ[BLAS_THREADS] = chosen  # the worker's later imports and child processes use the user's value
    memory.give_back()
    gc.freeze()


def serve(control: socket.socket) -> None:
    """Fork on every request, until Warden closes the connection."""
    while message := control.recv(MESSAGE_BYTES):
        try:
            reply = fork(Path(decode(ForkRequest, message).folder), control)
        except (ProtocolError, OSError) as exc:
            reply = refusal(exc)
        control.send(encode(reply))


def fork(folder: Path, control: socket.socket) -> ForkReply:
    """Fork a worker into ``folder`` and return its process. Raises OSError.

    The worker gets the folder itself and not its name: a worker whose answer was lost must not write into a new folder
    of that name.
    """
    if (problem := why_not()) is not None:
        return ForkReply(detail=problem)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as answer:
        with os.fdopen(writing, "wb", buffering=0) as told, chdir(folder):
            if os.fork() == 0:
                answer.close()  # a write to it then reports that the launcher has ended
                _keep(folder, control, told)
        return read_answer(answer)


def why_not() -> str | None:
    """Return why a fork is not safe, or ``None``. An unsafe fork works in most workers, and hangs or fails in some."""
    if (count := process.threads()) != 1:
        return f"the launcher has {count} threads"
    return "the launcher has initialised CUDA" if TorchEngine.has_touched_a_device() else None


def _check_fork() -> None:
    """Raise RuntimeError in a fork that must not continue: no other check detects a driver that was only queried."""
    if (problem := why_not()) is not None:
        raise RuntimeError(problem)


def read_answer(answer: FileIO, wait_s: float = REPLY_S) -> ForkReply:
    """Return the worker's report of its own process before it continues."""
    readable, _, _ = select.select([answer], [], [], wait_s)
    if not readable:
        return ForkReply(detail=f"the worker has not begun after {wait_s:g} s")
    data = answer.read(MESSAGE_BYTES)
    return decode(ForkReply, data) if data else ForkReply(detail="the worker ended before it had begun")


def refusal(error: Exception) -> ForkReply:
    """Return the reply that explains why there is no worker."""
    if isinstance(error, OSError):
        return ForkReply(errno=error.errno, detail=error.strerror or str(error))
    return ForkReply(detail=f"{type(error).__name__}: {error}")


def _keep(folder: Path, control: socket.socket, told: FileIO) -> NoReturn:
    """Run as the keeper of a worker: fork it, wait for its end, record that."""
    try:
        control.close()
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with told:
            worker = _fork_worker(folder, told)
        process.show_name("warden-keeper", folder.name)
        _, status = os.waitpid(worker, 0)
        with suppress(OSError):  # the folder is gone: the worker was ended, and nobody needs the record
            write_file(Path(EXIT_FILE), encode(ExitRecord(exit_text(os.waitstatus_to_exitcode(status)))))
    finally:
        os._exit(0)


def _fork_worker(folder: Path, told: FileIO) -> int:
    try:
        worker = os.fork()
    except OSError as exc:
        told.write(encode(refusal(exc)))
        raise
    if worker == 0:
        _work(folder, told)
    return worker


def _work(folder: Path, told: FileIO) -> NoReturn:
    """Run as the worker."""
    code = 1
    try:
        with told:
            spec, engine = _begin(folder, told)
        code = work(spec, engine)
    except Exception:
        log.exception("the worker failed")
    finally:
        os._exit(code)


def _begin(folder: Path, told: FileIO) -> tuple[WorkerSpec, TorchEngine]:
    """Become independent of the launcher, and report success or the reason of a failure. CUDA is touched only
    afterwards.
    """
    try:
        _check_fork()
        os.setsid()
        process.show_environment({INSTANCE_VARIABLE: folder.name, ROOT_VARIABLE: str(folder.parent)})
        process.show_name("warden-worker", folder.name)
        process.redirect_output(Path(LOG_FILE))
        keeper = os.getppid()
        spec = enter(Path(), keeper, process.parent_of(keeper))
        engine = TorchEngine()
        engine.begin_anew()
    except Exception as exc:
        told.write(encode(refusal(exc)))
        raise
    told.write(encode(ForkReply(os.getpid(), process_start_time(os.getpid()))))
    return spec, engine


def end_with(control: socket.socket, *, while_importing: bool) -> None:
    """Let the kernel end this process as soon as Warden hangs up: an import cannot check that for seconds. Off once
    requests arrive.
    """
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(control, fcntl.F_GETFL)
    fcntl.fcntl(control, fcntl.F_SETFL, flags | os.O_ASYNC if while_importing else flags & ~os.O_ASYNC)


def main() -> NoReturn:
    """Run the launcher and end the process."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m webapp.worker.launcher", description="Forks workers for Warden.")
    parser.add_argument("--control", type=int, required=True, help="descriptor of the socket that requests come from")
    options = parser.parse_args()
    os.umask(0o077)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody has to wait for keepers
    process.show_name("warden-launcher")
    control = socket.socket(fileno=options.control)
    end_with(control, while_importing=True)
    prepare()
    end_with(control, while_importing=False)
    seconds = round(time.monotonic() - began, 2)
    if (problem := why_not()) is not None:
        sys.exit(f"no worker can be forked: {problem}")
    log.info("ready to fork after %s s, pid %s", seconds, os.getpid())
    control.send(encode(LauncherReady(os.getpid(), process_start_time(os.getpid()) or 0, seconds)))
    serve(control)
    os._exit(0)


if __name__ == "__main__":
    main()
