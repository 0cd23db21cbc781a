"""Memory that a computation needs at its peak in addition to weights and KV cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

from webapp.domain.footprint.conditions import BatchLimits, Conditions
from webapp.domain.footprint.parts import Confidence, Note
from webapp.domain.footprint.weights import INT8_ROW_BYTES, NF4_BYTES
from webapp.domain.model import CachedModel, CacheKind, WeightFacts
from webapp.domain.modes import Quantization
from webapp.domain.units import MIB, gib

CUDA_WORKSPACE_BYTES = gib(0.035)
"""cuBLAS's workspace and the smallest blocks of torch's allocator: published rows lie this much above weights and KV cache."""
HOST_WORKSPACE_BYTES = gib(0.006)
"""Memory that an answer takes on the CPU in addition to cache and activations: 1 to 17 MiB measured over models of 0.1
to 4 GiB (torch 2.13).
"""
INT8_WORKSPACE = 1.5
NF4_WORKSPACE = 3.3
"""Working space of bitsandbytes, in 16-bit copies of the largest linear layer: a 15.5B model (24576 x 6144) took 0.44 and 0.94 GiB."""
HOST_NF4_WORKSPACE = 0.85
"""The same on the CPU (bitsandbytes 0.50): 0 to 5 MiB measured for layers of 1.5, 6 and 8.3 MiB, 17 and 70 for layers of 32 and 80."""
HOST_INT8_WORKSPACE = (15 * MIB, 3.3)
"""A constant in bytes, and a factor for such copies: 26, 24, 41, 80 and 286 MiB measured for the same layers."""
HOST_INT8_LOADING = 4.7
HOST_NF4_LOADING = 9.0
"""Memory that quantizing on the CPU takes in addition to the finished weights, in 16-bit copies of the largest linear
layer: 8, 25, 38 and 131 MiB measured for the same layers in INT8, 10, 68, 68 and 241 in NF4.
"""
SAMPLER_FLOOR_BYTES = gib(0.18)
SAMPLER_LOGIT_BYTES = 14.2
OLD_SAMPLER_LOGIT_BYTES = 39.6
"""Bytes per logit of vLLM's sampler, which is warmed up for all requests over the whole vocabulary; since 0.17, and in
0.11 to 0.16.
"""
NEW_SAMPLER = (0, 17)
EXPERTS_BYTES = gib(0.35)
"""Added to the rule for models with experts, images or sound: 0.2 to 0.5 GiB are published; this is the middle."""


@dataclass(frozen=True)
class Activation:
    """Bytes on each device, and their confidence."""

    bytes: int
    confidence: Confidence = Confidence.HIGH
    notes: tuple[Note, ...] = ()


def token_values(model: CachedModel, devices: int = 1, *, expands_latents: bool = True) -> int:
    """Return the numbers per token that are alive at once in the widest layer: ``3 I + 4 H`` of a gated MLP with its
    surroundings.

    With experts each token is copied to those that process it (``grouped_mm_experts_forward`` of transformers 5.23).
    MLA expands what it keeps into keys and values of every head. Tensor parallel divides the width of the MLP. If no
    sizes are stated, the square root of the number of weights is a good approximation over known models.
    """
    shape = model.shape
    if shape is None or not shape.hidden:
        weights = model.weights.elements if model.weights else model.size_bytes // 2
        return math.isqrt(max(weights, 1))
    hidden, experts = shape.hidden, shape.experts
    dense = 3 * (shape.intermediate or 4 * hidden)
    if experts is not None:
        routed = (
            experts.active * (3 * experts.intermediate // devices + hidden) + 3 * experts.shared_intermediate // devices
        )
        dense = max(routed, dense // devices if experts.has_dense_layers else 0)
    else:
        dense = -(-dense // devices)
    expanded = model.attention.expanded_values if model.attention and expands_latents else 0
    return max(dense + 4 * hidden, expanded + 2 * hidden)


def prefill_bytes(model: CachedModel, prompt: int, requests: int, value: int) -> Activation:
    """Return the bytes that transformers needs to process ``requests`` prompts: ``B x P x b x (3 I + 4 H)``.

    The slopes of Qwen's published tables (transformers 4.46, SDPA) agree with it to 0.8 %. Attention without SDPA holds
    the scores of all pairs of tokens in FP32 and twice in the model's type; a window shorter than the prompt creates a
    mask of all pairs and repeats keys and values for every head (masking_utils.py, sdpa_attention.py of 5.23).
    """
    body = prompt * value * token_values(model)
    confidence, notes = _known(model)
    attention = model.attention
    if attention is not None and attention.is_eager:
        body += attention.heads * prompt * prompt * (4 + 2 * value)
        return Activation(requests * body, Confidence.MEDIUM, (*notes, Note.EAGER_ATTENTION))
    windows = [each.window for each in attention.layers if each.window is not None] if attention else []
    if attention is not None and windows and prompt >= min(windows):
        body += prompt * prompt * (1 + value) + prompt * attention.repeated_values * value
        return Activation(requests * body, Confidence.MEDIUM, (*notes, Note.MASKED_WINDOW))
    return Activation(requests * body, confidence, notes)


def quantization_bytes(model: CachedModel, quantization: Quantization, *, on_host: bool) -> int:
    """Return the working space of quantized layers in transformers, in bytes.

    The kernels of GPTQ keep a buffer for the largest layer in 16 bits (Qwen's published tables lie that much above
    weights and KV cache). For bitsandbytes see ``INT8_WORKSPACE`` and ``HOST_INT8_WORKSPACE``. It is at most what the
    conversion saves; otherwise a lower precision would seem to need more for a model of one layer.
    """
    facts = model.weights
    if facts is not None and model.quantization == "gptq":
        return 2 * facts.largest_linear
    if quantization is Quantization.NONE or facts is None or model.quantization is not None:
        return 0
    in_int8 = facts.linear_elements + INT8_ROW_BYTES * facts.linear_rows
    for_int8 = min(_for_layer(facts, Quantization.INT8, on_host=on_host), max(0, 2 * facts.linear_elements - in_int8))
    if quantization is Quantization.INT8:
        return for_int8
    in_nf4 = math.ceil(NF4_BYTES * facts.linear_elements)
    return min(_for_layer(facts, Quantization.INT4, on_host=on_host), for_int8 + max(0, in_int8 - in_nf4))


def _for_layer(facts: WeightFacts, quantization: Quantization, *, on_host: bool) -> int:
    """Return the working space for the largest layer."""
    layer = _largest_layer(facts)
    is_int8 = quantization is Quantization.INT8
    if not on_host:
        return round(layer * (INT8_WORKSPACE if is_int8 else NF4_WORKSPACE))
    if is_int8:
        fixed, copies = HOST_INT8_WORKSPACE
        return fixed + round(copies * layer)
    return round(layer * HOST_NF4_WORKSPACE)


def _largest_layer(facts: WeightFacts) -> int:
    """Return the bytes of the largest linear layer in 16 bits."""
    return 2 * (facts.largest_linear or facts.linear_elements // 200)


def quantizing_bytes(facts: WeightFacts, quantization: Quantization) -> int:
    """Return the bytes that bitsandbytes holds on the CPU in addition to the finished weights while it quantizes; at
    most the layers.
    """
    if quantization is Quantization.NONE:
        return 0
    copies = HOST_INT8_LOADING if quantization is Quantization.INT8 else HOST_NF4_LOADING
    return min(round(copies * _largest_layer(facts)), 2 * facts.linear_elements)


def vllm_bytes(model: CachedModel, limits: BatchLimits, devices: int, value: int, conditions: Conditions) -> Activation:
    """Return the peak of vLLM's warm-up on a GPU: the sampler's, over all requests, or that of a full batch of tokens.

    ``0.18 GiB + max(14.2 x S x V, T x b x (3 I + 4 H))``. Published for vLLM 0.19 on an H100 (S 1024, T 8192): Llama-3.1-8B 1.89 GiB
    (1.92 here), Qwen2.5-7B 2.21 (2.24), and 1.05 to 1.10 where the first half of the layers runs without the sampler (1.08). The sampler's
    part is not divided by tensor parallel.
    """
    vocabulary = (model.shape and model.shape.vocabulary) or 0
    logit = OLD_SAMPLER_LOGIT_BYTES if conditions.is_before(NEW_SAMPLER) else SAMPLER_LOGIT_BYTES
    sampler = math.ceil(logit * limits.requests * vocabulary)
    batch = limits.tokens * value * token_values(model, devices)
    confidence, notes = _known(model)
    has_more = model.has_vision or (model.shape is not None and model.shape.experts is not None)
    more = EXPERTS_BYTES if has_more else 0
    return Activation(SAMPLER_FLOOR_BYTES + max(sampler, batch) + more, confidence, notes)


def _known(model: CachedModel) -> tuple[Confidence, tuple[Note, ...]]:
    if model.shape is None or not model.shape.hidden:
        return Confidence.LOW, (Note.UNSTATED_SIZES,)
    notes = []
    if model.shape.experts is not None:
        notes.append(Note.EXPERTS)
    if model.has_vision:
        notes.append(Note.VISION)
    has_states = model.attention is not None and any(e.kind is CacheKind.STATE for e in model.attention.layers)
    return Confidence.MEDIUM if notes or has_states else Confidence.HIGH, tuple(notes)
