"""Read from config.json what each layer of a model keeps of a request, by kind of layer.

The rules are those of the configuration classes of transformers 5.23, which fill in the values that a config.json
omits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from webapp.catalog.architectures import BUILT_IN, words
from webapp.catalog.files import whole_number
from webapp.domain.model import AttentionDoubt, AttentionFacts, CacheKind, CacheLayers, ExpertFacts, ModelShape

Config = Mapping[str, object]

FULL, WINDOW, CHUNK, STATE, NOTHING = "full", "window", "chunk", "state", "nothing"
HYBRID, HYBRID_WINDOW = "hybrid", "hybrid_window"
"""A layer with a state in addition to its attention."""

_KINDS = {
    "full_attention": FULL, "attention": FULL, "global_attention": FULL, "indexed_attention": FULL,
    "sliding_attention": WINDOW, "local_attention": WINDOW, "sliding_window": WINDOW,
    "chunked_attention": CHUNK,
    "linear_attention": STATE, "mamba": STATE, "mamba2": STATE, "conv": STATE, "recurrent": STATE, "kda": STATE,
    "hybrid": HYBRID, "hybrid_sliding": HYBRID_WINDOW, "moe": NOTHING, "mlp": NOTHING,
}  # fmt: skip
"""Names of ``layer_types`` and of its older forms."""
_NEMOTRON = {"M": STATE, "*": FULL, "-": NOTHING, "E": NOTHING}
"""Letters of Nemotron-H's ``hybrid_override_pattern``."""

_ONE_GLOBAL_IN = {
    "gemma2": 2, "gemma3": 6, "gemma3n": 5, "gemma4": 6, "cohere2": 4, "gpt_oss": 2, "exaone4": 4, "olmo3": 4,
}  # fmt: skip
"""In each group of this many layers, the last attends to everything, the others to a window."""
_WINDOWS = {
    "gemma2": 4096, "gemma3": 4096, "gemma3n": 512, "gemma4": 512, "cohere2": 4096, "gpt_oss": 128, "exaone4": 4096, "olmo3": 4096,
    "recurrent_gemma": 2048,
}  # fmt: skip
_CHUNKED = frozenset({"llama4"})
_ONE_FULL_IN = {"qwen3_next": 4, "qwen3_5": 4, "qwen3_5_moe": 4}
"""In each group of this many layers, the last has attention, the others are linear."""
_STATES_ONLY = frozenset({"bamba", "mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"})
_ATTENTIONS = {"longcat_flash": 2}
"""Attentions in one layer, if there are several."""
_WINDOW_BY_FLAG = ("qwen", "smollm3")
"""Families that use their window only if ``use_sliding_window`` is set."""

_HEAD_DIMS = {
    "gemma": 256, "gemma2": 256, "gemma3": 256, "gemma3n": 256, "gemma4": 256, "qwen3": 128, "gpt_oss": 64, "llama4": 128, "glm4": 128,
    "qwen3_next": 256, "qwen3_5": 256, "qwen3_5_moe": 256,
}  # fmt: skip
_HEADS = {"gemma2": 8, "gemma3": 8, "gemma3n": 8, "gemma4": 8, "gpt_oss": 64, "llama4": 40}
_KV_HEADS = {"gemma2": 4, "gemma3": 4, "gemma3n": 2, "gemma4": 4, "gpt_oss": 8, "llama4": 8}
"""The configuration class's default if config.json, usually a ``text_config``, does not state the number."""

_ENCODERS = words(
    """
    albert bert camembert data2vec-text deberta deberta-v2 distilbert electra ernie esm gte ibert longformer luke
    megatron-bert mobilebert modernbert mpnet new nomic_bert nystromformer rembert roberta roberta-prelayernorm roc_bert
    roformer squeezebert xlm xlm-roberta xlm-roberta-xl xmod
    """
)
_ENCODER_DECODERS = words(
    """
    bart blenderbot longt5 m2m_100 marian mbart mt5 pegasus switch_transformers t5 t5gemma umt5 whisper
    """
)
_TEXT_IN_MORE = words(
    """
    aya_vision idefics3 internvl kimi_k2 llava llava_next llava_onevision mistral3 paligemma pixtral qwen2_5_vl qwen2_vl
    qwen3_vl qwen3_vl_moe smolvlm
    """
)
"""Known types that ``AutoModelForCausalLM`` cannot create."""
_EAGER = words(
    """
    deepseek_v4 flint gemma2 gemma4 got_ocr2 gpt_oss granite_swa granitemoe_swa hy_v4 inkling2 mimo_v2_flash t5gemma
    vaultgemma
    """
)
"""Types whose class sets ``_supports_sdpa = False``."""
_NO_ROTARY = words(
    "bart bigbird biogpt bloom gpt2 gpt_bigcode gpt_neo jamba mamba mamba2 mpt openai-gpt opt t5 whisper xglm"
)
"""Types with another position encoding, or none."""

_MOST_LAYERS = 10_000
"""The limit for a number from an untrusted file, from which a list is created."""


def attention_facts(
    config: Config, shape: ModelShape, model_type: str | None, outer_type: str | None
) -> AttentionFacts:
    """Return what a model of these sizes keeps of a request.

    The values of the text part come first in ``config``; ``model_type`` is the type of the text part, ``outer_type``
    that of the whole model.
    """
    kind = (model_type or outer_type or "").removesuffix("_text")
    if kind in _ENCODERS and config.get("is_decoder") is not True:
        return AttentionFacts((), heads=shape.heads or 0)
    sizes = _Sizes.of(config, shape, kind)
    count = shape.layers or _int(config, "num_decoder_layers") or 0
    types = _layer_types(config, min(count, _MOST_LAYERS), kind)
    layers = tuple(_cache_layers(types, config, sizes, kind))
    is_encoded = config.get("is_encoder_decoder") is True or kind in _ENCODER_DECODERS
    return AttentionFacts(
        layers=_with_cross_attention(layers) if is_encoded else layers,
        doubt=_doubt(
            layers,
            {kind, model_type, outer_type},
            is_encoded=is_encoded,
            complete=bool(types) and sizes.known and _are_known(config),
        ),
        expanded_values=_expanded_values(config, sizes),
        is_eager=kind in _EAGER,
        heads=sizes.heads,
        repeated_values=2 * sizes.heads * sizes.head_dim,
        rotary_width=0 if kind in _NO_ROTARY else _rotary_width(config, sizes),
    )


def expert_facts(config: Config) -> ExpertFacts | None:
    """Return the mixture of experts that config.json states; ``None`` for a dense model."""
    experts = _first(config, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
    width = _first(config, "moe_intermediate_size", "expert_intermediate_size", "intermediate_size", "ffn_dim")
    if experts is None or experts < 2 or width is None:
        return None
    shared = _first(
        config, "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"
    )
    count = _first(config, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    sparse_steps = (
        _int(config, name) or 1 for name in ("decoder_sparse_step", "interleave_moe_layer_step", "expert_layer_period")
    )
    is_mixed = bool(_int(config, "first_k_dense_replace") or config.get("mlp_only_layers")) or any(
        step > 1 for step in sparse_steps
    )
    return ExpertFacts(
        experts=experts,
        active=_first(config, "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k")
        or 2,
        intermediate=width,
        shared_intermediate=shared or (count or 0) * width,
        has_dense_layers=is_mixed,
    )


@dataclass(frozen=True)
class _Sizes:
    """The attention's sizes, with the defaults of the configuration class; 0 is unknown."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int

    @classmethod
    def of(cls, config: Config, shape: ModelShape, kind: str) -> _Sizes:
        heads = shape.heads or _int(config, "num_heads") or _HEADS.get(kind, 0)
        hidden = shape.hidden or 0
        head_dim = (
            shape.head_dim or _int(config, "d_kv") or _HEAD_DIMS.get(kind, 0) or (hidden // heads if heads else 0)
        )
        kv_heads = shape.kv_heads or _KV_HEADS.get(kind) or heads
        return cls(hidden, heads, kv_heads, head_dim, _int(config, "v_head_dim") or head_dim)

    @property
    def known(self) -> bool:
        return bool(self.kv_heads and self.head_dim)


def _layer_types(config: Config, layers: int, kind: str) -> Sequence[str]:
    """Return the kind of every layer, in order: as the configuration lists them, else by the family's rule."""
    types = _listed(config, layers) or _by_rule(config, layers * _ATTENTIONS.get(kind, 1), kind)
    shared = _int(config, "num_kv_shared_layers") or 0
    return [NOTHING if n >= len(types) - shared else name for n, name in enumerate(types)] if shared else types


def _listed(config: Config, layers: int) -> list[str]:
    """Return the kinds that the configuration lists, whatever the name of the list; empty if it has none."""
    for name in ("layer_types", "layers_block_type"):
        value = config.get(name)
        if isinstance(value, list) and len(value) >= layers > 0:
            return [_KINDS.get(str(each), FULL) for each in value[:layers]]
    if isinstance(pattern := config.get("hybrid_override_pattern"), str):
        return [_NEMOTRON.get(letter, NOTHING) for letter in pattern[:layers]]
    if isinstance(blocks := config.get("block_types"), list) and blocks:
        return [WINDOW if blocks[n % len(blocks)] == "attention" else STATE for n in range(layers)]
    full = _full_numbers(config)
    return [] if full is None else [FULL if n in full else STATE for n in range(layers)]


def _are_known(config: Config) -> bool:
    """Return whether all kinds that the configuration lists are known."""
    names = config.get("layer_types")
    return not isinstance(names, list) or all(str(name) in _KINDS for name in names)


def _full_numbers(config: Config) -> frozenset[object] | None:
    """Return the numbers of the layers that have attention, among linear ones."""
    for name in ("full_attn_idxs", "attn_layer_indices"):
        if isinstance(value := config.get(name), list):
            return frozenset(n for n in value if isinstance(n, int))
    if isinstance(kinds := config.get("attn_type_list"), list):
        return frozenset(n for n, each in enumerate(kinds) if each == 1)
    linear = config.get("linear_attn_config")
    if isinstance(linear, dict) and isinstance(counted := linear.get("full_attn_layers"), list):
        return frozenset(n - 1 for n in counted if isinstance(n, int))  # these count from 1
    return None


def _by_rule(config: Config, layers: int, kind: str) -> list[str]:
    """Return the kinds by the family's rule."""
    if kind in _STATES_ONLY or kind == "falcon_h1":
        return [STATE if kind in _STATES_ONLY else HYBRID] * layers
    if kind == "jamba":
        period, offset = _int(config, "attn_layer_period") or 8, _int(config, "attn_layer_offset") or 4
        return [FULL if n % period == offset else STATE for n in range(layers)]
    if kind in _ONE_FULL_IN:
        return _last_of(_int(config, "full_attention_interval") or _ONE_FULL_IN[kind], STATE, layers)
    if kind in _CHUNKED:
        return _chunked(config, layers)
    if kind in _ONE_GLOBAL_IN:
        return _last_of(_pattern(config) or _ONE_GLOBAL_IN[kind], WINDOW, layers)
    return _windowed(config, layers, kind)


def _pattern(config: Config) -> int | None:
    """Return the distance between layers that attend to everything; EXAONE 4 may write the pattern out: LLLG."""
    named = config.get("sliding_window_pattern")
    return len(named) if isinstance(named, str) else _first(config, "sliding_window_pattern", "_sliding_window_pattern")


def _last_of(period: int, others: str, layers: int) -> list[str]:
    return [others if (n + 1) % period else FULL for n in range(layers)]


def _chunked(config: Config, layers: int) -> list[str]:
    rope = config.get("no_rope_layers")
    if isinstance(rope, list) and len(rope) >= layers > 0:
        return [CHUNK if each else FULL for each in rope[:layers]]
    return _last_of(_int(config, "no_rope_layer_interval") or 4, CHUNK, layers)


def _windowed(config: Config, layers: int, kind: str) -> list[str]:
    flag = config.get("use_sliding_window")
    is_used = flag is True or (flag is None and not kind.startswith(_WINDOW_BY_FLAG))
    if not is_used or _int(config, "sliding_window") is None:
        return [FULL] * layers
    first = _int(config, "max_window_layers", least=0) or 0 if kind.startswith(_WINDOW_BY_FLAG) else 0
    return [WINDOW if n >= first else FULL for n in range(layers)]


def _cache_layers(types: Sequence[str], config: Config, sizes: _Sizes, kind: str) -> Iterator[CacheLayers]:
    counts = Counter(types)
    full, windows = counts[FULL] + counts[HYBRID], counts[WINDOW] + counts[HYBRID_WINDOW]
    states = counts[STATE] + counts[HYBRID] + counts[HYBRID_WINDOW]
    if full and sizes.known:
        yield from _full_layers(full, config, sizes, kind)
    window = _first(config, "sliding_window", "attention_window_size") or _WINDOWS.get(kind)
    values = sizes.head_dim + sizes.value_dim
    if windows and sizes.known:
        name = CacheKind.WINDOW if window else CacheKind.FULL
        yield CacheLayers(name, windows, sizes.kv_heads, values, window)
    if counts[CHUNK] and sizes.known:
        chunk = _int(config, "attention_chunk_size") or 8192
        yield CacheLayers(CacheKind.CHUNK, counts[CHUNK], sizes.kv_heads, values, chunk)
    if states:
        yield _state_layers(states, config, sizes)


def _full_layers(count: int, config: Config, sizes: _Sizes, kind: str) -> Iterator[CacheLayers]:
    rank, rope = _int(config, "kv_lora_rank"), _int(config, "qk_rope_head_dim")
    if rank and rope:
        # The indexer of sparse attention (DeepSeek 3.2, GLM) keeps one more key per token.
        yield CacheLayers(CacheKind.LATENT, count, 1, rank + rope + (_int(config, "index_head_dim") or 0))
        return
    by_layer = next(
        (v for name in ("num_key_value_heads", "num_kv_heads") if isinstance(v := config.get(name), list)), None
    )
    if by_layer and len(by_layer) == count and all(whole_number(heads) for heads in by_layer):
        for kv_heads, layers in sorted(Counter(by_layer).items()):
            yield CacheLayers(CacheKind.FULL, layers, kv_heads, 2 * sizes.head_dim)
        return
    global_dim = _int(config, "global_head_dim") or (512 if kind.startswith("gemma4") else None)
    kv_heads = _int(config, "num_global_key_value_heads") or sizes.kv_heads
    yield CacheLayers(
        CacheKind.FULL, count, kv_heads, 2 * global_dim if global_dim else sizes.head_dim + sizes.value_dim
    )


def _state_layers(count: int, config: Config, sizes: _Sizes) -> CacheLayers:
    """Return the layers with the state of one request: the matrices of the recurrence and the last inputs of the short
    convolution.
    """
    linear = config.get("linear_attn_config")
    own = linear if isinstance(linear, dict) else {}
    if value_heads := _int(config, "linear_num_value_heads"):  # gated delta net: Qwen3-Next, Qwen3.5
        key_heads = _int(config, "linear_num_key_heads") or value_heads
        key, value = _int(config, "linear_key_head_dim") or 128, _int(config, "linear_value_head_dim") or 128
        convolved = (2 * key_heads * key + value_heads * value) * (_int(config, "linear_conv_kernel_dim") or 4)
        return CacheLayers(CacheKind.STATE, count, value_heads, key * value + -(-convolved // value_heads))
    if (heads := _int(own, "num_heads")) and (dim := _int(own, "head_dim")):  # Kimi linear
        kernel = _int(own, "short_conv_kernel_size") or 4
        return CacheLayers(CacheKind.STATE, count, heads, dim * dim + 3 * dim * kernel)
    if taps := _int(config, "conv_L_cache"):  # LFM2: only a convolution
        return CacheLayers(CacheKind.STATE, count, 1, sizes.hidden * taps)
    if width := _int(config, "lru_width"):  # RecurrentGemma
        return CacheLayers(CacheKind.STATE, count, 1, width * (_int(config, "conv1d_width") or 4))
    if state := _first(config, "mamba_d_state", "ssm_state_size", "state_size"):
        return _mamba_layers(count, state, config, sizes)
    return CacheLayers(CacheKind.STATE, count, max(sizes.heads, 1), max(sizes.head_dim, 64) ** 2)


def _mamba_layers(count: int, state: int, config: Config, sizes: _Sizes) -> CacheLayers:
    heads = _first(config, "mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
    head = _first(config, "mamba_d_head", "mamba_head_dim", "mamba_headdim")
    expand = _first(config, "mamba_expand", "expand") or 2
    inner = heads * head if heads and head else _int(config, "mamba_d_ssm") or expand * sizes.hidden
    groups = _first(config, "mamba_n_groups", "n_groups", "mamba_ngroups") or 0
    kernel = _first(config, "mamba_d_conv", "conv_kernel") or 4
    shares = heads or max(inner // 64, 1)
    return CacheLayers(
        CacheKind.STATE, count, shares, -(-(inner * state + (inner + 2 * groups * state) * kernel) // shares)
    )


def _with_cross_attention(layers: Sequence[CacheLayers]) -> tuple[CacheLayers, ...]:
    return tuple(CacheLayers(each.kind, 2 * each.count, each.heads, each.values, each.window) for each in layers)


def _doubt(
    layers: Sequence[CacheLayers], kinds: set[str | None], *, is_encoded: bool, complete: bool
) -> AttentionDoubt | None:
    has_states = any(each.kind is CacheKind.STATE for each in layers)
    if not layers:
        return AttentionDoubt.UNSTATED_SIZES
    if not complete and not has_states:
        return AttentionDoubt.UNKNOWN_ARCHITECTURE
    if not kinds & (BUILT_IN | _TEXT_IN_MORE | _ENCODER_DECODERS):
        return AttentionDoubt.UNKNOWN_ARCHITECTURE
    if is_encoded:
        return AttentionDoubt.ENCODER
    return AttentionDoubt.STATE_SIZES if has_states else None


def _expanded_values(config: Config, sizes: _Sizes) -> int:
    """Return the numbers per token that MLA expands into queries, keys and values of every head (``expand_kv``)."""
    rope, nope = _int(config, "qk_rope_head_dim"), _int(config, "qk_nope_head_dim")
    if not rope or not nope or _int(config, "kv_lora_rank") is None:
        return 0
    return sizes.heads * (2 * (nope + rope) + nope + 3 * sizes.value_dim)


def _rotary_width(config: Config, sizes: _Sizes) -> int:
    if rope := _int(config, "qk_rope_head_dim"):
        return rope
    part = config.get("partial_rotary_factor")
    factor = part if isinstance(part, int | float) and 0 < part <= 1 else 1
    return int(sizes.head_dim * factor)


def _first(config: Config, *names: str) -> int | None:
    return next((value for name in names if (value := _int(config, name)) is not None), None)


def _int(config: Config, name: str, least: int = 1) -> int | None:
    return whole_number(config.get(name), least)
