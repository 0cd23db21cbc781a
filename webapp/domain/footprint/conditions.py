"""What a footprint depends on besides the model and its launch options, and vLLM's limits that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from webapp.domain.modes import LaunchOptions
from webapp.domain.units import gib

Version = tuple[int, ...]

ASYNC_SCHEDULING: Version = (0, 30)
"""From about this version on two batches are in flight at once (``VllmConfig.max_concurrent_batches`` of 0.32)."""


@dataclass(frozen=True)
class Conditions:
    """Circumstances of a launch; ``None`` is not known, or left to the engine."""

    device_memory_bytes: int | None = None
    """Of the smallest of the devices, as CUDA counts."""
    device_name: str = ""
    vllm_version: Version | None = None
    """``None`` is the newest that is known here, 0.32."""
    prompt_tokens: int | None = None
    """Of ``max_tokens``, those that go in at once; ``None`` is all of them."""
    max_num_seqs: int | None = None
    """Requests at once that vLLM warms up for; ``None`` is the batch size, which Warden gives it."""
    max_num_batched_tokens: int | None = None
    kv_value_bytes: int | None = None
    """Bytes of a number in the KV cache, where it is not the type that the model computes in."""
    shares_libraries: bool = False
    """A worker is forked from a process that has imported the libraries, and shares them."""
    quantizes_to_fp8: bool = False
    """vLLM turns the linear layers into FP8 while loading (``--quantization fp8``)."""

    def is_before(self, version: Version) -> bool:
        """Return whether vLLM is older than ``version``."""
        return self.vllm_version is not None and self.vllm_version < version


@dataclass(frozen=True)
class BatchLimits:
    """How much vLLM does at once."""

    tokens: int
    """``max_num_batched_tokens``."""
    requests: int
    """``max_num_seqs``."""


def default_limits(conditions: Conditions) -> BatchLimits:
    """Return the limits that vLLM takes by itself for its API server (``get_batch_defaults``, 0.32)."""
    memory = conditions.device_memory_bytes or 0
    if memory >= gib(160):
        return BatchLimits(16384, 1024)
    if memory >= gib(70) and "a100" not in conditions.device_name.lower():
        return BatchLimits(8192, 1024)
    return BatchLimits(2048, 256)


def limits_of(options: LaunchOptions, conditions: Conditions) -> BatchLimits:
    """Return the limits of a launch: Warden says how many requests, vLLM chooses the tokens, at most all of theirs."""
    requests = conditions.max_num_seqs or options.batch_size
    tokens = conditions.max_num_batched_tokens or default_limits(conditions).tokens
    tokens = min(tokens, requests * options.max_tokens)
    return BatchLimits(tokens, min(requests, tokens))
