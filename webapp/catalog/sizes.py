"""The tensors of a decoder with the sizes in config.json, for a model whose weights are not available."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from webapp.catalog.architectures import words
from webapp.catalog.attention import Config
from webapp.catalog.config import ConfigFacts, text_values
from webapp.catalog.files import whole_number
from webapp.catalog.headers import Tensor
from webapp.domain.model import CacheKind

_DTYPES = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
_WITHOUT_GATE = words(
    """
    bart bert biogpt bloom codegen falcon gpt2 gpt_bigcode gpt_neo gpt_neox gptj mpt nemotron openai-gpt opt persimmon phi
    roberta starcoder2 t5 whisper xglm xlm-roberta
    """
)
"""Types whose MLP has two matrices; others have a third, the gate."""
_HALF = ("F16", 2)
_MOST_LAYERS = 10_000


@dataclass(frozen=True)
class _Matrix:
    """A weight of a linear layer, or of ``experts`` such layers in one tensor."""

    name: str
    rows: int
    columns: int
    experts: int = 1

    @property
    def elements(self) -> int:
        return self.rows * self.columns * self.experts


def tensors_of_sizes(raw: Mapping[str, object], facts: ConfigFacts) -> tuple[Tensor, ...]:
    """Return the tensors that follow from the sizes, with the bytes that the stated quantization gives them.

    The matrices are those of Llama and similar models, which most decoders share: attention with its own head size, or
    MLA; an MLP with or without a gate, or experts and a shared one; embeddings, and an output head if it is not tied.
    Empty if the sizes are not stated. Small tensors are left out: biases, and additions of a single family.
    """
    shape, config = facts.shape, text_values(raw)
    if not (shape.layers and shape.hidden and shape.vocabulary) or shape.layers > _MOST_LAYERS:
        return ()
    kept = _kept(facts.dtype)
    tensors = [
        _plain("model.embed_tokens.weight", (shape.vocabulary, shape.hidden), kept),
        _plain("model.norm.weight", (shape.hidden,), kept),
    ]
    if not facts.tied:
        tensors.append(_plain("lm_head.weight", (shape.vocabulary, shape.hidden), kept))
    for layer in range(shape.layers):
        path = f"model.layers.{layer}"
        tensors += [
            _plain(f"{path}.{name}.weight", (shape.hidden,), kept)
            for name in ("input_layernorm", "post_attention_layernorm")
        ]
        for matrix in (*_attention(config, facts), *_mlp(config, facts, layer)):
            tensors += _stored(f"{path}.{matrix.name}", matrix, facts.quantization, kept)
    return tuple(tensors)


def _kept(dtype: str | None) -> tuple[str, int]:
    return _DTYPES.get(dtype or "", ("BF16", 2))


def _attention(config: Config, facts: ConfigFacts) -> Iterator[_Matrix]:
    hidden, attention = facts.shape.hidden or 0, facts.attention
    heads = attention.heads or 1
    width = attention.repeated_values // 2 or hidden
    latent = next((each for each in attention.layers if each.kind is CacheKind.LATENT), None)
    if latent is not None:
        yield from _latent_attention(config, hidden, heads)
        return
    cached = next((each for each in attention.layers if each.kind is not CacheKind.STATE), None)
    kv_width = width if cached is None else cached.heads * cached.values // 2
    yield _Matrix("self_attn.q_proj", width, hidden)
    yield _Matrix("self_attn.k_proj", kv_width, hidden)
    yield _Matrix("self_attn.v_proj", kv_width, hidden)
    yield _Matrix("self_attn.o_proj", hidden, width)


def _latent_attention(config: Config, hidden: int, heads: int) -> Iterator[_Matrix]:
    def size(name: str) -> int:
        return whole_number(config.get(name)) or 0

    nope, rope, value, rank, query_rank = map(
        size, ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank")
    )
    if query_rank:
        yield _Matrix("self_attn.q_a_proj", query_rank, hidden)
        yield _Matrix("self_attn.q_b_proj", heads * (nope + rope), query_rank)
    else:
        yield _Matrix("self_attn.q_proj", heads * (nope + rope), hidden)
    yield _Matrix("self_attn.kv_a_proj_with_mqa", rank + rope, hidden)
    yield _Matrix("self_attn.kv_b_proj", heads * (nope + value), rank)
    yield _Matrix("self_attn.o_proj", hidden, heads * value)


def _mlp(config: Config, facts: ConfigFacts, layer: int) -> Iterator[_Matrix]:
    hidden, experts = facts.shape.hidden or 0, facts.shape.experts
    if experts is None or _is_dense(config, layer):
        yield from _feed_forward("mlp", hidden, facts.shape.intermediate or 4 * hidden, facts.model_type)
        return
    yield _Matrix("mlp.gate", experts.experts, hidden)
    yield _Matrix("mlp.experts.gate_up_proj", 2 * experts.intermediate, hidden, experts.experts)
    yield _Matrix("mlp.experts.down_proj", hidden, experts.intermediate, experts.experts)
    if experts.shared_intermediate:
        yield from _feed_forward("mlp.shared_expert", hidden, experts.shared_intermediate, facts.model_type)


def _is_dense(config: Config, layer: int) -> bool:
    first, listed = config.get("first_k_dense_replace"), config.get("mlp_only_layers")
    if (isinstance(first, int) and layer < first) or (isinstance(listed, list) and layer in listed):
        return True
    step, period = (
        config.get("decoder_sparse_step") or config.get("interleave_moe_layer_step"),
        config.get("expert_layer_period"),
    )
    if isinstance(step, int) and step > 1:
        return (layer + 1) % step != 0
    offset = config.get("expert_layer_offset")
    return isinstance(period, int) and period > 1 and layer % period != (offset if isinstance(offset, int) else 1)


def _feed_forward(path: str, hidden: int, width: int, model_type: str | None) -> Iterator[_Matrix]:
    names = ("up_proj",) if model_type in _WITHOUT_GATE else ("gate_proj", "up_proj")
    for name in names:
        yield _Matrix(f"{path}.{name}", width, hidden)
    yield _Matrix(f"{path}.down_proj", hidden, width)


def _stored(
    path: str, matrix: _Matrix, quantization: Mapping[str, object] | None, kept: tuple[str, int]
) -> list[Tensor]:
    """Return a matrix as the files store it: plain, or packed with its scales."""
    method = str((quantization or {}).get("quant_method"))
    is_expert = matrix.experts > 1
    if quantization is None or matrix.name == "mlp.gate" or (method == "mxfp4" and not is_expert):
        shape = (matrix.experts, matrix.rows, matrix.columns) if is_expert else (matrix.rows, matrix.columns)
        return [_plain(path if is_expert else f"{path}.weight", shape, kept)]
    if method in ("gptq", "awq"):
        return _in_groups(path, matrix, quantization, has_order=method == "gptq")
    elements = matrix.elements
    if method == "mxfp4":
        return [
            _plain(f"{path}_blocks", (matrix.experts, matrix.rows, matrix.columns // 2), ("U8", 1)),
            _plain(f"{path}_scales", (matrix.experts, matrix.rows, matrix.columns // 32), ("U8", 1)),
        ]
    if method == "bitsandbytes" and quantization.get("load_in_4bit") is True:
        return [
            _plain(f"{path}.weight", (elements // 2, 1), ("U8", 1)),
            _plain(f"{path}.weight.absmax", (elements // 64,), ("F32", 4)),
        ]
    if method == "compressed-tensors" and _packed_bits(quantization) == 4:
        return _in_groups(path, matrix, {"bits": 4, "group_size": 128}, has_order=False)
    scales = (
        math.ceil(matrix.rows / 128) * math.ceil(matrix.columns / 128) * matrix.experts
        if method == "fp8"
        else matrix.rows
    )
    return [
        _plain(f"{path}.weight", (matrix.experts * matrix.rows, matrix.columns), ("F8_E4M3", 1)),
        _plain(f"{path}.weight_scale_inv", (scales,), ("F32", 4)),
    ]


def _in_groups(path: str, matrix: _Matrix, quantization: Mapping[str, object], *, has_order: bool) -> list[Tensor]:
    """Return the tensors of GPTQ and AWQ: packed integers, and for each group of inputs a 16-bit scale and a packed
    zero point per output.
    """
    bits, group = quantization.get("bits", quantization.get("w_bit")), quantization.get("group_size", 128)
    bits, group = whole_number(bits) or 4, whole_number(group)
    columns, rows = matrix.columns, matrix.rows * matrix.experts
    groups = -(-columns // group) if group else 1
    tensors = [
        _plain(f"{path}.qweight", (columns * bits // 32, rows), ("I32", 4)),
        _plain(f"{path}.qzeros", (groups, rows * bits // 32), ("I32", 4)),
        _plain(f"{path}.scales", (groups, rows), _HALF),
    ]
    return [*tensors, _plain(f"{path}.g_idx", (columns,), ("I32", 4))] if has_order else tensors


def _packed_bits(quantization: Mapping[str, object]) -> int | None:
    groups = quantization.get("config_groups")
    weights = (
        [group.get("weights") for group in groups.values() if isinstance(group, dict)]
        if isinstance(groups, dict)
        else []
    )
    return next(
        (bits for each in weights if isinstance(each, dict) and type(bits := each.get("num_bits")) is int), None
    )


def _plain(name: str, shape: tuple[int, ...], kind: tuple[str, int]) -> Tensor:
    dtype, size = kind
    elements = math.prod(shape)
    return Tensor(name, dtype, shape, elements, 0, elements * size, Path())
