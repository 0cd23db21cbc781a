"""config.json: the facts of every family's spelling, and nothing invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.catalog.architectures import generates_text, needs_remote_code
from webapp.catalog.config import config_facts
from webapp.domain.model import ModelShape

VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, False, 0, -1, 7, 1.5, "", "text", [], ["text"], [7], [[]], {}, {"bits": 4}, {"hidden_size": "x"}]
)
KEYS = st.sampled_from(
    [
        "architectures",
        "model_type",
        "dtype",
        "torch_dtype",
        "hidden_size",
        "text_config",
        "quantization_config",
        "auto_map",
        "tie_word_embeddings",
        "max_position_embeddings",
        "multi_query",
        "num_key_value_heads",
    ]
)


def test_a_llama_states_everything() -> None:
    facts = config_facts(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "torch_dtype": "bfloat16",
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 131072,
            "rope_scaling": {"factor": 8.0},
        }
    )

    assert (facts.architecture, facts.model_type, facts.dtype) == ("LlamaForCausalLM", "llama", "bfloat16")
    assert facts.shape == ModelShape(32, 4096, 14336, 32, 8, None, 128256)
    assert facts.context_length == 131072
    assert facts.quantization_method is None
    assert not facts.tied


def test_gpt2_spells_its_sizes_in_its_own_way_and_is_tied_without_saying_so() -> None:
    facts = config_facts(
        {
            "model_type": "gpt2",
            "n_embd": 768,
            "n_layer": 12,
            "n_head": 12,
            "n_positions": 1024,
            "n_inner": None,
            "vocab_size": 50257,
        }
    )

    assert facts.shape == ModelShape(12, 768, None, 12, None, None, 50257)
    assert facts.context_length == 1024
    assert facts.tied


@pytest.mark.parametrize(
    "key", ["max_position_embeddings", "n_positions", "max_sequence_length", "seq_length", "max_seq_len"]
)
def test_every_name_of_the_context_length_is_known(key: str) -> None:
    assert config_facts({key: 2048}).context_length == 2048


def test_a_text_part_is_looked_into() -> None:
    facts = config_facts(
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "model_type": "gemma3",
            "dtype": "bfloat16",
            "hidden_size": 1,
            "text_config": {"hidden_size": 2560, "num_hidden_layers": 34, "model_type": "gemma3_text", "dtype": None},
        }
    )

    assert (facts.model_type, facts.dtype, facts.shape.hidden, facts.shape.layers) == ("gemma3", "bfloat16", 2560, 34)
    assert facts.tied


@pytest.mark.parametrize(
    ("config", "heads"),
    [
        ({"multi_query": True, "n_head": 71}, 1),
        ({"multi_query": True, "new_decoder_architecture": True, "num_kv_heads": 8}, 8),
        ({"num_attention_heads": 12}, None),
        ({"num_key_value_heads": [8, 4]}, None),
    ],
)
def test_heads_of_keys_and_values_are_stated_or_unknown(config: dict[str, object], heads: int | None) -> None:
    assert config_facts(config).shape.kv_heads == heads


@pytest.mark.parametrize(
    ("stored", "method"),
    [({"quant_method": "gptq", "bits": 4}, "gptq"), ({"bits": 4}, "unknown"), (None, None), ({}, None), ("gptq", None)],
)
def test_the_method_of_stored_quantization_is_named(stored: object, method: str | None) -> None:
    assert config_facts({"quantization_config": stored}).quantization_method == method


@pytest.mark.parametrize(
    ("config", "tied"),
    [
        ({"tie_word_embeddings": True, "model_type": "llama"}, True),
        ({"tie_word_embeddings": False, "model_type": "gemma"}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"model_type": "gemma"}, True),
        ({"model_type": "qwen2"}, False),
        ({}, False),
    ],
)
def test_tied_embeddings_are_stated_or_the_familys_habit(config: dict[str, object], tied: bool) -> None:
    assert config_facts(config).tied is tied


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_values_of_the_wrong_type_count_as_not_stated(config: dict[str, object]) -> None:
    facts = config_facts(config)

    assert facts.architecture is None or isinstance(facts.architecture, str)
    assert facts.context_length is None or facts.context_length > 0
    assert isinstance(facts.tied, bool)


REMOTE = {"AutoConfig": "configuration_x.X", "AutoModelForCausalLM": "modeling_x.X"}


@pytest.mark.parametrize(
    ("architecture", "model_type", "auto_map", "speaks"),
    [
        ("LlamaForCausalLM", "llama", None, True),
        ("GPT2LMHeadModel", "gpt2", None, True),
        ("XLMWithLMHeadModel", "xlm", None, True),
        ("Gemma3ForConditionalGeneration", "gemma3", None, True),
        ("BertForMaskedLM", "bert", None, False),
        ("BertModel", "bert", None, False),
        ("CLIPModel", "clip", None, False),
        ("T5ForConditionalGeneration", "t5", None, False),
        ("WhisperForConditionalGeneration", "whisper", None, False),
        ("BartForConditionalGeneration", "bart", None, False),
        ("LlamaForSequenceClassification", "llama", None, False),
        (None, "llama", None, True),
        (None, "bert", None, False),
        (None, None, None, False),
        ("ChatGLMModel", "chatglm", REMOTE, True),
        ("BertModel", "bert", REMOTE, False),
        ("JinaModel", "jina", {"AutoModel": "modeling_x.X"}, False),
    ],
)
def test_only_what_generates_text_is_a_language_model(
    architecture: str | None, model_type: str | None, auto_map: object, speaks: bool
) -> None:
    assert generates_text(architecture, model_type, auto_map) is speaks


def test_code_from_the_repository_is_needed_only_where_the_library_has_none() -> None:
    assert needs_remote_code(REMOTE, "chatglm")
    assert not needs_remote_code(REMOTE, "phi3")
    assert not needs_remote_code(None, "chatglm")
    assert not needs_remote_code("modeling_x.X", "chatglm")
