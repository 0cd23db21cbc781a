"""What a worker does before its model is reported as ready: a few tokens, within the model's context."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from webapp.worker.generation import WARM_UP_ANSWER, WARM_UP_TOKENS, TorchModel


class Numbers:
    """A tokenizer whose text is the numbers of the tokens."""

    chat_template = None
    eos_token_id = pad_token_id = None

    def decode(self, tokens: Sequence[int], **_: object) -> str:
        return " ".join(map(str, tokens))


def model(context: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=context,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


@pytest.mark.parametrize(("context", "prompt"), [(4096, WARM_UP_TOKENS), (16, 16 - WARM_UP_ANSWER), (2, 1)])
def test_warm_up_computes_a_prompt_and_single_tokens_within_the_context(context: int, prompt: int) -> None:
    lengths: list[int] = []
    made = model(context)
    made.model.embed_tokens.register_forward_hook(lambda _, tokens, __: lengths.append(tokens[0].shape[1]))
    with torch.random.fork_rng():
        TorchModel(made, Numbers()).warm_up()
    assert lengths == [prompt] + [1] * (WARM_UP_ANSWER - 1)
