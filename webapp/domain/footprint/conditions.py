"""The conditions that a footprint depends on in addition to the model and its launch options, and vLLM's limits that
follow from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from webapp.domain.modes import LaunchOptions
from webapp.domain.units import gib

Version = tuple[int, ...]

ASYNC_SCHEDULING: Version = (0, 30)
"""From about this version on two batches are in flight at once (``VllmConfig.max_concurrent_batches`` of 0.32)."""


@dataclass(frozen=True)
class Conditions:
    """Conditions of a launch; ``None`` is unknown, or left to the engine."""

    device_memory_bytes: int | None = None
    """Memory of the smallest of the devices, as CUDA counts it."""
    device_name: str = ""
    vllm_version: Version | None = None
    """``None`` is the newest that is known here, 0.32."""
    prompt_tokens: int | None = None
    """The tokens of ``max_tokens`` that are processed at once as a prompt; ``None`` is all of them."""
    max_num_seqs: int | None = None
    """Concurrent requests that vLLM warms up for; ``None`` is the batch size, which Warden passes to it."""
    max_num_batched_tokens: int | None = None
    kv_value_bytes: int | None = None
    """Bytes of a number in the KV cache, if it differs from the type that the model computes in."""
    shares_libraries: bool = False
    """Whether a worker is forked from a process that has imported the libraries, and shares them."""
    quantizes_to_fp8: bool = False
    """Whether vLLM converts the linear layers to FP8 while loading (``--quantization fp8``)."""

    def is_before(self, version: Version) -> bool:
        """Return whether vLLM is older than ``version``."""
        return self.vllm_version is not None and self.vllm_version < version


@dataclass(frozen=True)
class BatchLimits:
    """vLLM's limits on concurrent work."""

    tokens: int
    """``max_num_batched_tokens``."""
    requests: int
    """``max_num_seqs``."""


def default_limits(conditions: Conditions) -> BatchLimits:
    """Return the limits that vLLM chooses for its API server without options (``get_batch_defaults``, 0.32)."""
    memory = conditions.device_memory_bytes or 0
    if memory >= gib(160):
        return BatchLimits(16384, 1024)
    if memory >= gib(70) and "a100" not in conditions.device_name.lower():
        return BatchLimits(8192, 1024)
    return BatchLimits(2048, 256)


def limits_of(options: LaunchOptions, conditions: Conditions) -> BatchLimits:
    """Return the limits of a launch: Warden sets the number of requests, vLLM chooses the tokens, at most those of all
    requests.
    """
    requests = conditions.max_num_seqs or options.batch_size
    tokens = conditions.max_num_batched_tokens or default_limits(conditions).tokens
    tokens = min(tokens, requests * options.max_tokens)
    return BatchLimits(tokens, min(requests, tokens))
