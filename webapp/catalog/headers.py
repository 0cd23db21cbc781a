"""Safetensors headers: the tensors of a file, read from its first bytes and checked against its length."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from webapp.catalog.files import MAX_JSON_BYTES, BadFile, open_regular, parse_object, read_bytes, whole_number
from webapp.catalog.streaming import MAX_NAME, MAX_STREAMED_BYTES, MAX_TENSORS, ObjectReader
from webapp.domain.model import WeightFacts

_LENGTH_BYTES = 8
_MOST = 2**62
"""The upper limit of any size or offset in a file."""
_MOST_DIMENSIONS = 16
_METADATA = "__metadata__"

DTYPE_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""Names of the floating-point types, as torch and config.json write them."""

_DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64,
    "F32": 32, "I32": 32, "U32": 32,
    "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip

_CONVERTIBLE = frozenset({"F64", "F32", "F16", "BF16"})

_EMBEDDINGS = frozenset(
    {"embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "tok_embeddings", "embed_positions"}
)
_HEADS = frozenset({"lm_head", "embed_out", "output"})
_ROUTERS = frozenset({"gate", "router"})
_NOT_CONVERTED = _EMBEDDINGS | _HEADS | _ROUTERS
_KEY_VALUE = frozenset({"k_proj", "v_proj"})
_REPLICATED = frozenset({"q_a_proj", "kv_a_proj_with_mqa", "shared_expert_gate"})
_INPUT_EMBEDDINGS = _EMBEDDINGS - {"wpe", "embed_positions"}

_TRANSPOSED_TYPES = frozenset({"gpt2", "openai-gpt"})
_TRANSPOSED_LAYERS = frozenset({"c_attn", "q_attn", "c_proj", "c_fc"})

_SAMPLE_BYTES = 4096
_START_AND_END = attrgetter("start", "end")


class BadHeader(BadFile):
    """A safetensors file whose header or length is wrong."""


class Tensor(NamedTuple):
    """One tensor of a file; ``start`` and ``end`` are offsets in the file. A tuple, since a cache has a hundred
    thousand of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    elements: int
    start: int
    end: int
    file: Path

    @property
    def bytes(self) -> int:
        """Bytes of the data."""
        return self.end - self.start

    @property
    def layer(self) -> str:
        """Name of the layer that owns the tensor, without its path: ``q_proj`` in
        ``model.layers.0.self_attn.q_proj.weight``.
        """
        return self.name.rpartition(".")[0].rpartition(".")[2]


def read_tensors(path: Path, *, headers_only: bool = False, most: int = MAX_TENSORS) -> tuple[Tensor, ...]:
    """Return the tensors of a safetensors file in the order of their data.

    Reads only the header: a u64 length in little-endian order, then that many bytes of JSON. As in the safetensors
    library, the data must follow without gaps and end at the end of the file, so a truncated file is detected.
    ``headers_only`` is for files that are meant to end after the header: the data may then be missing.

    Raises:
        BadHeader: the header or the length is wrong, or there are more than ``most`` tensors.
        OSError: the file cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        header_bytes = _header_length(file, size)
        base = _LENGTH_BYTES + header_bytes
        tensors = [_tensor(name, entry, base, path) for name, entry in islice(_entries(file, header_bytes), most + 1)]
    if len(tensors) > most:
        raise BadHeader(f"more than {MAX_TENSORS} tensors")
    tensors.sort(key=_START_AND_END)
    _check_coverage(tensors, base, None if headers_only else size)
    return tuple(tensors)


def _entries(file: BinaryIO, length: int) -> Iterator[tuple[str, object]]:
    """Yield the entries of a header by tensor name; a long header is never parsed as a whole. Raises BadHeader."""
    try:
        if length <= MAX_JSON_BYTES:
            entries = parse_object(read_bytes(file, length))
            entries.pop(_METADATA, None)
            yield from entries.items()
            return
        reader = ObjectReader(file, length)
        for name in reader.members():
            if name == _METADATA:
                reader.skip()
            else:
                yield name, reader.value()
        reader.end()
    except BadFile as exc:
        raise BadHeader(f"header: {exc}") from exc


def _header_length(file: BinaryIO, size: int) -> int:
    prefix = read_bytes(file, _LENGTH_BYTES)
    if len(prefix) < _LENGTH_BYTES:
        raise BadHeader(f"only {size} bytes")
    length = int.from_bytes(prefix, "little")
    if length > MAX_STREAMED_BYTES:
        raise BadHeader(f"header of {length} bytes")
    if _LENGTH_BYTES + length > size:
        raise BadHeader(f"header of {length} bytes in a file of {size}")
    return length


def _tensor(name: str, entry: Any, base: int, path: Path) -> Tensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if max(len(name), len(dtype)) > MAX_NAME or len(shape) > _MOST_DIMENSIONS:
            raise BadHeader(f"tensor {name[:80]} is not described")
        # Before any multiplication: a string times a number is that much text.
        if type(dtype) is not str or not all(type(each) is int and each >= 0 for each in (*shape, start, end)):
            raise BadHeader(f"tensor {name[:80]} is not described")
        elements = math.prod(shape)
        if max(elements, end, *shape) > _MOST:
            raise BadHeader(f"tensor {name[:80]} is larger than any file")
    except (LookupError, TypeError, ValueError) as exc:
        raise BadHeader(f"tensor {name[:80]} is not described") from exc
    # A type that is missing from this table is judged only by its offsets.
    bits = _DTYPE_BITS.get(dtype)
    if end < start or (bits is not None and (end - start) * 8 != elements * bits):
        raise BadHeader(f"tensor {name[:80]} has {end - start} bytes")
    return Tensor(name, dtype, shape, elements, base + start, base + end, path)


def _check_coverage(tensors: list[Tensor], base: int, size: int | None) -> None:
    end = base
    for tensor in tensors:
        if tensor.start != end:
            raise BadHeader(f"data of tensor {tensor.name[:80]} is out of place")
        end = tensor.end
    if size is not None and end != size:
        raise BadHeader(f"{size} bytes instead of {end}")


def facts_of(
    tensors: Iterable[Tensor], *, tied: bool, model_type: str | None, quantization: Mapping[str, object] | None
) -> tuple[WeightFacts, int | None]:
    """Return the facts about the loaded tensors of the files, and the number of weights of the model
    (``parameter_count``).
    """
    stored = tuple(tensors)
    loaded = loaded_tensors(stored, tied=tied)
    bits = None if quantization is None else _packed_bits(quantization)
    facts = weight_facts(loaded, model_type=model_type, quantized=quantization is not None, bits=bits)
    twice = sum(tensor.end - tensor.start for tensor in stored) - facts.bytes
    return replace(facts, twice_bytes=twice), parameter_count(loaded, quantization)


def weight_facts(
    loaded: Iterable[Tensor], *, model_type: str | None = None, quantized: bool = False, bits: int | None = None
) -> WeightFacts:
    """Sum up the tensors that stay in memory (``loaded_tensors``).

    ``quantized`` means that the files are quantized already, so bitsandbytes converts nothing; ``bits`` are those of a
    packed weight.
    """
    by_dtype: Counter[str] = Counter()
    total_bytes = linear_elements = linear_rows = largest_linear = largest_bytes = 0
    expert_elements = key_value_bytes = replicated_bytes = embedding_elements = head_elements = 0
    for tensor in loaded:
        elements, size, shape = tensor.elements, tensor.end - tensor.start, tensor.shape
        by_dtype[tensor.dtype] += elements
        total_bytes += size
        largest_bytes = max(largest_bytes, size)
        layer = tensor.layer
        if layer in _ROUTERS or layer in _REPLICATED or (len(shape) == 1 and _is_vector(tensor)):
            replicated_bytes += size
        elif layer in _KEY_VALUE:
            key_value_bytes += size
        elif layer in _EMBEDDINGS:
            embedding_elements += elements
        elif layer in _HEADS:
            head_elements += elements
        if quantized:
            if len(shape) == 2 and tensor.dtype not in _CONVERTIBLE and layer not in _NOT_CONVERTED:
                largest_linear = max(largest_linear, _weights_in(tensor, bits) or 0)
            continue
        if _is_expert(tensor):
            expert_elements += elements
        elif len(shape) == 2 and _is_linear(tensor):
            linear_elements += elements
            largest_linear = max(largest_linear, elements)
            linear_rows += shape[1 if _is_transposed(tensor, model_type) else 0]
    return WeightFacts(
        bytes=total_bytes,
        elements=by_dtype.total(),
        linear_elements=linear_elements,
        linear_rows=linear_rows,
        dtypes=tuple(sorted(by_dtype.items(), key=lambda item: (-item[1], item[0]))),
        largest_linear=largest_linear,
        largest_bytes=largest_bytes,
        expert_elements=expert_elements,
        key_value_bytes=key_value_bytes,
        replicated_bytes=replicated_bytes,
        embedding_elements=embedding_elements,
        head_elements=head_elements,
    )


def loaded_tensors(tensors: Iterable[Tensor], *, tied: bool) -> tuple[Tensor, ...]:
    """Return the tensors that stay in memory once the model is loaded, each name once.

    Old attention masks and rotary frequencies, which no loader keeps, are left out. ``tied`` means that the output head
    is the input embedding. Tied weights that were saved twice are one parameter, but only if their values are equal:
    transformers compares them and keeps both otherwise. Here a few samples of the data are compared; missing data
    counts as equal.
    """
    by_name = {tensor.name: tensor for tensor in tensors if not _is_buffer(tensor)}
    if tied:
        embeddings = [tensor for tensor in by_name.values() if tensor.layer in _INPUT_EMBEDDINGS]
        for head in [tensor for tensor in by_name.values() if tensor.layer in _HEADS]:
            if any(_same_data(head, embedding) for embedding in embeddings):
                del by_name[head.name]
    return tuple(by_name.values())


def main_dtype(facts: WeightFacts) -> str | None:
    """Return the floating-point type of most elements (``bfloat16``…), ``None`` if there is none.

    Packed integers of quantized weights say nothing about the type that the model computes in.
    """
    return next((DTYPE_NAMES[dtype] for dtype, _ in facts.dtypes if dtype in DTYPE_NAMES), None)


_SCALE_ENDINGS = (
    ".scales", ".qzeros", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_global_scale",
    ".input_scale", ".input_global_scale", ".activation_scale", ".k_scale", ".v_scale", ".weight_shape", ".weight_zero_point",
    ".weight_g_idx", ".SCB", ".weight_format", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", "_scales",
)  # fmt: skip
_PACKED_ENDINGS = (".qweight", ".weight_packed", "_blocks")


def parameter_count(loaded: Iterable[Tensor], quantization: Mapping[str, object] | None) -> int | None:
    """Return how many weights the model has, or ``None`` if the files do not say.

    Packed tensors hold several weights per element; their number follows from the bits that ``quantization_config``
    states. Scales and zero points are not weights.
    """
    if quantization is None:
        return sum(tensor.elements for tensor in loaded)
    bits = _packed_bits(quantization)
    total = 0
    for tensor in loaded:
        if tensor.name.endswith(_SCALE_ENDINGS) or ".quant_state." in tensor.name:
            continue
        count = _weights_in(tensor, bits)
        if count is None:
            return None
        total += count
    return total


def _weights_in(tensor: Tensor, bits: int | None) -> int | None:
    packed = tensor.name.endswith(_PACKED_ENDINGS) or (tensor.dtype == "U8" and tensor.name.endswith(".weight"))
    if packed:
        return None if bits is None else tensor.bytes * 8 // bits
    # I8 and FP8 weights have one element per weight; other integers are packed in an unknown way.
    is_plain = tensor.dtype in DTYPE_NAMES or tensor.dtype == "I8"
    return tensor.elements if is_plain else None


def _packed_bits(quantization: Mapping[str, object]) -> int | None:
    if quantization.get("quant_method") == "mxfp4" or quantization.get("load_in_4bit") is True:
        return 4
    groups = quantization.get("config_groups")
    stated = [quantization.get("bits", quantization.get("w_bit"))]
    if isinstance(groups, dict):
        weights = [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        stated = [weight.get("num_bits") for weight in weights if isinstance(weight, dict)]
    bits = {whole_number(each) for each in stated}
    only = bits.pop() if len(bits) == 1 else None
    # Three bits do not fill an int32 evenly in every format; halves and quarters of a byte do.
    return only if only in (2, 4, 8) else None


def _is_buffer(tensor: Tensor) -> bool:
    if not tensor.name.endswith((".masked_bias", "rotary_emb.inv_freq", ".attn.bias")):
        return False
    # GPT-2's causal mask is saved under the name of a bias and has four dimensions.
    return len(tensor.shape) == 4 or not tensor.name.endswith(".attn.bias")


def _is_linear(tensor: Tensor) -> bool:
    if tensor.dtype not in _CONVERTIBLE or not tensor.name.endswith(".weight"):
        return False
    layer = tensor.layer
    # transformers 5 fuses experts into one parameter, which bitsandbytes skips, and keeps routers as parameters.
    return layer not in _NOT_CONVERTED and ".experts." not in tensor.name and "norm" not in layer


def _is_vector(tensor: Tensor) -> bool:
    """Return whether the tensor is a norm or a bias, and not scales of a packed weight, which are divided like it."""
    return tensor.dtype in _CONVERTIBLE and not tensor.name.endswith(_SCALE_ENDINGS)


def _is_expert(tensor: Tensor) -> bool:
    """Return whether the tensor belongs to experts, stored individually (``mlp.experts.7.up_proj.weight``) or fused in one
    tensor of three dimensions.
    """
    return tensor.dtype in _CONVERTIBLE and (
        ".experts." in tensor.name or (len(tensor.shape) == 3 and "expert" in tensor.name)
    )


def _is_transposed(tensor: Tensor, model_type: str | None) -> bool:
    return model_type in _TRANSPOSED_TYPES and tensor.layer in _TRANSPOSED_LAYERS


def _same_data(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    last = max(one.bytes - _SAMPLE_BYTES, 0)
    return all(_agree(_sample(one, offset), _sample(other, offset)) for offset in (0, last // 2, last))


def _agree(one: bytes, other: bytes) -> bool:
    """Return whether two samples are equal as far as both exist: a file may end after its header."""
    length = min(len(one), len(other))
    return one[:length] == other[:length]


def _sample(tensor: Tensor, offset: int) -> bytes:
    with open_regular(tensor.file) as file:
        file.seek(tensor.start + offset)
        return read_bytes(file, min(_SAMPLE_BYTES, tensor.bytes - offset))
