"""The real worker on the CPU, on a machine with stub GPUs: it reports its memory as GPU memory.

``python stub_gpu_worker.py --dir FOLDER``. The growth of its anonymous memory since the load began is written to
``$NVML_STUB_DIR/gpu-N/processes/PID``, divided evenly among the GPUs of the launch.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from webapp.runtimes.protocol import LoadSpec, write_file
from webapp.worker import memory
from webapp.worker.engine import LoadedModel, Progress
from webapp.worker.libraries import TorchEngine
from webapp.worker.program import main

INTERVAL_S = 0.05
CONTEXT_BYTES = 64 * 2**20
"""Memory of a simulated CUDA context."""


class StubGpuEngine(TorchEngine):
    """Loads on the CPU and reports the bytes from the beginning of the load until the process ends."""

    def __init__(self, stub: Path) -> None:
        super().__init__("cpu")
        self._stub = stub

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        base = memory.own_bytes() or 0
        gpus = chosen_gpus(self._stub, spec.visible_devices)
        file_bytes(gpus, base)
        threading.Thread(target=self._keep_filing, args=(gpus, base), daemon=True).start()
        return super().load(spec, progress)

    def _keep_filing(self, gpus: list[Path], base: int) -> None:
        while True:
            threading.Event().wait(INTERVAL_S)
            file_bytes(gpus, base)


def chosen_gpus(stub: Path, visible: str | None) -> list[Path]:
    """Return the stub's folders of the GPUs in CUDA_VISIBLE_DEVICES, by uuid or by index."""
    return [gpu for name in (visible or "").split(",") for gpu in stub.glob("gpu-*") if names(gpu, name)]


def names(gpu: Path, name: str) -> bool:
    uuid = gpu / "uuid"
    return gpu.name == f"gpu-{name}" or (uuid.exists() and uuid.read_text(encoding="ascii").strip() == name)


def file_bytes(gpus: list[Path], base: int) -> None:
    held = max(0, (memory.own_bytes() or 0) - base)
    for gpu in gpus:
        folder = gpu / "processes"
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / str(os.getpid()), str(held // len(gpus) + CONTEXT_BYTES).encode())


if __name__ == "__main__":
    main(engine=StubGpuEngine(Path(os.environ["NVML_STUB_DIR"]).absolute()))
