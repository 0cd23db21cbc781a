"""Read from config.json the facts that a model's author states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from webapp.catalog.architectures import TIED_BY_DEFAULT
from webapp.catalog.attention import attention_facts, expert_facts
from webapp.catalog.files import MAX_TEXT, printable, whole_number
from webapp.domain.model import AttentionFacts, ModelShape

_TEXT_CONFIGS = ("text_config", "language_config", "llm_config")
_OTHER_SENSES = ("vision_config", "audio_config", "visual")

_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "n_ctx",
    "context_length",
)
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "emb_dim")
_INTERMEDIATE = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "decoder_ffn_dim")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "attention_heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels")
_VOCABULARY = ("vocab_size", "n_words")


@dataclass(frozen=True)
class ConfigFacts:
    """The facts in config.json; ``None`` is not stated."""

    architecture: str | None
    model_type: str | None
    dtype: str | None
    context_length: int | None
    quantization: Mapping[str, object] | None
    """The ``quantization_config`` of weights that are stored quantized."""
    shape: ModelShape
    tied: bool
    """Whether the output head is the input embedding."""
    attention: AttentionFacts
    has_vision: bool
    auto_map: object = None

    @property
    def quantization_method(self) -> str | None:
        """The method: ``gptq``, ``awq``, ``fp8``, ``bitsandbytes``…"""
        return None if self.quantization is None else _text(self.quantization.get("quant_method")) or "unknown"


def config_facts(raw: Mapping[str, object]) -> ConfigFacts:
    """Return the facts of a parsed config.json.

    Models of text and images keep the language model's sizes in ``text_config``; its values take precedence. Values of
    the wrong type count as not stated. The context length is the stated one, without an extension by rope scaling.
    """
    text, merged = _text_part(raw), text_values(raw)
    quantization = raw.get("quantization_config") or text.get("quantization_config")
    shape, model_type = _shape(merged), _text(raw.get("model_type"))
    return ConfigFacts(
        architecture=_first(raw.get("architectures")),
        model_type=model_type,
        dtype=_dtype(merged),
        context_length=_size(merged, _CONTEXT),
        quantization=quantization if isinstance(quantization, dict) else None,
        shape=shape,
        tied=_tied(raw, text),
        attention=attention_facts(merged, shape, _text(merged.get("model_type")), model_type),
        has_vision=any(isinstance(raw.get(key), dict) for key in _OTHER_SENSES),
        auto_map=raw.get("auto_map"),
    )


def text_values(raw: Mapping[str, object]) -> Mapping[str, object]:
    """Return the values of config.json, with those of the language model taking precedence."""
    return {**raw, **{key: value for key, value in _text_part(raw).items() if value is not None}}


def _text_part(raw: Mapping[str, object]) -> Mapping[str, object]:
    return next((value for key in _TEXT_CONFIGS if isinstance(value := raw.get(key), dict)), {})


def _shape(config: Mapping[str, object]) -> ModelShape:
    return ModelShape(
        layers=_size(config, _LAYERS),
        hidden=_size(config, _HIDDEN),
        intermediate=_size(config, _INTERMEDIATE),
        heads=_size(config, _HEADS),
        kv_heads=_kv_heads(config),
        head_dim=_size(config, _HEAD_DIM),
        vocabulary=_size(config, _VOCABULARY),
        experts=expert_facts(config),
    )


def _kv_heads(config: Mapping[str, object]) -> int | None:
    # Falcon and GPT-BigCode set a flag for "one head for all"; Falcon's newer design states its heads and leaves the
    # flag set.
    if config.get("multi_query") is True and not config.get("new_decoder_architecture"):
        return 1
    return _size(config, _KV_HEADS)


def _tied(raw: Mapping[str, object], text: Mapping[str, object]) -> bool:
    # transformers lets the value of the whole model take precedence over the text part's.
    for config in (raw, text):
        if isinstance(stated := config.get("tie_word_embeddings"), bool):
            return stated
    return _text(raw.get("model_type")) in TIED_BY_DEFAULT


def _dtype(config: Mapping[str, object]) -> str | None:
    stated = _text(config.get("dtype")) or _text(config.get("torch_dtype"))
    return None if stated is None else stated.removeprefix("torch.")


def _size(config: Mapping[str, object], names: tuple[str, ...]) -> int | None:
    """Return the first of ``names`` that is a positive number; a list (a value per layer) is not a single size."""
    return next((size for name in names if (size := whole_number(config.get(name))) is not None), None)


def _first(value: object) -> str | None:
    return _text(value[0]) if isinstance(value, list) and value else None


def _text(value: object) -> str | None:
    return printable(value) if isinstance(value, str) and 0 < len(value) <= MAX_TEXT else None
