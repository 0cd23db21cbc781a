"""Decides among how many GPUs a model can be divided, in each mode. Pure."""

from __future__ import annotations

from webapp.domain.model import CachedModel, CacheKind
from webapp.domain.modes import Mode


def can_share(model: CachedModel, count: int) -> bool:
    """Return whether vLLM can divide ``model`` among ``count`` GPUs; unknown figures are assumed to be divisible.

    The attention heads are divided evenly, and so are the KV heads; if there are fewer of these than GPUs, each is
    replicated evenly (``LlamaAttention`` of vLLM 0.32). A latent cache (MLA) has no heads.
    """
    shape = model.shape
    if count <= 1 or shape is None or not shape.heads:
        return True
    latent = model.attention is not None and any(each.kind is CacheKind.LATENT for each in model.attention.layers)
    kv_heads = None if latent else shape.kv_heads
    return shape.heads % count == 0 and (not kv_heads or max(kv_heads, count) % min(kv_heads, count) == 0)


def counts(mode: Mode, model: CachedModel, gpus: int) -> tuple[int, ...]:
    """Return the numbers of GPUs, from two to ``gpus``, among which Warden may divide a model on its own.

    vLLM: 2, 4, 8… if the model can be divided so; transformers: any number that leaves each GPU a layer.
    """
    if mode is Mode.VLLM:
        return tuple(
            n for n in (2**power for power in range(1, gpus.bit_length())) if n <= gpus and can_share(model, n)
        )
    layers = model.shape.layers if model.shape else None
    return tuple(range(2, min(gpus, layers or gpus) + 1))
