"""What each layer keeps, from config.json files as they are published; sizes that are left out are those of transformers' own classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.catalog.config import config_facts
from webapp.domain.model import AttentionDoubt, AttentionFacts, CacheKind, CacheLayers, ExpertFacts

SIZES: dict[str, object] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


def facts(**config: object) -> AttentionFacts:
    return config_facts({**SIZES, **config}).attention


def counts(found: AttentionFacts) -> dict[CacheKind, int]:
    return {layers.kind: layers.count for layers in found.layers}


def test_grouped_queries_keep_two_vectors_a_kv_head() -> None:
    found = facts(model_type="llama")
    assert found.layers == (CacheLayers(CacheKind.FULL, 32, 8, 256),)
    assert found.doubt is None


def test_a_head_size_that_is_stated_counts_and_not_the_quotient() -> None:
    found = facts(model_type="qwen3", hidden_size=1024, num_attention_heads=16, head_dim=128)
    assert found.layers == (CacheLayers(CacheKind.FULL, 32, 8, 256),)


def test_heads_without_groups_and_one_head_for_all() -> None:
    (every,) = config_facts({"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12}).attention.layers
    assert every == CacheLayers(CacheKind.FULL, 12, 12, 128)
    (one,) = facts(model_type="falcon", multi_query=True, num_key_value_heads=None).layers
    assert one.heads == 1


def test_latent_attention_keeps_one_vector_without_heads() -> None:
    found = facts(model_type="deepseek_v3", kv_lora_rank=512, qk_rope_head_dim=64, qk_nope_head_dim=128, v_head_dim=128)
    assert found.layers == (CacheLayers(CacheKind.LATENT, 32, 1, 576),)
    assert found.expanded_values > 32 * 512


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"model_type": "mistral", "sliding_window": 4096}, {CacheKind.WINDOW: 32}),
        ({"model_type": "mistral", "sliding_window": None}, {CacheKind.FULL: 32}),
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, {CacheKind.FULL: 32}),
        ({"model_type": "qwen2", "sliding_window": 4096}, {CacheKind.FULL: 32}),
        (
            {"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28},
            {CacheKind.FULL: 28, CacheKind.WINDOW: 4},
        ),
        ({"model_type": "gemma2"}, {CacheKind.FULL: 16, CacheKind.WINDOW: 16}),
        ({"model_type": "gemma3_text", "sliding_window": 512}, {CacheKind.FULL: 5, CacheKind.WINDOW: 27}),
        ({"model_type": "cohere2", "sliding_window_pattern": 4}, {CacheKind.FULL: 8, CacheKind.WINDOW: 24}),
        (
            {"model_type": "exaone4", "sliding_window_pattern": "LLLG", "sliding_window": 4096},
            {CacheKind.FULL: 8, CacheKind.WINDOW: 24},
        ),
        ({"model_type": "gpt_oss", "sliding_window": 128}, {CacheKind.FULL: 16, CacheKind.WINDOW: 16}),
        (
            {"model_type": "gpt_oss", "layer_types": ["sliding_attention"] * 30 + ["full_attention"] * 2},
            {CacheKind.FULL: 2, CacheKind.WINDOW: 30},
        ),
        ({"model_type": "llama4_text"}, {CacheKind.FULL: 8, CacheKind.CHUNK: 24}),
        ({"model_type": "mamba"}, {CacheKind.STATE: 32}),
        ({"model_type": "jamba"}, {CacheKind.FULL: 4, CacheKind.STATE: 28}),
        ({"model_type": "falcon_h1"}, {CacheKind.FULL: 32, CacheKind.STATE: 32}),
        ({"model_type": "qwen3_next"}, {CacheKind.FULL: 8, CacheKind.STATE: 24}),
        (
            {"model_type": "granitemoehybrid", "layer_types": ["mamba"] * 28 + ["attention"] * 4},
            {CacheKind.FULL: 4, CacheKind.STATE: 28},
        ),
        (
            {"model_type": "nemotron_h", "hybrid_override_pattern": "M-" * 12 + "M*M*M*M*"},
            {CacheKind.FULL: 4, CacheKind.STATE: 16},
        ),
        (
            {"model_type": "recurrent_gemma", "block_types": ["recurrent", "recurrent", "attention"]},
            {CacheKind.WINDOW: 10, CacheKind.STATE: 22},
        ),
        (
            {"model_type": "kimi_linear", "linear_attn_config": {"full_attn_layers": [4, 8], "num_heads": 32, "head_dim": 128}},
            {CacheKind.FULL: 2, CacheKind.STATE: 30},
        ),
        ({"model_type": "bert"}, {}),
    ],
)  # fmt: skip
def test_every_layer_keeps_what_its_kind_keeps(config: dict[str, object], kinds: dict[CacheKind, int]) -> None:
    assert counts(facts(**config)) == kinds


def test_the_text_part_of_a_model_with_images_is_read_and_filled_in() -> None:
    config = {
        "model_type": "gemma3",
        "vision_config": {},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024},
    }  # fmt: skip
    found = config_facts(config)
    full, windows = found.attention.layers
    assert (full, windows) == (
        CacheLayers(CacheKind.FULL, 5, 4, 512),
        CacheLayers(CacheKind.WINDOW, 29, 4, 512, 1024),
    )
    assert found.has_vision
    assert found.attention.doubt is None


def test_layers_that_share_keys_and_values_keep_none() -> None:
    assert sum(counts(facts(model_type="gemma3n_text", num_kv_shared_layers=10)).values()) == 22


def test_an_unknown_architecture_is_read_in_the_usual_way_and_doubted() -> None:
    assert facts(model_type="brand_new").layers == (CacheLayers(CacheKind.FULL, 32, 8, 256),)
    assert facts(model_type="brand_new").doubt is AttentionDoubt.UNKNOWN_ARCHITECTURE
    strange = facts(model_type="llama", layer_types=["full_attention"] * 31 + ["holographic"])
    assert strange.doubt is AttentionDoubt.UNKNOWN_ARCHITECTURE
    assert config_facts({"model_type": "brand_new"}).attention.doubt is AttentionDoubt.UNSTATED_SIZES
    assert config_facts({}).attention.layers == ()


def test_a_decoder_with_an_encoder_keeps_keys_of_both() -> None:
    found = facts(model_type="t5", is_encoder_decoder=True)
    assert counts(found) == {CacheKind.FULL: 64}
    assert found.doubt is AttentionDoubt.ENCODER


@pytest.mark.parametrize(
    ("config", "experts"),
    [
        (
            {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 14336},
            ExpertFacts(8, 2, 14336),
        ),
        (
            {
                "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
                "first_k_dense_replace": 1,
            },
            ExpertFacts(64, 6, 1408, 2816, True),
        ),
        (
            {"num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
            ExpertFacts(60, 4, 1408, 5632),
        ),
        ({"intermediate_size": 14336}, None),
        ({"num_experts": 1, "intermediate_size": 14336}, None),
    ],
)  # fmt: skip
def test_experts_are_read_by_any_of_their_names(config: dict[str, object], experts: ExpertFacts | None) -> None:
    assert config_facts(config).shape.experts == experts


RUBBISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = [
    "layer_types",
    "layers_block_type",
    "block_types",
    "attn_type_list",
    "full_attn_idxs",
    "linear_attn_config",
    "hybrid_override_pattern",
    "sliding_window",
    "sliding_window_pattern",
    "use_sliding_window",
    "max_window_layers",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "kv_lora_rank",
    "qk_rope_head_dim",
    "no_rope_layers",
    "num_kv_shared_layers",
    "mamba_d_state",
    "num_experts",
    "text_config",
]


@given(
    st.sampled_from(["llama", "gemma3", "llama4", "jamba", "qwen3_next", "mamba", "t5", "bert", "new"]),
    st.dictionaries(st.sampled_from(KEYS), RUBBISH, max_size=8),
)
def test_rubbish_in_a_config_is_never_an_error(model_type: str, config: dict[str, object]) -> None:
    found = config_facts({**SIZES, "model_type": model_type, **config}).attention
    assert all(each.count > 0 and each.heads > 0 and each.values > 0 for each in found.layers)
