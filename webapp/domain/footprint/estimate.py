"""Combine the parts of a footprint, for each mode and device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from webapp.domain.footprint import activation, kv_cache, weights
from webapp.domain.footprint.activation import Activation
from webapp.domain.footprint.conditions import Conditions, limits_of
from webapp.domain.footprint.kv_cache import CacheRule
from webapp.domain.footprint.parts import Confidence, Footprint, Note, Part, PartName, Source
from webapp.domain.footprint.weights import LoadedWeights
from webapp.domain.memory import DeviceKind
from webapp.domain.model import AttentionDoubt, CachedModel, WeightFacts
from webapp.domain.modes import LaunchOptions, Mode, Quantization
from webapp.domain.units import gib

GPU_CONTEXT_BYTES = gib(0.68)
"""A CUDA context with torch's kernels: 518 MiB before the first answer and 686 after it, measured on an H200 (torch
2.11 for CUDA 13.0); 0.28 to 0.45 GiB are reported for older ones. The larger is taken; a launch on the device itself
corrects it.
"""
INT8_GPU_CONTEXT_BYTES = gib(0.74)
"""The same with the kernels that multiply INT8: 750 MiB. Those of NF4 add nothing."""
VLLM_CONTEXT_BYTES = gib(0.6)
"""The context of a vLLM process before it measures the GPU: 0.3-0.6 GiB are reported; the larger is taken."""
VLLM_SHARED_CONTEXT_BYTES = gib(2.1)
"""The same for several GPUs, on which NCCL exists already: about 2 GiB are reported."""
VLLM_NON_TORCH_BYTES = gib(0.25)
"""Memory that torch does not count, on one GPU: 0.13-0.25 GiB are published."""
VLLM_SHARED_NON_TORCH_BYTES = gib(2.13)
"""The same at 2 to 4 GPUs: 2.06-2.13 GiB are published for vLLM 0.19."""
VLLM_GRAPHS_BYTES = gib(0.4)
"""CUDA graphs on 24 GiB cards: 0.1-0.4 GiB are published. vLLM counts them in its budget since 0.21; earlier versions
hold them on the device as well.
"""
VLLM_LARGE_GRAPHS_BYTES = gib(0.91)
"""The same on an H100: 0.91 GiB for Llama-3.1-8B, 0.5-1.9 in all."""
LARGE_DEVICE_BYTES = gib(70)
VLLM_HOST_CONTEXT_BYTES = gib(1.4)
"""Anonymous memory of vLLM's processes on the CPU without weights and KV cache: 1.27 GiB measured with vLLM 0.32."""
HOST_CONTEXT_BYTES = gib(0.25)
QUANTIZING_HOST_CONTEXT_BYTES = gib(0.2945)
"""Anonymous memory of a worker that has imported everything: 256 MiB measured with torch 2.13 on the CPU, 299 to 303 with bitsandbytes."""
SHARING_HOST_CONTEXT_BYTES = gib(0.025)
QUANTIZING_SHARING_HOST_CONTEXT_BYTES = gib(0.115)
"""The same of a worker that was forked from a launcher and shares the libraries with it: the private memory of the
worker and its keeper.

Three models of 50 MB to 1.7 GB held 21 to 24 MiB in addition to their weights, 113 to 116 MiB with bitsandbytes; a
keeper holds 3.4 MiB.
"""

_NO_GRAPHS, _NO_NON_TORCH = (Part(name, 0, Source.NOTHING) for name in (PartName.GRAPHS, PartName.NON_TORCH))


def estimate(
    model: CachedModel,
    options: LaunchOptions,
    devices: Sequence[tuple[str, DeviceKind]],
    mode: Mode = Mode.TRANSFORMERS,
    conditions: Conditions | None = None,
) -> tuple[Footprint, ...]:
    """Return what running ``model`` with ``options`` in ``mode`` takes on each of ``devices`` (id, kind), in bytes.

    Transformers mode: ``weights + max(KV(prompt + output), KV(prompt) + prefill) + context``. vLLM mode: ``weights +
    KV(context x requests) + activation + graphs + non-torch + context``. Values that a model's files do not state are
    guessed and marked so; the sum is never 0.
    """
    on_host = any(kind is DeviceKind.HOST for _, kind in devices)
    launch = Launch(model, options, mode, conditions or Conditions(), on_host=on_host)
    alike = {kind: launch.share_on(kind, len(devices)) for kind in {kind for _, kind in devices}}
    return tuple(alike[kind].on(device_id) for device_id, kind in devices)


@dataclass(frozen=True)
class Launch:
    """One form of a launch, over any number of devices: the values that are common to all counts are computed once."""

    model: CachedModel
    options: LaunchOptions
    mode: Mode
    conditions: Conditions
    on_host: bool
    """Whether one of the devices is the host."""

    def share_on(self, kind: DeviceKind, count: int) -> Footprint:
        """Return the footprint on a device of this kind, one of ``count``; see ``estimate``."""
        if (kind, count) not in self._shares:
            in_mode = _in_vllm if self.mode is Mode.VLLM else _in_transformers
            self._shares[kind, count] = in_mode(self, kind, count)
        return self._shares[kind, count]

    @cached_property
    def _shares(self) -> dict[tuple[DeviceKind, int], Footprint]:
        return {}

    @cached_property
    def value(self) -> int:
        keeps_float32 = self.on_host and self.mode is Mode.TRANSFORMERS
        return weights.value_bytes(self.model, self.options, keeps_float32=keeps_float32)

    @cached_property
    def weights(self) -> LoadedWeights:
        return weights.loaded_weights(self.model, self.options, self.mode, self.conditions, on_host=self.on_host)

    @cached_property
    def cache(self) -> CacheRule:
        return kv_cache.cache_rule(self.model, self.weights.bytes, self.conditions.kv_value_bytes or self.value)

    @cached_property
    def kept(self) -> int:
        """The KV cache of all requests in transformers once they are answered."""
        return kv_cache.in_transformers(self.cache, self.options.max_tokens, self.options.batch_size)

    @cached_property
    def taken_in(self) -> int:
        """The same while the prompts are processed."""
        return kv_cache.in_transformers(self.cache, self.prompt, self.options.batch_size, prefill=True)

    @cached_property
    def prefill(self) -> Activation:
        return activation.prefill_bytes(self.model, self.prompt, self.options.batch_size, self.value)

    @property
    def prompt(self) -> int:
        tokens = self.options.max_tokens
        asked = self.conditions.prompt_tokens
        return tokens if asked is None else min(asked, tokens)

    @property
    def kv_heads(self) -> int | None:
        heads = [each.heads for each in self.model.attention.layers] if self.model.attention else []
        return min(heads) if heads else self.model.shape.kv_heads if self.model.shape else None


def _in_transformers(launch: Launch, kind: DeviceKind, count: int) -> Footprint:
    model, loaded, rule, prefill = launch.model, launch.weights, launch.cache, launch.prefill
    layers = model.shape.layers if model.shape else None
    held = weights.by_layers(loaded.bytes, layers, count, weights.end_bytes(model, loaded.bytes, launch.value))
    ended = weights.by_layers(launch.kept, layers, count)
    beyond = max(0, weights.by_layers(launch.taken_in, layers, count) + prefill.bytes - ended)
    on_host = kind is DeviceKind.HOST
    working = activation.quantization_bytes(model, launch.options.quantization, on_host=on_host)
    fixed = working + (activation.HOST_WORKSPACE_BYTES if on_host else activation.CUDA_WORKSPACE_BYTES)
    context = _context_bytes(launch, on_host=on_host)
    parts = (
        *_model_parts(loaded, held, rule, ended),
        _activation_part(beyond + fixed, prefill.confidence),
        _NO_GRAPHS,
        _NO_NON_TORCH,
        Part(PartName.CONTEXT, context, Source.MEASURED),
    )
    warm = 0 if on_host else activation.CUDA_WORKSPACE_BYTES
    load_peak = held + context + warm + _loading_bytes(launch, count)
    return Footprint("", parts, load_peak, _notes(loaded.notes, rule.notes, prefill.notes), warm_bytes=warm)


def _context_bytes(launch: Launch, *, on_host: bool) -> int:
    quantization = launch.options.quantization
    if not on_host:
        return INT8_GPU_CONTEXT_BYTES if quantization is Quantization.INT8 else GPU_CONTEXT_BYTES
    if launch.conditions.shares_libraries:
        plain, quantizing = SHARING_HOST_CONTEXT_BYTES, QUANTIZING_SHARING_HOST_CONTEXT_BYTES
    else:
        plain, quantizing = HOST_CONTEXT_BYTES, QUANTIZING_HOST_CONTEXT_BYTES
    return plain if quantization is Quantization.NONE else quantizing


def _in_vllm(launch: Launch, kind: DeviceKind, count: int) -> Footprint:
    model, options, conditions, rule = launch.model, launch.options, launch.conditions, launch.cache
    limits, loaded, on_host = limits_of(options, conditions), launch.weights, kind is DeviceKind.HOST
    table = weights.rotary_table_bytes(model, launch.value)
    held = weights.divided(loaded.bytes, model, count, launch.kv_heads) + table
    block = 1 if on_host else kv_cache.BLOCK_TOKENS
    cached = kv_cache.in_vllm(rule, options.max_tokens, options.batch_size, limits, count, block=block)
    warm_up = activation.vllm_bytes(model, limits, count, launch.value, conditions)
    second = kv_cache.second_batch_bytes(rule, options.max_tokens, limits, count, conditions)
    parts = (
        *_model_parts(loaded, held, rule, cached),
        _activation_part(warm_up.bytes + second, warm_up.confidence),
        *_surroundings(conditions, count, on_host=on_host),
    )
    unknown = () if on_host or conditions.device_memory_bytes else (Note.DEVICE_MEMORY_UNKNOWN,)
    context = next(part.bytes for part in parts if part.name is PartName.CONTEXT)
    notes = _notes(loaded.notes, rule.notes, warm_up.notes, unknown)
    told = limits.tokens if _takes_any_batch(model) else None
    return Footprint("", parts, held + context + _loading_bytes(launch, count), notes, batched_tokens=told)


def _takes_any_batch(model: CachedModel) -> bool:
    """Return whether vLLM can split a prompt into pieces of any size; it must process images, and the input of an
    encoder, whole (0.32).
    """
    has_encoder = model.attention is not None and model.attention.doubt is AttentionDoubt.ENCODER
    return not model.has_vision and not has_encoder


def _model_parts(loaded: LoadedWeights, held: int, rule: CacheRule, cached: int) -> tuple[Part, ...]:
    return (
        Part(PartName.WEIGHTS, held, loaded.source, loaded.confidence),
        Part(PartName.KV_CACHE, cached, rule.source, rule.confidence),
    )


def _activation_part(size: int, confidence: Confidence) -> Part:
    source = Source.GUESS if confidence is Confidence.LOW else Source.RULE
    return Part(PartName.ACTIVATION, size, source, confidence)


def _surroundings(conditions: Conditions, count: int, *, on_host: bool) -> tuple[Part, ...]:
    """Return the parts that vLLM takes regardless of the model."""
    if on_host:
        context = Part(PartName.CONTEXT, VLLM_HOST_CONTEXT_BYTES, Source.MEASURED)
        return _NO_GRAPHS, _NO_NON_TORCH, context
    is_large = (conditions.device_memory_bytes or 0) >= LARGE_DEVICE_BYTES
    graphs = VLLM_LARGE_GRAPHS_BYTES if is_large else VLLM_GRAPHS_BYTES
    others = VLLM_NON_TORCH_BYTES if count == 1 else VLLM_SHARED_NON_TORCH_BYTES
    context_bytes = VLLM_CONTEXT_BYTES if count == 1 else VLLM_SHARED_CONTEXT_BYTES
    return (
        Part(PartName.GRAPHS, graphs, Source.PUBLISHED, Confidence.MEDIUM),
        Part(PartName.NON_TORCH, others, Source.PUBLISHED, Confidence.MEDIUM),
        Part(PartName.CONTEXT, context_bytes, Source.PUBLISHED, Confidence.MEDIUM),
    )


def _loading_bytes(launch: Launch, count: int) -> int:
    """Return the bytes that are held in addition to the finished weights while they load.

    transformers 5 asks a GPU for one block of the finished size and fills it. A tensor that changes its type or is
    quantized exists in both forms for a moment, one at a time; experts that are stored one by one are gathered, a layer
    at a time; tied weights that were saved twice exist twice until they are compared. vLLM that quantizes to FP8 loads
    in 16 bits first.
    """
    model, facts = launch.model, launch.model.weights
    if facts is None:
        return 0
    if model.quantization is not None:
        return facts.twice_bytes if launch.mode is Mode.TRANSFORMERS else 0
    if launch.mode is Mode.VLLM:
        whole = weights.in_one_type(facts, launch.value)
        return max(0, whole - launch.weights.bytes) // count if launch.conditions.quantizes_to_fp8 else 0
    changes = (
        launch.options.quantization is not Quantization.NONE or weights.in_one_type(facts, launch.value) != facts.bytes
    )
    layers = (model.shape.layers if model.shape else None) or 1
    experts = launch.value * facts.expert_elements // layers
    quantizing = activation.quantizing_bytes(facts, launch.options.quantization) if launch.on_host else 0
    return facts.twice_bytes + max(_in_two_types(facts, launch) if changes else 0, experts, quantizing)


def _in_two_types(facts: WeightFacts, launch: Launch) -> int:
    """Return the bytes that exist twice during the conversion: the last tensors are a layer's, since the loader sorts
    by name.

    The embeddings come first, and count if they are larger than everything that comes after them.
    """
    elements = facts.elements or 1
    layer = facts.bytes * facts.largest_linear // elements if facts.largest_linear else facts.largest_bytes
    first = facts.largest_bytes + facts.largest_bytes * launch.value * elements // (facts.bytes or 1)
    return max(layer, first - launch.weights.bytes)


def _notes(*several: tuple[Note, ...]) -> tuple[Note, ...]:
    return tuple(dict.fromkeys(note for notes in several for note in notes))
