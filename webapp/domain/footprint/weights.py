"""The bytes of the loaded weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

from webapp.domain.footprint.conditions import Conditions
from webapp.domain.footprint.parts import Confidence, Note, Source
from webapp.domain.layers import layer_counts
from webapp.domain.model import CachedModel, WeightFacts, WeightsSource
from webapp.domain.modes import Dtype, LaunchOptions, Mode, Quantization

NF4_BYTES = 0.5625
"""4 bits a weight and one fp32 scale a block of 64 (bitsandbytes NF4 without double quantization)."""
INT8_ROW_BYTES = 4
"""bitsandbytes INT8 keeps one fp32 scale an output row."""

_DTYPE_BYTES = {Dtype.FLOAT16: 2, Dtype.BFLOAT16: 2, Dtype.FLOAT32: 4}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_INTEGERS = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_UNPACKED = frozenset({"mxfp4"})
"""transformers 5.23 keeps MXFP4 packed only with Triton's kernels, missing in the worker (quantizer_mxfp4.py)."""
_UNPACKED_ON_HOST = frozenset({"fp8", "mxfp4"})
"""FP8 as well, if there is no GPU (quantizer_finegrained_fp8.py)."""

_OF_SOURCE = {
    WeightsSource.HEADERS: (Source.HEADERS, Confidence.HIGH, None),
    WeightsSource.INDEX: (Source.INDEX, Confidence.MEDIUM, Note.WEIGHTS_FROM_INDEX),
    WeightsSource.SIZES: (Source.SIZES, Confidence.MEDIUM, Note.WEIGHTS_FROM_SIZES),
    WeightsSource.FILES: (Source.FILES, Confidence.LOW, Note.WEIGHTS_FROM_FILES),
}


@dataclass(frozen=True)
class LoadedWeights:
    """The weights of a launch, over all devices."""

    bytes: int
    source: Source
    confidence: Confidence
    notes: tuple[Note, ...] = ()


def value_bytes(model: CachedModel, options: LaunchOptions, *, keeps_float32: bool) -> int:
    """Return the bytes of a number in the type that the model computes in.

    ``auto`` is the type that config.json asks for, else that of most weights; FP32 becomes FP16 on a GPU, and in vLLM everywhere.
    bitsandbytes computes in FP16.
    """
    if options.dtype is not Dtype.AUTO:
        return _DTYPE_BYTES[options.dtype]
    if options.quantization is not Quantization.NONE or not keeps_float32:
        return 2
    return 4 if (model.stated_dtype or model.dtype) == "float32" else 2


def loaded_weights(
    model: CachedModel, options: LaunchOptions, mode: Mode, conditions: Conditions, *, on_host: bool
) -> LoadedWeights:
    """Return the bytes of the loaded weights.

    Floating-point tensors take the type that the model computes in; quantized files stay as they are, unless
    transformers unpacks them. INT8 and 4-bit convert the linear layers only; embeddings, the output head, norms and
    fused experts stay 16-bit (bitsandbytes). Llama-3.1-8B: 14.96 GiB in 16 bits, 29.91 in float32, 8.46 in INT8.
    """
    facts = model.weights
    if facts is None:
        return LoadedWeights(max(model.size_bytes, 1), Source.FILES, Confidence.LOW, (Note.WEIGHTS_FROM_FILES,))
    source, confidence, note = _OF_SOURCE[facts.source]
    notes = () if note is None else (note,)
    if model.quantization is not None:
        return _quantized(model, facts, LoadedWeights(facts.bytes, source, confidence, notes), mode, on_host=on_host)
    value = value_bytes(model, options, keeps_float32=on_host and mode is Mode.TRANSFORMERS)
    if options.quantization is not Quantization.NONE:
        few = (Note.EXPERTS_NOT_QUANTIZED,) if facts.expert_elements > facts.linear_elements else ()
        return LoadedWeights(_by_bitsandbytes(facts, options.quantization, value), source, confidence, (*notes, *few))
    if conditions.quantizes_to_fp8:
        one_byte = facts.linear_elements + facts.expert_elements
        return LoadedWeights(one_byte + value * (facts.elements - one_byte), source, confidence, notes)
    return LoadedWeights(in_one_type(facts, value), source, confidence, notes)


def in_one_type(facts: WeightFacts, value: int) -> int:
    """Return the bytes of the weights with every floating-point tensor in ``value`` bytes a number; integers and FP8
    keep theirs.
    """
    return sum(n * (value if dtype in _FLOATS else _INTEGERS.get(dtype, 1)) for dtype, n in facts.dtypes)


def _quantized(
    model: CachedModel, facts: WeightFacts, stored: LoadedWeights, mode: Mode, *, on_host: bool
) -> LoadedWeights:
    unpacked = _UNPACKED_ON_HOST if on_host else _UNPACKED
    if mode is not Mode.TRANSFORMERS or model.quantization not in unpacked or not model.parameters:
        return stored
    notes = (*stored.notes, Note.DEQUANTIZED)
    return LoadedWeights(max(2 * model.parameters, facts.bytes), stored.source, Confidence.MEDIUM, notes)


def _by_bitsandbytes(facts: WeightFacts, quantization: Quantization, value: int) -> int:
    rest = value * (facts.elements - facts.linear_elements)
    if quantization is Quantization.INT8:
        return facts.linear_elements + INT8_ROW_BYTES * facts.linear_rows + rest
    return math.ceil(facts.linear_elements * NF4_BYTES) + rest


def rotary_table_bytes(model: CachedModel, value: int) -> int:
    """Return the bytes of the table of sines and cosines that vLLM keeps on every device, one row per position of the
    model's context.

    Published weights of Llama-3.1-8B in vLLM 0.19 at 1, 2 and 4 GPUs (14.99, 7.51, 3.77 GiB) are those of the files,
    divided, plus 32 MiB.
    """
    if model.attention is None or model.context_length is None:
        return 0
    return model.context_length * model.attention.rotary_width * value


def divided(loaded: int, model: CachedModel, count: int, kv_heads: int | None) -> int:
    """Return the weights on one of ``count`` tensor parallel devices.

    Each device holds norms, routers and MLA's down projections whole; the projections to keys and values are divided by
    at most the number of KV heads; everything else is divided evenly.
    """
    facts = model.weights
    if count == 1 or facts is None or not facts.bytes:
        return -(-loaded // count)
    whole = loaded * facts.replicated_bytes // facts.bytes
    key_value = loaded * facts.key_value_bytes // facts.bytes
    return whole + -(-key_value // min(count, kv_heads or count)) + -(-(loaded - whole - key_value) // count)


def by_layers(loaded: int, layers: int | None, count: int, ends: tuple[int, int] = (0, 0)) -> int:
    """Return the bytes on the fullest of ``count`` devices that hold a model by whole layers
    (``webapp/worker/device_map.py``).

    ``ends`` are the bytes of ``loaded`` before and after the layers: the former are on the first device, the latter on
    the last.
    """
    if count == 1 or not layers:
        return -(-loaded // count)
    before, behind = ends
    body = loaded - before - behind
    first, *middle, last = layer_counts(layers, count)

    def share(held: int) -> int:
        return -(-body * held // layers)

    return max(before + share(first), share(max(middle, default=0)), behind + share(last))


def end_bytes(model: CachedModel, loaded: int, value: int) -> tuple[int, int]:
    """Return the bytes of the input embeddings and of a separate output head, at ``value`` bytes a number."""
    facts = model.weights
    ends = (0, 0) if facts is None else (value * facts.embedding_elements, value * facts.head_elements)
    return ends if sum(ends) < loaded else (0, 0)
