"""The memory that a launch will take on each device, by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from webapp.domain.memory import DeviceKind
from webapp.domain.model import CachedModel
from webapp.domain.modes import Dtype, LaunchOptions, Mode, Quantization
from webapp.domain.units import gib


class PartName(StrEnum):
    """What a part of a footprint is for."""

    WEIGHTS = "weights"
    KV_CACHE = "kv_cache"
    MARGIN = "margin"
    """10 % of weights and KV cache, for activations and the allocator's rounding."""
    CONTEXT = "context"
    """The CUDA context, or on the host the interpreter with its libraries."""
    ENGINE = "engine"
    """What vLLM takes beside weights and KV cache: the warm-up's activations, CUDA graphs, its communication buffers."""


@dataclass(frozen=True)
class Part:
    """One part of a footprint in bytes."""

    name: PartName
    bytes: int


@dataclass(frozen=True)
class Footprint:
    """A launch's memory on one device; the parts live at the same time."""

    device_id: str
    parts: tuple[Part, ...]
    exact: bool = True
    """False when a part rests on a guess (no headers, unknown shape)."""

    @property
    def total_bytes(self) -> int:
        """Sum of the parts."""
        return sum(part.bytes for part in self.parts)

    def part(self, name: PartName) -> int:
        """Bytes of the part ``name``, 0 when there is none."""
        return sum(part.bytes for part in self.parts if part.name is name)


MARGIN_PERCENT = 10
"""Share of weights and KV cache that is added for activations and the allocator's rounding."""
GPU_CONTEXT_BYTES = gib(0.45)
"""A CUDA context with torch's libraries: 0.28-0.45 GiB are reported; the larger is taken."""
VLLM_CONTEXT_BYTES = gib(0.6)
"""The context of a vLLM process before it measures the GPU: 0.3-0.6 GiB are reported; the larger is taken."""
VLLM_SHARED_CONTEXT_BYTES = gib(2.1)
"""The same for several GPUs, where NCCL exists already: about 2 GiB are reported."""
VLLM_ENGINE_BYTES = gib(1.0)
"""Beside weights and KV cache on one GPU: 0.18 GiB of activations at few requests, 0.13-0.25 GiB that torch does not count and 0.1-0.4
GiB of CUDA graphs on 24 GiB cards are published. Larger models' activations and an H100's graphs (up to 1.9 GiB) come out of the
margin; what is missing is taken from the KV cache, and vLLM says so when not one request is left room for."""
VLLM_SHARED_ENGINE_BYTES = gib(3.0)
"""The same for several GPUs: what torch does not count is about 2.1 GiB at 2 to 4 GPUs."""
UTILIZATION_SCALE = 10_000
"""vLLM is told its share of a GPU in this many parts."""
VLLM_HOST_CONTEXT_BYTES = gib(1.4)
"""Anonymous memory of vLLM's processes on the CPU without weights and KV cache: 1.27 GiB measured with vLLM 0.32."""
HOST_CONTEXT_BYTES = gib(0.30)
"""Anonymous memory of a worker that has imported everything: 0.25 GiB measured with torch 2.13 on the CPU, 0.29 with bitsandbytes."""

_DTYPE_BYTES = {Dtype.FLOAT16: 2, Dtype.BFLOAT16: 2, Dtype.FLOAT32: 4}
_FILE_FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_NF4_BYTES = 0.5625
"""4 bits a weight and one fp32 scale a block of 64 (bitsandbytes NF4 without double quantization)."""
_INT8_ROW_BYTES = 4
"""bitsandbytes INT8 keeps one fp32 scale an output row."""
_UNKNOWN_KV_PERCENT = 20
"""Of the weights, where config.json does not state the sizes that the KV cache follows from."""


def estimate(
    model: CachedModel,
    options: LaunchOptions,
    devices: Sequence[tuple[str, DeviceKind]],
    mode: Mode = Mode.TRANSFORMERS,
) -> tuple[Footprint, ...]:
    """Return what running ``model`` with ``options`` in ``mode`` takes on each of ``devices`` (id, kind), in bytes.

    ``weights + KV cache(max_tokens x batch_size) + 10 % + context``; weights and KV cache are divided evenly over the devices, and
    each device has a context of its own. vLLM on a GPU adds a part for its engine. The weights come from the safetensors headers, so
    they are exact for the files; parts that rest on a guess are marked by ``exact=False``.
    """
    # vLLM loads FP32 files in 16 bits wherever it runs
    on_host = mode is Mode.TRANSFORMERS and any(kind is DeviceKind.HOST for _, kind in devices)
    weights, weights_exact = weights_bytes(model, options, on_host=on_host)
    kv_cache, kv_exact = kv_cache_bytes(model, options, weights, on_host=on_host)
    count = len(devices)
    heads = None if model.shape is None else model.shape.kv_heads
    kv_count = min(count, heads) if mode is Mode.VLLM and heads else count
    return tuple(
        Footprint(
            device_id,
            (*_model_parts(-(-weights // count), -(-kv_cache // kv_count)), *_surroundings(kind, mode, count)),
            exact=weights_exact and kv_exact,
        )
        for device_id, kind in devices
    )


def _model_parts(weights: int, kv_cache: int) -> tuple[Part, ...]:
    return (
        Part(PartName.WEIGHTS, weights),
        Part(PartName.KV_CACHE, kv_cache),
        Part(PartName.MARGIN, (weights + kv_cache) * MARGIN_PERCENT // 100),
    )


def _surroundings(kind: DeviceKind, mode: Mode, count: int) -> tuple[Part, ...]:
    """What is taken whatever the model."""
    if mode is Mode.TRANSFORMERS:
        return (Part(PartName.CONTEXT, HOST_CONTEXT_BYTES if kind is DeviceKind.HOST else GPU_CONTEXT_BYTES),)
    if kind is DeviceKind.HOST:
        return (Part(PartName.CONTEXT, VLLM_HOST_CONTEXT_BYTES),)
    if count == 1:
        return Part(PartName.ENGINE, VLLM_ENGINE_BYTES), Part(PartName.CONTEXT, VLLM_CONTEXT_BYTES)
    return Part(PartName.ENGINE, VLLM_SHARED_ENGINE_BYTES), Part(PartName.CONTEXT, VLLM_SHARED_CONTEXT_BYTES)


def budget_bytes(footprint: Footprint) -> int:
    """Return what of a footprint vLLM counts as its own: all but the context, which exists before it looks at the GPU."""
    return footprint.total_bytes - footprint.part(PartName.CONTEXT)


def share_of(footprints: Sequence[Footprint], totals: Sequence[int]) -> int:
    """Return the share of every GPU, in ten thousandths, that holds the budget of each; ``totals`` as CUDA counts, in bytes."""
    return max(
        -(-(budget_bytes(f) - _ROUNDING) * UTILIZATION_SCALE // t) for f, t in zip(footprints, totals, strict=True)
    )


_ROUNDING = 2
"""Bytes by which a budget made of a share may be above it: whole bytes, and the last digit of a float."""


def in_whole_shares(footprints: Sequence[Footprint], totals: Sequence[int]) -> tuple[Footprint, ...]:
    """Return the footprints as vLLM will really take them: one share for all GPUs, so what is more goes to the KV cache."""
    share = share_of(footprints, totals)
    budgets = [-(-total * share // UTILIZATION_SCALE) + _ROUNDING - 1 for total in totals]
    return tuple(_grown(f, budget - budget_bytes(f)) for f, budget in zip(footprints, budgets, strict=True))


def _grown(footprint: Footprint, more: int) -> Footprint:
    parts = tuple(
        Part(p.name, p.bytes + more) if p.name is PartName.KV_CACHE and more > 0 else p for p in footprint.parts
    )
    return replace(footprint, parts=parts)


def weights_bytes(model: CachedModel, options: LaunchOptions, *, on_host: bool) -> tuple[int, bool]:
    """Return the bytes of the loaded weights, and whether the headers back the figure.

    ``auto`` keeps the files' type, FP32 as FP16 on a GPU. A model whose files are quantized keeps its bytes. INT8 and 4-bit convert
    the linear layers only; embeddings, the output head and norms stay 16-bit (bitsandbytes).
    """
    facts = model.weights
    if facts is None:
        return model.size_bytes, False
    if model.quantization is not None:
        return facts.bytes, True
    if options.quantization is Quantization.NONE:
        return sum(n * _loaded_bytes(dtype, options.dtype, on_host=on_host) for dtype, n in facts.dtypes), True
    rest = 2 * (facts.elements - facts.linear_elements)
    if options.quantization is Quantization.INT8:
        return facts.linear_elements + _INT8_ROW_BYTES * facts.linear_rows + rest, True
    return math.ceil(facts.linear_elements * _NF4_BYTES) + rest, True


def _loaded_bytes(file_dtype: str, dtype: Dtype, *, on_host: bool) -> int:
    """Bytes an element once loaded; integer tensors keep their size."""
    in_file = _FILE_FLOATS.get(file_dtype)
    if in_file is None:
        return {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}.get(file_dtype, 1)
    if dtype is not Dtype.AUTO:
        return _DTYPE_BYTES[dtype]
    return in_file if on_host else min(in_file, 2)


def kv_cache_bytes(model: CachedModel, options: LaunchOptions, weights: int, *, on_host: bool) -> tuple[int, bool]:
    """Return the KV cache of ``max_tokens`` x ``batch_size``, and whether config.json backs the figure.

    ``2 x layers x KV heads x head size x bytes a value`` a token (MHA, GQA, MQA), e.g. Llama-3.1-8B in BF16: 131072 bytes. Where
    the sizes are not stated a fifth of the weights is taken.
    """
    shape = model.shape
    if shape is None or None in (shape.layers, shape.kv_heads, shape.head_dim):
        return weights * _UNKNOWN_KV_PERCENT // 100, False
    assert shape.layers is not None and shape.kv_heads is not None and shape.head_dim is not None
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * _kv_value_bytes(model, options, on_host=on_host)
    return per_token * options.max_tokens * options.batch_size, True


def _kv_value_bytes(model: CachedModel, options: LaunchOptions, *, on_host: bool) -> int:
    """The KV cache has the type that the model computes in."""
    if options.dtype is not Dtype.AUTO:
        return _DTYPE_BYTES[options.dtype]
    return 4 if on_host and model.dtype == "float32" else 2
