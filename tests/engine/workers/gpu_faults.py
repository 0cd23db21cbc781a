"""The worker of a stub GPU with one fault, for launches of a model whose id contains ``--model``.

``python gpu_faults.py --fault FAULT --model TEXT [--gate FILE] [--extra-mib N] --dir FOLDER``. The faults:

slow    loads once the file ``--gate`` exists; until then the stub's files show what it holds
greedy  takes ``--extra-mib`` more than predicted, on a GPU without that much memory: a real allocation fails
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.engine.workers.stub_gpu_worker import CONTEXT_BYTES, StubGpuEngine, chosen_gpus, file_bytes
from webapp.runtimes.protocol import LoadSpec
from webapp.worker import memory
from webapp.worker.engine import LoadedModel, Progress
from webapp.worker.program import main

POLL_S = 0.02
SEEN_S = 0.6
"""How long it holds its memory before it takes more: some readings of the server."""


class FaultyGpuEngine(StubGpuEngine):
    """The stub GPU's engine with a fault before its load."""

    def __init__(self, stub: Path, fault: str, model: str, gate: Path | None, extra_bytes: int) -> None:
        super().__init__(stub)
        self._fault = fault
        self._model = model
        self._gate = gate
        self._extra_bytes = extra_bytes
        self._taken: list[bytearray] = []

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        if self._model in spec.model_id:
            getattr(self, f"_{self._fault}")(chosen_gpus(self._stub, spec.visible_devices))
        return super().load(spec, progress)

    def _slow(self, gpus: list[Path]) -> None:
        assert self._gate is not None, "--gate names the file to wait for"
        file_bytes(gpus, memory.own_bytes() or 0)
        while not self._gate.exists():
            threading.Event().wait(POLL_S)

    def _greedy(self, gpus: list[Path]) -> None:
        """Take more than was predicted; from then on the process is limited to what the GPU has left."""
        base, (gpu, *_) = memory.own_bytes() or 0, gpus
        has = free_bytes(gpu) - CONTEXT_BYTES
        limit = data_bytes() + max(0, has)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        self._taken.append(bytearray(min(self._extra_bytes, has)))
        file_bytes(gpus, base)
        threading.Event().wait(SEEN_S)
        self._taken.append(bytearray(max(0, self._extra_bytes - len(self._taken[0]))))


def free_bytes(gpu: Path) -> int:
    """Return the free bytes of a stub GPU."""

    def figure(name: str) -> int:
        return int((gpu / name).read_text()) if (gpu / name).exists() else 0

    held = sum(int(path.read_text()) for path in (gpu / "processes").glob("*") if path.name != str(os.getpid()))
    return figure("total") - figure("reserved") - figure("used") - held


def data_bytes() -> int:
    """Return what RLIMIT_DATA counts for this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--gate", type=Path)
    parser.add_argument("--extra-mib", type=int, default=0)
    options, rest = parser.parse_known_args()
    stub = Path(os.environ["NVML_STUB_DIR"]).absolute()
    main(rest, FaultyGpuEngine(stub, options.fault, options.model, options.gate, options.extra_mib * 2**20))
