"""The engine that the program runs: imports the libraries late, so that the worker answers long before."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from webapp.runtimes.protocol import LoadSpec
from webapp.worker import memory
from webapp.worker.engine import DeviceMemory, LoadedModel, LoadFailed, Progress

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # is_available() would initialise CUDA, and a process that has done that cannot be forked.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before the first import. Without a network a repository id took 305 s to fail over; a snapshot folder never asks."""

ALLOCATOR = "expandable_segments:True"
"""With blocks of fixed places a KV cache that grows by a token leaves each old block as a hole: memory that torch keeps and cannot use."""
_ALLOCATOR_NAMES = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return what is to be set beside ``given``; an allocator that somebody chose stays."""
    chosen = given.keys() & _ALLOCATOR_NAMES
    return ENVIRONMENT if chosen else {**ENVIRONMENT, "PYTORCH_CUDA_ALLOC_CONF": ALLOCATOR}


class TorchEngine:
    """See ``InferenceEngine``. ``device`` overrules what a spec asks for."""

    def __init__(self, device: str | None = None) -> None:
        self._forced = device
        self._device = ""
        self._torch: ModuleType | None = None

    def import_libraries(self) -> None:
        """See ``InferenceEngine``."""
        os.environ.update(environment(os.environ))
        self._torch = importlib.import_module("webapp.worker.torch_engine")

    @staticmethod
    def has_touched_a_device() -> bool:
        """Whether this process has a CUDA context, which no fork of it could use, or was forked from one that has.

        The second is what torch goes by itself, and it counts what the first does not see: a driver that was asked how many GPUs there are.
        """
        torch = sys.modules.get("torch")
        return torch is not None and bool(torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())

    def begin_anew(self) -> None:
        """Draw seeds: a fork would give the same random numbers as its neighbours."""
        self.import_libraries()
        self._libraries.draw_seeds()

    def prepare(self, spec: LoadSpec) -> None:
        """See ``InferenceEngine``."""
        self._device = self._libraries.device_of(spec, self._forced)
        if spec.quantization != "none":
            try:
                importlib.import_module("bitsandbytes")  # 2.7 s, so only when it is needed
            except ImportError as exc:
                raise LoadFailed(f"bitsandbytes cannot be imported: {exc}") from exc
        self._libraries.import_model_code(spec)

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        """See ``InferenceEngine``."""
        model: LoadedModel = self._libraries.load_model(spec, self._device, progress)
        return model

    def memory(self) -> DeviceMemory | None:
        """See ``InferenceEngine``."""
        if self._torch is None:
            return None
        figures: DeviceMemory | None = self._torch.device_memory()
        return figures

    def clean(self) -> None:
        """See ``InferenceEngine``."""
        memory.give_back()
        if self._torch is not None:
            self._torch.clean_device()

    @property
    def _libraries(self) -> Any:
        assert self._torch is not None, "import_libraries comes first"
        return self._torch
