"""Which architectures generate text with the transformers library's own code.

The tables are those of transformers 5.23 (``AutoModelForCausalLM``); a test compares them with the installed version.
"""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(text.split())


BUILT_IN = words(
    """
    afmoe apertus arcee aria_text axk1 axk2 bailing_hybrid bamba bart beam bert bert-generation big_bird
    bigbird_pegasus biogpt bitnet blenderbot blenderbot-small bloom blt camembert codegen cohere cohere2 cohere2_moe
    cohere_compass_text cpmant ctrl cwm data2vec-text dbrx deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4
    diffllama doge dots1 dots3_note dots3_note_text electra emu3 ernie ernie4_5 ernie4_5_moe exaone4 exaone_moe
    falcon falcon_h1 falcon_mamba flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4
    gemma4_assistant gemma4_text gemma4_unified gemma4_unified_assistant gemma4_unified_text git glm glm4 glm4_moe
    glm4_moe_lite glm_moe_dsa got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj
    granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense
    hunyuan_v1_moe hy_v3 hy_v4 hyperclovax inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe
    kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4 llama4_text longcat_flash mamba mamba2 marian mbart
    megatron-bert mellum mimo_v2_flash minicpm3 minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral
    mixtral mllama modernbert-decoder moshi moss_transcribe_diarize mpt musicgen musicgen_melody mvp nanochat
    nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe openai-gpt opt pegasus persimmon phi phi3 phi4_multimodal
    phimoe plbart prophetnet qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe
    qwen3_next qwen4_exp qwen4_exp_text recurrent_gemma reformer rembert roberta roberta-prelayernorm roc_bert
    roformer rwkv seed_oss smollm3 solar_open stablelm starcoder2 trocr vaultgemma whisper xglm xlm xlm-roberta
    xlm-roberta-xl xlnet xlstm xmod youtu zamba zamba2 zaya
    """
)
"""Model types that ``AutoModelForCausalLM`` loads without code from the model's repository."""

TIED_BY_DEFAULT = words(
    """
    bart bert bert-generation big_bird bigbird_pegasus biogpt blenderbot blenderbot-small bloom camembert cohere
    cohere2 cohere2_moe cohere_compass_text cpmant ctrl data2vec-text electra ernie ernie4_5 ernie4_5_moe falcon
    falcon_mamba gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text gemma4 gemma4_text gemma4_unified
    gemma4_unified_assistant gemma4_unified_text got_ocr2 gpt-sw3 gpt2 gpt_bigcode gpt_neo gpt_neox_japanese
    granite_swa jetmoe lfm2 lfm2_moe lfm3 mamba marian mbart megatron-bert minicpm3 modernbert-decoder mpt mvp
    openai-gpt opt pegasus plbart prophetnet recurrent_gemma roberta roberta-prelayernorm roc_bert roformer smollm3
    starcoder2 trocr vaultgemma whisper xglm xlm xlm-roberta xlm-roberta-xl xlnet xmod youtu zamba zamba2 zaya
    """
)
"""Model types whose output head is the input embedding if config.json does not say."""

_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ModelWithLMHead")

_TEXT_AND_IMAGES = words(
    """
    gemma3 gemma3n gemma4 gemma4_unified llama4 mllama qwen3_5 qwen3_5_moe qwen4_exp
    """
)
"""Model types of ``…ForConditionalGeneration`` that ``AutoModelForCausalLM`` loads as a decoder that answers text."""

_NOT_DECODERS = words(
    """
    bart bert big_bird bigbird_pegasus blenderbot blenderbot-small camembert data2vec-text electra ernie marian
    mbart megatron-bert moshi musicgen musicgen_melody mvp pegasus plbart prophetnet rembert roberta
    roberta-prelayernorm roc_bert roformer trocr whisper xlm-roberta xlm-roberta-xl xmod
    """
)
"""Encoders, and encoders with a decoder: they have a causal class, which produces nonsense with their usual weights."""


def generates_text(architecture: str | None, model_type: str | None, auto_map: object = None) -> bool:
    """Return whether ``AutoModelForCausalLM`` creates a text generator from the model.

    The class that config.json names decides, since one model type serves many (BertForMaskedLM and BertLMHeadModel).
    Classes for causal language models end in ``ForCausalLM`` or ``LMHeadModel``. ``ForConditionalGeneration`` is
    ambiguous: T5, Whisper and most vision models are not decoders, some text-and-image models are; those are listed.
    Without a class the model type decides. A model with its own code may name its class freely (ChatGLM's is
    ChatGLMModel); ``auto_map`` gives the purpose of the class.
    """
    if model_type not in BUILT_IN and _names(auto_map, "AutoModelForCausalLM"):
        return True
    if architecture is None:
        return model_type in BUILT_IN and model_type not in _NOT_DECODERS
    if architecture.endswith("ForConditionalGeneration"):
        return model_type in _TEXT_AND_IMAGES
    return architecture.endswith(_SUFFIXES)


def needs_remote_code(auto_map: object, model_type: str | None) -> bool:
    """Return whether only code from the repository can load the model (``auto_map`` of config.json).

    Many repositories keep their code after the library has added the architecture; the library's own class is then
    used.
    """
    return model_type not in BUILT_IN and (_names(auto_map, "AutoModelForCausalLM") or _names(auto_map, "AutoConfig"))


def _names(auto_map: object, auto_class: str) -> bool:
    return isinstance(auto_map, dict) and auto_class in auto_map
