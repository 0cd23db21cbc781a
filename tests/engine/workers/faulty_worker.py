"""The real worker on the CPU with one fault.

``python faulty_worker.py --fault FAULT [--model TEXT] [--gate FILE] --dir FOLDER``. With ``--model``, only a launch of
a model whose id contains TEXT is faulty. Several faults are separated by commas. The faults:

dies_at_start    ends with code 7 before it has a socket
dies_in_load     kills itself with SIGKILL in the middle of the load
hangs_in_load    answers, but the load never finishes
slow_load        loads once the file ``--gate`` exists
silent           accepts connections and never answers
answers_rubbish  answers with something that is not JSON
ignores_sigterm  loads and serves, but ignores SIGTERM and stop requests
out_of_memory    has no memory for the weights: a real allocation fails in a real load
leaves_child     starts a program in its process group that outlives it
"""

from __future__ import annotations

import argparse
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from webapp.runtimes.protocol import LoadSpec, WorkerSpec
from webapp.worker.engine import LoadedModel, Progress
from webapp.worker.libraries import TorchEngine
from webapp.worker.program import Program, enter, main

ROOM_BYTES = 56 * 2**20
"""Memory left to a process that should run out of it: enough for some threads (8 MiB each), not for 64 MiB of weights."""
POLL_S = 0.02
NEVER_LOADED = ("dies_in_load", "hangs_in_load")
"""Faults that never load anything and so skip the imports, which take seconds."""


class FaultyEngine(TorchEngine):
    """The real engine with a fault in its load."""

    def __init__(self, faults: list[str], model: str, gate: Path | None, *, is_certain: bool) -> None:
        super().__init__("cpu")
        self._faults = faults
        self._model = model
        self._gate = gate
        self._is_bare = is_certain and not set(NEVER_LOADED).isdisjoint(faults)

    def import_libraries(self) -> None:
        if not self._is_bare:
            super().import_libraries()

    def prepare(self, spec: LoadSpec) -> None:
        if not self._is_bare:
            super().prepare(spec)

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        for fault in self._faults if self._model in spec.model_id else ():
            getattr(self, f"_{fault}", _nothing)()
        return super().load(spec, progress)

    def _dies_in_load(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _hangs_in_load(self) -> None:
        threading.Event().wait()

    def _slow_load(self) -> None:
        assert self._gate is not None, "--gate names the file to wait for"
        while not self._gate.exists():
            threading.Event().wait(POLL_S)

    def _out_of_memory(self) -> None:
        used = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines()
            if line.startswith("VmData:")
        )
        resource.setrlimit(resource.RLIMIT_DATA, (used + ROOM_BYTES, used + ROOM_BYTES))


def _nothing() -> None:
    """Do nothing: this fault does not concern the load."""


def dies_at_start() -> None:
    print("cannot go on", file=sys.stderr, flush=True)  # noqa: T201 - it goes to the worker's log
    os._exit(7)


def silent() -> None:
    _serve(b"")


def answers_rubbish() -> None:
    _serve(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<rubbish>")


def _serve(answer: bytes) -> None:
    """Accept connections and answer each request with ``answer``, or never if it is empty."""
    server = socket.socket(socket.AF_UNIX)
    server.bind("s")
    server.listen(64)
    taken = []
    while True:
        connection, _ = server.accept()
        taken.append(connection)
        if answer:
            connection.recv(65536)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            taken.clear()


def ignores_sigterm() -> None:
    run = Program.run

    def run_deaf(self: Program) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return run(self)

    Program.run = run_deaf  # type: ignore[method-assign]
    Program.stop = lambda self, wait_s: None  # type: ignore[method-assign]


def leaves_child() -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)


START_FAULTS = {
    "dies_at_start": dies_at_start,
    "silent": silent,
    "answers_rubbish": answers_rubbish,
    "ignores_sigterm": ignores_sigterm,
    "leaves_child": leaves_child,
}


def concerns(spec: WorkerSpec, model: str) -> bool:
    return not model or (spec.load is not None and model in spec.load.model_id)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--gate", type=Path)
    options, rest = parser.parse_known_args()
    folder = Path(rest[rest.index("--dir") + 1])
    spec = enter(folder)
    faults = options.fault.split(",")
    for fault in faults if concerns(spec, options.model) else ():
        START_FAULTS.get(fault, _nothing)()
    certain = spec.load is not None and concerns(spec, options.model)
    main(rest, FaultyEngine(faults, options.model, options.gate, is_certain=certain))
