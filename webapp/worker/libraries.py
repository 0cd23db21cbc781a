"""The engine that the program runs: imports the libraries late, so that the worker responds long before."""

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
    # is_available() would initialise CUDA, and a process in which it is initialised cannot be forked.
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before the first import. Without a network a repository id took 305 s to fail over; a snapshot folder needs no
network.
"""

ALLOCATOR = "expandable_segments:True"
"""With blocks at fixed addresses a KV cache that grows by a token leaves each old block as a hole: memory that torch
keeps and cannot use.
"""
_ALLOCATOR_NAMES = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"}


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set in addition to ``given``; a chosen allocator is kept."""
    chosen = given.keys() & _ALLOCATOR_NAMES
    return ENVIRONMENT if chosen else {**ENVIRONMENT, "PYTORCH_CUDA_ALLOC_CONF": ALLOCATOR}


class TorchEngine:
    """The engine on torch and transformers. ``device`` overrides the device in a spec."""

    def __init__(self, device: str | None = None) -> None:
        self._forced = device
        self._device = ""
        self._torch: ModuleType | None = None

    def import_libraries(self) -> None:
        """Import the libraries that every load needs, as ``InferenceEngine.import_libraries``."""
        os.environ.update(environment(os.environ))
        self._torch = importlib.import_module("webapp.worker.torch_engine")

    @staticmethod
    def has_touched_a_device() -> bool:
        """Return whether this process has a CUDA context, which no fork could use, or was forked from one that has.

        torch itself decides by the second condition, which also covers a case that the first does not see: a driver
        that was asked how many GPUs there are.
        """
        torch = sys.modules.get("torch")
        return torch is not None and bool(torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())

    def begin_anew(self) -> None:
        """Draw new seeds: all forks would produce the same random numbers."""
        self.import_libraries()
        self._libraries.draw_seeds()

    def prepare(self, spec: LoadSpec) -> None:
        """Choose the device and import more libraries, as ``InferenceEngine.prepare``."""
        self._device = self._libraries.device_of(spec, self._forced)
        if spec.quantization != "none":
            try:
                importlib.import_module("bitsandbytes")  # takes 2.7 s, so only if it is needed
            except ImportError as exc:
                raise LoadFailed(f"bitsandbytes cannot be imported: {exc}") from exc
        self._libraries.import_model_code(spec)

    def load(self, spec: LoadSpec, progress: Progress) -> LoadedModel:
        """Load the model, as ``InferenceEngine.load``."""
        model: LoadedModel = self._libraries.load_model(spec, self._device, progress)
        return model

    def memory(self) -> DeviceMemory | None:
        """Return the device's memory, as ``InferenceEngine.memory``."""
        if self._torch is None:
            return None
        figures: DeviceMemory | None = self._torch.device_memory()
        return figures

    def clean(self) -> None:
        """Free memory that is not needed, as ``InferenceEngine.clean``."""
        memory.give_back()
        if self._torch is not None:
            self._torch.clean_device()

    @property
    def _libraries(self) -> Any:
        assert self._torch is not None, "import_libraries comes first"
        return self._torch
