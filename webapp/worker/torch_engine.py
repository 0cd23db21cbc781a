"""Load a model with transformers: dtype, quantization, devices, progress. Importing this module imports torch."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import accelerate  # noqa: F401 - a load asks for it; imported here, it costs no load anything
import numpy as np
import torch
import transformers
import transformers.generation.utils
import transformers.models.llama.modeling_llama  # most families share its parts
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, modeling_utils
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import logging as transformers_logging

from webapp.runtimes.protocol import LoadSpec
from webapp.worker import memory
from webapp.worker.device_map import by_layers
from webapp.worker.engine import DeviceMemory, LoadedModel, LoadFailed, Progress
from webapp.worker.generation import TorchModel
from webapp.worker.host_weights import HostWeightsFile, readers

CPU, CUDA = "cpu", "cuda"
_WEIGHTS_BAR = "Loading weights"
"""The name that transformers 5 gives to the loop over the tensors."""
_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def device_of(spec: LoadSpec, forced: str | None) -> str:
    """Return ``cuda`` or ``cpu``, and make the chosen GPUs the only visible ones.

    Raises:
        LoadFailed: a GPU is requested and torch cannot use it. A model is never moved to the CPU silently.
    """
    device = forced or spec.device
    if device != CUDA:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # bitsandbytes looks for GPUs when it is imported
        return device
    if torch.cuda.is_initialized():
        raise LoadFailed("CUDA was initialised before the GPUs were chosen")
    if spec.visible_devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec.visible_devices
    wanted = None if spec.visible_devices is None else len(spec.visible_devices.split(","))
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found == 0 or (wanted is not None and found != wanted):
        built = torch.version.cuda or "no CUDA"
        raise LoadFailed(
            f"torch {torch.__version__} (built for {built}) sees {found} of the GPUs {spec.visible_devices or 'of this server'}"
        )
    return device


def import_model_code(spec: LoadSpec) -> None:
    """Import the code of the model's architecture: 86 MB the first time, not part of the model's own memory."""
    config = AutoConfig.from_pretrained(spec.snapshot, trust_remote_code=spec.allow_remote_code)
    with contextlib.suppress(
        KeyError, ValueError
    ):  # an architecture unknown to transformers fails in the load, with a message
        _ = AutoModelForCausalLM._model_mapping[type(config)]


def load_model(spec: LoadSpec, device: str, progress: Progress) -> LoadedModel:
    """Load ``spec`` on ``device`` and free the memory that only the load needed."""
    tokenizer = AutoTokenizer.from_pretrained(spec.snapshot, trust_remote_code=spec.allow_remote_code)
    config = AutoConfig.from_pretrained(spec.snapshot, trust_remote_code=spec.allow_remote_code)
    with _own_memory(device), _counting(progress), _listening() as said:
        try:
            model = AutoModelForCausalLM.from_pretrained(
                spec.snapshot,
                config=config,
                dtype=_dtype(spec, config, device),
                device_map=_device_map(device, config, spec),
                quantization_config=_quantization(spec),
                use_safetensors=None if spec.allow_pickle else True,
                trust_remote_code=spec.allow_remote_code,
            )
        except RuntimeError as exc:
            if memory.is_out_of_memory(exc, "\n".join(said)):
                raise MemoryError(str(exc)) from exc
            raise
    _refuse_offload(model)
    loaded = TorchModel(model, tokenizer)
    if device == CUDA:
        loaded.warm_up()
    return loaded


def _dtype(spec: LoadSpec, config: Any, device: str) -> Any:
    """Return the type to load in: as in the files, but FP32 as FP16 on a GPU; bitsandbytes computes in FP16."""
    if spec.dtype != "auto":
        return _DTYPES[spec.dtype]
    if spec.quantization != "none":
        return torch.float16
    if device == CUDA and (config.dtype or _file_dtype(Path(spec.snapshot))) in (torch.float32, "float32"):
        return torch.float16
    return "auto"


def _file_dtype(snapshot: Path) -> str | None:
    """Return ``float32`` if the first weights file states it; configurations without a dtype are old."""
    for path in sorted(snapshot.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
            return "float32" if "F32" in kinds else None
    return None


def _device_map(device: str, config: Any, spec: LoadSpec) -> Any:
    """Return the device of the whole model, or of its layers over all visible GPUs as the plan counts them.

    accelerate's ``auto`` decides by the free memory that it finds, and reserves space for a layer on the first GPU.
    """
    count = torch.cuda.device_count() if device == CUDA else 1
    if count == 1:
        return {"": 0 if device == CUDA else device}
    with torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=spec.allow_remote_code)
    return by_layers(empty, count) or "auto"


def _quantization(spec: LoadSpec) -> Any:
    if spec.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    if spec.quantization == "int4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
    return None


def _refuse_offload(model: Any) -> None:
    """Refuse a model of which accelerate silently put parts on the host or the disk for want of GPU memory."""
    places = {str(place) for place in getattr(model, "hf_device_map", {}).values()}
    if "disk" in places or (CPU in places and len(places) > 1):
        raise MemoryError("out of memory: the GPUs have no room for all layers")


@contextmanager
def _own_memory(device: str) -> Iterator[None]:
    """On the host, read weights into the process's own memory instead of mapping the file.

    Mapped pages hide in the page cache until the first token, and the figures and receipts would be wrong.
    ``disable_mmap`` of transformers reads whole files first and peaks at twice their size (measured: 2.2 GB for a model
    of 0.94 GB, against 1.3); here each tensor is read when the loop that counts them reaches it.
    """
    if device != CPU:
        yield
        return

    mapped = modeling_utils.safe_open
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    with readers() as threads:
        modeling_utils.safe_open = lambda filename, **_: HostWeightsFile(filename, threads)
        try:
            yield
        finally:
            modeling_utils.safe_open = mapped


@contextmanager
def _counting(progress: Progress) -> Iterator[None]:
    """Count the tensors in the loop for which transformers would draw a progress bar."""

    def hook(factory: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("desc") == _WEIGHTS_BAR and args and isinstance(args[0], Sized):
            return _counted(args[0], progress)
        return factory(*args, **kwargs)

    previous = transformers_logging.set_tqdm_hook(hook)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(previous)


def _counted(items: Any, progress: Progress) -> Iterator[Any]:
    total = len(items)
    progress(0, total)
    for done, item in enumerate(items, 1):
        yield item
        progress(done, total)


class _Memo(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect the log of transformers: errors of single tensors are reported only there."""
    memo = _Memo()
    logger = logging.getLogger("transformers")
    logger.addHandler(memo)
    try:
        yield memo.lines
    finally:
        logger.removeHandler(memo)


def draw_seeds() -> None:
    """Give torch and numpy seeds of their own; Python's ``random`` reseeds itself after a fork."""
    torch.seed()
    np.random.seed()


def device_memory() -> DeviceMemory | None:
    """Return torch's figures over all visible GPUs; ``None`` while CUDA is untouched."""
    if not torch.cuda.is_initialized():
        return None
    devices = range(torch.cuda.device_count())
    return DeviceMemory(
        sum(torch.cuda.memory_allocated(d) for d in devices), sum(torch.cuda.memory_reserved(d) for d in devices)
    )


def clean_device() -> None:
    """Release torch's cached blocks to the GPUs."""
    if not torch.cuda.is_initialized():
        return
    for device in range(torch.cuda.device_count()):
        torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.ipc_collect()


transformers_logging.disable_progress_bar()
get_checkpoint_conversion_mapping("llama")  # the first call compiles the patterns of all families, in 0.2 s
VERSIONS = f"torch {torch.__version__}, transformers {transformers.__version__}"
